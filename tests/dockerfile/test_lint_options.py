"""Which checks run: the directive, the comment above an instruction, and what both mean together."""

from __future__ import annotations

import pytest

from asyncbuild.dockerfile.lint_options import CheckOptions
from asyncbuild.dockerfile.lint_rules import RULES
from asyncbuild.dockerfile.parser import parse_dockerfile
from asyncbuild.dockerfile.source import Problem
from asyncbuild.errors import DockerfileError

USUAL = RULES["StageNameCasing"]
OTHER = RULES["FromAsCasing"]
OPTIONAL = RULES["InvalidDefinitionDescription"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", {USUAL, OTHER}),
        ("skip=StageNameCasing", {OTHER}),
        ("skip=StageNameCasing,FromAsCasing", set()),
        ("skip=all", set()),
        ("skip=all;experimental=InvalidDefinitionDescription", {OPTIONAL}),
        ("experimental=all", {USUAL, OTHER, OPTIONAL}),
        ("skip=FromAsCasing;error=true;experimental=all", {USUAL, OPTIONAL}),
        ("error=1", {USUAL, OTHER}),
        ("skip=StageNameCasing // not ours to change", {OTHER}),
        (" skip = StageNameCasing", {USUAL, OTHER}),
    ],
)
def test_wants(text: str, wanted: set[object]) -> None:
    """A directive leaves out and adds rules; what follows a blank is a remark."""
    if text.startswith(" skip ="):
        with pytest.raises(Problem):
            CheckOptions.parse(text)
        return
    options = CheckOptions.parse(text)
    assert {rule for rule in (USUAL, OTHER, OPTIONAL) if options.wants(rule)} == wanted
    assert options.error == ("error=" in text)


@pytest.mark.parametrize("text", ["skip", "skp=A", "error=perhaps", "skip=A;more=B", "=x"])
def test_not_options(text: str) -> None:
    """What is no option of the directive is an error, at its place in the file."""
    with pytest.raises(Problem):
        CheckOptions.parse(text)
    with pytest.raises(DockerfileError) as caught:
        parse_dockerfile(f"# escape=\\\n# check={text}\nFROM a")
    assert caught.value.location is not None
    assert caught.value.location.line == 2


@pytest.mark.parametrize(
    ("comments", "wanted"),
    [
        (["check=skip=StageNameCasing"], {OTHER, OPTIONAL}),
        (["a remark", "check=skip=StageNameCasing // because"], {OTHER, OPTIONAL}),
        (["check=skip=StageNameCasing", "check=skip=all"], {OTHER, OPTIONAL}),
        (["check=skip=all"], set()),
        (["check=skip=InvalidDefinitionDescription"], {USUAL, OTHER}),
        (["check=nonsense"], {USUAL, OTHER, OPTIONAL}),
        (["Check = skip=FromAsCasing"], {USUAL, OPTIONAL}),
        (["# check=skip=all"], {USUAL, OTHER, OPTIONAL}),
    ],
)
def test_comments_above_an_instruction(comments: list[str], wanted: set[object]) -> None:
    """The first check comment holds for its instruction alone; a broken one is a plain comment."""
    options = CheckOptions.parse("experimental=all").at(comments)
    assert {rule for rule in (USUAL, OTHER, OPTIONAL) if options.wants(rule)} == wanted


def test_names_that_no_rule_has() -> None:
    """Names are kept for a warning; BuildKit would pass over them."""
    options = CheckOptions.parse("skip=Nope,StageNameCasing;experimental=all,Neither")
    assert options.unknown == ("Neither", "Nope")
    assert CheckOptions.parse("skip=all").unknown == ()


def test_a_script_line_hides_only_the_escape_directive() -> None:
    """Below a first line ``#!…`` check and syntax count, escape does not (as in BuildKit)."""
    parsed = parse_dockerfile("#!/usr/bin/env builder\n# escape=`\n# check=skip=all\nFROM a")
    assert parsed.directives.escape == "\\"
    assert parsed.checks == CheckOptions(frozenset(["all"]))
