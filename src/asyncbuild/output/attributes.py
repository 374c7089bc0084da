"""``key=value,key=value``: the one line of CSV that buildx's flags take (RFC 4180 quoting).

A field that holds a comma or a quote is quoted as a whole: ``type=image,"name=a,b"``.
"""

from __future__ import annotations

from collections.abc import Iterable

from asyncbuild.errors import UsageError

Attribute = tuple[str, str]


def split_fields(text: str) -> list[str]:
    """The fields of one line of CSV; `UsageError` for a quote that is misplaced or not closed."""
    fields: list[str] = []
    place = 0
    while True:
        if text.startswith('"', place):
            field, place = _quoted(text, place + 1)
        else:
            end = text.find(",", place)
            field = text[place:] if end < 0 else text[place:end]
            place += len(field)
            if '"' in field:
                raise UsageError(f'{text!r}: a quote inside a field; quote the whole field: "a,b"')
        fields.append(field)
        if place == len(text):
            return fields
        if text[place] != ",":
            raise UsageError(
                f"{text!r}: a closing quote is followed by {text[place]!r}, not a comma"
            )
        place += 1


def _quoted(text: str, place: int) -> tuple[str, int]:
    parts: list[str] = []
    while True:
        end = text.find('"', place)
        if end < 0:
            raise UsageError(f"{text!r}: a quote is not closed")
        parts.append(text[place:end])
        if not text.startswith('""', end):
            return "".join(parts), end + 1
        parts.append('"')
        place = end + 2


def parse_attributes(text: str) -> tuple[Attribute, ...]:
    """The pairs of ``key=value,…``: keys in lower case, values as they are.

    Keys of annotations keep their case, which their specification tells apart (buildx lowers them). A
    bare ``key`` is refused, and so is a key that is given twice, of which buildx takes the last.
    """
    pairs: dict[str, str] = {}
    for field in split_fields(text):
        key, equals, value = field.partition("=")
        key = key.strip()
        key = key if key.startswith("annotation") else key.lower()
        if not equals or not key:
            raise UsageError(f"{text!r}: {field!r} is not key=value")
        if key in pairs:
            raise UsageError(f"{text!r}: {key} is given twice")
        pairs[key] = value
    return tuple(pairs.items())


def join_attributes(pairs: Iterable[Attribute]) -> str:
    """The text that `parse_attributes` reads back as ``pairs``."""
    return ",".join(_quote(f"{key}={value}") for key, value in pairs)


def _quote(field: str) -> str:
    return '"' + field.replace('"', '""') + '"' if any(mark in field for mark in ',"') else field
