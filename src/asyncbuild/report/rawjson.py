"""Progress for programs: one JSON object a line for each event.

``time`` is seconds since the build began, ``event`` the kind in snake case; the other members are the
event's fields. Digests and references are texts, bytes (a command's output) are base64 as in BuildKit's
rawjson, and what is not there is null.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, TextIO

from asyncbuild.image.digest import DiffId, Digest
from asyncbuild.image.reference import Reference
from asyncbuild.report.events import Event
from asyncbuild.report.stream import Output


def encode_event(event: Event, time: float) -> str:
    """One line without its newline; it is ASCII, so no character in it can end the line."""
    kind = re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()
    value = {"time": round(time, 6), "event": kind, **_encoded(event)}
    return json.dumps(value, separators=(",", ":"))


def _encoded(value: object) -> Any:
    match value:
        case Digest() | DiffId() | Reference():
            return str(value)
        case Enum():
            return value.value
        case bytes():
            return base64.b64encode(value).decode()
        case tuple():
            return [_encoded(item) for item in value]
        case float():
            return round(value, 6)
    if is_dataclass(value):
        return {item.name: _encoded(getattr(value, item.name)) for item in fields(value)}
    return value


class RawJsonReporter:
    """Writes each event to ``stream``."""

    def __init__(self, stream: TextIO, clock: Callable[[], float]) -> None:
        self._output = Output(stream)
        self._clock = clock
        self._start = clock()

    def emit(self, event: Event) -> None:
        """Write one line."""
        self._output.write(encode_event(event, self._clock() - self._start) + "\n")

    def tick(self) -> None:
        """Nothing changes by time alone."""

    def close(self) -> None:
        """Nothing is held back."""
