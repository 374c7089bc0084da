"""The files that a pipeline reads after kaniko."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncbuild.cli.kaniko_files import builder_output, digest_files, write_file
from asyncbuild.cli.kaniko_options import Outputs
from asyncbuild.errors import StoreError
from asyncbuild.image.digest import Digest
from asyncbuild.image.reference import Reference

DIGEST = Digest.of(b"manifest")
NAMES = (Reference.parse("busybox"), Reference.parse("reg.test:5000/a/b:v1"))


def test_names_are_kanikos() -> None:
    """Docker Hub is index.docker.io, each destination has its line, a digest has none."""
    files = dict(digest_files(Outputs("", "", "d", "n", "t"), DIGEST, NAMES))
    assert files == {
        "d": str(DIGEST).encode(),
        "n": f"index.docker.io/library/busybox@{DIGEST}\nreg.test:5000/a/b@{DIGEST}\n".encode(),
        "t": f"index.docker.io/library/busybox:latest@{DIGEST}\n"
        f"reg.test:5000/a/b:v1@{DIGEST}\n".encode(),
    }


def test_what_is_not_asked_for_is_not_written() -> None:
    """No flag, no file; no BUILDER_OUTPUT, no list."""
    assert digest_files(Outputs("", "", "", "", ""), DIGEST, NAMES) == ()
    assert builder_output({}, DIGEST, NAMES) == ()


def test_directories_are_made(shm_path: Path) -> None:
    """A digest file may stand in directories that do not exist yet."""
    write_file(str(shm_path / "a/b/digest"), b"x")
    assert (shm_path / "a/b/digest").read_bytes() == b"x"


def test_what_cannot_be_written_is_said(shm_path: Path) -> None:
    """A directory in the place of the file is an error that names it."""
    with pytest.raises(StoreError, match=f"cannot write {shm_path}"):
        write_file(str(shm_path), b"x")
