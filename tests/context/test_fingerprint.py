"""The stat cache: an unchanged file of a context is read by one build only; what is read is counted by an audit
hook of the interpreter, which sees every open.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from asyncbuild.context.directory import DirectoryContext
from asyncbuild.context.fingerprint import ContentDigests, Fingerprint, source_fingerprint

COUNT = 100_000
GRAIN = 2.0
"""Seconds; a file as young as that is read again: it could change within the clock's grain."""


class Opens:
    """How many files below ``watched`` were opened. A hook cannot be removed: there is one of them."""

    def __init__(self) -> None:
        self.watched = ""
        self.count = 0
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.watched and event == "open" and str(arguments[0]).startswith(self.watched):
            self.count += 1

    @contextmanager
    def below(self, root: Path) -> Iterator[Opens]:
        """Count until the block ends."""
        self.watched, self.count = f"{root}/", 0
        try:
            yield self
        finally:
            self.watched = ""


OPENS = Opens()


def fingerprint(root: Path, memory: Path) -> Fingerprint:
    """Of all of the context, as one build makes it."""
    contents = ContentDigests(memory / "contents", lambda: _fresh(memory))
    found = source_fingerprint(DirectoryContext(root).find("."), contents)
    contents.save()
    return found


def _fresh(memory: Path) -> Path:
    path = memory / os.urandom(4).hex()
    path.mkdir()
    return path


def filled(root: Path, count: int) -> Path:
    """A context of so many files, a hundred in a directory, none of them young."""
    for number in range(count):
        if number % 100 == 0:
            (root / f"d{number // 100}").mkdir(parents=True)
        path = f"{root}/d{number // 100}/f{number}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.write(descriptor, b"%d" % number)
        os.close(descriptor)
    time.sleep(GRAIN + 0.1)
    return root


def test_a_large_context_is_read_once(shm_path: Path) -> None:
    """100,000 files are read by the first build, none by the second, and one by the third, which has changed:
    with the size and the time that it had.
    """
    context = filled(shm_path / "context", COUNT)
    with OPENS.below(context) as opens:
        first = fingerprint(context, shm_path)
        assert opens.count >= COUNT
    with OPENS.below(context) as opens:
        assert fingerprint(context, shm_path) == first
        assert opens.count == 0
    changed = context / "d7/f777"
    times = (changed.stat().st_atime_ns, changed.stat().st_mtime_ns)
    changed.write_text("778")
    os.utime(changed, ns=times)
    with OPENS.below(context) as opens:
        assert fingerprint(context, shm_path) != first
        assert opens.count == 1


def test_a_memory_that_is_damaged_is_none(shm_path: Path) -> None:
    """Everything is read again then, and nothing is wrong."""
    context = filled(shm_path / "context", 3)
    first = fingerprint(context, shm_path)
    memory = shm_path / "contents"
    whole = memory.read_bytes()
    for damaged in (b"", b"nonsense", b"\xe9", whole[:-9]):
        memory.write_bytes(damaged)
        with OPENS.below(context) as opens:
            assert fingerprint(context, shm_path) == first
            assert opens.count >= 3


def test_a_young_file_is_not_remembered(shm_path: Path) -> None:
    """It may change again without another time, so the next build reads it again."""
    context = filled(shm_path / "context", 3)
    (context / "young").write_text("one")
    first = fingerprint(context, shm_path)
    with OPENS.below(context) as opens:
        assert fingerprint(context, shm_path) == first
        assert opens.count == 1
