"""Names of users and groups against passwd and group."""

from __future__ import annotations

import pytest

from asyncbuild.errors import DockerfileError
from asyncbuild.rootfs.users import (
    DEFAULT_PATH,
    Identity,
    command_environment,
    home_of,
    owner_needs_names,
    resolve_owner,
    resolve_user,
)

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin

  app:x:1000:100:The app:/home/app:/bin/sh
again:x:1000:101::/home/again:/bin/sh
1337:x:55:56::/numeric:/bin/sh
short:x:77
broken:x:many:few::/broken:
"""
GROUP = """\
# a comment:x:5:app
root:x:0:
wheel:x:10:root,app
users:x:100:
audio:x:29:app,daemon
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Identity(0, 0, (0, 10), "/root")),
        ("0", Identity(0, 0, (0, 10), "/root")),
        ("root", Identity(0, 0, (0, 10), "/root")),
        ("root:root", Identity(0, 0, (0,), "/root")),
        ("app", Identity(1000, 100, (100, 10, 29), "/home/app")),
        ("1000", Identity(1000, 100, (100, 10, 29), "/home/app")),
        ("app:audio", Identity(1000, 29, (29,), "/home/app")),
        ("app:7", Identity(1000, 7, (7,), "/home/app")),
        ("app:", Identity(1000, 100, (100, 10, 29), "/home/app")),
        (":audio", Identity(0, 29, (29,), "/root")),
        ("1000:29", Identity(1000, 29, (29,), "/home/app")),
        ("4242", Identity(4242, 0, (0,), "/")),
        ("4242:app2", None),
        ("4242:users", Identity(4242, 100, (100,), "/")),
        ("4242:4243", Identity(4242, 4243, (4243,), "/")),
        ("1337", Identity(1337, 0, (0,), "/")),
        ("55", Identity(55, 56, (56,), "/numeric")),
        ("short", Identity(77, 0, (0,), "")),
        ("daemon:audio:more", Identity(1, 29, (29,), "/usr/sbin")),
        ("4294967294:5", Identity(4294967294, 5, (5,), "/")),
        ("nobody", None),
        ("app:nogroup", None),
        ("2147483648", None),
        ("-1", None),
        ("9" * 5000, None),
    ],
)
def test_user(text: str, expected: Identity | None) -> None:
    """USER gives the identity that runc gives, or an error that names what is unknown."""
    if expected is None:
        with pytest.raises(DockerfileError):
            resolve_user(text, PASSWD, GROUP)
    else:
        assert resolve_user(text, PASSWD, GROUP) == expected


def test_user_without_files() -> None:
    """Where there is no passwd, numbers and the default work, and names are refused with a hint."""
    assert resolve_user("", "", "") == Identity(0, 0, (0,), "/")
    assert resolve_user("5", "", "") == Identity(5, 0, (0,), "/")
    with pytest.raises(DockerfileError, match="unable to find user root") as caught:
        resolve_user("root", "", "")
    assert caught.value.hint is not None


def test_broken_numbers_count_as_zero() -> None:
    """A passwd field that is no number is 0, as runc reads it."""
    assert resolve_user("broken", PASSWD, GROUP) == Identity(0, 0, (0,), "/root")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("app", (1000, 100)),
        ("app:wheel", (1000, 10)),
        ("app:7", (1000, 7)),
        ("1", (1, 1)),
        ("55:audio", (55, 29)),
        ("10:11", (10, 11)),
        ("root", (0, 0)),
        ("", (0, 0)),
        ("app:", (1000, 0)),
        (":wheel", (0, 10)),
        ("nobody", None),
        ("app:nogroup", None),
        ("-1", None),
    ],
)
def test_owner(text: str, expected: tuple[int, int] | None) -> None:
    """--chown takes a number for both, a name's primary group, and refuses unknown names."""
    if expected is None:
        with pytest.raises(DockerfileError):
            resolve_owner(text, PASSWD, GROUP)
    else:
        assert resolve_owner(text, PASSWD, GROUP) == expected


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        ("", False),
        ("0", False),
        ("1:2", False),
        ("root:0", False),
        ("app", True),
        ("1:users", True),
    ],
)
def test_owner_needs_names(text: str, *, needed: bool) -> None:
    """Numbers and root are known without looking into the image."""
    assert owner_needs_names(text) is needed
    if not needed:
        resolve_owner(text, "", "")


def test_home() -> None:
    """A user's home is that of the first line with its number, or /."""
    assert home_of(1000, PASSWD) == "/home/app"
    assert home_of(9, PASSWD) == "/"


def test_command_environment() -> None:
    """PATH is added if absent, HOME if absent or empty; what the image says stays."""
    identity = Identity(1000, 100, (100,), "/home/app")
    assert command_environment({}, identity) == {"PATH": DEFAULT_PATH, "HOME": "/home/app"}
    assert command_environment({"HOME": ""}, identity)["HOME"] == "/home/app"
    given = {"PATH": "", "HOME": "/x", "A": "b"}
    assert command_environment(given, identity) == given
