"""The store: what it keeps, who sees it, and what survives whose death."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from asyncbuild.errors import IntegrityError, StoreError
from asyncbuild.image.digest import DiffId, Digest
from asyncbuild.layers.facts import UnpackedFacts
from asyncbuild.store.store import Store, StoreStatistics
from support.overlay import as_nobody, mount_tmpfs, unmount, with_private_mounts


def diff_id(name: str) -> DiffId:
    """A DiffId that stands for ``name``."""
    return DiffId.of(name.encode())


def add_layer(store: Store, name: str, content: bytes = b"content") -> DiffId:
    """Unpack a layer of one file."""
    work = store.new_layer()
    (work / "fs/file").write_bytes(content)
    store.commit_layer(work, diff_id(name), UnpackedFacts(("",), (), 1, len(content)))
    return diff_id(name)


def test_a_new_store_is_an_oci_layout(shm_path: Path) -> None:
    """Opening makes an OCI image layout that opens again."""
    with Store.open(shm_path / "a/store") as store:
        digest = store.put_blob(b"hello")
        assert (store.root / "oci-layout").read_text() == '{"imageLayoutVersion": "1.0.0"}'
        assert (store.root / f"blobs/sha256/{digest.hex}").read_bytes() == b"hello"
        assert (store.root / "index.json").exists()
    with Store.open(shm_path / "a/store") as store:
        assert store.has_blob(digest)


def test_another_directory_is_not_taken_for_a_store(shm_path: Path) -> None:
    """A directory with other things in it, or a foreign OCI layout, is refused and left as it is."""
    (shm_path / "other").mkdir()
    (shm_path / "other/precious").write_text("x")
    with pytest.raises(StoreError, match="not empty and is not a store") as caught:
        Store.open(shm_path / "other")
    assert "--store" in (caught.value.hint or "")
    (shm_path / "layout").mkdir()
    (shm_path / "layout/oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    with pytest.raises(StoreError, match="not a store of ours"):
        Store.open(shm_path / "layout")
    assert os.listdir(shm_path / "other") == ["precious"]


def test_a_store_whose_making_was_interrupted_is_finished(shm_path: Path) -> None:
    """A process killed in its first moments leaves a part of a store, and the next one goes on."""
    for name in ("blobs/sha256", "layers", "tmp/0123"):
        (shm_path / name).mkdir(parents=True)
    (shm_path / "lock").write_text("")
    (shm_path / "tmp/.index.json").write_text("{")
    with Store.open(shm_path) as store:
        assert store.has_blob(store.put_blob(b"x"))
        assert store.sweep() == 1


def test_a_file_in_the_way_is_a_store_error(shm_path: Path) -> None:
    """A store cannot be where a file is."""
    (shm_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be used"):
        Store.open(shm_path / "file")


def test_a_full_disk_is_explained(shm_path: Path) -> None:
    """Running out of space is a StoreError that says what to do."""

    def work() -> None:
        mount_tmpfs(shm_path, "size=256k")
        with Store.open(shm_path / "store") as store, pytest.raises(StoreError) as caught:
            store.put_blob(bytes(1 << 20))
        assert "is full" in caught.value.message
        assert "--store" in (caught.value.hint or "")
        unmount(shm_path)

    with_private_mounts(work)


def test_a_read_only_disk_is_explained(shm_path: Path) -> None:
    """A store on a read-only file system is a StoreError."""

    def work() -> None:
        mount_tmpfs(shm_path, "size=256k", readonly=True)
        with pytest.raises(StoreError, match="read-only"):
            Store.open(shm_path / "store")
        unmount(shm_path)

    with_private_mounts(work)


def test_a_forbidden_place_is_explained(shm_path: Path) -> None:
    """A place that belongs to someone else is a StoreError that names the user."""

    def work() -> None:
        with pytest.raises(StoreError, match="not permitted"):
            Store.open(shm_path / "store")

    as_nobody(work)


def test_blobs_appear_with_their_size_checked(shm_path: Path) -> None:
    """A streamed blob is not there before its commit, and not with a wrong size."""
    with Store.open(shm_path) as store:
        digest = Digest.of(b"streamed")
        temporary = store.new_blob()
        temporary.write_bytes(b"streamed")
        assert not store.has_blob(digest)
        assert store.blob_size(digest) is None
        with pytest.raises(IntegrityError, match="8 bytes instead of 9"):
            store.commit_blob(temporary, digest, 9)
        path = store.commit_blob(temporary, digest, 8)
        assert path == store.blob_path(digest)
        assert store.blob_size(digest) == 8
        assert store.read_blob(digest) == b"streamed"


def test_a_damaged_small_blob_is_a_miss(shm_path: Path) -> None:
    """Reading verifies; putting the blob again repairs it."""
    with Store.open(shm_path) as store:
        digest = store.put_blob(b"manifest")
        store.blob_path(digest).write_bytes(b"mAnifest")
        assert store.read_blob(digest) is None
        store.put_blob(b"manifest")
        assert store.read_blob(digest) == b"manifest"


def test_records_join_digests_and_diff_ids(shm_path: Path) -> None:
    """A blob's DiffId is known both ways; one DiffId may have several blobs."""
    with Store.open(shm_path) as store:
        plain, packed = Digest.of(b"plain"), Digest.of(b"packed")
        assert store.diff_id_of(plain) is None
        assert store.digests_of(diff_id("x")) == ()
        for digest in (plain, packed, plain):
            store.remember_diff_id(digest, diff_id("x"))
        assert store.diff_id_of(packed) == diff_id("x")
        assert store.digests_of(diff_id("x")) == tuple(sorted((plain, packed)))


def test_the_first_of_two_layers_stays(shm_path: Path) -> None:
    """When another process was first its layer is used, and ours is put away."""
    with Store.open(shm_path) as mine, Store.open(shm_path) as theirs:
        work = mine.new_layer()
        (work / "fs/file").write_bytes(b"mine")
        add_layer(theirs, "x", b"theirs")
        layer = mine.commit_layer(work, diff_id("x"), UnpackedFacts(size=4))
        assert (layer.path / "file").read_bytes() == b"theirs"
        assert layer.facts.size == 6
        assert not work.exists()
        assert mine.sweep() == 1


def test_layers_keep_their_facts(shm_path: Path) -> None:
    """What unpacking learnt comes back with the layer, odd names too."""
    facts = UnpackedFacts(("", "usr/\udcff"), (("a", "b/c"),), 7, 99)
    with Store.open(shm_path) as store:
        assert store.layer(diff_id("x")) is None
        store.commit_layer(store.new_layer(), diff_id("x"), facts)
        layer = store.layer(diff_id("x"))
        assert layer is not None
        assert layer.facts == facts
        assert layer.path.is_dir()


def test_mends_say_whether_they_replace(shm_path: Path) -> None:
    """A mend comes back as what it was committed as."""
    with Store.open(shm_path) as store:
        assert store.mend(diff_id("x")) is None
        for name, replaces in (("x", True), ("y", False)):
            store.commit_mend(store.new_mend(), diff_id(name), replaces=replaces)
            mend = store.mend(diff_id(name))
            assert mend is not None
            assert (mend.replaces, mend.path.is_dir()) == (replaces, True)


def test_statistics_count_everything(shm_path: Path) -> None:
    """Blobs, layers and mends with their bytes; files that are not ours are left out."""
    with Store.open(shm_path) as store:
        store.put_blob(b"12345")
        add_layer(store, "x", b"123")
        store.commit_mend(store.new_mend(), diff_id("x"), replaces=False)
        (store.root / "blobs/sha256/stray").write_text("")
        assert store.statistics() == StoreStatistics(1, 5, 1, 3, 1, 0)


_OWNER = """
import sys
from asyncbuild.store.store import Store
store = Store.open(sys.argv[1])
work = store.new_work("run", "upper", "work")
(work / "upper" / "file").write_text("half")
print(work, flush=True)
sys.stdin.read()
"""


def test_a_killed_process_leaves_nothing(shm_path: Path) -> None:
    """The work of a living process stays; after SIGKILL the next opener removes it."""
    command = [sys.executable, "-c", _OWNER, str(shm_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as owner:
        assert owner.stdout is not None
        work = Path(owner.stdout.readline().strip())
        with Store.open(shm_path) as store:
            assert store.sweep() == 0
            assert (work / "upper/file").read_text() == "half"
        owner.kill()
    with Store.open(shm_path) as store:
        assert not work.exists()
        assert store.sweep() == 2  # the killed owner's, and our first opening's
        assert list((store.root / "tmp").iterdir()) == [work.parent.parent / store_place(store)]


def store_place(store: Store) -> str:
    """The name of the store's own directory in tmp."""
    return store.new_blob().parent.name


def test_closing_gives_up_the_work(shm_path: Path) -> None:
    """After closing, a process's work directories are for the next sweep."""
    store = Store.open(shm_path)
    work = store.new_work("run", "upper")
    store.close()
    store.close()
    assert not work.exists()
    assert store.sweep() == 1
    assert list((shm_path / "tmp").iterdir()) == []


def test_discarded_work_is_gone_at_once(shm_path: Path) -> None:
    """Discarding frees the name now and the bytes at the sweep."""
    with Store.open(shm_path) as store:
        work = store.new_work("run", "upper")
        store.discard(work)
        store.discard(work)
        assert not work.exists()
        assert store.sweep() == 1


def test_the_same_boot_doubts_nothing(shm_path: Path) -> None:
    """Opening again before the next boot keeps everything, synced or not."""
    with Store.open(shm_path, boot="one") as store:
        digest = store.put_blob(b"x")
        add_layer(store, "x")
    with Store.open(shm_path, boot="one") as store:
        assert store.has_blob(digest)
        assert store.layer(diff_id("x")) is not None


def test_another_boot_verifies_blobs_and_drops_trees(shm_path: Path) -> None:
    """After a crash a whole blob stays; a damaged one, layers, mends and records are dropped."""
    with Store.open(shm_path, boot="one") as store:
        whole, damaged = store.put_blob(b"whole"), store.put_blob(b"damaged")
        store.blob_path(damaged).write_bytes(bytes(7))
        add_layer(store, "x")
        store.commit_mend(store.new_mend(), diff_id("x"), replaces=False)
        store.remember_diff_id(whole, diff_id("x"))
    with Store.open(shm_path, boot="two") as store:
        assert store.has_blob(whole)
        assert not store.has_blob(damaged)
        assert store.layer(diff_id("x")) is None
        assert store.mend(diff_id("x")) is None
        assert store.diff_id_of(whole) is None
        add_layer(store, "x")
    with Store.open(shm_path, boot="two") as store:
        assert store.layer(diff_id("x")) is not None


def test_what_was_synced_is_never_in_doubt(shm_path: Path) -> None:
    """After a sync another boot changes nothing, and no journal is left."""
    with Store.open(shm_path, boot="one") as store:
        add_layer(store, "x")
        store.sync()
        store.sync()
    assert list(shm_path.glob("journal?*")) == []
    with Store.open(shm_path, boot="two") as store:
        assert store.layer(diff_id("x")) is not None


def test_lost_journal_lines_do_not_hide_a_layer(shm_path: Path) -> None:
    """Only the first line is durable: what changed since is in doubt without a line of its own."""
    with Store.open(shm_path, boot="one") as store:
        add_layer(store, "x")
        add_layer(store, "y")
    lines = (shm_path / "journal").read_text().splitlines(keepends=True)
    assert len(lines) == 2
    (shm_path / "journal").write_text(lines[0])
    with Store.open(shm_path, boot="two") as store:
        assert store.layer(diff_id("y")) is None


def test_a_line_names_what_is_in_doubt(shm_path: Path) -> None:
    """What is older than the journal and not named in it stays."""
    with Store.open(shm_path, boot="one") as store:
        named, other = add_layer(store, "x"), add_layer(store, "y")
        store.sync()
    late = 1 << 62
    (shm_path / "journal").write_text(f"zero {late} layer {named}\n")
    with Store.open(shm_path, boot="one") as store:
        assert store.layer(named) is None
        assert store.layer(other) is not None


def test_a_damaged_journal_doubts_everything(shm_path: Path) -> None:
    """Bytes that a crash left in place of lines put every item in doubt."""
    with Store.open(shm_path, boot="one") as store:
        add_layer(store, "x")
        store.sync()
    (shm_path / "journal").write_bytes(bytes(100))
    with Store.open(shm_path, boot="one") as store:
        assert store.layer(diff_id("x")) is None


def test_an_interrupted_sync_forgets_nothing(shm_path: Path) -> None:
    """A journal that was set aside counts until a later sync removes it."""
    with Store.open(shm_path, boot="one") as store:
        add_layer(store, "x")
        (shm_path / "journal").rename(shm_path / "journal-0123")
        add_layer(store, "y")
    with Store.open(shm_path, boot="one") as store:
        assert store.layer(diff_id("x")) is not None
        store.sync()
    assert list(shm_path.glob("journal*")) == []


def test_commits_and_syncs_may_meet(shm_path: Path) -> None:
    """Many threads commit through two openings while others sync; everything is there."""
    names = [str(number) for number in range(60)]
    done = threading.Event()
    with Store.open(shm_path) as one, Store.open(shm_path) as two:

        def sync() -> None:
            while not done.is_set():
                two.sync()

        with ThreadPoolExecutor(6) as pool:
            syncing = pool.submit(sync)
            jobs = [pool.submit(add_layer, s, n) for n in names for s in (one, two)]
            for job in jobs:
                job.result()
            done.set()
            syncing.result()
        assert all(one.layer(diff_id(name)) is not None for name in names)
        one.sync()
        assert list(shm_path.glob("journal*")) == []
