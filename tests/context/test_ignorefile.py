"""Which ignore file is in force, and which of its lines hides a path."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncbuild.context.ignorefile import IgnoreFile, load_ignore_file
from asyncbuild.errors import InputError


def test_the_dockerfile_s_own_ignore_file_wins(shm_path: Path) -> None:
    """``<Dockerfile>.dockerignore`` beside it comes before ``.dockerignore``, and replaces it."""
    context, elsewhere = shm_path / "context", shm_path / "elsewhere"
    context.mkdir()
    elsewhere.mkdir()
    dockerfile = elsewhere / "web.Dockerfile"
    assert not load_ignore_file(context, dockerfile).patterns
    (context / ".dockerignore").write_text("*.log\n")
    assert load_ignore_file(context, dockerfile).patterns.excluded("a.log")
    assert load_ignore_file(context, None).patterns.excluded("a.log")
    assert not load_ignore_file(None, dockerfile).patterns
    (elsewhere / "web.Dockerfile.dockerignore").write_text("*.tmp\n")
    found = load_ignore_file(context, dockerfile)
    assert not found.patterns.excluded("a.log")
    assert found.patterns.excluded("a.tmp")
    assert found.name == "web.Dockerfile.dockerignore"


def test_the_deciding_line_is_named() -> None:
    """The last line that turns a path away is the one to change."""
    ignore = IgnoreFile.parse("# all logs\n*.log\n!keep.log\nbuild\nkeep*\n")
    assert ignore.explain("a.log") == ".dockerignore excludes it (line 2: *.log)"
    assert ignore.explain("keep.log") == ".dockerignore excludes it (line 5: keep*)"
    assert ignore.explain("build/x/y") == ".dockerignore excludes it (line 4: build)"
    assert ignore.explain("other") is None


def test_an_unreadable_ignore_file_is_an_error(shm_path: Path) -> None:
    """A directory in its place is told, not skipped."""
    (shm_path / ".dockerignore").mkdir()
    with pytest.raises(InputError, match="cannot read"):
        load_ignore_file(shm_path, None)


def test_a_bad_pattern_has_its_line(shm_path: Path) -> None:
    """The error shows where in the file it is."""
    (shm_path / ".dockerignore").write_text("ok\n[\n")
    with pytest.raises(InputError) as caught:
        load_ignore_file(shm_path, None)
    assert caught.value.location is not None
    assert caught.value.location.line == 2
