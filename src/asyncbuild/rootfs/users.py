"""Names of users and groups, against the text of a root's /etc/passwd and /etc/group. Pure functions.

Two rules, and they differ. A command's user (USER) follows BuildKit's ``executor/oci/user.go``, which
rests on runc's ``moby/sys/user`` (`GetExecUser`). An owner (``--chown``) follows BuildKit's
``solver/llbsolver/ops/user_linux.go`` and ``client/llb/fileop.go``.

A missing file is an empty text. As there, fields that a line lacks count as empty or 0, and of several
lines that match the first wins.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from asyncbuild.errors import DockerfileError
from asyncbuild.records import dataclass

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""The PATH of a RUN whose image sets none (BuildKit's ``util/system/path.go``)."""

_MAX_ID = 2**31 - 1
_MAX_PAIR_ID = 2**32 - 1
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}", re.ASCII)
_UNSIGNED = re.compile(r"[0-9]{1,20}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a command runs as: ``groups`` (supplementary) include ``gid``, ``home`` is the user's."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


@dataclass(frozen=True, slots=True)
class _User:
    name: str
    uid: int
    gid: int
    home: str


@dataclass(frozen=True, slots=True)
class _Group:
    name: str
    gid: int
    members: tuple[str, ...]


def resolve_user(text: str, passwd: str, group: str) -> Identity:
    """The identity that ``USER text`` gives: ``name|uid[:group|gid]``; empty is root.

    A number need not be known. A known user has the primary group of its passwd line and is in the
    groups whose lines list it, unless a group is given: then it is in that one alone. Raises
    DockerfileError for a name that the files do not have, and for a number out of range.
    """
    pair = _numeric_pair(text)
    if pair is not None:
        uid, gid = pair
        return Identity(uid, gid, (gid,), home_of(uid, passwd))
    user_word, group_word = (*(text or "0").split(":"), "")[:2]
    user, uid, gid = _find_user(user_word, passwd)
    groups: tuple[int, ...] = ()
    if group_word:
        gid = _find_group(group_word, group)
    elif user is not None and user.name:
        groups = tuple(item.gid for item in _groups(group) if user.name in item.members)
    if gid not in groups:
        groups = (gid, *groups)
    return Identity(uid, gid, groups, home_of(uid, passwd))


def _numeric_pair(text: str) -> tuple[int, int] | None:
    """Both a user and a group as numbers (or ``root``): then no file is asked."""
    words = text.split(":", 1)
    if len(words) != 2:
        return None
    numbers = [0 if word == "root" else _number(word, _UNSIGNED, _MAX_PAIR_ID) for word in words]
    uid, gid = numbers
    return None if uid is None or gid is None else (uid, gid)


def _number(word: str, pattern: re.Pattern[str], largest: int) -> int | None:
    if not pattern.fullmatch(word):
        return None
    number = int(word)
    return number if 0 <= number <= largest else None


def _id(word: str) -> int | None:
    """A number in the range that runc allows; None if the word is a name."""
    if not _INTEGER.fullmatch(word):
        return None
    number = int(word)
    if not 0 <= number <= _MAX_ID:
        raise DockerfileError(f"{word}: user and group numbers are in the range 0 to {_MAX_ID}")
    return number


def _find_user(word: str, passwd: str) -> tuple[_User | None, int, int]:
    """The passwd line of a user, if there is one, its number and its primary group."""
    uid = _id(word) if word else 0
    wanted: Callable[[_User], bool] = (
        (lambda user: user.name == word) if uid is None else (lambda user: user.uid == uid)
    )
    user = next(filter(wanted, _users(passwd)), None)
    if user is not None:
        return user, user.uid, user.gid
    if uid is None:
        raise _unknown("user", word, "passwd")
    return None, uid, 0


def _find_group(word: str, group: str) -> int:
    gid = _id(word)
    if gid is not None:
        return gid
    found = next((item for item in _groups(group) if item.name == word), None)
    if found is None:
        raise _unknown("group", word, "group")
    return found.gid


def _unknown(kind: str, word: str, file: str) -> DockerfileError:
    return DockerfileError(
        f"unable to find {kind} {word}: no matching entries in /etc/{file}",
        hint=f"create it before, or use its number (a file system without /etc/{file} has no names)",
    )


def home_of(uid: int, passwd: str) -> str:
    """The home directory of a user; ``/`` if passwd does not have it (runc's ``getUserHome``)."""
    return next((user.home for user in _users(passwd) if user.uid == uid), "/")


def command_environment(environment: Mapping[str, str], identity: Identity) -> dict[str, str]:
    """The environment of a RUN: the image's, with a PATH if it has none, and HOME if none or empty."""
    complete = dict(environment)
    complete.setdefault("PATH", DEFAULT_PATH)
    if not complete.get("HOME"):
        complete["HOME"] = identity.home
    return complete


def owner_needs_names(text: str) -> bool:
    """Whether `resolve_owner` must see the root's /etc/passwd or /etc/group for this ``--chown``."""
    return any(_owner_id(word) is None for word in text.split(":", 1))


def resolve_owner(text: str, passwd: str, group: str) -> tuple[int, int]:
    """The (uid, gid) that ``--chown=user[:group]`` gives.

    Without a group, a number is also the group's, and a name brings its primary group; an empty word
    is root. Raises DockerfileError for a name that the files do not have: so says BuildKit's
    reference, though its code then takes root.
    """
    user_word, colon, group_word = text.partition(":")
    number = _owner_id(user_word)
    if number is not None:
        uid = gid = number
    else:
        user = next((user for user in _users(passwd) if user.name == user_word), None)
        if user is None:
            raise _unknown("user", user_word, "passwd")
        uid, gid = user.uid, user.gid
    if colon:
        given = _owner_id(group_word)
        if given is None:
            found = next((item for item in _groups(group) if item.name == group_word), None)
            if found is None:
                raise _unknown("group", group_word, "group")
            given = found.gid
        gid = given
    return uid, gid


def _owner_id(word: str) -> int | None:
    return 0 if word in ("", "root") else _number(word, _UNSIGNED, _MAX_ID)


def _users(passwd: str) -> Iterator[_User]:
    """passwd(5): ``name:password:UID:GID:GECOS:directory:shell``."""
    for line in passwd.split("\n"):
        if line.strip():
            fields = (line.strip().split(":") + [""] * 6)[:6]
            yield _User(fields[0], _loose_id(fields[2]), _loose_id(fields[3]), fields[5])


def _groups(group: str) -> Iterator[_Group]:
    """group(5): ``name:password:GID:user_list``; lines that begin with ``#`` are comments."""
    for line in group.split("\n"):
        if line.strip() and not line.strip().startswith("#"):
            fields = (line.strip().split(":") + [""] * 4)[:4]
            yield _Group(fields[0], _loose_id(fields[2]), tuple(fields[3].split(",")))


def _loose_id(word: str) -> int:
    """A field's number; what is none counts as 0, as in runc."""
    return int(word) if _INTEGER.fullmatch(word) else 0
