"""``--output``/``-o``: what a person may ask for, and what of it this version does.

The grammar is buildx's (util/buildflags/export.go): ``type=…,key=value,…``, ``-o DIR`` for
``type=local,dest=DIR`` and ``-o -`` for a tar on the standard output. What we do not do is refused by
name; an attribute that nobody knows is refused too, where buildx hands it on unread.

====================  ==========================================================================
``type=image``        keep the image in the store; ``push=true`` pushes it to its names
``type=registry``     the same as ``type=image,push=true``
``type=oci``          an OCI layout: ``dest=FILE`` a tar, ``dest=-`` to stdout, ``tar=false`` a directory
``type=docker``       an archive for ``docker load``: ``dest=FILE`` or ``dest=-``
====================  ==========================================================================
"""

from __future__ import annotations

from enum import Enum

from asyncbuild.errors import UsageError
from asyncbuild.image.reference import InvalidReference, Reference
from asyncbuild.output.annotations import Annotation, is_annotation, parse_annotation
from asyncbuild.output.attributes import Attribute, join_attributes, parse_attributes, split_fields
from asyncbuild.records import dataclass

STDOUT = "-"


class OutputKind(Enum):
    """What an output is; the values are buildx's names."""

    IMAGE = "image"
    OCI = "oci"
    DOCKER = "docker"


class Compression(Enum):
    """How new layers are compressed; the values are BuildKit's names."""

    GZIP = "gzip"
    ZSTD = "zstd"
    UNCOMPRESSED = "uncompressed"


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """One ``--output``.

    ``destination`` is a path or ``-``; None for images. ``tar`` is False for an OCI directory.
    ``compression``, ``level`` and ``oci_media_types`` are None where nothing was asked. ``names`` are
    those of ``name=``; a ``-t`` replaces them, as in buildx.
    """

    kind: OutputKind
    destination: str | None = None
    names: tuple[Reference, ...] = ()
    push: bool = False
    insecure: bool = False
    tar: bool = True
    compression: Compression | None = None
    level: int | None = None
    oci_media_types: bool | None = None
    rewrite_timestamp: bool | None = None
    annotations: tuple[Annotation, ...] = ()

    @property
    def to_stdout(self) -> bool:
        """Whether the standard output gets the archive (and so nothing else may)."""
        return self.destination == STDOUT

    def __str__(self) -> str:
        return join_attributes(_attributes(self))


_LEVELS = {Compression.GZIP: range(10), Compression.ZSTD: range(1, 23)}
_TYPES = "image, registry, oci or docker"
_NOT_YET_TYPES = {
    "local": "the files of the image in a directory",
    "tar": "the files of the image in a tar",
    "cacheonly": "no output",
}
# Attributes of BuildKit's image exporters that this version refuses.
_NOT_YET = (
    "push-by-digest",
    "force-compression",
    "name-canonical",
    "dangling-name-prefix",
    "danging-name-empty-only",
    "prefer-nondist-layers",
    "attestation-inline",
    "oci-artifact",
    "store",
    "unpack",
    "context",
    "epoch",
    "platform-split",
    "mode",
)


def parse_output(text: str) -> OutputSpec:
    """Read one value of ``--output``; `UsageError` says what is wrong or not in this version."""
    pairs = dict(_expand(text))
    kind_name = pairs.pop("type", "")
    if kind_name in _NOT_YET_TYPES:
        what = _NOT_YET_TYPES[kind_name]
        raise _refusal(text, f"type={kind_name} ({what}) is not in this version")
    push_default = kind_name == "registry"
    try:
        kind = OutputKind.IMAGE if push_default else OutputKind(kind_name)
    except ValueError:
        said = f"type={kind_name} is unknown" if kind_name else "type= is missing"
        raise _refusal(text, f"{said}: it is {_TYPES}") from None
    annotations = [
        parse_annotation(key, pairs.pop(key)) for key in list(pairs) if is_annotation(key)
    ]
    compression, level = _compression(text, pairs)
    spec = OutputSpec(
        kind=kind,
        destination=pairs.pop("dest", "") or None,
        names=_names(text, pairs.pop("name", "")),
        push=_flag(text, pairs, "push", default=push_default),
        insecure=_flag(text, pairs, "registry.insecure", default=False),
        tar=_flag(text, pairs, "tar", default=True),
        compression=compression,
        level=level,
        oci_media_types=_optional_flag(text, pairs, "oci-mediatypes"),
        rewrite_timestamp=_optional_flag(text, pairs, "rewrite-timestamp"),
        annotations=tuple(annotations),
    )
    for key in pairs:
        known = key in _NOT_YET
        raise _refusal(text, f"{key}= is {'not in this version' if known else 'unknown'}")
    return _checked(text, spec)


def _expand(text: str) -> tuple[Attribute, ...]:
    """The pairs that ``text`` stands for, the two short forms included."""
    if text == STDOUT:
        return (("type", "tar"), ("dest", STDOUT))
    if split_fields(text) == [text] and not text.startswith("type="):
        return (("type", "local"), ("dest", text))
    return parse_attributes(text)


def _checked(text: str, spec: OutputSpec) -> OutputSpec:
    """Refuse what cannot go together."""
    match spec.kind:
        case OutputKind.IMAGE if spec.destination is not None:
            raise _refusal(text, "dest= has no meaning for an image; use type=oci or type=docker")
        case OutputKind.OCI | OutputKind.DOCKER if spec.push:
            raise _refusal(text, "push= belongs to type=image; give a second --output")
        case OutputKind.OCI if spec.destination is None:
            raise _refusal(text, "dest= is missing: a file, a directory with tar=false, or -")
        case OutputKind.DOCKER if spec.destination is None:
            raise _refusal(
                text, "loading into a daemon is not in this version; pipe dest=- to docker load"
            )
    if not spec.tar and spec.kind is not OutputKind.OCI:
        raise _refusal(text, f"tar=false is not in this version for type={spec.kind.value}")
    if not spec.tar and spec.to_stdout:
        raise _refusal(text, "a directory (tar=false) cannot be written to the standard output")
    if spec.oci_media_types is False and spec.compression is Compression.ZSTD:
        raise _refusal(text, "compression=zstd needs oci-mediatypes=true")
    if spec.oci_media_types is False and spec.kind is OutputKind.OCI:
        raise _refusal(text, "an OCI layout has OCI media types")
    return spec


def _names(text: str, value: str) -> tuple[Reference, ...]:
    try:
        return tuple(Reference.parse(name.strip()) for name in value.split(",") if name.strip())
    except InvalidReference as error:
        raise _refusal(text, f"name: {error}") from None


def _flag(text: str, pairs: dict[str, str], key: str, *, default: bool) -> bool:
    value = _optional_flag(text, pairs, key)
    return default if value is None else value


def _optional_flag(text: str, pairs: dict[str, str], key: str) -> bool | None:
    """A flag in the words of Go's strconv.ParseBool, which buildx uses."""
    value = pairs.pop(key, None)
    if value is None:
        return None
    if value in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if value in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise _refusal(text, f"{key}={value} is neither true nor false")


def _compression(text: str, pairs: dict[str, str]) -> tuple[Compression | None, int | None]:
    """What ``compression`` and ``compression-level`` ask for; a level alone is gzip's, as in BuildKit."""
    value = pairs.pop("compression", None)
    level = pairs.pop("compression-level", None)
    if value is None and level is None:
        return None, None
    try:
        compression = Compression("gzip" if value is None else value)
    except ValueError:
        choices = ", ".join(item.value for item in Compression)
        state = "not in this version" if value == "estargz" else "unknown"
        raise _refusal(text, f"compression={value} is {state}: it is {choices}") from None
    return compression, None if level is None else _level(text, level, compression)


def _level(text: str, value: str, compression: Compression) -> int:
    levels = _LEVELS.get(compression)
    if levels is None:
        raise _refusal(text, "compression-level has no meaning for compression=uncompressed")
    # Not int(): it takes "+3", "1_0" and digits of other scripts.
    if not (value.isascii() and value.isdigit() and len(value) <= 2 and int(value) in levels):
        span = f"{levels.start} to {levels.stop - 1}"
        raise _refusal(text, f"compression-level={value} is not a number from {span}")
    return int(value)


def _refusal(text: str, why: str) -> UsageError:
    return UsageError(f"--output {text}: {why}")


def _attributes(spec: OutputSpec) -> list[Attribute]:
    """The pairs that give ``spec`` back."""
    pairs: list[Attribute] = [("type", spec.kind.value)]
    texts = (
        ("dest", spec.destination),
        ("name", ",".join(str(name) for name in spec.names) or None),
        ("compression", spec.compression and spec.compression.value),
        ("compression-level", None if spec.level is None else str(spec.level)),
    )
    pairs += [(key, value) for key, value in texts if value is not None]
    flags = (
        ("push", spec.push or None),
        ("registry.insecure", spec.insecure or None),
        ("tar", None if spec.tar else False),
        ("oci-mediatypes", spec.oci_media_types),
        ("rewrite-timestamp", spec.rewrite_timestamp),
    )
    pairs += [(key, str(value).lower()) for key, value in flags if value is not None]
    return pairs + [item.attribute for item in spec.annotations]
