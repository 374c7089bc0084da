"""kaniko's command line: its flags as a table, read by the rules of Go's pflag, which kaniko uses.

1. ``--name=value`` or ``--name value``; ``-n value``, ``-n=value`` or ``-nvalue``. ``--`` ends the flags.
2. A flag of true or false takes its value only behind ``=``: ``--cache true`` is ``--cache`` and a word.
   True and false are spelled as Go's ``strconv.ParseBool`` reads them.
3. Flags and words may stand in any order. A repeated flag adds a value, or replaces the one before.

The tables are those of the living fork (osscontainertools/kaniko, ``cmd/executor/cmd/root.go`` and
``cmd/warmer/cmd/root.go``) and of GoogleContainerTools/kaniko, whose last version has fewer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import Enum

from asyncbuild.errors import UsageError
from asyncbuild.records import dataclass

_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})


class Shape(Enum):
    """What values a flag takes."""

    TEXT = "text"
    FLAG = "true or false"
    NUMBER = "number"
    DURATION = "duration"
    TEXTS = "text, repeatable"
    LIST = "list with commas, repeatable"


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag. ``meaning`` is False for what is accepted and has no meaning here; a flag that was
    renamed says how it is called now (``now``).
    """

    name: str
    shape: Shape = Shape.TEXT
    short: str = ""
    default: str = ""
    meaning: bool = True
    now: str = ""


def _flags(shape: Shape, names: str, *, meaning: bool = True) -> tuple[Flag, ...]:
    return tuple(Flag(name, shape, meaning=meaning) for name in names.split())


_LOGGING = (
    Flag("verbosity", short="v", default="info"),
    Flag("log-format", default="color"),
    Flag("log-timestamp", Shape.FLAG, meaning=False),
)
_REGISTRY = (
    *_flags(Shape.FLAG, "insecure-pull skip-tls-verify-pull skip-default-registry-fallback"),
    *_flags(Shape.TEXTS, "insecure-registry skip-tls-verify-registry registry-certificate"),
    *_flags(Shape.TEXTS, "registry-client-cert registry-map registry-mirror"),
)
_PUSH = (
    *_flags(Shape.FLAG, "insecure skip-tls-verify push-ignore-immutable-tag-errors"),
    *_flags(Shape.FLAG, "skip-push-permission-check", meaning=False),
    *_flags(Shape.NUMBER, "push-retry image-download-retry"),
    *_flags(Shape.TEXTS, "credential-helpers"),
    Flag("destination", Shape.TEXTS, short="d"),
)

EXECUTOR = (
    *_LOGGING,
    *_REGISTRY,
    *_PUSH,
    Flag("dockerfile", short="f", default="Dockerfile"),
    Flag("context", short="c", default="/workspace/"),
    Flag("bucket", short="b"),
    *_flags(Shape.TEXT, "context-sub-path custom-platform kaniko-dir tar-path oci-layout-path"),
    *_flags(Shape.TEXT, "digest-file image-name-with-digest-file image-name-tag-with-digest-file"),
    *_flags(Shape.TEXT, "cache-repo cache-dir compression image-format isolation"),
    *_flags(Shape.TEXTS, "build-arg label annotation secret git ignore-path"),
    *_flags(Shape.FLAG, "no-push no-push-cache cache cache-copy-layers dryrun"),
    *_flags(Shape.FLAG, "reproducible single-snapshot"),
    Flag("cache-run-layers", Shape.FLAG, default="true"),
    Flag("cache-ttl", Shape.DURATION, default="336h"),
    Flag("compression-level", Shape.NUMBER, default="-1"),
    Flag("target", Shape.LIST),
    *_flags(Shape.TEXT, "snapshot-mode", meaning=False),
    *_flags(Shape.NUMBER, "image-fs-extract-retry", meaning=False),
    *_flags(Shape.FLAG, "force use-new-run cleanup pre-cleanup preserve-context", meaning=False),
    *_flags(Shape.FLAG, "materialize compressed-caching ignore-var-run", meaning=False),
    Flag("snapshotMode", now="snapshot-mode", meaning=False),
    Flag("customPlatform", now="custom-platform"),
    Flag("tarPath", now="tar-path"),
    Flag("whitelist-var-run", Shape.FLAG, now="ignore-var-run", meaning=False),
    *_flags(Shape.FLAG, "force-build-metadata skip-unused-stages", meaning=False),
    Flag("azure-container-registry-config", meaning=False),
)
WARMER = (
    *_LOGGING,
    *_REGISTRY,
    Flag("image", Shape.TEXTS, short="i"),
    Flag("cache-dir", short="c", default="/cache"),
    Flag("force", Shape.FLAG, short="f"),
    Flag("cache-ttl", Shape.DURATION, default="336h", meaning=False),
    Flag("customPlatform"),
    Flag("dockerfile", short="d"),
    Flag("build-arg", Shape.TEXTS),
    Flag("azure-container-registry-config", meaning=False),
)
PUSH = (*_LOGGING, *_REGISTRY, *_PUSH)
LOGIN = (
    Flag("username", short="u"),
    Flag("password", short="p"),
    Flag("password-stdin", Shape.FLAG),
)


@dataclass(frozen=True, slots=True)
class Given:
    """What a command line said: the flags in their order, and the words between them."""

    table: tuple[Flag, ...]
    values: tuple[tuple[Flag, str], ...]
    words: tuple[str, ...] = ()

    def texts(self, name: str) -> tuple[str, ...]:
        """Every value of a flag that may be repeated."""
        flag = _named(self.table, name)
        found = [value for _, value in self._of(flag) if value]
        if flag.shape is Shape.LIST:
            found = [part.strip() for value in found for part in value.split(",")]
            return tuple(part for part in found if part)
        return tuple(found)

    def text(self, name: str) -> str:
        """The last value of a flag, its default without one."""
        flag = _named(self.table, name)
        found = [value for _, value in self._of(flag)]
        return found[-1] if found else flag.default

    def on(self, name: str) -> bool:
        """Whether a flag is true."""
        return self.text(name) in _TRUE

    def number(self, name: str) -> int:
        """The value of a flag of a whole number; 0 without one."""
        return int(self.text(name) or "0")

    def has(self, name: str) -> bool:
        """Whether the flag was given at all."""
        return bool(self._of(_named(self.table, name)))

    @property
    def without_meaning(self) -> tuple[str, ...]:
        """The flags that were given and have no meaning here, each once, in their order."""
        named = (flag.name for flag, _ in self.values if not flag.meaning)
        return tuple(dict.fromkeys(f"--{name}" for name in named))

    def _of(self, flag: Flag) -> list[tuple[Flag, str]]:
        names = {flag.name, *(other.name for other in self.table if other.now == flag.name)}
        return [(given, value) for given, value in self.values if given.name in names]


def read_flags(table: tuple[Flag, ...], words: Sequence[str]) -> Given:
    """Read a command line; raises `UsageError` for a flag that is not in ``table`` and a wrong value."""
    values: list[tuple[Flag, str]] = []
    loose: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            loose += rest
            break
        if not word.startswith("-") or word == "-":
            loose.append(word)
        elif word.startswith("--"):
            values.append(_long(table, word, rest))
        else:
            values += _short(table, word[1:], rest)
    return Given(table, tuple(values), tuple(loose))


def _long(table: Iterable[Flag], word: str, rest: list[str]) -> tuple[Flag, str]:
    name, equals, value = word[2:].partition("=")
    flag = _named(table, name)
    if not equals:
        value = _next_value(flag, word, rest)
    return flag, _checked(flag, value)


def _short(table: tuple[Flag, ...], letters: str, rest: list[str]) -> list[tuple[Flag, str]]:
    """One word of short flags: all but the last are of true or false."""
    found = []
    while letters:
        letter, letters = letters[0], letters[1:]
        flag = next((flag for flag in table if flag.short == letter), None)
        if flag is None:
            raise UsageError(f"unknown flag -{letter}", hint="executor --help lists the flags")
        if letters.startswith("="):
            value, letters = letters[1:], ""
        elif flag.shape is Shape.FLAG:
            value = "true"
        elif letters:
            value, letters = letters, ""
        else:
            value = _next_value(flag, f"-{letter}", rest)
        found.append((flag, _checked(flag, value)))
    return found


def _next_value(flag: Flag, word: str, rest: list[str]) -> str:
    if flag.shape is Shape.FLAG:
        return "true"
    if not rest:
        raise UsageError(f"{word} needs a value")
    return rest.pop(0)


def _named(table: Iterable[Flag], name: str) -> Flag:
    for flag in table:
        if flag.name == name:
            return flag
    raise UsageError(f"unknown flag --{name}", hint="executor --help lists the flags")


def _checked(flag: Flag, value: str) -> str:
    if flag.shape is Shape.FLAG and value not in _TRUE | _FALSE:
        raise UsageError(f"--{flag.name}={value}: it is true or false")
    if flag.shape is Shape.NUMBER:
        digits = value.removeprefix("-")
        if not (digits.isascii() and digits.isdigit()):
            raise UsageError(f"--{flag.name}={value}: it is a whole number")
    if flag.shape is Shape.DURATION:
        parse_duration(f"--{flag.name}", value)
    return value


_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def parse_duration(option: str, text: str) -> float:
    """Seconds of a Go duration (``time.ParseDuration``): ``336h``, ``1h30m``, ``0``."""
    if text == "0":
        return 0.0
    if not re.fullmatch(r"(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|ms|s|m|h))+", text):
        raise UsageError(f"{option}={text}: write a duration with its unit, such as 6h or 90m")
    parts = re.findall(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)", text)
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def parse_bool(name: str, text: str) -> bool:
    """A value of true or false that the environment gives; raises `UsageError` for another."""
    if text not in _TRUE | _FALSE:
        raise UsageError(f"{name} is {text!r}: it must be true or false")
    return text in _TRUE
