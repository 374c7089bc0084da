"""Cache mounts in a store: who gets which instance, and that everything survives a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncbuild.errors import StoreError
from asyncbuild.store.cachemounts import CacheKey, CacheMounts, Sharing, TakenCache
from asyncbuild.store.store import Store

KEY = CacheKey("/root/.cache")


@pytest.fixture
def store(shm_path: Path) -> Iterator[Store]:
    """An empty store."""
    with Store.open(shm_path / "store") as opened:
        yield opened


@pytest.fixture
def caches(store: Store) -> CacheMounts:
    """Its cache mounts."""
    return store.cache_mounts


def take(caches: CacheMounts, sharing: Sharing = "shared", key: CacheKey = KEY) -> TakenCache:
    """An instance that has to be there to be taken."""
    taken = caches.take_nowait(key, sharing)
    assert taken is not None
    return taken


def test_what_is_written_is_there_the_next_time(caches: CacheMounts) -> None:
    """One instance is made, and used again."""
    first = take(caches)
    (first.path / "file").write_text("kept")
    first.give_back()
    first.give_back()  # a second time does nothing
    again = take(caches)
    assert (first.new, again.new) == (True, False)
    assert (again.path / "file").read_text() == "kept"
    again.give_back()


def test_a_new_directory_has_the_owner_and_mode_asked_for(caches: CacheMounts) -> None:
    """Without any it is root's, 0755; with one of them, a cache of its own."""
    plain = take(caches)
    owned = take(caches, key=CacheKey(KEY.id, owner=(1001, 1002, 0o751)))
    found = [
        (s.st_uid, s.st_gid, s.st_mode & 0o7777) for s in (plain.path.stat(), owned.path.stat())
    ]
    assert found == [(0, 0, 0o755), (1001, 1002, 0o751)]
    plain.give_back()
    owned.give_back()


def test_different_keys_are_different_caches(caches: CacheMounts) -> None:
    """The id, the owner and the seed tell caches apart."""
    keys = [
        KEY,
        CacheKey("/root"),
        CacheKey("/root/.cache/"),
        CacheKey(KEY.id, (0, 0, 0o755)),
        CacheKey(KEY.id, None, "x"),
    ]
    assert len({key.name for key in keys}) == len(keys)


def test_a_new_instance_is_filled_once(caches: CacheMounts) -> None:
    """What it starts with is put in before anyone sees it."""

    def fill(path: Path) -> None:
        (path / "seed").write_text("seeded")

    taken = caches.take_nowait(KEY, "shared", fill)
    assert taken is not None
    (taken.path / "seed").unlink()
    taken.give_back()
    again = caches.take_nowait(KEY, "shared", fill)
    assert again is not None
    assert list(again.path.iterdir()) == []
    again.give_back()


def test_a_filling_that_fails_leaves_nothing(caches: CacheMounts) -> None:
    """No instance appears that lacks what it should start with."""

    def fill(path: Path) -> None:
        (path / "half").write_text("")
        raise RuntimeError("the source is gone")

    with pytest.raises(RuntimeError):
        caches.take_nowait(KEY, "shared", fill)
    assert list(caches.instances()) == []


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("shared", "shared", True),
        ("shared", "private", False),
        ("private", "shared", False),
        ("private", "private", False),
        ("locked", "shared", False),
        ("shared", "locked", None),
        ("locked", "locked", None),
        ("private", "locked", None),
    ],
)
def test_sharing(
    caches: CacheMounts, first: Sharing, second: Sharing, *, same: bool | None
) -> None:
    """Who comes second shares, gets an instance of their own, or has to wait (None)."""
    one = take(caches, first)
    two = caches.take_nowait(KEY, second)
    if same is None:
        assert two is None
        one.give_back()
        two = take(caches, second)
        assert two.path == one.path
    else:
        assert two is not None
        assert (two.path == one.path) is same
        one.give_back()
    two.give_back()


def test_instances_are_used_again(caches: CacheMounts) -> None:
    """A second instance that a private user had is there for the next who comes while the first is busy."""
    one, two = take(caches, "private"), take(caches, "private")
    two.give_back()
    three = take(caches, "locked")
    assert three.path == two.path
    assert len(list(caches.instances())) == 2
    one.give_back()
    three.give_back()


def test_another_process_and_its_death(store: Store) -> None:
    """Locks hold between processes, and end with them; what was written stays."""
    script = """
import sys, time
from asyncbuild.store.cachemounts import CacheKey
from asyncbuild.store.store import Store
taken = Store.open(sys.argv[1]).cache_mounts.take_nowait(CacheKey("/root/.cache"), "locked")
(taken.path / "file").write_text("written")
print("ready", flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", script, str(store.root)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        assert store.cache_mounts.take_nowait(KEY, "locked") is None
        assert [item.in_use for item in store.cache_mounts.instances()] == [True]
        other.send_signal(signal.SIGKILL)
        other.wait()
        taken = take(store.cache_mounts, "locked")
        assert (taken.path / "file").read_text() == "written"
        taken.give_back()


def test_the_list(caches: CacheMounts) -> None:
    """Each instance with its id and times."""
    taken = take(caches)
    (found,) = caches.instances()
    assert (found.id, found.in_use, found.path / "fs") == (KEY.id, True, taken.path)
    taken.give_back()
    (later,) = caches.instances()
    assert not later.in_use
    assert later.used_ns >= found.used_ns >= found.created_ns > 0


def test_removing(caches: CacheMounts, store: Store) -> None:
    """An instance that is used stays; another goes, and the next user starts anew."""
    taken = take(caches)
    (taken.path / "file").write_text("")
    (instance,) = caches.instances()
    assert not caches.remove(instance)
    taken.give_back()
    assert caches.remove(instance)
    assert not caches.remove(instance)
    again = take(caches)
    assert again.new
    assert list(again.path.iterdir()) == []
    assert store.statistics().cache_mounts == 1
    again.give_back()


def test_a_crash_of_the_machine_drops_what_was_in_use(shm_path: Path) -> None:
    """What was written and perhaps not kept by the disk is not trusted by the next boot."""
    with Store.open(shm_path / "store", boot="one") as store:
        taken = take(store.cache_mounts)
        (taken.path / "file").write_text("")
        taken.give_back()
    with Store.open(shm_path / "store", boot="two") as store:
        assert list(store.cache_mounts.instances()) == []


def test_a_disk_that_refuses(shm_path: Path) -> None:
    """What goes wrong with the disk is a StoreError."""
    with Store.open(shm_path / "store") as store:
        directory = store.root / "cache-mounts"
        directory.rmdir()
        directory.write_text("")
        with pytest.raises(StoreError):
            store.cache_mounts.take_nowait(KEY, "shared")
