"""The flags of every instruction: which there are, and how their values are read."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from asyncbuild.dockerfile.source import Problem
from asyncbuild.dockerfile.suggest import did_you_mean
from asyncbuild.records import dataclass


class FlagKind(Enum):
    """What a flag takes: ``--flag[=true|false]``, ``--flag=text``, or ``--flag=text`` several times."""

    BOOLEAN = "boolean"
    TEXT = "text"
    LIST = "list"


_COPY: dict[str, FlagKind] = {
    "chown": FlagKind.TEXT,
    "chmod": FlagKind.TEXT,
    "link": FlagKind.BOOLEAN,
    "exclude": FlagKind.LIST,
}
FLAGS: Mapping[str, Mapping[str, FlagKind]] = {
    "FROM": {"platform": FlagKind.TEXT},
    "COPY": {**_COPY, "from": FlagKind.TEXT, "parents": FlagKind.BOOLEAN},
    "ADD": {
        **_COPY,
        "keep-git-dir": FlagKind.BOOLEAN,
        "checksum": FlagKind.TEXT,
        "unpack": FlagKind.BOOLEAN,
    },
    "RUN": {
        "mount": FlagKind.LIST,
        "network": FlagKind.TEXT,
        "security": FlagKind.TEXT,
        "device": FlagKind.LIST,
    },
    "HEALTHCHECK": dict.fromkeys(
        ("interval", "timeout", "start-period", "start-interval", "retries"), FlagKind.TEXT
    ),
}
"""Every flag that there is, by instruction; instructions that are not named have none."""


@dataclass(frozen=True, slots=True)
class FlagValues:
    """The flags that one instruction was given."""

    values: Mapping[str, tuple[str, ...]]

    def text(self, name: str, default: str = "") -> str:
        """The value of a flag that is given once."""
        return self.values.get(name, (default,))[0]

    def every(self, name: str) -> tuple[str, ...]:
        """All values of a flag that may be repeated, in order."""
        return self.values.get(name, ())

    def boolean(self, name: str) -> bool | None:
        """True or false, or None if the flag was not given."""
        value = self.values.get(name)
        return None if value is None else value[0] == "true"


def read_flags(instruction: str, raw: tuple[str, ...]) -> FlagValues:
    """Check and sort the flags of ``instruction`` (its name in upper case); raises `Problem`."""
    known = FLAGS.get(instruction, {})
    values: dict[str, tuple[str, ...]] = {}
    for flag in raw:
        marked, equals, value = flag.partition("=")
        name = marked.removeprefix("--")
        kind = known.get(name)
        if kind is None:
            hint = did_you_mean(marked, [f"--{flag}" for flag in known])
            owners = [other for other, flags in FLAGS.items() if name in flags]
            if hint is None and owners:
                hint = f"{marked} is a flag of {' and '.join(owners)}"
            raise Problem(f"{instruction} has no flag {marked}", hint=hint, near=marked)
        if name in values and kind is not FlagKind.LIST:
            raise Problem(f"{marked} is given twice", near=marked)
        values[name] = (*values.get(name, ()), _value(marked, equals, value, kind))
    return FlagValues(values)


def _value(marked: str, equals: str, value: str, kind: FlagKind) -> str:
    if kind is FlagKind.BOOLEAN:
        text = value.lower() if equals else "true"
        if text not in ("true", "false"):
            raise Problem(f"{marked} is true or false, not {value!r}", near=marked)
        return text
    if not equals:
        raise Problem(f"{marked} needs a value: {marked}=…", near=marked)
    return value
