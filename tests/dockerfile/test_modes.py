"""--chmod: what a mode makes of a file's permission bits."""

from __future__ import annotations

import pytest

from asyncbuild.dockerfile.modes import ModeChange
from asyncbuild.dockerfile.source import Problem


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        ("755", 0o600, 0o755),
        ("0", 0o777, 0),
        ("04755", 0o644, 0o4755),
        ("u+x", 0o644, 0o744),
        ("+x", 0o644, 0o755),
        ("a-w", 0o666, 0o444),
        ("go-rwx", 0o777, 0o700),
        ("u=rw,go=r", 0o777, 0o644),
        ("=r", 0o777, 0o444),
        ("go=", 0o777, 0o700),
        ("u=rwX,go=rX", 0o600, 0o644),
        ("u=rwX,go=rX", 0o700, 0o755),
        ("g=u", 0o740, 0o770),
        ("o+g", 0o750, 0o755),
        ("g-u", 0o676, 0o616),
        ("u+s", 0o755, 0o4755),
        ("g+s,o+t", 0o755, 0o2755),
        ("+t", 0o755, 0o1755),
        ("o+s", 0o755, 0o755),
        ("u=rx", 0o4755, 0o555),
        ("a-X", 0o755, 0o644),
        ("u+x-w", 0o644, 0o544),
    ],
)
def test_files(text: str, before: int, after: int) -> None:
    """Octal modes replace, symbolic ones change what they name."""
    assert oct(ModeChange.parse(text).apply(before, is_directory=False)) == oct(after)


def test_directories_are_searchable() -> None:
    """``X`` gives a directory its x bits though it had none."""
    change = ModeChange.parse("a=rX")
    assert change.apply(0o600, is_directory=True) == 0o555
    assert change.apply(0o600, is_directory=False) == 0o444


@pytest.mark.parametrize(
    "text", ["", "8", "17777", "u", "u+y", "u=rw;", "x", "u=rug", "+-x,", "0o755"]
)
def test_wrong_modes(text: str) -> None:
    """What chmod would refuse is refused."""
    with pytest.raises(Problem, match="not a mode"):
        ModeChange.parse(text)
