"""What may stand in COPY and ADD as a source that is no path."""

from __future__ import annotations

import pytest

from asyncbuild.dockerfile.parser import parse_dockerfile
from asyncbuild.errors import DockerfileError
from asyncbuild.image.platform import Platform
from asyncbuild.plan.nouns import Plan
from asyncbuild.plan.planner import PlanRequest, make_plan
from asyncbuild.plan.remotes import check_plan_remotes

LINUX = Platform("linux", "amd64")
SUM = f"sha256:{'a' * 64}"
GIT = "https://example.com/a.git"


def plan(text: str) -> Plan:
    """The plan of a Dockerfile."""
    return make_plan(parse_dockerfile(text), PlanRequest(LINUX, LINUX))


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("COPY https://x/y b", "COPY does not fetch a URL: https://x/y"),
        (f"COPY {GIT} b", f"COPY does not fetch a git repository: {GIT}"),
        (f"ADD --checksum={SUM} a b", "--checksum is for URLs"),
        (f"ADD --checksum={SUM} https://x/y https://x/z b/", "--checksum is for one source"),
        ("ADD --checksum=sha256:1 https://x/y b", "--checksum of a URL is sha256:"),
        (f"ADD --checksum=sha512:{'a' * 128} https://x/y b", "--checksum of a URL is sha256:"),
        (f"ADD --checksum={SUM} {GIT} b", "--checksum of a git repository is a commit"),
        (f"ADD --checksum=abc {GIT}?commit=abd b", "--checksum=abc, and the URL says abd"),
        (f"ADD --keep-git-dir=false {GIT}?keep-git-dir b", "--keep-git-dir says one thing"),
        (f"ADD {GIT}?tag=a&branch=b c", f"the git reference {GIT}: it names both"),
    ],
)
def test_refused(line: str, what: str) -> None:
    """Each mistake is named, with its line."""
    with pytest.raises(DockerfileError) as caught:
        check_plan_remotes(plan(f"FROM a\nRUN ok\n{line}"))
    assert caught.value.message.startswith(what)
    assert str(caught.value.location) == "Dockerfile:3:1"


@pytest.mark.parametrize(
    "line",
    [
        f"ADD --checksum={SUM} https://x/y b",
        f"ADD --checksum=ABC {GIT}?commit=ABC b",
        f"ADD --keep-git-dir=true {GIT}?keep-git-dir=true b",
        "ADD --checksum=$SUM a b",
        "COPY $URL b",
        "COPY github.com/a/b.git b",
    ],
)
def test_accepted(line: str) -> None:
    """What is right, or cannot be told before its variables have values, passes."""
    check_plan_remotes(plan(f"FROM a\n{line}"))


def test_stages_that_are_not_needed_may_ask_for_anything() -> None:
    """Only needed stages are looked at."""
    check_plan_remotes(plan("FROM a\nCOPY https://x/y z\nFROM b"))


def test_triggers_are_looked_at_where_they_act() -> None:
    """A trigger is refused at the FROM that pulls it."""
    check_plan_remotes(plan("FROM a AS x\nONBUILD COPY https://x/y b"))
    with pytest.raises(DockerfileError) as caught:
        check_plan_remotes(plan("FROM a AS x\nONBUILD COPY https://x/y b\nFROM x"))
    assert str(caught.value.location) == "Dockerfile:3:1"
