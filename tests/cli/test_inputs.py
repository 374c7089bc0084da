"""Words of the command line become values."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncbuild.cli.build import creation_time
from asyncbuild.cli.inputs import build_arguments, check_places, pairs
from asyncbuild.cli.places import store_directory
from asyncbuild.errors import InputError, UsageError


def test_build_arguments() -> None:
    """A value, an empty one, one with ``=``, one from the environment, one that is nowhere."""
    words = ["A=1", "B=", "C=x=y", "D", "E"]
    assert build_arguments(words, {"D": "here"}) == {"A": "1", "B": "", "C": "x=y", "D": "here"}


def test_the_last_build_argument_wins() -> None:
    """As in BuildKit."""
    assert build_arguments(["A=1", "A=2"], {}) == {"A": "2"}


def test_source_date_epoch_is_a_build_argument() -> None:
    """It is always passed on, and may be given."""
    assert build_arguments([], {"SOURCE_DATE_EPOCH": "7"}) == {"SOURCE_DATE_EPOCH": "7"}
    given = build_arguments(["SOURCE_DATE_EPOCH=8"], {"SOURCE_DATE_EPOCH": "7"})
    assert given == {"SOURCE_DATE_EPOCH": "8"}


def test_pairs() -> None:
    """``K=V``, the value as it is; the last one of a name wins."""
    assert pairs(["a=b=c", "d=", "a=e"], "--label") == {"a": "e", "d": ""}


@pytest.mark.parametrize("word", ["", "x", "=x"])
def test_pairs_that_are_none(word: str) -> None:
    """The option and the shape are named."""
    with pytest.raises(UsageError, match=r"--option .*: write HOST=FILE"):
        pairs([word], "--option", "HOST=FILE")


def test_places(tmp_path: Path) -> None:
    """A file may be new; its directory may not."""
    check_places([str(tmp_path / "new"), "relative"])
    with pytest.raises(InputError, match="there is no directory"):
        check_places([str(tmp_path / "none/new")])


@pytest.mark.parametrize(
    ("named", "environ", "path"),
    [
        ("here", {"XDG_CACHE_HOME": "/cache"}, "here"),
        (None, {"XDG_CACHE_HOME": "/cache"}, "/cache/asyncbuild"),
    ],
)
def test_store(named: str | None, environ: dict[str, str], path: str) -> None:
    """``--store`` before XDG_CACHE_HOME."""
    assert store_directory(named, environ) == Path(path)


def test_store_below_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without either it is in ``~/.cache``."""
    monkeypatch.setenv("HOME", "/home/someone")
    assert store_directory(None, {}) == Path("/home/someone/.cache/asyncbuild")


def test_creation_time() -> None:
    """SOURCE_DATE_EPOCH in seconds; whatever is no number is refused."""
    assert creation_time({"SOURCE_DATE_EPOCH": "1700000000"}) == 1_700_000_000
    assert creation_time({}) > 1_700_000_000
    for text in ("x", "-1", "1.5", "٣"):
        with pytest.raises(UsageError, match="seconds since 1970"):
            creation_time({"SOURCE_DATE_EPOCH": text})
