"""Images in files: OCI layouts (directory or tar) and docker archives. Blocking; call it in threads.

A file is untrusted: names in a tar are only looked up, never written; a link inside an archive leads to
a member of the archive or nowhere; what is read into memory is bounded and compared with its digest. The
digests of layers are the registry's to check, which gets their bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import posixpath
import shutil
import stat
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import trio
from isal import igzip, isal_zlib

from asyncbuild.errors import InputError
from asyncbuild.image.config import ImageConfig, InvalidConfig
from asyncbuild.image.digest import Digest, InvalidDigest
from asyncbuild.image.manifest import (
    DOCKER_CONFIG,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_LAYER_ZSTD,
    Descriptor,
    InvalidManifest,
    Manifest,
    is_docker,
    parse_manifest,
    to_oci,
)
from asyncbuild.image.reference import InvalidReference, Reference
from asyncbuild.records import dataclass, field, replace
from asyncbuild.registry.bodies import CHUNK_BYTES, Body, BytesBody
from asyncbuild.registry.client import Fetched
from asyncbuild.registry.protocol import MANIFEST_LIMIT

_DOCUMENT_LIMIT = 8 << 20
_MOST_MEMBERS = 100_000
_REF_NAME = "org.opencontainers.image.ref.name"
_IMAGE_NAME = "io.containerd.image.name"
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of a file on this machine; a `Body`."""

    path: str
    offset: int
    size: int

    @property
    def replayable(self) -> bool:
        """Always."""
        return True

    def read(self, start: int = 0) -> _PieceReading:
        """From byte ``start`` on; raises `InputError` if the file cannot be opened."""
        return _PieceReading(self, start)

    def whole(self, limit: int) -> bytes:
        """Everything at once; `InputError` for more than ``limit`` bytes."""
        if self.size > limit:
            raise InputError(f"{self.path}: a document of {self.size} bytes is no document")
        with self.opened() as file:
            data = file.read(self.size)
        if len(data) != self.size:
            raise InputError(f"{self.path} is shorter than it says")
        return data

    @contextlib.contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        """The file, at the piece's first byte."""
        with _open(self.path) as file:
            file.seek(self.offset)
            yield file


class _PieceReading:
    def __init__(self, piece: Piece, start: int) -> None:
        self._piece = piece
        self._place = start
        self._file = _open(piece.path)

    async def next_chunk(self) -> bytes:
        """Raises `InputError` if the file is shorter than it was."""
        wanted = min(CHUNK_BYTES, self._piece.size - self._place)
        if wanted <= 0:
            await trio.lowlevel.checkpoint()
            return b""
        place = self._piece.offset + self._place
        chunk = await trio.to_thread.run_sync(os.pread, self._file.fileno(), wanted, place)
        if not chunk:
            raise InputError(f"{self._piece.path} is shorter than it was")
        self._place += len(chunk)
        return chunk

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _open(path: str) -> IO[bytes]:
    """A regular file; a link is not followed: a layout's blobs are no way to other files."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise InputError(f"{path} is no file")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    return os.fdopen(descriptor, "rb", buffering=0)


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of a file: its manifest or index, and what it is called there."""

    descriptor: Descriptor
    names: tuple[str, ...] = ()

    @property
    def references(self) -> tuple[Reference, ...]:
        """Those names that say where to push to: with a registry and a tag."""
        found = []
        for name in self.names:
            with contextlib.suppress(InvalidReference):
                reference = Reference.parse_repository(name)
                if reference.tag is not None and "/" in name:
                    found.append(reference)
        return tuple(dict.fromkeys(found))


@dataclass(slots=True)
class ImageFile:
    """The images of a layout or an archive: a `Source`. Closing removes what was unpacked for it."""

    name: str
    entries: tuple[Entry, ...] = ()
    pieces: dict[Digest, Piece] = field(default_factory=dict)
    made: dict[Digest, bytes] = field(default_factory=dict)
    directory: Path | None = None
    closing: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def choose(self, wanted: str | None) -> Entry:
        """The image called ``wanted``, or the only one. Raises `InputError`."""
        found = [entry for entry in self.entries if wanted is None or _is_called(entry, wanted)]
        if len({entry.descriptor.digest for entry in found}) == 1:
            names = tuple(dict.fromkeys(name for entry in found for name in entry.names))
            return Entry(found[0].descriptor, names)
        known = ", ".join(
            name
            for entry in self.entries
            for name in entry.names or (str(entry.descriptor.digest),)
        )
        if not self.entries:
            raise InputError(f"{self.name} holds no image")
        what = f"no image {wanted}" if wanted else f"{len(self.entries)} images"
        raise InputError(f"{self.name} holds {what}", hint=f"choose one with --image: {known}")

    def fetched(self, digest: Digest) -> Fetched:
        """A manifest or index, verified; `InputError` if it is missing or damaged."""
        raw = self.document(digest, MANIFEST_LIMIT)
        try:
            manifest = parse_manifest(raw)
        except InvalidManifest as error:
            raise InputError(f"{self.name}: manifest {digest}: {error}") from None
        return Fetched(raw, manifest.media_type, digest, manifest)

    def document(self, digest: Digest, limit: int = _DOCUMENT_LIMIT) -> bytes:
        """A small blob, verified."""
        raw = self.made.get(digest)
        if raw is None:
            raw = self._piece(digest).whole(limit)
        if not digest.matches(raw):
            raise InputError(f"{self.name}: {digest} holds other bytes")
        return raw

    async def manifest(self, digest: Digest) -> Fetched:
        """As `fetched`, in a thread."""
        return await trio.to_thread.run_sync(self.fetched, digest)

    def body(self, descriptor: Descriptor) -> Body:
        """A blob as what a request carries; `InputError` if it is missing or has another size."""
        if descriptor.digest in self.made:
            return BytesBody(self.made[descriptor.digest])
        piece = self._piece(descriptor.digest)
        if piece.size != descriptor.size:
            raise InputError(
                f"{self.name}: blob {descriptor.digest} has {piece.size} bytes "
                f"where its manifest says {descriptor.size}"
            )
        return piece

    def home(self, descriptor: Descriptor) -> Reference | None:  # noqa: ARG002
        """A file is no repository."""
        return None

    def _piece(self, digest: Digest) -> Piece:
        if digest in self.pieces:
            return self.pieces[digest]
        if self.directory is None:
            raise InputError(f"{self.name} has no blob {digest}")
        path = self.directory / "blobs" / digest.algorithm / digest.hex
        try:
            size = path.lstat().st_size
        except OSError:
            raise InputError(f"{self.name} has no blob {digest}") from None
        return Piece(str(path), 0, size)

    def close(self) -> None:
        """Remove what was unpacked."""
        self.closing.close()


def _is_called(entry: Entry, wanted: str) -> bool:
    tags = {name.rpartition(":")[2] for name in entry.names}
    return wanted in {*entry.names, *tags, str(entry.descriptor.digest)}


def open_image_file(path: str) -> ImageFile:
    """The images at ``path``; ``-`` is the standard input. Raises `InputError` for what holds none."""
    place = Path(path)
    if path != "-" and place.is_dir():
        return _open_directory(place)
    with contextlib.ExitStack() as stack:
        name = path
        if path == "-":
            path = _spooled(sys.stdin.buffer, stack)
        with _open(os.path.realpath(path)) as file:
            start = file.read(4)
        if start.startswith(_GZIP):
            with igzip.open(path, "rb") as packed:  # type: ignore[no-untyped-call]
                path = _spooled(packed, stack, name)
        image = _open_archive(os.path.realpath(path), name, stack)
        image.closing = stack.pop_all()
        return image


def _spooled(source: Any, stack: contextlib.ExitStack, name: str = "-") -> str:
    """A copy of a stream in a file that is removed at the end."""
    spool = stack.enter_context(tempfile.NamedTemporaryFile(prefix="asyncbuild-"))  # noqa: SIM115
    try:
        shutil.copyfileobj(source, spool, CHUNK_BYTES)
        spool.flush()
    except (OSError, EOFError) as error:
        raise InputError(f"{name} cannot be read: {error}") from None
    return spool.name


def _open_directory(place: Path) -> ImageFile:
    if not (place / "oci-layout").is_file():
        raise InputError(f"{place} is no OCI layout: it has no file oci-layout")
    path = place / "index.json"
    raw = Piece(str(path), 0, path.stat().st_size if path.exists() else 0).whole(_DOCUMENT_LIMIT)
    return ImageFile(str(place), _entries(raw, str(place)), directory=place)


def _open_archive(path: str, name: str, stack: contextlib.ExitStack) -> ImageFile:
    members = _members(path, name)
    pieces = {}
    for member, piece in members.items():
        top, _, rest = member.partition("/")
        with contextlib.suppress(InvalidDigest):
            if top == "blobs":
                pieces[Digest.parse(rest.replace("/", ":"))] = piece
    if "index.json" in members:
        entries = _entries(members["index.json"].whole(_DOCUMENT_LIMIT), name)
        return ImageFile(name, entries, pieces)
    if "manifest.json" not in members:
        raise InputError(f"{name} is neither an OCI layout nor a docker archive")
    return _DockerArchive(name, members, stack).read()


def _members(path: str, name: str) -> dict[str, Piece]:
    """The files of a tar by their names, links inside it followed."""
    found: dict[str, Piece] = {}
    links: dict[str, str] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for count, member in enumerate(archive):
                if count >= _MOST_MEMBERS:
                    raise InputError(f"{name} has more than {_MOST_MEMBERS} members")
                key = posixpath.normpath(member.name.lstrip("/"))
                if member.isreg() and not member.issparse():
                    found[key] = Piece(path, member.offset_data, member.size)
                elif member.issym():
                    place = posixpath.join(posixpath.dirname(key), member.linkname)
                    links[key] = posixpath.normpath(place)
                elif member.islnk():
                    links[key] = posixpath.normpath(member.linkname.lstrip("/"))
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise InputError(f"{name} is no tar: {error}") from None
    for key, target in links.items():
        if target in found:
            found.setdefault(key, found[target])
    return found


def _decoded(raw: bytes, what: str) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        raise InputError(f"{what} is not JSON") from None


def _entries(raw: bytes, name: str) -> tuple[Entry, ...]:
    """What an ``index.json`` lists; one image may be listed once for each of its names."""
    document = _decoded(raw, f"{name}: index.json")
    listed = document.get("manifests") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise InputError(f"{name}: index.json is no image index")
    names: dict[Digest, list[str]] = {}
    found: dict[Digest, Descriptor] = {}
    for item in listed:
        try:
            descriptor = Descriptor.from_json(item)
        except InvalidManifest as error:
            raise InputError(f"{name}: index.json: {error}") from None
        found.setdefault(descriptor.digest, descriptor)
        called = [descriptor.annotations.get(key) for key in (_IMAGE_NAME, _REF_NAME)]
        names.setdefault(descriptor.digest, []).extend(item for item in called if item)
    return tuple(Entry(item, tuple(dict.fromkeys(names[digest]))) for digest, item in found.items())


@dataclass(frozen=True, slots=True)
class _DockerArchive:
    """``docker save`` as it was before it wrote OCI layouts: layers are plain tars, without digests."""

    name: str
    members: Mapping[str, Piece]
    stack: contextlib.ExitStack

    def read(self) -> ImageFile:
        listed = _decoded(
            self.members["manifest.json"].whole(_DOCUMENT_LIMIT), f"{self.name}: manifest.json"
        )
        if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
            raise InputError(f"{self.name}: manifest.json is no list of images")
        image = ImageFile(self.name)
        layers: dict[str, Descriptor] = {}
        image.entries = tuple(self._entry(image, item, layers) for item in listed)
        return image

    def _entry(
        self, image: ImageFile, item: Mapping[str, Any], layers: dict[str, Descriptor]
    ) -> Entry:
        raw = self._member(item.get("Config")).whole(_DOCUMENT_LIMIT)
        digest = Digest.of(raw)
        image.made[digest] = raw
        paths = item.get("Layers")
        if not isinstance(paths, list):
            raise InputError(f"{self.name}: manifest.json names no layers")
        for path in paths:
            if path not in layers:
                layers[path] = self._layer(image, path)
        self._check(raw, len(paths))
        manifest = _manifest(
            Descriptor(DOCKER_CONFIG, digest, len(raw)), tuple(layers[path] for path in paths)
        )
        image.made[manifest.digest] = manifest.raw
        tags = item.get("RepoTags") or ()
        return Entry(manifest.descriptor, tuple(str(tag) for tag in tags))

    def _check(self, raw: bytes, layers: int) -> None:
        try:
            config = ImageConfig.parse(raw)
        except InvalidConfig as error:
            raise InputError(f"{self.name}: a configuration is damaged: {error}") from None
        if len(config.diff_ids) != layers:
            raise InputError(f"{self.name}: {layers} layers and {len(config.diff_ids)} diff ids")

    def _member(self, name: object) -> Piece:
        piece = self.members.get(posixpath.normpath(name)) if isinstance(name, str) else None
        if piece is None:
            raise InputError(f"{self.name} has no {name!r}, which its manifest.json names")
        return piece

    def _layer(self, image: ImageFile, path: str) -> Descriptor:
        """A layer as it will be sent: compressed, if it is not."""
        piece = self._member(path)
        with piece.opened() as file:
            start = file.read(4)
        if not start.startswith((_GZIP, _ZSTD)):
            piece = self._compressed(piece)
        digest = _digest_of(piece)
        image.pieces[digest] = piece
        media_type = OCI_LAYER_ZSTD if start.startswith(_ZSTD) else DOCKER_LAYER_GZIP
        return Descriptor(media_type, digest, piece.size)

    def _compressed(self, piece: Piece) -> Piece:
        spool = self.stack.enter_context(
            tempfile.NamedTemporaryFile(prefix="asyncbuild-")  # noqa: SIM115
        )
        packer = isal_zlib.compressobj(level=2, wbits=31)  # 31: a gzip stream without name and time
        for chunk in _chunks(piece):
            spool.write(packer.compress(chunk))
        spool.write(packer.flush())
        spool.flush()
        return Piece(spool.name, 0, os.path.getsize(spool.name))


def _manifest(config: Descriptor, layers: tuple[Descriptor, ...]) -> Manifest:
    """Docker's, unless a layer has a compression that docker has no name for."""
    if all(is_docker(layer.media_type) for layer in layers):
        return Manifest.make(config, layers, media_type=DOCKER_MANIFEST)
    return Manifest.make(
        replace(config, media_type=to_oci(config.media_type)),
        tuple(replace(layer, media_type=to_oci(layer.media_type)) for layer in layers),
    )


def _chunks(piece: Piece) -> Iterator[bytes]:
    left = piece.size
    with piece.opened() as file:
        while left:
            chunk = file.read(min(CHUNK_BYTES, left))
            if not chunk:
                raise InputError(f"{piece.path} is shorter than it says")
            left -= len(chunk)
            yield chunk


def _digest_of(piece: Piece) -> Digest:
    found = hashlib.sha256()
    for chunk in _chunks(piece):
        found.update(chunk)
    return Digest("sha256", found.hexdigest())
