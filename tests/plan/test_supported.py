"""What cannot be done yet is refused by name, with its line."""

from __future__ import annotations

import pytest

from asyncbuild.dockerfile.parser import parse_dockerfile
from asyncbuild.errors import DockerfileError
from asyncbuild.image.platform import Platform
from asyncbuild.plan.nouns import Plan
from asyncbuild.plan.planner import PlanRequest, make_plan
from asyncbuild.plan.scope import StageScope
from asyncbuild.plan.supported import check_instruction, check_supported, is_remote

LINUX = Platform("linux", "amd64")


def plan(text: str) -> Plan:
    """The plan of a Dockerfile."""
    return make_plan(parse_dockerfile(text), PlanRequest(LINUX, LINUX))


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("COPY https://x/y b", "COPY does not fetch https://x/y"),
        ("ADD --checksum=sha256:1 a b", "ADD --checksum"),
        ("ADD --keep-git-dir a b", "ADD --keep-git-dir"),
        ("ADD a https://x/y b", "ADD of a URL or git repository (https://x/y)"),
        ("ADD git@github.com:a/b.git /", "ADD of a URL or git repository (git@github.com:a/b.git)"),
    ],
)
def test_refused(line: str, what: str) -> None:
    """Each feature has its name in the error."""
    with pytest.raises(DockerfileError) as caught:
        check_supported(plan(f"FROM a\nRUN ok\n{line}"))
    assert caught.value.message.startswith(what)
    assert str(caught.value.location) == "Dockerfile:3:1"


def test_accepted() -> None:
    """What is done is not refused."""
    check_supported(
        plan(
            "FROM a AS x\nFROM b\nRUN --network=none y\nRUN --network=host --security=sandbox y\n"
            "COPY --from=x --chown=a --chmod=1 a b\nADD a.tar b\nCOPY --link=false --parents=false a b"
        )
    )


def test_stages_that_are_not_needed_may_ask_for_anything() -> None:
    """Only needed stages are looked at."""
    check_supported(plan("FROM a\nRUN --mount=type=ssh x\nFROM b"))


def test_triggers_of_local_stages_are_looked_at() -> None:
    """A trigger is refused where it acts, not where it is written."""
    check_supported(plan("FROM a AS x\nONBUILD ADD --checksum=sha256:1 a b"))
    with pytest.raises(DockerfileError) as caught:
        check_supported(plan("FROM a AS x\nONBUILD ADD --checksum=sha256:1 a b\nFROM x"))
    assert str(caught.value.location) == "Dockerfile:3:1"


def test_resolved_words_are_looked_at_again() -> None:
    """ADD $URL passes as it is written, and is refused once it is resolved."""
    made = plan("FROM a\nADD $URL /x")
    check_supported(made)
    scope = StageScope.start(made.arguments, {"URL": "http://x"})
    resolved = scope.resolve(made.target_stage.steps[0].instruction).instruction
    with pytest.raises(DockerfileError, match="http://x"):
        check_instruction(resolved)


@pytest.mark.parametrize(
    "source", ["http://a", "HTTPS://a/b", "git://a", "ssh://a", "user@host:path"]
)
def test_remote(source: str) -> None:
    """URLs and what git takes for one."""
    assert is_remote(source)


@pytest.mark.parametrize(
    "source", ["a", "./http:", "dir/user@host:x", "ftp://a", "a@b", "$URL", "C:x"]
)
def test_local(source: str) -> None:
    """Anything else is a path."""
    assert not is_remote(source)
