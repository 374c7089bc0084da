"""Reading a tar stream, however it is cut into pieces: entries, and the bytes of files. Pure.

1. Dialects: ustar, pax, GNU (long names, base-256 numbers, sparse files of all four kinds), star's
   prefix, and V7 tars whose directories are files with a slash at the end.
2. Names come out clean: ``./a``, ``/a``, ``a/`` and ``a//b`` are what Docker makes of them. One with a
   ``..`` component is a `LayerError`; so is one beyond `MAX_PATH` or with a NUL in it.
3. Two zero blocks end the archive, as does the end of the stream between two entries; one zero block
   alone is damage. What follows the end is not looked at.
4. Global pax headers are checked and ignored, as every runtime that will unpack the image does (Go's
   archive/tar hands them to its caller, and containerd, Docker and Podman drop them).
5. Links, devices and directories have no content, whatever size they claim (Go's rule).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from asyncbuild.errors import LayerError
from asyncbuild.layers import sparse
from asyncbuild.layers.changeset import Entry, Kind
from asyncbuild.layers.header import (
    BLOCK,
    KINDS,
    MAX_EXTENSION,
    MAX_PATH,
    NANOSECONDS,
    XATTR_RECORD,
    Fields,
    bounded_time,
    decode_device,
    decode_fields,
    decode_number,
    decode_records,
    decode_time,
    padding,
    text_field,
    xattr_name,
)
from asyncbuild.layers.plainheaders import Owner, PlainHeaders, Times

_ZEROS: Final = bytes(BLOCK)
_NO_ID: Final = (1 << 32) - 1  # chown(2) takes this for "leave it"
_MAX_NAME: Final = 255 + len(".wh.")  # the longest name that can be hidden
_DOTS: Final = ("", ".", "..")
_NO_NAMES: Final = (b"", b".", b"..")
_LINKS: Final = (Kind.HARDLINK, Kind.SYMLINK)
_DEVICES: Final = (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE)

PlainFile = tuple[str, bytes, Owner, Times, memoryview]
"""A file: the path of its directory (one object for all that follow each other there), its name in that,
owner and mode, its time, its content.
"""


def clean_name(name: str) -> str:
    """A name as entries have it, relative to the root; `LayerError` for one that leaves it."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise LayerError(f"the name {name[:200]!r} leaves the root")
    return "/".join(parts)


class TarReader:
    """An iterator of entries. After a file's entry, its bytes come from `whole` or `pieces`.

    What was not taken of a file is skipped when the next entry is asked for.
    """

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(blocks)
        self._buffer = b""
        self._view = memoryview(b"")
        self._start = 0
        self._left = 0
        self._padding = 0
        self._raw_head: str | None = None
        self._clean_head = ""
        self._path = ""
        self._header = (b"", 0)
        self._plain = PlainHeaders()
        self.segments: tuple[tuple[int, int], ...] | None = None
        """(offset, length) of the data of a sparse file; its holes are not in `pieces`."""

    def __iter__(self) -> Iterator[Entry]:
        return self

    def __next__(self) -> Entry:
        if self._left or self._padding:
            self._skip()
        fields = self._next_fields()
        self.segments = None
        if fields.flag not in KINDS:
            return self._extended(fields)
        return self._entry(fields, fields.name, None, ())

    def plain_files(self) -> Iterator[PlainFile]:
        """The next entries, as long as they are files of which one header tells all, with names that are no
        whiteout's, and whose content is at hand. What comes then, right or wrong, the iterator of entries
        tells.

        In one loop, with no `Entry`: to make one takes longer than all of this.
        """
        if self._left or self._padding:
            self._skip()
        if self._start == len(self._buffer) and (block := next(self._blocks, None)) is not None:
            self._set(block)
        buffer, view, end, decode = self._buffer, self._view, len(self._buffer), self._plain.decode
        raw_head, head, base = None, "", b""
        while (start := self._start) + BLOCK <= end:
            fields = decode(buffer, view, start)
            if fields is None:
                break
            name, owner, times, size = fields
            begin = start + BLOCK
            after = begin + size + (-size & BLOCK - 1)
            above, _, last = name.rpartition(b"/")
            if after > end or last in _NO_NAMES or b".wh." in name:
                break
            if above != raw_head:
                try:
                    head = self._clean_of(above.decode("utf-8", "surrogateescape"))[:-1]
                except LayerError:
                    break
                raw_head = above
            self._start, base = after, last
            yield head, base, owner, times, view[begin : begin + size]
        if base:
            self._path = f"{head}/{base.decode('utf-8', 'surrogateescape')}".lstrip("/")

    # --- content ------------------------------------------------------------------------------------

    def whole(self) -> memoryview | None:
        """The whole content of the current file if it is at hand, else None (take `pieces`)."""
        end = self._start + self._left
        if end > len(self._buffer):
            return None
        view = self._view[self._start : end]
        self._start = end
        self._left = 0
        return view

    def pieces(self) -> Iterator[memoryview]:
        """The content of the current file as it comes; of a sparse one only its data."""
        while self._left:
            if self._start == len(self._buffer):
                self._refill()
            end = min(self._start + self._left, len(self._buffer))
            view = self._view[self._start : end]
            self._left -= end - self._start
            self._start = end
            yield view

    # --- headers ------------------------------------------------------------------------------------

    def _next_fields(self) -> Fields:
        """The next header that is not blank; StopIteration at the end of the archive."""
        buffer, start = self._buffer, self._start
        if start + BLOCK <= len(buffer):
            self._start = start + BLOCK
        else:
            buffer, start = self._gather(BLOCK), 0
            if not buffer:
                raise StopIteration
            if len(buffer) < BLOCK:
                raise LayerError("the tar ends in the middle of a header")
        if not buffer[start] and buffer[start : start + BLOCK] == _ZEROS:
            second = self._gather(BLOCK)
            if len(second) == BLOCK and second != _ZEROS:
                raise LayerError("a zero block stands alone in the middle of the tar")
            self._blocks = iter(())
            self._set(b"")
            raise StopIteration
        self._header = buffer, start
        return decode_fields(buffer, start)

    def _extended(self, fields: Fields) -> Entry:
        """The entry behind extension headers, of which ``fields`` is the first."""
        name: bytes | None = None
        link: bytes | None = None
        records: tuple[tuple[bytes, bytes], ...] = ()
        while (flag := fields.flag) not in KINDS and flag != b"S":
            if flag == b"L":
                name = self._extension(fields).partition(b"\0")[0]
            elif flag == b"K":
                link = self._extension(fields).partition(b"\0")[0]
            elif flag in (b"x", b"X"):
                records = tuple(decode_records(self._extension(fields)))
            elif flag == b"g":
                decode_records(self._extension(fields))
            else:
                raise LayerError(f"the tar entry {fields.name!r} is of the unknown type {flag!r}")
            try:
                fields = self._next_fields()
            except StopIteration:
                raise LayerError("the tar ends after a header that extends the next one") from None
        for key, value in records:
            if key == b"path" and value:
                name = value
            elif key == b"linkpath" and value:
                link = value
        return self._entry(fields, fields.name if name is None else name, link, records)

    def _extension(self, fields: Fields) -> bytes:
        size = fields.size
        if not 0 <= size <= MAX_EXTENSION:
            raise LayerError(f"a tar header announces an extension of {size} bytes")
        body = self._take(size + padding(size))
        return body[:size]

    def _entry(
        self,
        fields: Fields,
        name: bytes,
        link: bytes | None,
        records: tuple[tuple[bytes, bytes], ...],
    ) -> Entry:
        kind = KINDS.get(fields.flag, Kind.FILE)
        text = name.decode("utf-8", "surrogateescape")
        if text.endswith("/"):
            text = text[:-1]
            if kind is Kind.FILE:
                kind = Kind.DIRECTORY
        path = self._path = self._clean(text)
        target, device = "", (0, 0)
        if kind in _LINKS:
            if link is None:
                buffer, start = self._header
                link = text_field(buffer, start + 157, 100)
            target = self._link(kind, link)
        elif kind in _DEVICES:
            device = decode_device(*self._header)
        _, _, mode, uid, gid, size, mtime = fields
        time = bounded_time(mtime * NANOSECONDS)
        xattrs: tuple[tuple[str, bytes], ...] = ()
        if records:
            size, uid, gid, time, xattrs = self._records(records, size, uid, gid, time)
        if not (0 <= uid < _NO_ID and 0 <= gid < _NO_ID and size >= 0):
            raise LayerError(f"{path!r} has an impossible size or owner ({size}, {uid}:{gid})")
        if kind is Kind.FILE:
            self._left = size
            self._padding = -size % BLOCK
            if fields.flag == b"S" or records:
                path, size = self._sparse(fields, path, records)
        else:
            size = 0
        return Entry(path, kind, mode, uid, gid, time, size, target, device, xattrs)

    def _clean(self, text: str) -> str:
        head, _, base = text.rpartition("/")
        if len(base) > _MAX_NAME or "\0" in text:
            raise LayerError(f"the name {text[:64]!r}… is too long or has a NUL in it")
        if base in _DOTS:
            return clean_name(text)
        return self._clean_of(head) + base

    def _clean_of(self, head: str) -> str:
        """What is before a name, clean, with its slash; the last one is remembered."""
        if head != self._raw_head:
            clean = clean_name(head)
            if len(clean.encode("utf-8", "surrogateescape")) > MAX_PATH:
                raise LayerError(f"a name in the tar has more than {MAX_PATH} bytes")
            self._raw_head, self._clean_head = head, f"{clean}/" if clean else ""
        return self._clean_head

    def _link(self, kind: Kind, link: bytes) -> str:
        if not link or len(link) > MAX_PATH or b"\0" in link:
            raise LayerError(
                f"{self._path!r} is a link whose target is empty, too long or has a NUL"
            )
        text = link.decode("utf-8", "surrogateescape")
        return clean_name(text) if kind is Kind.HARDLINK else text

    def _records(
        self, records: tuple[tuple[bytes, bytes], ...], size: int, uid: int, gid: int, time: int
    ) -> tuple[int, int, int, int, tuple[tuple[str, bytes], ...]]:
        xattrs: dict[str, bytes] = {}
        for key, value in records:
            if key.startswith(XATTR_RECORD):
                xattrs[xattr_name(key[len(XATTR_RECORD) :])] = value
            elif not value:
                continue  # an empty value restores what the header says
            elif key == b"size":
                size = _decimal(value)
            elif key == b"uid":
                uid = _decimal(value)
            elif key == b"gid":
                gid = _decimal(value)
            elif key == b"mtime":
                time = decode_time(value)
        return size, uid, gid, time, tuple(sorted(xattrs.items()))

    # --- sparse files -------------------------------------------------------------------------------

    def _sparse(
        self, fields: Fields, path: str, records: tuple[tuple[bytes, bytes], ...]
    ) -> tuple[str, int]:
        """Prepare a sparse file, or none: its path and its size with holes."""
        stored = self._left
        if fields.flag == b"S":
            buffer, start = self._header
            size = decode_number(buffer[start + 483 : start + 495])
            segments = self._old_gnu_map()
        else:
            layout = sparse.from_records(records)
            if layout is None:
                return path, stored
            size, segments = layout.size, layout.segments
            if layout.name:
                path = clean_name(layout.name.decode("utf-8", "surrogateescape"))
            if layout.map_in_data:
                segments, taken = self._data_map(stored)
                stored -= taken
        self.segments = sparse.checked(segments, size, stored, path)
        self._left = stored
        return path, size

    def _old_gnu_map(self) -> list[tuple[int, int]]:
        buffer, start = self._header
        segments = sparse.old_gnu_segments(buffer[start + 386 : start + 482])
        more = buffer[start + 482]
        while more:
            block = self._take(BLOCK)
            segments += sparse.old_gnu_segments(block[:504])
            more = block[504]
            if len(segments) * 24 > MAX_EXTENSION:
                raise LayerError("a sparse file's map in the tar is too long")
        return segments

    def _data_map(self, stored: int) -> tuple[list[tuple[int, int]], int]:
        """The map at the head of the content (format 1.0) and how many bytes it took."""
        text = b""
        while (segments := sparse.map_segments(text)) is None:
            if len(text) + BLOCK > min(stored, MAX_EXTENSION):
                raise LayerError("a sparse file's map in the tar is damaged or too long")
            text += self._take(BLOCK)
        return segments, len(text)

    # --- the stream ---------------------------------------------------------------------------------

    def _skip(self) -> None:
        for _ in self.pieces():
            pass
        end = self._start + self._padding
        if end <= len(self._buffer):
            self._start = end
        else:
            self._take(self._padding)  # at most the rest of a block
        self._padding = 0

    def _take(self, count: int) -> bytes:
        data = self._gather(count)
        if len(data) < count:
            raise LayerError(f"the tar ends too early, after {self._path!r}")
        return data

    def _gather(self, count: int) -> bytes:
        """The next ``count`` bytes, fewer at the end of the stream; what comes behind is not copied."""
        start = self._start
        data = self._buffer[start : start + count]
        self._start = start + len(data)
        parts = [data]
        missing = count - len(data)
        while missing and (block := next(self._blocks, None)) is not None:
            self._set(block)
            parts.append(block[:missing])
            self._start = len(parts[-1])
            missing -= self._start
        return b"".join(parts)

    def _refill(self) -> None:
        block = next(self._blocks, None)
        if block is None:
            raise LayerError(f"the tar ends in the middle of {self._path!r}")
        self._set(block)

    def _set(self, buffer: bytes) -> None:
        self._buffer = buffer
        self._view = memoryview(buffer)
        self._start = 0


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise LayerError(f"a pax header has {text[:40]!r} where a number belongs")
    return int(text)
