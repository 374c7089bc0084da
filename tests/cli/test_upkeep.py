"""``asyncbuild du`` and ``asyncbuild prune`` as they are typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncbuild.cli import main
from asyncbuild.cli.upkeep import parse_size
from asyncbuild.errors import UsageError
from asyncbuild.store.store import Store


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("20GB", 20 * 10**9), ("1GiB", 2**30), ("1.5k", 1500), ("7 mb", 7 * 10**6)],
)
def test_sizes(text: str, size: int) -> None:
    """Sizes are decimal, or binary with an i."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "1 parsec", "-1", "1iB"])
def test_wrong_sizes(text: str) -> None:
    """Anything else is refused."""
    with pytest.raises(UsageError):
        parse_size(text)


def test_du_and_prune(shm_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is kept is shown; after prune --all it is gone."""
    with Store.open(shm_path) as store:
        digest = store.put_blob(b"x" * 2500)
    assert main(["du", "--verbose", "--store", str(shm_path)]) == 0
    shown = capsys.readouterr().out
    assert str(digest) in shown
    assert "2.5 kB  1 blob\n" in shown
    assert main(["prune", "--all", "--store", str(shm_path)]) == 0
    assert "2.5 kB  removed\n" in capsys.readouterr().out
    assert main(["du", "--store", str(shm_path)]) == 0
    assert capsys.readouterr().out.strip() == "0 B  total"


def test_prune_needs_a_rule(shm_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a rule nothing is removed, and the exit code is that of a usage error."""
    Store.open(shm_path).close()
    assert main(["prune", "--store", str(shm_path)]) == 2
    assert "--older-than" in capsys.readouterr().err


def test_no_store(shm_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A place without a store is the disk's error."""
    assert main(["du", "--store", str(shm_path / "none")]) == 74
    assert "no store" in capsys.readouterr().err
