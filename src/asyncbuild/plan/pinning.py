"""Where a Dockerfile names images, and the same file with their digests in it.

1. FROM, ``COPY --from`` and ``RUN --mount=…,from=`` name images; stages, ``scratch`` and numbers are none.
2. A name that uses a variable is never touched: what it is differs from build to build.
3. Only the name itself is replaced; comments, blanks, line ends, quotes and continuation stay.
4. A name that is broken by a continuation, or has escapes in it, is left alone and said so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import Enum

from asyncbuild.dockerfile import instructions as i
from asyncbuild.dockerfile.lines import is_comment
from asyncbuild.errors import SourceLocation
from asyncbuild.image.digest import Digest
from asyncbuild.image.reference import InvalidReference, Reference
from asyncbuild.records import dataclass


class Standing(Enum):
    """How a mention stands, for people."""

    OPEN = "has no digest"
    PINNED = "has a digest"
    VARIABLE = "depends on a variable: it stays as it is"
    STRANGE = "is no image name: it stays as it is"


@dataclass(frozen=True, slots=True)
class Mention:
    """One place that names an image; ``reference`` is None where there is nothing to pin."""

    text: str
    where: str
    location: SourceLocation
    standing: Standing
    reference: Reference | None = None


def find_mentions(dockerfile: i.Dockerfile) -> tuple[Mention, ...]:
    """Every place that names an image, in order."""
    return tuple(_mentions(dockerfile))


def pinned(text: str, digest: Digest) -> str:
    """``text`` with ``digest``: a tag stays for people to read, an old digest goes."""
    return f"{text.partition('@')[0]}@{digest}"


def rewrite(text: bytes, changes: Mapping[Mention, str]) -> tuple[bytes, tuple[Mention, ...]]:
    """The file with each mention's text replaced, and the mentions that could not be found (rule 4)."""
    lines = text.decode("utf-8", "surrogateescape").split("\n")
    missed = []
    for mention, new in changes.items():
        expression = _expression(mention)
        for number in range(mention.location.line, mention.location.end_line + 1):
            line = lines[number - 1]
            start = mention.location.column if number == mention.location.line else 0
            match = None if is_comment(line) else expression.search(line, start)
            if match is not None:
                lines[number - 1] = line[: match.start(1)] + new + line[match.end(1) :]
                break
        else:
            missed.append(mention)
    return "\n".join(lines).encode("utf-8", "surrogateescape"), tuple(missed)


def _expression(mention: Mention) -> re.Pattern[str]:
    """The mention with what must stand around it; group 1 is its text."""
    name = re.escape(mention.text)
    if mention.where == "FROM":
        return re.compile(rf"(?<!\S)({name})(?!\S)")
    if mention.where == "COPY --from":
        return re.compile(rf"""(?<!\S)--from=["']?({name})(?=["']?(?:\s|\Z))""")
    return re.compile(rf"""[=,"']from=({name})(?=[\s,"']|\Z)""")


def _mentions(dockerfile: i.Dockerfile) -> Iterator[Mention]:
    names: set[str] = set()
    for stage in dockerfile.stages:
        line = stage.from_
        if line.image.lower() not in names | {"scratch"}:
            yield _mention(line.image, "FROM", line)
        for item in stage.instructions:
            for text, where in _sources(item):
                if text.lower() not in names | {"scratch", line.name} and not text.isdecimal():
                    yield _mention(text, where, item)
        if line.name is not None:
            names.add(line.name)


def _sources(item: i.Instruction) -> Iterator[tuple[str, str]]:
    if isinstance(item, i.Copy) and item.from_:
        yield item.from_, "COPY --from"
    elif isinstance(item, i.Run):
        for mount in item.mounts:
            if mount.from_:
                yield mount.from_, "RUN --mount"


def _mention(text: str, where: str, item: i.Located) -> Mention:
    if "$" in text:
        return Mention(text, where, item.location, Standing.VARIABLE)
    try:
        reference = Reference.parse_repository(text)
    except InvalidReference:
        return Mention(text, where, item.location, Standing.STRANGE)
    standing = Standing.OPEN if reference.digest is None else Standing.PINNED
    return Mention(text, where, item.location, standing, reference)
