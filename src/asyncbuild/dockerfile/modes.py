"""``--chmod``: octal modes and the symbolic ones of chmod(1), with umask 0 as BuildKit applies them."""

from __future__ import annotations

import re

from asyncbuild.dockerfile.source import Problem
from asyncbuild.records import dataclass

_WHAT = r"[ugo]|[rwxXst]*"
_CLAUSE = re.compile(rf"([ugoa]*)((?:[-+=](?:{_WHAT}))+)")
_ACTION = re.compile(rf"([-+=])({_WHAT})")
_WHO = {"a": 0o6777, "u": 0o4700, "g": 0o2070, "o": 0o0007}
_BITS = {"r": 0o444, "w": 0o222, "x": 0o111, "s": 0o6000, "t": 0o1000}
_SHIFT = {"u": 6, "g": 3, "o": 0}
_EVERYBODY = 0o6777
_STICKY = 0o1000


@dataclass(frozen=True, slots=True)
class ModeChange:
    """A change of permission bits: ``octal`` if it is absolute, else (who, operator, what) in order."""

    octal: int | None
    actions: tuple[tuple[str, str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> ModeChange:
        """Parse ``0755`` or ``u=rwX,go-w``; raises `Problem`."""
        if re.fullmatch(r"[0-7]{1,12}", text) and int(text, 8) <= 0o7777:
            return cls(int(text, 8))
        actions: list[tuple[str, str, str]] = []
        for clause in text.split(","):
            match = _CLAUSE.fullmatch(clause)
            if match is None:
                hint = "write it like 755 or u=rwX,go=rX"
                raise Problem(f"{text!r} is not a mode", hint=hint, near=text)
            actions += [(match[1], *action) for action in _ACTION.findall(match[2])]
        return cls(None, tuple(actions))

    def apply(self, mode: int, *, is_directory: bool) -> int:
        """The permission bits (07777) that a file with ``mode`` gets."""
        if self.octal is not None:
            return self.octal
        searchable = is_directory or bool(mode & 0o111)
        new = mode & 0o7777
        for who, operator, what in self.actions:
            mask = 0
            for letter in who:
                mask |= _WHO[letter]
            new = _act(new, mask, operator, what, searchable=searchable)
        return new


def _act(mode: int, who: int, operator: str, what: str, *, searchable: bool) -> int:
    """One action on ``mode``; ``who`` is the bits that it may touch, 0 for everybody's."""
    if what in _SHIFT:
        bits = (mode >> _SHIFT[what] & 0o7) * 0o111
        touched = (who or 0o777) & 0o777
    else:
        bits = 0
        for letter in what:
            if letter == "X":
                bits |= 0o111 if searchable or operator == "-" else 0
            elif letter in "rwx" or who != _WHO["o"]:  # "o" alone has no set-id and no sticky bit
                bits |= _BITS[letter]
        touched = (who or _EVERYBODY) | (bits & _STICKY)
    if operator == "+":
        return mode | bits & touched
    if operator == "-":
        return mode & ~(bits & touched)
    return mode & ~touched | bits & touched
