"""What a place permits, found by trying; and what is chosen then."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from asyncbuild.errors import IsolationError
from asyncbuild.rootfs.isolation import NEEDS, Ability, Isolation, Place, choose, no_way, probe
from asyncbuild.rootfs.subordinates import IdRange, find_subordinates

PROBE = """
import json, sys
from pathlib import Path
from asyncbuild.rootfs.isolation import probe
place = probe(Path(sys.argv[1]))
print(json.dumps([sorted(place.able), dict(place.refused), place.has_sys_admin, place.uid]))
"""


def found(directory: Path, *prefix: str) -> tuple[set[str], dict[str, str], bool, int]:
    """What a process with the rights that ``prefix`` leaves it finds."""
    directory.mkdir(mode=0o777, exist_ok=True)
    directory.chmod(0o777)
    command = [*prefix, sys.executable, "-c", PROBE, str(directory)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    able, refused, admin, uid = json.loads(done.stdout)
    return set(able), refused, admin, uid


def test_root_may_do_everything(shm_path: Path) -> None:
    """These tests run as root: then every attempt works but that of what this kernel lacks."""
    able, refused, admin, uid = found(shm_path / "try")
    assert {"overlay", "pid-namespace", "chroot", "devices", "owners", "openat2"} <= able
    assert not able & set(refused)
    assert admin
    assert uid == 0


def test_root_without_sys_admin_may_chroot(shm_path: Path) -> None:
    """The usual pod: no mounts, no namespaces, but chroot, owners and devices."""
    prefix = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--")
    able, refused, admin, _ = found(shm_path / "try", *prefix)
    assert {"chroot", "devices", "owners"} <= able
    assert {"overlay", "pid-namespace", "network-namespace"} <= set(refused)
    assert "not permitted" in refused["overlay"]
    assert not admin


def test_root_without_capabilities_may_not_even_chroot(shm_path: Path) -> None:
    """A pod that drops all: this user owns what it makes, and that is all (but for user namespaces)."""
    prefix = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--")
    able, refused, admin, _ = found(shm_path / "try", *prefix)
    assert {"overlay", "chroot", "devices", "owners"} <= set(refused)
    assert "openat2" in able
    assert not admin


def test_only_what_is_asked_for_is_tried(shm_path: Path) -> None:
    """The quick question has a quick answer."""
    place = probe(shm_path, [Ability.OVERLAY])
    assert place.able == {Ability.OVERLAY}
    assert place.refused == {}


def able(*ways: Isolation) -> Place:
    """A place that permits these ways."""
    return Place(0, able=frozenset(need for way in ways for need in NEEDS[way]))


@pytest.mark.parametrize(
    ("place", "chosen"),
    [
        (able(Isolation.OVERLAY, Isolation.CHROOT), Isolation.OVERLAY),
        (able(Isolation.ROOTLESS, Isolation.CHROOT), Isolation.ROOTLESS),
        (able(Isolation.CHROOT, Isolation.INPLACE), Isolation.CHROOT),
        (able(Isolation.INPLACE), Isolation.NONE),
        (able(), Isolation.NONE),
    ],
)
def test_auto_takes_the_best(place: Place, chosen: Isolation) -> None:
    """In the order of the enumeration, but never in-place, which writes over the machine."""
    assert choose(place, Isolation.AUTO) is chosen


def test_auto_takes_only_what_the_caller_can() -> None:
    """A way that the caller does not know is passed over; asked for by name it is refused."""
    place = able(Isolation.OVERLAY, Isolation.CHROOT)
    assert choose(place, Isolation.AUTO, [Isolation.CHROOT]) is Isolation.CHROOT
    with pytest.raises(IsolationError):
        choose(place, Isolation.OVERLAY, [Isolation.CHROOT])


def test_a_refusal_says_what_refused_and_what_would_help() -> None:
    """The system's words, and what the place would have to give."""
    place = Place(0, refused={Ability.OVERLAY: "unshare: Operation not permitted"})
    with pytest.raises(IsolationError) as caught:
        choose(place, Isolation.OVERLAY)
    assert "overlay: unshare: Operation not permitted" in caught.value.message
    assert "CAP_SYS_ADMIN" in (caught.value.hint or "")
    assert "no overlay (overlay: unshare: Operation not permitted" in no_way(place).message


def test_subordinate_ids_are_those_of_this_user(tmp_path: Path) -> None:
    """By name or number; lines of others and damaged ones do not count."""
    lines = "root:100000:65536\n0:300000:10\nother:1:2\nroot:x:3\nroot\n"
    (tmp_path / "subuid").write_text(lines)
    found = find_subordinates(tmp_path)
    assert found.users == (IdRange(100000, 65536), IdRange(300000, 10))
    assert found.groups == ()
    assert not found
