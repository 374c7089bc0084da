"""A tar with nothing in it that differs between two runs: no times, no owners, members in our order."""

from __future__ import annotations

import tarfile
from pathlib import Path

from asyncbuild.output.files import CheckCancelled, copy_bytes, open_blob, write_all

_BLOCK = 512
_END = bytes(2 * _BLOCK)


class Archive:
    """Writes tar members to a descriptor that need not be seekable (a pipe will do).

    Headers are POSIX pax ones, which a size of 8 GiB and more needs.
    """

    def __init__(self, target: int, check: CheckCancelled) -> None:
        self._target = target
        self._check = check

    def add_directory(self, name: str) -> None:
        """Add a directory, mode 0755."""
        self._header(name, 0, tarfile.DIRTYPE, 0o755)

    def add_bytes(self, name: str, data: bytes) -> None:
        """Add a file with these bytes, mode 0644."""
        self._header(name, len(data), tarfile.REGTYPE, 0o644)
        write_all(self._target, data)
        self._pad(len(data))

    def add_blob(self, name: str, path: Path, size: int) -> None:
        """Add the file at ``path``, which must have ``size`` bytes; StoreError otherwise."""
        with open_blob(path, size) as source:
            self._header(name, size, tarfile.REGTYPE, 0o644)
            copy_bytes(source, self._target, size, self._check)
        self._pad(size)

    def finish(self) -> None:
        """Write the end of the archive."""
        write_all(self._target, _END)

    def _header(self, name: str, size: int, kind: bytes, mode: int) -> None:
        self._check()
        member = tarfile.TarInfo(name)
        member.size, member.type, member.mode = size, kind, mode
        write_all(self._target, member.tobuf(tarfile.PAX_FORMAT))

    def _pad(self, size: int) -> None:
        write_all(self._target, bytes(-size % _BLOCK))
