"""``/`` as the root of a build: what is a container, what is safe. The real ``/`` is emptied in test_pod.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from asyncbuild.errors import IsolationError
from asyncbuild.rootfs.ownroot import Surroundings, check_expendable, empty, mount_points
from asyncbuild.rootfs.reserved import NOTHING, Reserved


@pytest.mark.parametrize(
    ("surroundings", "permitted"),
    [
        (Surroundings(is_first_root=False, own_namespaces=True, marks=("/kaniko",)), True),
        (Surroundings(is_first_root=False, own_namespaces=True), False),
        (
            Surroundings(
                is_first_root=False, own_namespaces=True, marks=("/kaniko",), is_disk=True
            ),
            False,
        ),
        (Surroundings(is_first_root=False, own_namespaces=False, marks=("/.dockerenv",)), True),
        (Surroundings(is_first_root=False, own_namespaces=False), False),
        (Surroundings(is_first_root=True, own_namespaces=False, marks=("/.dockerenv",)), False),
        (Surroundings(is_first_root=True, own_namespaces=True, marks=("/.dockerenv",)), False),
    ],
)
def test_only_a_container_is_expendable(surroundings: Surroundings, *, permitted: bool) -> None:
    """A root that is not the first process's, in namespaces of its own or with a mark."""
    if permitted:
        check_expendable(surroundings)
    else:
        with pytest.raises(IsolationError, match="an in-place build would replace everything in /"):
            check_expendable(surroundings)


def test_mount_points() -> None:
    """As proc(5) has them: what is not a plain character is octal; the root is no mount of its own here."""
    listing = (
        "22 27 0:21 / / rw - overlay overlay rw\n"
        "23 22 0:22 /x /with\\040space rw - ext4 /dev/vda rw\n"
        "24 22 0:22 /y /back\\134slash rw shared:1 - ext4 /dev/vda rw\n"
    )
    assert mount_points(listing) == ("/with space", "/back\\slash")


def fill(top: Path) -> None:
    """A small root, with links that lead out of it."""
    for name in ("usr/lib/a", "etc/hosts", "etc/passwd", "keep/x/y", "keep/z", "keeper", "work/f"):
        (top / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (top / "root" / name).write_text(name)
    (top / "outside").mkdir()
    (top / "outside/file").write_text("safe")
    (top / "root/link").symlink_to(top / "outside")
    (top / "root/etc/link").symlink_to("/etc")
    os.mkfifo(top / "root/usr/fifo")


def test_what_is_protected_stays(shm_path: Path) -> None:
    """With what is in it and the directories above; everything else goes, and no link is followed."""
    fill(shm_path)
    root = shm_path / "root"
    empty(Reserved.of(["/keep/x", "/etc/hosts", "/work/", "/missing/path"]), str(root))
    left = {str(path.relative_to(root)) for path in root.rglob("*")}
    assert left == {"keep", "keep/x", "keep/x/y", "etc", "etc/hosts", "work", "work/f"}
    assert (shm_path / "outside/file").read_text() == "safe"


def test_protection_is_by_whole_words(shm_path: Path) -> None:
    """``/keep`` protects nothing that only begins like it; a link's target is not meant by its name."""
    fill(shm_path)
    root = shm_path / "root"
    empty(Reserved.of(["/keep", "/link/file"]), str(root))
    assert sorted(path.name for path in root.iterdir()) == ["keep"]
    assert (shm_path / "outside/file").exists()


def test_it_stops_when_it_is_told_to(shm_path: Path) -> None:
    """Whoever watches may raise: nothing more is removed."""
    fill(shm_path)

    def stop() -> None:
        raise InterruptedError

    with pytest.raises(IsolationError, match="cannot be emptied"):
        empty(NOTHING, str(shm_path / "root"), stop)
    assert (shm_path / "root/etc/passwd").exists()
