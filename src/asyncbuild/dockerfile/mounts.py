"""``RUN --mount`` and ``RUN --device``: what BuildKit's reference lists, typed.

A mount's values may name variables, so it is read in two steps: `MountFlag` has the fields as written
(keys checked), `MountFlag.mount` the typed `Mount` once the values are resolved.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum
from typing import TypeVar

from asyncbuild.dockerfile.quantities import parse_boolean, parse_size
from asyncbuild.dockerfile.source import Problem
from asyncbuild.dockerfile.suggest import did_you_mean
from asyncbuild.records import dataclass, replace


class MountType(Enum):
    """The types of a mount."""

    BIND = "bind"
    CACHE = "cache"
    TMPFS = "tmpfs"
    SECRET = "secret"  # noqa: S105 - the name of a type
    SSH = "ssh"


class Sharing(Enum):
    """How concurrent builds use one cache mount."""

    SHARED = "shared"
    PRIVATE = "private"
    LOCKED = "locked"


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount, typed. ``size`` is in bytes (0: no limit); ``env`` names a secret's variable."""

    type: MountType = MountType.BIND
    from_: str = ""
    source: str = ""
    target: str = ""
    read_only: bool = True
    size: int = 0
    id: str = ""
    sharing: Sharing | None = None
    required: bool = False
    env: str | None = None
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None


_KEYS = {
    "type": "type",
    "from": "from",
    "source": "source",
    "src": "source",
    "target": "target",
    "dst": "target",
    "destination": "target",
    "readonly": "readonly",
    "ro": "readonly",
    "readwrite": "readwrite",
    "rw": "readwrite",
    "id": "id",
    "sharing": "sharing",
    "required": "required",
    "size": "size",
    "mode": "mode",
    "uid": "uid",
    "gid": "gid",
    "env": "env",
}
_Choice = TypeVar("_Choice", MountType, Sharing)
_SWITCHES = frozenset(["readonly", "readwrite", "required"])
_WITH_OWNER = frozenset([MountType.SECRET, MountType.SSH, MountType.CACHE])


@dataclass(frozen=True, slots=True)
class MountFlag:
    """The fields of one ``--mount`` as written: (key, value), value None for a bare ``ro``."""

    fields: tuple[tuple[str, str | None], ...]

    @classmethod
    def parse(cls, text: str) -> MountFlag:
        """Split a flag's value; raises `Problem` for broken quoting, unknown keys, missing values."""
        fields: list[tuple[str, str | None]] = []
        for field in split_csv(text):
            key, equals, value = field.partition("=")
            key = key.lower()
            if key not in _KEYS:
                hint = did_you_mean(key, _KEYS)
                raise Problem(f"a mount has no key {key!r}", hint=hint, near=field)
            if not equals and _KEYS[key] not in _SWITCHES:
                raise Problem(f"{key} of a mount needs a value: {key}=…", near=field)
            if key == "from" and "$" in value[:-1]:
                hint = "define a stage with FROM, which may use an ARG, and name that stage"
                raise Problem("from of a mount cannot name variables", hint=hint, near=field)
            fields.append((key, value if equals else None))
        return cls(tuple(fields))

    @property
    def from_(self) -> str:
        """The stage or image that is mounted, or the empty string."""
        return next((value or "" for key, value in reversed(self.fields) if key == "from"), "")

    @property
    def is_constant(self) -> bool:
        """Whether no value needs expansion."""
        return not any(value and set(value) & set("$'\"\\`") for _, value in self.fields)

    def expand(self, expand: Callable[[str], str]) -> MountFlag:
        """These fields with every value but ``from`` expanded."""
        return replace(
            self,
            fields=tuple(
                (key, value if value is None or key == "from" else expand(value))
                for key, value in self.fields
            ),
        )

    def mount(self) -> Mount:
        """The typed mount; raises `Problem` for values or combinations that mean nothing."""
        mount = Mount()
        access: bool | None = None
        for key, value in self.fields:
            name = _KEYS[key]
            if name in ("readonly", "readwrite"):
                chosen = True if value is None else parse_boolean(value)
                access = chosen is (name == "readonly")
            else:
                mount = _set(mount, name, value)
        if access is None:
            access = mount.type not in (MountType.CACHE, MountType.TMPFS)
        mount = replace(mount, read_only=access)
        _check(mount)
        return mount


def _set(mount: Mount, name: str, value: str | None) -> Mount:
    text = "true" if value is None else value
    if name in ("source", "target", "id", "env"):
        return replace(mount, **{name: text})  # type: ignore[arg-type]
    if name == "from":
        return replace(mount, from_=text)
    if name == "type":
        return replace(mount, type=_choose(MountType, text, "mount type"))
    if name == "sharing":
        return replace(mount, sharing=_choose(Sharing, text, "sharing"))
    if name == "required":
        if mount.type not in (MountType.SECRET, MountType.SSH):
            raise Problem(f"required means nothing for a {mount.type.value} mount", near=name)
        return replace(mount, required=parse_boolean(text))
    if name == "size":
        if mount.type is not MountType.TMPFS:
            raise Problem(f"size means nothing for a {mount.type.value} mount", near=name)
        return replace(mount, size=parse_size(text))
    digits = r"[0-7]+" if name == "mode" else r"[0-9]+"
    number = int(text, 8 if name == "mode" else 10) if re.fullmatch(digits, text) else -1
    if not 0 <= number < 2**32:
        raise Problem(f"{text!r} is not a {name}", near=text)
    return replace(mount, **{name: number})  # type: ignore[arg-type]


def _choose(kind: type[_Choice], text: str, what: str) -> _Choice:
    for member in kind:
        if member.value == text.lower():
            return member
    values = [str(member.value) for member in kind]
    hint = did_you_mean(text, values) or f"it is one of {', '.join(values)}"
    raise Problem(f"{text!r} is not a {what}", hint=hint, near=text)


def _check(mount: Mount) -> None:
    """BuildKit's rules about which keys a type of mount may have."""
    kind = mount.type
    for name in ("mode", "uid", "gid"):
        if kind not in _WITH_OWNER and getattr(mount, name) is not None:
            raise Problem(f"{name} means nothing for a {kind.value} mount", near=name)
    if mount.sharing and kind is not MountType.CACHE:
        raise Problem(f"sharing means nothing for a {kind.value} mount", near="sharing")
    if kind is MountType.SSH and mount.source:
        raise Problem("an ssh mount has no source", near="source")
    if kind is not MountType.SECRET:
        return
    if mount.from_:
        raise Problem("a secret mount has no from", near="from")
    if mount.source and mount.id:
        raise Problem("a secret mount has either source or id", near="source")
    if not (mount.source or mount.target or mount.id):
        raise Problem("a secret mount needs id, source or target", near="type")


@dataclass(frozen=True, slots=True)
class Device:
    """A device of the container device interface (CDI) that a RUN asks for."""

    name: str
    required: bool = False


def parse_device(text: str) -> Device:
    """Read the value of a ``--device``: ``vendor.com/class=name[,required]``; raises `Problem`."""
    name, required = "", False
    for field in split_csv(text):
        key, equals, value = field.partition("=")
        key = key.lower()
        if key == "required":
            required = not equals or parse_boolean(value)
        elif key == "name" and equals:
            if name:
                raise Problem(f"the device's name is already {name}", near=field)
            name = value
        elif name:
            hint = did_you_mean(key, ("name", "required"))
            raise Problem(f"a device has no key {key!r}", hint=hint, near=field)
        else:
            name = field
    return Device(name, required)


def split_csv(text: str) -> list[str]:
    """The fields of one line of comma-separated values, quoted as CSV quotes; raises `Problem`."""
    fields: list[str] = []
    rest: str | None = text
    while rest is not None:
        if rest.startswith('"'):
            match = re.match(r'"((?:[^"]|"")*)"(?:,|\Z)', rest)
            if match is None:
                raise Problem(f"unbalanced quotes in {text!r}", near=rest)
            fields.append(match[1].replace('""', '"'))
            rest = rest[match.end() :] if match[0].endswith(",") else None
            continue
        field, comma, tail = rest.partition(",")
        if '"' in field:
            raise Problem(f"a quote in the middle of {field!r}", near=field)
        fields.append(field)
        rest = tail if comma else None
    return fields
