"""Finding the ignore file of a build, and saying which of its lines hides a path.

``<Dockerfile>.dockerignore`` beside the Dockerfile wins over ``.dockerignore`` in the context, as in
BuildKit. It applies to the context only, never to other stages, images or heredocs.
"""

from __future__ import annotations

from pathlib import Path

from asyncbuild.dockerfile.ignore import IgnorePatterns
from asyncbuild.errors import InputError
from asyncbuild.records import dataclass, field

_NAME = ".dockerignore"


@dataclass(frozen=True, slots=True)
class IgnoreFile:
    """The patterns in force, and the text they come from; nothing is ignored without any."""

    patterns: IgnorePatterns = field(default_factory=IgnorePatterns)
    name: str = _NAME
    text: str = ""

    @classmethod
    def parse(cls, text: bytes | str, name: str = _NAME) -> IgnoreFile:
        """Read an ignore file; `InputError` says which line is wrong."""
        if isinstance(text, bytes):
            text = text.decode("utf-8", "surrogateescape")
        return cls(IgnorePatterns.parse(text, name), name, text)

    def explain(self, path: str) -> str | None:
        """Which line excludes ``path``, for people; None if it is not excluded.

        Slow: it reads the file line by line again.
        """
        if not self.patterns.excluded(path):
            return None
        lines = self.text.split("\n")
        deciding = 0
        before = False
        for count in range(1, len(lines) + 1):
            now = IgnorePatterns.parse("\n".join(lines[:count]), self.name).excluded(path)
            if now and not before:
                deciding = count
            before = now
        return f"{self.name} excludes it (line {deciding}: {lines[deciding - 1].strip()})"


def load_ignore_file(context: Path | None, dockerfile: Path | None) -> IgnoreFile:
    """The ignore file of a build; a Dockerfile that is not a file (stdin) has none of its own."""
    places = [] if dockerfile is None else [dockerfile.with_name(f"{dockerfile.name}{_NAME}")]
    places += [] if context is None else [context / _NAME]
    for path in places:
        try:
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from error
        return IgnoreFile.parse(data, path.name)
    return IgnoreFile()
