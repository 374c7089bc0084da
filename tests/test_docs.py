"""The documentation says what the code does: options, exit codes, links."""

import argparse
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncbuild import errors
from asyncbuild.cli.arguments import parser

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
CLI = (ROOT / "docs/reference/cli.md").read_text()


def commands() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The commands by name."""
    for action in parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def test_every_option_is_in_the_reference() -> None:
    """Each command and each of its options stands on the page, and no option that does not exist."""
    known = {"--version", "--help"}
    for name, command in commands():
        assert re.search(rf"^## asyncbuild {name}( |$)", CLI, re.MULTILINE), name
        for action in command._actions:
            known |= set(action.option_strings)
    words = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", CLI))
    assert known - {"-h", "--help"} <= words
    of_instructions = {"--mount", "--network", "--security", "--device", "--from"}
    assert {word for word in words if word.startswith("--")} - of_instructions <= known


def test_every_exit_code_is_in_its_table() -> None:
    """Each error class stands in the row of its code."""
    rows = (ROOT / "docs/reference/exit-codes.md").read_text().splitlines()
    table = {
        name: row.split("|")[1].strip()
        for row in rows
        if row.startswith("|")
        for name in re.findall(r"\w+", row)
    }
    for name, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, errors.AsyncbuildError) and kind is not errors.RunFailed:
            assert table[name] == str(kind.exit_code), name
    assert table["RunFailed"] == "*n*"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Links to files of this repository name files that exist."""
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_tests_of_the_security_page_exist() -> None:
    """Each test that SECURITY.md calls a proof is a file of this repository."""
    named = re.findall(r"`(tests/[\w/.-]+)`", (ROOT / "SECURITY.md").read_text())
    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("name", ["reliability", "isolation"])
def test_the_tests_that_a_page_names_exist(name: str) -> None:
    """Each function that the page names is one, and each file."""
    page = (ROOT / f"docs/{name}.md").read_text()
    files = list((ROOT / "tests").rglob("test_*.py"))
    known = {
        name
        for file in files
        for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) > 20
    assert named - known == set()
    modules = set(re.findall(r"`(?:tests/)?(?:\w+/)*(test_\w+\.py)`", page))
    assert modules - {file.name for file in files} == set()


def test_the_tests_of_the_page_on_reliability_exist() -> None:
    """Each file, function and case of a quirk that the page names as a proof is there."""
    page = (ROOT / "docs/reliability.md").read_text()
    source = {path: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    functions = {
        name
        for text in source.values()
        for name in re.findall(r"^(?:async )?def (test_\w+)", text, re.MULTILINE)
    }
    named = re.findall(r"`(tests/[\w/.-]+)`", page)
    assert [name for name in named if not (ROOT / name).exists()] == []
    words = set(re.findall(r"`(test_\w+)`", page))
    assert len(words) > 80
    assert words - functions == set()
    quirks = source[ROOT / "tests/registry/test_quirks.py"]
    rows = page.partition("| clause | case |")[2].partition("\n\n")[0]
    cases = re.findall(r'"([^"]+)"', rows)
    assert len(cases) > 15
    assert [name for name in cases if f'"{name}": Case' not in quirks] == []


def test_what_shows_each_feature_is_there() -> None:
    """The table of features names cases and tests that exist, and each feature has some."""
    page = (ROOT / "docs/compatibility.md").read_text()
    table = page.partition("## Feature by feature")[2].partition("\n## ")[0]
    rows = [row.split("|")[1:4] for row in table.splitlines() if re.match(r"\| [A-Z]\d\d ", row)]
    assert len(rows) == 59
    for number, _, shown in rows:
        names = re.findall(r"`([^`]+)`", shown)
        there = [
            (ROOT / name).is_file() or (ROOT / "tests/cases" / name).is_dir() for name in names
        ]
        assert all(there) or number.strip() in ("D03", "D55"), (number, names)
        assert names or number.strip() == "D55", number
