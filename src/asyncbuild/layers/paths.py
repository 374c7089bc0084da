"""Names inside a root, without touching any: cleaning, resolving symlinks, wildcards.

Everything here works on root-relative paths as change sets have them (``""`` is the root) and asks its
caller what a name is, so that the same rules hold for a context, for unpacked layers, and in memory.

Wildcards are those of Go's ``path/filepath.Match``, which Dockerfiles are written for:
``*`` and ``?`` within one component, ``[a-z]`` and ``[^a-z]``, and a backslash before any of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Protocol

from asyncbuild.errors import InputError
from asyncbuild.layers.changeset import Entry, Kind

MAX_LINKS = 255  # BuildKit and containerd (continuity/fs RootPath) give up here too


class BadPattern(ValueError):
    """A wildcard pattern with a broken character class or a trailing backslash."""


class Names(Protocol):
    """What `glob` needs of a tree."""

    def lookup(self, path: str, /) -> Entry | None:
        """The entry at ``path``; links are not followed."""

    def names(self, path: str, /) -> Sequence[str]:
        """The sorted names in the directory ``path``; empty if it is none."""

    def resolve(self, path: str, /, *, follow_last: bool = True) -> str:
        """``path`` with the symlinks on the way resolved inside the root."""


def clean(path: str) -> str:
    """``path`` from the root, shortened by its text alone: ``..`` stops at the root.

    This is Go's ``filepath.Join("/", path)`` without its leading slash.
    """
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def join(directory: str, name: str) -> str:
    """``name`` below ``directory``, either of which may be the root."""
    return f"{directory}/{name}" if directory and name else directory or name


def parent_of(path: str) -> str:
    """The directory that holds ``path``; the root for the root."""
    return path.rpartition("/")[0]


def ancestors(path: str) -> list[str]:
    """The directories above ``path``, the root left out, outermost first."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]


def below(path: str, directory: str) -> bool:
    """Whether ``path`` is ``directory`` or stands below it."""
    return not directory or path == directory or path.startswith(f"{directory}/")


def resolve_links(
    read_link: Callable[[str], str | None], path: str, *, follow_last: bool = True
) -> str:
    """``path`` with symlinks resolved inside the root, as the kernel would after a chroot.

    ``read_link`` gives a symlink's target, or None for anything else. Absolute targets start at the
    root, ``..`` cannot leave it, and parts that do not exist are kept. More than `MAX_LINKS` links
    are an `InputError`.
    """
    todo = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    done: list[str] = []
    links = 0
    while todo:
        part = todo.pop()
        if part == "..":
            del done[-1:]
            continue
        done.append(part)
        target = read_link("/".join(done)) if todo or follow_last else None
        if target is None:
            continue
        links += 1
        if links > MAX_LINKS:
            raise InputError(f"/{clean(path)}: too many symbolic links (a loop?)")
        del done[-1:]
        if target.startswith("/"):
            done.clear()
        todo.extend(part for part in reversed(target.split("/")) if part not in ("", "."))
    return "/".join(done)


def has_wildcards(pattern: str) -> bool:
    """Whether ``*``, ``?`` or ``[`` stands in ``pattern`` without a backslash before it."""
    return re.search(r"(?:^|[^\\])(?:\\\\)*[*?[]", pattern) is not None


def unescape(pattern: str) -> str:
    r"""The name that a pattern without wildcards means: ``\*`` is ``*``."""
    return re.sub(r"\\(.)", r"\1", pattern, flags=re.DOTALL)


def matches(pattern: str, name: str) -> bool:
    """Whether one component matches one component of a pattern; `BadPattern` if it is broken."""
    return _compiled(pattern).fullmatch(name) is not None


def glob(tree: Names, pattern: str) -> list[str]:
    """Every path of ``tree`` that matches ``pattern``, sorted; `BadPattern` if it is broken.

    As in BuildKit (fsutil ``ResolveWildcards``) links are followed in the components before the
    first wildcard, and not between wildcards; a match itself may be a link. A pattern without
    wildcards matches itself where it exists, its escapes undone if it does not exist as it stands.
    """
    parts = clean(pattern).split("/")
    first = next((i for i, part in enumerate(parts) if has_wildcards(part)), len(parts))
    if first == len(parts):
        return _literal(tree, "/".join(parts))
    found = [tree.resolve(unescape("/".join(parts[:first])))]
    for part in parts[first:]:
        found = [path for directory in found for path in _step(tree, directory, part)]
    return found


def _step(tree: Names, directory: str, part: str) -> list[str]:
    here = tree.lookup(directory)
    if here is None or here.kind is not Kind.DIRECTORY:
        return []
    if not has_wildcards(part):
        path = join(directory, unescape(part))
        return [path] if tree.lookup(path) is not None else []
    test = _compiled(part)
    return [join(directory, name) for name in tree.names(directory) if test.fullmatch(name)]


def _literal(tree: Names, path: str) -> list[str]:
    for name in dict.fromkeys((path, unescape(path))):
        if tree.lookup(tree.resolve(name)) is not None:
            return [name]
    return []


@lru_cache(maxsize=512)
def _compiled(pattern: str) -> re.Pattern[str]:
    expression: list[str] = []
    position = 0
    while position < len(pattern):
        char = pattern[position]
        position += 1
        if char == "*":
            expression.append("[^/]*")
        elif char == "?":
            expression.append("[^/]")
        elif char == "[":
            text, position = _class(pattern, position)
            expression.append(text)
        else:
            literal, position = _char(pattern, position - 1)
            expression.append(re.escape(literal))
    return re.compile("".join(expression), re.DOTALL)


def _class(pattern: str, position: int) -> tuple[str, int]:
    """A character class whose ``[`` stands before ``position``, and where it ends."""
    negated = pattern.startswith("^", position)
    position += negated
    ranges: list[str] = []
    while not (ranges and pattern.startswith("]", position)):
        low, position = _class_char(pattern, position)
        high = low
        if pattern.startswith("-", position):
            high, position = _class_char(pattern, position + 1)
        if low <= high:  # Go lets an empty range match nothing
            ranges.append(f"{re.escape(low)}-{re.escape(high)}")
        else:
            ranges.append("")
    body = "".join(ranges)
    if not body:
        return ("[^/]" if negated else r"(?!)"), position + 1
    return f"[{'^' if negated else ''}{body}]", position + 1


def _class_char(pattern: str, position: int) -> tuple[str, int]:
    if pattern[position : position + 1] in ("", "-", "]"):
        raise BadPattern(f"{pattern!r}: a character class '[…]' is not complete")
    return _char(pattern, position)


def _char(pattern: str, position: int) -> tuple[str, int]:
    if pattern[position] != "\\":
        return pattern[position], position + 1
    if position + 1 == len(pattern):
        raise BadPattern(f"{pattern!r} ends in a backslash")
    return pattern[position + 1], position + 2
