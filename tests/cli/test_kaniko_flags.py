"""Reading a kaniko command line by pflag's rules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from asyncbuild.cli.kaniko_flags import EXECUTOR, PUSH, WARMER, parse_duration, read_flags
from asyncbuild.errors import UsageError


@pytest.mark.parametrize(
    "words",
    [
        ["--context", "dir", "-d", "a", "--destination=b"],
        ["-c=dir", "-da", "-d=b"],
        ["-d", "a", "--context=dir", "--destination", "b"],
    ],
)
def test_the_forms_of_a_flag_are_one(words: list[str]) -> None:
    """Long and short, with and without an equals sign, in any order."""
    given = read_flags(EXECUTOR, words)
    assert (given.text("context"), given.texts("destination")) == ("dir", ("a", "b"))


def test_flags_of_true_and_false_take_no_word() -> None:
    """``--cache true`` is a flag and a word that nobody wants."""
    given = read_flags(EXECUTOR, ["--cache", "true", "--no-push=F", "--", "--cache"])
    assert given.on("cache")
    assert not given.on("no-push")
    assert given.words == ("true", "--cache")


def test_defaults_are_kanikos() -> None:
    """What is not given has the value that kaniko documents."""
    given = read_flags(EXECUTOR, [])
    texts = [given.text(name) for name in ("context", "dockerfile", "cache-ttl", "verbosity")]
    assert texts == ["/workspace/", "Dockerfile", "336h", "info"]
    assert given.on("cache-run-layers")
    assert given.number("compression-level") == -1


def test_old_names_are_the_new_ones() -> None:
    """A flag that was renamed says the same, and the last of both wins."""
    given = read_flags(EXECUTOR, ["--tarPath=a", "--tar-path=b", "--tarPath=c"])
    assert given.text("tar-path") == "c"


def test_lists_have_commas() -> None:
    """``--target`` is split, as pflag's string slices are."""
    assert read_flags(EXECUTOR, ["--target=a,b", "--target", "c"]).texts("target") == (
        "a",
        "b",
        "c",
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nothing"], "unknown flag --nothing"),
        (["-x"], "unknown flag -x"),
        (["--destination"], "--destination needs a value"),
        (["-d"], "-d needs a value"),
        (["--cache=maybe"], "--cache=maybe: it is true or false"),
        (["--push-retry=often"], "--push-retry=often: it is a whole number"),
        (["--cache-ttl=6"], "--cache-ttl=6: write a duration"),
    ],
)
def test_what_is_wrong_is_named(words: list[str], message: str) -> None:
    """A usage error says which flag, and what it takes."""
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        read_flags(EXECUTOR, words)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("336h", 336 * 3600.0), ("1h30m", 5400.0), ("1.5s", 1.5), ("0", 0.0), ("100ms", 0.1)],
)
def test_durations_are_gos(text: str, seconds: float) -> None:
    """Numbers with units, one after the other."""
    assert parse_duration("--cache-ttl", text) == pytest.approx(seconds)


def test_no_table_names_a_flag_twice() -> None:
    """Names and letters are unique in each table."""
    for table in (EXECUTOR, WARMER, PUSH):
        names = [flag.name for flag in table]
        letters = [flag.short for flag in table if flag.short]
        assert len(set(names)) == len(names)
        assert len(set(letters)) == len(letters)


GUIDE = Path(__file__).parents[2] / "docs/migrating-from-kaniko.md"


def test_the_guide_has_every_flag() -> None:
    """Each flag of executor has its row, in which a dash says that it has no meaning; warmer's are named."""
    text = GUIDE.read_text()
    rows = re.findall(r"^\| `--([\w-]+)[^|]*(?:\\\|[^|]*)*\| ([^|]+) \|", text, re.MULTILINE)
    told = {name: here not in ("—", "in place") for name, here in rows}  # elsewhere: no meaning
    assert len(told) == len(rows)
    assert told == {flag.name: flag.meaning for flag in EXECUTOR}
    warmer = text.partition("## Every flag of warmer")[2].partition("\n## ")[0]
    assert {flag.name for flag in WARMER} == set(re.findall(r"--([\w-]+)", warmer))
