"""Durations, sizes and booleans as Go programs read and print them. Durations are in nanoseconds."""

from __future__ import annotations

import re

from asyncbuild.dockerfile.source import Problem

_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_PART = re.compile(r"([0-9]*)(?:\.([0-9]*))?(ns|us|µs|μs|ms|s|m|h)")
_LONGEST = 2**63 - 1
_SIZE = re.compile(r"([0-9]*\.?[0-9]*) ?(?:([kmgtp])(?:i?b)?|b)?\Z", re.IGNORECASE)
_TRUE = frozenset(["1", "t", "T", "TRUE", "true", "True"])
_FALSE = frozenset(["0", "f", "F", "FALSE", "false", "False"])


def parse_duration(text: str) -> int:
    """``1h30m``, ``1.5s``, ``250ms`` as nanoseconds (Go's time.ParseDuration); raises `Problem`."""
    sign, body = (text[0], text[1:]) if text[:1] in ("+", "-") else ("", text)
    if body == "0":
        return 0
    total = 0
    position = 0
    while position < len(body):
        part = _PART.match(body, position)
        if part is None or not (part[1] or part[2]):
            break
        unit = _UNITS[part[3]]
        fraction = part[2] or ""
        total += int(part[1] or 0) * unit + int(fraction or 0) * unit // 10 ** len(fraction)
        position = part.end()
    if not body or position < len(body) or total > _LONGEST:
        hint = "write it like 30s, 1m30s or 500ms"
        raise Problem(f"{text!r} is not a duration", hint=hint, near=text)
    return -total if sign == "-" else total


def format_duration(nanoseconds: int) -> str:
    """Nanoseconds as Go prints a Duration: ``1m30s``, ``1.5s``, ``250ms``, ``0s``."""
    if nanoseconds == 0:
        return "0s"
    sign, rest = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    for unit, size in (("ns", 1), ("µs", 1_000), ("ms", 1_000_000)):
        if rest < size * 1_000:
            return f"{sign}{_decimal(rest, size)}{unit}"
    hours, rest = divmod(rest, _UNITS["h"])
    minutes, rest = divmod(rest, _UNITS["m"])
    text = f"{_decimal(rest, _UNITS['s'])}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{sign}{hours}h{text}" if hours else f"{sign}{text}"


def _decimal(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    if not rest:
        return str(whole)
    return f"{whole}." + str(rest).rjust(len(str(unit)) - 1, "0").rstrip("0")


def parse_size(text: str) -> int:
    """``64m``, ``1.5GiB``, ``1024`` as bytes (powers of 1024, as docker reads them); raises `Problem`."""
    match = _SIZE.match(text)
    if match is None or not any(c.isdigit() for c in match[1]):
        raise Problem(f"{text!r} is not a size", hint="write it like 64m or 1g", near=text)
    power = " kmgtp".index((match[2] or " ").lower())
    whole, _, fraction = match[1].partition(".")
    scale = 1 << 10 * power
    divisor: int = 10 ** len(fraction)
    return int(whole or 0) * scale + int(fraction or 0) * scale // divisor


def parse_boolean(text: str) -> bool:
    """``true``, ``1``, ``f``, … as Go's strconv.ParseBool reads them; raises `Problem`."""
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise Problem(f"{text!r} is neither true nor false", near=text)
