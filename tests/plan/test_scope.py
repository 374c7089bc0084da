"""Which variables an instruction sees, and what a RUN gets."""

from __future__ import annotations

import pytest

from asyncbuild.dockerfile.parser import parse_dockerfile
from asyncbuild.errors import DockerfileError
from asyncbuild.plan.scope import DEFAULT_PATH, BuildArguments, StageScope


def walk(
    text: str,
    *,
    given: dict[str, str] | None = None,
    globals: dict[str, str] | None = None,  # noqa: A002 - the field's name
    base: dict[str, str] | None = None,
) -> StageScope:
    """The scope after the instructions of ``text``."""
    scope = StageScope.start(BuildArguments(given or {}, globals or {}), base or {"PATH": "/bin"})
    return follow(scope, text)


def follow(scope: StageScope, text: str) -> StageScope:
    """The scope after ``text``, as the executor walks."""
    for instruction in parse_dockerfile(f"FROM x\n{text}\n").stages[0].instructions:
        scope = scope.after(scope.resolve(instruction).instruction)
    return scope


def variables(scope: StageScope) -> dict[str, str]:
    """The environment without PATH."""
    return {name: value for name, value in scope.environment.items() if name != "PATH"}


def test_env_sees_what_was_before_it() -> None:
    """One ENV line has one environment; the next line sees its result."""
    assert variables(walk("ENV A=1\nENV A=2 B=$A\nENV C=$B$A")) == {"A": "2", "B": "1", "C": "12"}


def test_arg_line_is_read_from_left_to_right() -> None:
    """Several ARGs in a line take effect one after the other."""
    assert variables(walk("ARG A=1 B=$A C=$B$A")) == {"A": "1", "B": "1", "C": "11"}


@pytest.mark.parametrize(
    ("text", "given", "expected"),
    [
        ("ARG A=default", {}, {"A": "default"}),
        ("ARG A=default", {"A": "given"}, {"A": "given"}),
        ("ARG A=default", {"A": ""}, {"A": ""}),
        ("ARG A", {"A": "given"}, {"A": "given"}),
        ("ARG A", {}, {}),
        ("ARG G", {}, {"G": "global"}),
        ("ARG G=own", {}, {"G": "own"}),
        ("ARG G", {"G": "given"}, {"G": "given"}),
        ("ENV X=$G", {}, {"X": ""}),
        ("ENV X=$A", {"A": "given"}, {"X": ""}),
        ("ARG A=${B:-b}", {}, {"A": "b"}),
        ("ARG A=${broken", {"A": "given"}, {"A": "given"}),
    ],
)
def test_where_an_argument_has_its_value_from(
    text: str, given: dict[str, str], expected: dict[str, str]
) -> None:
    """--build-arg, then the default, then the global ARG; nothing without a declaration."""
    assert variables(walk(text, given=given, globals={"G": "global"})) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ARG A=arg\nENV A=env", "env"),
        ("ENV A=env\nARG A=arg", "arg"),
        ("ARG A=arg\nENV A=${A}-env", "arg-env"),
        ("ENV A=env\nARG A", "env"),
    ],
)
def test_the_later_one_wins(text: str, expected: str) -> None:
    """ENV and ARG set the same variables, in order."""
    assert variables(walk(text)) == {"A": expected}


def test_an_argument_hides_the_bases_environment() -> None:
    """An ARG with a value wins over an ENV of the base image, one without does not."""
    base = {"A": "base", "B": "base"}
    scope = walk("ARG A=arg\nARG B", base=base)
    assert variables(scope) == {"A": "arg", "B": "base"}
    assert scope.history_args == ("A=arg", "B=base")


def test_history_args() -> None:
    """Every declared ARG is listed once, with the value that the RUN sees."""
    assert walk("ARG A=1 B\nENV A=2\nARG C=3\nARG A").history_args == ("A=2", "B=", "C=3")
    assert walk("ENV A=1").history_args == ()


def test_a_child_stage_goes_on() -> None:
    """A stage built FROM a stage sees its ARGs too."""
    child = follow(walk("ARG A=1"), "ENV B=$A\nARG C=3")
    assert variables(child) == {"A": "1", "B": "1", "C": "3"}
    assert child.history_args == ("A=1", "C=3")


def test_path_has_a_default() -> None:
    """An image without PATH gets the usual one, any other keeps its own."""
    arguments = BuildArguments()
    assert StageScope.start(arguments, {}).environment == {"PATH": DEFAULT_PATH}
    assert StageScope.start(arguments, {"PATH": "/x"}).environment == {"PATH": "/x"}


def test_proxies_reach_run_only() -> None:
    """A proxy given by --build-arg is in a RUN's environment, not in words, not in the history."""
    given = {"http_proxy": "http://p", "NO_PROXY": "here", "FTP_PROXY": "", "other": "x"}
    scope = walk("ENV X=$http_proxy", given=given)
    assert variables(scope) == {"X": ""}
    assert scope.history_args == ()
    assert scope.run_environment == {
        "PATH": "/bin",
        "X": "",
        "HTTP_PROXY": "http://p",
        "http_proxy": "http://p",
        "NO_PROXY": "here",
        "no_proxy": "here",
    }


def test_a_declared_proxy_is_an_ordinary_argument() -> None:
    """Whoever declares a proxy's ARG wants to see it."""
    scope = walk("ARG HTTP_PROXY\nENV X=$HTTP_PROXY", given={"HTTP_PROXY": "p"})
    assert variables(scope)["X"] == "p"
    assert scope.history_args == ("HTTP_PROXY=p",)


def test_scan_switches_are_no_variables() -> None:
    """The arguments that only switch the SBOM scanner are not in the environment."""
    scope = walk("ARG BUILDKIT_SBOM_SCAN_STAGE=true")
    assert variables(scope) == {}


def test_errors_and_reports() -> None:
    """A default that cannot be expanded is an error at its line; the variables used are reported."""
    scope = StageScope.start(BuildArguments(), {"A": "1"})
    (good, bad) = parse_dockerfile("FROM x\nARG B=$A$C\nARG D=${\n").stages[0].instructions
    result = scope.resolve(good)
    assert result.used == {"A"}
    assert result.unmatched == {"C"}
    with pytest.raises(DockerfileError) as caught:
        scope.resolve(bad)
    assert str(caught.value.location) == "Dockerfile:3:7"


def test_the_escape_character_is_the_files() -> None:
    """Words are read with the escape character of the directive."""
    scope = StageScope.start(BuildArguments(escape="`"), {"PATH": "/"})
    assert follow(scope, "ARG A=c:\\x").environment["A"] == "c:\\x"
