"""Writing to a stream whose encoding may be anything, and whose reader may have gone."""

from __future__ import annotations

from typing import TextIO


class Output:
    """A text stream that takes any text, and goes silent once nobody reads it.

    A progress display must not end a build: a closed pipe or terminal is no error here.
    """

    __slots__ = ("_encoding", "_gone", "_stream")

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        self._gone = False

    def write(self, text: str) -> None:
        """Write and flush; what the encoding lacks is written as an escape."""
        if self._gone or not text:
            return
        safe = text.encode(self._encoding, "backslashreplace").decode(self._encoding)
        try:
            self._stream.write(safe)
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: the stream is closed
            self._gone = True
