"""Listings: they tell what the merged directories hold, and documents from anywhere are read with care."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from asyncbuild.layers.changeset import Entry, Kind
from asyncbuild.layers.listing import DamagedListing, Inside, Listing, list_root
from asyncbuild.layers.marks import make_opaque, make_whiteout
from asyncbuild.rootfs.known import KnownTree, NotKnown
from asyncbuild.rootfs.view import DirectoryTree, View
from support.users import User


def lowers(path: Path) -> list[str]:
    """Two directories in overlay lower format, the topmost first: every kind of name, hidden or not."""
    top, bottom = path / "top", path / "bottom"
    for name in ("etc", "gone/in", "kept/in", "opaque/in", "was-file", "bin"):
        (bottom / name).mkdir(parents=True)
    for name in (
        "etc/passwd",
        "gone/file",
        "kept/file",
        "opaque/file",
        "file",
        "was-dir",
        "odd\udcff",
    ):
        (bottom / name).write_text(f"below {name!a}")
    for name in ("etc", "kept", "opaque/new", "was-dir"):
        (top / name).mkdir(parents=True)
    (top / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    (top / "was-file").write_text("file")
    (top / "kept/link").symlink_to("../etc")
    os.mkfifo(top / "kept/fifo")
    make_opaque(str(top / "opaque"))
    os.chown(top / "kept", 3, 4)
    os.chmod(top / "kept", 0o2750)
    os.setxattr(top / "kept", "user.mark", b"\0\xff")
    os.utime(top / "kept", ns=(7, 1_600_000_000_123_456_789))
    for place, name in ((top, "gone"), (top / "kept", "file")):
        descriptor = os.open(place, os.O_RDONLY)
        make_whiteout(name, descriptor)
        os.close(descriptor)
    return [str(top), str(bottom)]


def told(view: View) -> dict[str, object]:
    """What COPY may ask of each path."""
    return {
        entry.path: entry if entry.kind is Kind.DIRECTORY else (entry.kind, entry.link)
        for entry in view.walk()
    }


def test_a_listing_is_what_a_view_shows(shm_path: Path) -> None:
    """Name by name the same as the merged directories, after a document as well."""
    lower = lowers(shm_path)
    view = View([DirectoryTree(path) for path in lower])
    listing = Listing.decode(list_root(lower).encode())
    known = View([KnownTree(listing)])
    assert told(known) == told(view)
    assert {"kept/fifo", "odd\udcff", "opaque/new", "was-dir"} <= told(known).keys()
    assert known.read("etc/passwd") == view.read("etc/passwd") == b"root:x:0:0::/:/bin/sh\n"
    assert known.resolve("kept/link/passwd") == "etc/passwd"
    assert known.lookup("gone/in") is None
    with pytest.raises(NotKnown):
        known.read("file")


def test_what_is_recorded_counts(shm_path: Path) -> None:
    """An ordinary user sets no owners: the listing has those that are recorded, as the layers have."""
    script = """if True:
        import os, sys
        from asyncbuild.layers.changeset import Entry, Kind
        from asyncbuild.layers.listing import list_root
        from asyncbuild.layers.records import set_owner_and_mode, stand_in
        root = sys.argv[1]
        os.makedirs(root + "/srv")
        set_owner_and_mode(root + "/srv", Entry("srv", Kind.DIRECTORY, 0o1711, 3, 4))
        device = Entry("dev", Kind.CHARACTER_DEVICE, 0o600, 0, 0, device=(1, 3))
        stand_in(os.open(root, os.O_RDONLY), "dev", device)
        found = list_root([root]).directories
        srv = found["srv"].directory
        print(oct(srv.mode), srv.uid, srv.gid, found[""].others["dev"].name)
    """
    user = User.below(shm_path, subordinate=False)
    command = user.words(sys.executable, "-c", script, user.home / "root")
    done = subprocess.run(
        command, env=user.environment(), check=True, stdout=subprocess.PIPE, text=True
    )
    assert done.stdout == "0o1711 3 4 CHARACTER_DEVICE\n"


def test_equal_directories_give_equal_documents(shm_path: Path) -> None:
    """In whatever order their names come."""
    listing = list_root(lowers(shm_path))
    turned = Listing(dict(reversed(list(listing.directories.items()))), listing.texts)
    assert turned.encode() == listing.encode() == Listing.decode(listing.encode()).encode()


def test_no_directories_are_an_empty_root() -> None:
    """An image without layers."""
    assert told(View([KnownTree(list_root(()))])) == {"": Entry("", Kind.DIRECTORY, 0o755)}


ROOT = ["", 0o755, 0, 0, 0, [], {}, [], {}]


def document(*rows: Any, version: Any = 1, **more: Any) -> bytes:
    """A document with these rows."""
    value = {"version": version, "directories": [*rows], "texts": {}, **more}
    return zlib.compress(json.dumps(value).encode())


DAMAGED = (
    b"",
    b"no zlib",
    document(ROOT)[:-3],
    document(ROOT) + b"more",
    zlib.compress(b"[" * 100_000),
    zlib.compress(b"\xff"),
    zlib.compress(bytes(65 << 20)),
    bytes(3 << 20),
    document(ROOT, version=2),
    document(ROOT, version=[]),
    document(),
    document(ROOT, ROOT),
    document(ROOT[:-1]),
    document(ROOT, ["a/b", *ROOT[1:]]),
    document(ROOT, ["../a", *ROOT[1:]]),
    document(ROOT, ["/a", *ROOT[1:]]),
    document(ROOT, ["..", *ROOT[1:]]),
    document(ROOT, [7, *ROOT[1:]]),
    document(["", 0o10000, *ROOT[2:]]),
    document(["", "755", *ROOT[2:]]),
    document(["", True, *ROOT[2:]]),
    document([*ROOT[:2], -1, *ROOT[3:]]),
    document([*ROOT[:4], 1 << 63, *ROOT[5:]]),
    document([*ROOT[:5], [["user.a", "no base64"]], *ROOT[6:]]),
    document([*ROOT[:6], {"a/b": "x"}, [], {}]),
    document([*ROOT[:6], {"a": 7}, [], {}]),
    document([*ROOT[:6], {"a": "x"}, ["a"], {}]),
    document([*ROOT[:6], {}, ["a\0"], {}]),
    document([*ROOT[:6], {}, [], {"a": "9"}]),
    document([*ROOT[:6], {"a": "x"}, [], {}], ["a", *ROOT[1:]]),
    document(ROOT, texts={"etc/passwd": "cm9vdA=="}),
)


@pytest.mark.parametrize("raw", DAMAGED, ids=range(len(DAMAGED)))
def test_damaged_documents(raw: bytes) -> None:
    """Whatever is not as it must be is no listing."""
    with pytest.raises(DamagedListing):
        Listing.decode(raw)


def test_a_sound_document() -> None:
    """What the damaged ones are made of is right."""
    assert Listing.decode(document(ROOT)).directories == {
        "": Inside(Entry("", Kind.DIRECTORY, 0o755))
    }
