"""What hides what: marks written with and without rights, judged by the kernel's own overlay."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from asyncbuild.image.digest import DiffId
from asyncbuild.layers import marks
from asyncbuild.layers.changeset import Kind
from asyncbuild.layers.facts import UnpackedFacts
from asyncbuild.rootfs.trees import DirectoryTree
from asyncbuild.store.store import Store

WRITE = """
import sys
from asyncbuild.layers.changeset import Entry, Kind
from asyncbuild.layers.tree import LayerTree
if "refuse" in sys.argv:
    import struct
    from asyncbuild.rootfs import syscalls
    lines = [(0x20, 0, 0, 0), (0x15, 1, 0, 133), (0x15, 0, 1, 259), (6, 0, 0, 0x50001), (6, 0, 0, 0x7FFF0000)]
    syscalls.filter_system_calls(b"".join(struct.pack("=HBBI", *line) for line in lines))
with LayerTree(sys.argv[1]) as tree:
    tree.whiteout("gone")
    tree.add(Entry("closed", Kind.DIRECTORY, 0o755))
    tree.add(Entry("closed/own", Kind.FIFO, 0o644)) if "refuse" not in sys.argv else None
    tree.opaque("closed")
    tree.whiteout("open/gone")
    tree.whiteout("back")
    tree.add(Entry("back", Kind.SYMLINK, link="target"))
    tree.finish()
"""
LOOK = """
import json, sys
from asyncbuild.layers import marks
from asyncbuild.layers.snapshot import snapshot
changes = snapshot(sys.argv[1], [sys.argv[2]])
print(json.dumps([marks.form(), changes.deletions, changes.opaque, [e.path for e in changes.additions]]))
"""
UNPRIVILEGED = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--")


def python(program: str, *words: object, prefix: tuple[str, ...] = ()) -> str:
    """What a program in a process of its own prints."""
    command = [*prefix, sys.executable, "-c", program, *map(str, words)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def below(path: Path) -> Path:
    """A lower directory in which there is something to hide."""
    for name in ("closed/hidden", "open/gone", "open/seen", "gone/deep", "back/old"):
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    return path


def merged(upper: Path, lower: Path, options: str = "") -> list[str]:
    """Every path that the kernel shows of the two."""
    script = f"mount -t overlay overlay -o lowerdir={upper}:{lower}{options} {lower.parent}/seen"
    (lower.parent / "seen").mkdir()
    command = [
        "unshare",
        "-m",
        "sh",
        "-c",
        f"{script} && cd {lower.parent}/seen && find . -mindepth 1",
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return sorted(line.removeprefix("./") for line in done.stdout.split())


@pytest.mark.parametrize(
    ("prefix", "words", "options"),
    [
        pytest.param((), (), "", id="with CAP_SYS_ADMIN"),
        pytest.param(UNPRIVILEGED, (), ",userxattr", id="without"),
        pytest.param((), ("refuse",), "", id="no device nodes"),
    ],
)
def test_the_kernel_hides_what_the_marks_hide(
    shm_path: Path, prefix: tuple[str, ...], words: tuple[str, ...], options: str
) -> None:
    """A layer written in each way hides the same of what is below it."""
    lower = below(shm_path / "lower")
    upper = shm_path / "upper"
    upper.mkdir()
    python(WRITE, upper, *words, prefix=prefix)
    seen = merged(upper, lower, options)
    own = [] if words else ["closed/own"]
    assert seen == sorted(["back", "closed", *own, "open", "open/seen"])


@pytest.mark.parametrize(
    ("prefix", "words", "form"),
    [
        pytest.param((), (), "", id="with CAP_SYS_ADMIN"),
        pytest.param(UNPRIVILEGED, (), "user", id="without"),
        pytest.param((), ("refuse",), "", id="no device nodes"),
    ],
)
def test_a_snapshot_reads_the_marks(
    shm_path: Path, prefix: tuple[str, ...], words: tuple[str, ...], form: str
) -> None:
    """Deletions and opaque directories come back as they were meant."""
    lower = below(shm_path / "lower")
    upper = shm_path / "upper"
    upper.mkdir()
    python(WRITE, upper, *words, prefix=prefix)
    own = [] if words else ["closed/own"]
    found = json.loads(python(LOOK, upper, lower, prefix=prefix))
    expected = [form, ["gone", "open/gone"], ["closed"], ["back", "closed", *own, "open"]]
    assert found == expected


def test_a_view_reads_whiteouts_that_are_files(shm_path: Path) -> None:
    """The stand-in for a device 0/0 is a whiteout, an empty file without rights alone is none."""
    upper = shm_path / "upper"
    upper.mkdir()
    python(WRITE, upper, "refuse")
    (upper / "empty").touch()
    (upper / "empty").chmod(0)
    tree = DirectoryTree(upper)
    gone, empty = tree.node("gone"), tree.node("empty")
    assert gone is not None
    assert gone.entry is None
    assert empty is not None
    assert empty.entry is not None
    assert empty.entry.kind is Kind.FILE


def test_marks_of_the_other_family_mean_nothing(shm_path: Path) -> None:
    """A command that sets user.overlay.opaque within a root's overlay does not hide anything."""
    os.setxattr(shm_path, "user.overlay.opaque", b"y")
    assert not marks.is_opaque(str(shm_path))
    os.setxattr(shm_path, "trusted.overlay.opaque", b"y")
    assert marks.is_opaque(str(shm_path))


def test_forms_are_kept_apart(shm_path: Path) -> None:
    """A layer that one form of builder unpacked is not there for another; its blobs are."""
    diff_id = DiffId("sha256", "1" * 64)
    with Store.open(shm_path / "store") as store:
        store.commit_layer(store.new_layer(), diff_id, UnpackedFacts((), (), 0, 0))
        blob = store.put_blob(b"bytes")
    with Store.open(shm_path / "store", form="user") as store:
        assert store.layer(diff_id) is None
        assert store.read_blob(blob) == b"bytes"
        made = store.commit_layer(store.new_layer(), diff_id, UnpackedFacts((), (), 0, 0))
        assert made.path.parent.parent.parent.name == "layers.user"
    with Store.open(shm_path / "store") as store:
        found = store.layer(diff_id)
        assert found is not None
        assert found.path != made.path
        assert store.statistics().layers == 2
