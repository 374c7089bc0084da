"""Packing: the tar's order and bytes, round trips, GNU tar's opinion, and files that change."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import threading
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncbuild.errors import InputError, StoreError
from asyncbuild.image.digest import DiffId
from asyncbuild.layers import compression as compression_module
from asyncbuild.layers.changeset import ChangeSet, Entry, FileSource, InlineSource, Kind
from asyncbuild.layers.compression import GZIP, UNCOMPRESSED, ZSTD, Codec, Compression
from asyncbuild.layers.pack import pack, pack_to_file
from asyncbuild.layers.snapshot import snapshot
from support.layers import change_sets, facts, file, pack_bytes, unpack_bytes, whiteouts
from support.overlay import mount_tmpfs, unmount, with_private_mounts
from support.scratch import scratch

EMPTY = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
"""The diff id of 1024 zero bytes, the layer that Docker has used for "nothing" ever since."""


def names(blob: bytes) -> list[str]:
    """The names in a tar, in order."""
    with tarfile.open(fileobj=io.BytesIO(blob), errors="surrogateescape") as archive:
        return archive.getnames()


def test_the_empty_layer_is_two_zero_blocks() -> None:
    """S20: stable bytes for a step that changed nothing."""
    blob, layer = pack_bytes(ChangeSet())
    assert blob == bytes(1024)
    assert (str(layer.diff_id), layer.uncompressed_size, layer.entries) == (EMPTY, 1024, 0)
    assert str(pack_bytes(ChangeSet(), GZIP)[1].diff_id) == EMPTY


def test_markers_stand_where_their_names_would() -> None:
    """A whiteout before what replaces it, an opaque marker first in its directory, all sorted."""
    changes = ChangeSet.of(
        [
            Entry("", Kind.DIRECTORY, 0o755),
            Entry("b", Kind.DIRECTORY, 0o755),
            file("b/x", b"x"),
            file("b-c"),
            Entry("d", Kind.DIRECTORY, 0o755),
        ],
        ["a", "b/gone", "d"],
        ["b", "e/f"],
    )
    blob, _ = pack_bytes(changes)
    assert names(blob) == [
        ".wh.a",
        "b",
        "b/.wh..wh..opq",
        "b/.wh.gone",
        "b/x",
        "b-c",
        ".wh.d",
        "d",
        "e/f/.wh..wh..opq",
    ]
    with tarfile.open(fileobj=io.BytesIO(blob)) as archive:
        info = archive.getmember(".wh.a")
    assert (info.type, info.mode, info.uid, info.mtime, info.size) == (tarfile.REGTYPE, 0, 0, 0, 0)


@settings(max_examples=120)
@given(change_sets(), st.sampled_from([UNCOMPRESSED, GZIP, ZSTD]))
def test_round_trip(changes: ChangeSet, compression: Compression) -> None:
    """Packed, unpacked and read back as an upper directory, a change set is what it was."""
    blob, layer = pack_bytes(changes, compression)
    with scratch() as place:
        found = unpack_bytes(blob, place / "out", diff_id=layer.diff_id)
        assert found.facts.entries == layer.entries
        (place / "below").mkdir()
        for path in changes.deletions:
            (place / "below" / path).touch()
        again = snapshot(str(place / "out"), [str(place / "below")])
        assert pack_bytes(again, compression)[0] == blob
        assert again.deletions == changes.deletions
        assert [plain(entry) for entry in again.additions] == [
            plain(entry) for entry in changes.additions
        ]


def plain(entry: Entry) -> Entry:
    """The entry without what differs between a tar and a directory: where its bytes are."""
    return Entry(
        entry.path, entry.kind, entry.mode, entry.uid, entry.gid, entry.mtime_ns, entry.size,
        entry.link, entry.device, entry.xattrs,
    )  # fmt: skip


@settings(max_examples=40)
@given(change_sets())
def test_gnu_tar_extracts_what_we_pack(changes: ChangeSet) -> None:
    """An independent reader makes the same files of our bytes, attributes included."""
    blob, _ = pack_bytes(ChangeSet(changes.additions))
    with scratch() as place:
        unpack_bytes(blob, place / "ours")
        (place / "theirs").mkdir()
        options = [
            "--xattrs",
            "--xattrs-include=*",
            "--numeric-owner",
            "-p",
            "--delay-directory-restore",
        ]
        subprocess.run(
            [
                "tar",
                *options,
                "--warning=no-unknown-keyword",
                "-C",
                str(place / "theirs"),
                "-xf",
                "-",
            ],
            input=blob,
            check=True,
            stderr=subprocess.PIPE,
        )
        assert facts(place / "theirs") == facts(place / "ours")


def test_gnu_tar_lists_what_we_pack() -> None:
    """Types, modes, owners, sizes and times as GNU tar prints them."""
    changes = ChangeSet.of(
        [
            Entry("d", Kind.DIRECTORY, 0o1777, 1, 2, 0),
            file("d/f", b"12345", 0o4755, uid=70_000, mtime_ns=1_700_000_000_999_999_999),
            Entry("d/h", Kind.HARDLINK, link="d/f"),
            Entry("d/l", Kind.SYMLINK, 0o777, link="f"),
            Entry("d/n", Kind.CHARACTER_DEVICE, 0o666, device=(1, 3)),
        ]
    )
    blob, _ = pack_bytes(changes)
    listing = subprocess.run(
        ["tar", "--numeric-owner", "--utc", "--full-time", "-tvf", "-"],
        input=blob,
        check=True,
        capture_output=True,
    ).stdout.decode()
    assert [" ".join(line.split()) for line in listing.splitlines()] == [
        "drwxrwxrwt 1/2 0 1970-01-01 00:00:00 d/",
        "-rwsr-xr-x 70000/0 5 2023-11-14 22:13:20 d/f",
        "hrw-r--r-- 0/0 0 1970-01-01 00:00:00 d/h link to d/f",
        "lrwxrwxrwx 0/0 0 1970-01-01 00:00:00 d/l -> f",
        "crw-rw-rw- 0/0 1,3 1970-01-01 00:00:00 d/n",
    ]


# --- content ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size", [0, 1, 511, 512, 513, (1 << 20) - 1024, 1 << 20, (1 << 20) + 64 * 1024, 3_333_333]
)
def test_files_of_any_size(size: int, shm_path: Path) -> None:
    """Sizes around a block and around the buffer, with files before and after."""
    data = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    (shm_path / "f").write_bytes(data)
    entries = [
        file("a", b"before"),
        Entry("f", Kind.FILE, size=size, source=FileSource(str(shm_path / "f"))),
        Entry("g", Kind.FILE, size=size, source=InlineSource(data)),
    ]
    blob, layer = pack_bytes(ChangeSet.of(entries))
    assert layer.uncompressed_size == len(blob)
    assert layer.diff_id == DiffId.of(blob)
    with tarfile.open(fileobj=io.BytesIO(blob)) as archive:
        for name in ("f", "g"):
            member = archive.extractfile(name)
            assert member is not None
            assert member.read() == data


@pytest.mark.parametrize("actual", [0, 99, 101, 3_000_000])
@pytest.mark.parametrize("expected", [0, 100, 2_000_000])
def test_a_file_that_changed_is_an_error(actual: int, expected: int, shm_path: Path) -> None:
    """Shrunk or grown: said with the file's name and both sizes, never packed as something else."""
    (shm_path / "f").write_bytes(bytes(actual))
    entry = Entry("f", Kind.FILE, size=expected, source=FileSource(str(shm_path / "f")))
    if actual == expected:
        return
    with pytest.raises(InputError, match=f"{shm_path}/f changed.*{actual} bytes, and {expected}"):
        pack_bytes(ChangeSet.of([entry]))


def test_a_source_that_is_no_file_any_more(shm_path: Path) -> None:
    """Missing, a link, a directory, a fifo (which must not block): each is an InputError."""
    os.mkfifo(shm_path / "fifo")
    (shm_path / "link").symlink_to("fifo")
    for name in ("missing", "link", ".", "fifo"):
        entry = Entry("f", Kind.FILE, size=3, source=FileSource(str(shm_path / name)))
        with pytest.raises(InputError, match=str(shm_path)):
            pack_bytes(ChangeSet.of([entry]))


def test_progress_is_what_is_in_the_file(shm_path: Path) -> None:
    """Each report is at most the file's size at that moment, and they grow."""
    (shm_path / "f").write_bytes(os.urandom(4_000_000))
    entry = Entry("f", Kind.FILE, size=4_000_000, source=FileSource(str(shm_path / "f")))
    seen = []

    def progress(size: int) -> None:
        assert size <= (shm_path / "blob").stat().st_size
        seen.append(size)

    layer = pack_to_file(ChangeSet.of([entry]), str(shm_path / "blob"), GZIP, progress)
    assert seen == sorted(seen)
    assert seen[-1] == layer.descriptor.size == (shm_path / "blob").stat().st_size
    assert len(seen) > 3
    with pytest.raises(StoreError, match="exists"):
        pack_to_file(ChangeSet(), str(shm_path / "blob"))


def test_an_error_in_a_thread_is_raised(shm_path: Path) -> None:
    """A sink that fails ends the packing, and no thread is left."""

    class Full:
        def write(self, _data: bytes | memoryview) -> None:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        pack(ChangeSet(), Full(), UNCOMPRESSED)


def test_reading_leaves_access_times_alone(shm_path: Path) -> None:
    """S10: a context is never changed."""
    (shm_path / "f").write_bytes(b"x")
    os.utime(shm_path / "f", (1, 2))
    entry = Entry("f", Kind.FILE, size=1, source=FileSource(f"{shm_path}/f"))
    pack_bytes(ChangeSet.of([entry]))
    assert (shm_path / "f").stat().st_atime == 1


@pytest.mark.parametrize("compression", [UNCOMPRESSED, GZIP])
def test_a_full_disk_is_said(compression: Compression, shm_path: Path) -> None:
    """A StoreError with the blob's path; no thread is left behind."""
    changes = ChangeSet.of([file("f", os.urandom(2_000_000))])

    def work() -> None:
        mount_tmpfs(shm_path, "size=1m")
        try:
            with pytest.raises(StoreError, match=f"{shm_path}/blob: the disk is full"):
                pack_to_file(changes, f"{shm_path}/blob", compression)
        finally:
            unmount(shm_path)

    with_private_mounts(work)
    assert "ordered" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("path", [".wh.f", "d/.wh.f", ".wh.d/f", "d/.wh..wh..opq"])
def test_a_name_that_would_be_a_marker_is_refused(path: str) -> None:
    """A file of that name would delete another one wherever the image is unpacked."""
    with pytest.raises(InputError, match="cannot hold"):
        pack_bytes(ChangeSet.of([file(path)]))
    assert names(pack_bytes(ChangeSet.of([file("a.wh.f")]))[0]) == ["a.wh.f"]


# --- determinism ------------------------------------------------------------------------------------

_TREE_PROGRAM = """
import os, sys, random
from pathlib import Path
from asyncbuild.layers.compression import *
from asyncbuild.layers.pack import pack
from asyncbuild.layers.snapshot import snapshot
import io
root, seed = Path(sys.argv[1]), int(sys.argv[2])
os.umask(int(sys.argv[3], 8))
names = ["Z", "a", "\\u00fc", "z-1", "z", "z/f", "B/b", "B/\\u65e5", os.fsdecode(b"raw\\xff")]
random.Random(seed).shuffle(names)
for name in names:
    path = root / name
    path.parent.mkdir(exist_ok=True, parents=True)
    if name == "z":
        path.mkdir(exist_ok=True)
    else:
        path.write_bytes(name.encode("utf-8", "surrogateescape") * 100000)
for path in [*root.rglob("*")]:
    path.chmod(0o700 if path.is_dir() else 0o600)
    os.utime(path, (1, 1))
changes = snapshot(str(root), [])
for compression in (UNCOMPRESSED, GZIP, ZSTD):
    layer = pack(changes, io.BytesIO(), compression)
    print(layer.diff_id, layer.descriptor.digest)
"""


def test_the_same_tree_is_the_same_bytes(shm_path: Path) -> None:
    """Another order of creation, mask, locale, time zone and number of processors: equal digests."""
    outputs = set()
    for number, (locale, umask, zone, cores) in enumerate(
        [
            ("C.UTF-8", "022", "UTC", "0"),
            ("C", "077", "Asia/Tokyo", "0-1"),
            ("POSIX", "000", "UTC", "1"),
        ]
    ):
        root = shm_path / str(number)
        root.mkdir()
        command = [
            "taskset",
            "-c",
            cores,
            sys.executable,
            "-c",
            _TREE_PROGRAM,
            str(root),
            str(number),
            umask,
        ]
        environment = {
            "LC_ALL": locale,
            "TZ": zone,
            "PYTHONPATH": "src",
            "PATH": os.environ["PATH"],
        }
        done = subprocess.run(command, check=True, capture_output=True, env=environment)
        outputs.add(done.stdout)
    assert len(outputs) == 1


def test_threads_do_not_change_gzip(monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks are the same however many threads deflate them."""
    changes = ChangeSet.of([file("f", b"".join(b"%d," % i for i in range(600_000)))])
    two, _ = pack_bytes(changes, GZIP)
    monkeypatch.setattr(compression_module._Gzip, "threads", 1)
    one, _ = pack_bytes(changes, GZIP)
    monkeypatch.setattr(compression_module._Gzip, "threads", 5)
    assert one == two == pack_bytes(changes, GZIP)[0]


@pytest.mark.parametrize(
    "compression",
    [
        *(Compression(Codec.GZIP, level) for level in (0, 1, 2, 3, 6, 9)),
        *(Compression(Codec.ZSTD, level) for level in (1, 3)),
    ],
)
def test_other_tools_inflate_our_blobs(compression: Compression) -> None:
    """Gzip and zstd themselves, over several blocks; one member or frame, so no reader stops early."""
    changes = ChangeSet.of([file("f", b"".join(b"%d," % i for i in range(500_000)))])
    plain_blob, layer = pack_bytes(changes)
    blob, packed = pack_bytes(changes, compression)
    tool = "gzip" if compression.codec is Codec.GZIP else "zstd"
    inflated = subprocess.run([tool, "-dc"], input=blob, check=True, capture_output=True).stdout
    assert inflated == plain_blob
    assert packed.diff_id == layer.diff_id
    assert packed.descriptor.media_type == f"application/vnd.oci.image.layer.v1.tar+{tool}"
    if tool == "gzip":
        decoder = zlib.decompressobj(31)
        assert hashlib.sha256(decoder.decompress(blob)).hexdigest() == layer.diff_id.hex
        assert (decoder.eof, decoder.unused_data) == (True, b"")


def test_whiteouts_come_back(shm_path: Path) -> None:
    """Deletions and opaque directories are what unpacking makes of their markers."""
    blob, _ = pack_bytes(ChangeSet.of([file("a/f")], ["gone", "a/b"], ["c"]))
    unpack_bytes(blob, shm_path / "out")
    assert whiteouts(shm_path / "out") == {"gone", "a/b"}
    assert os.getxattr(shm_path / "out/c", "trusted.overlay.opaque") == b"y"
