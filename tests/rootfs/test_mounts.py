"""What RUN --mount shows, in real namespaces: at its place, with its flags, and never in a layer."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from asyncbuild.errors import DockerfileError
from asyncbuild.rootfs.runspec import (
    BindMount,
    DeviceNode,
    Mount,
    SecretFile,
    TmpfsMount,
    TreeMount,
)
from support.roots import Roots, listing, whiteout

pytestmark = pytest.mark.integration


@pytest.fixture
def outside(roots: Roots) -> Path:
    """A directory of this machine with a file ``inner`` and a directory ``sub`` with ``deep``."""
    path = roots.layer("outside")
    (path / "inner").write_text("inner")
    (path / "sub").mkdir()
    (path / "sub/deep").write_text("deep")
    return path


# --- binds ------------------------------------------------------------------------------------------


def test_bind_mounts(roots: Roots, outside: Path) -> None:
    """Files and directories of this machine are shown, at places that the image need not have."""
    mounts = (
        BindMount(outside, "/made/for/this"),
        BindMount(outside / "inner", "/run/secrets/file", read_only=True),
        BindMount(outside, "/dev/place/here", read_only=True),
    )
    script = """
        cat /made/for/this/inner /run/secrets/file /dev/place/here/inner
        echo x > /run/secrets/file; echo x > /dev/place/here/new; echo out > /made/for/this/new
    """
    ran = roots.shell(script, mounts=mounts)
    assert (ran.stdout, ran.changes) == ("innerinnerinner", {})
    assert ran.stderr.count("Read-only file system") == 2
    assert sorted(os.listdir(outside)) == ["inner", "new", "sub"]


def test_read_only_goes_all_the_way_down(roots: Roots, outside: Path) -> None:
    """What is mounted below a directory of this machine is read-only with it."""
    subprocess.run(["mount", "-t", "tmpfs", "below", str(outside / "sub")], check=True)
    try:
        mount = BindMount(outside, "/m", read_only=True)
        ran = roots.shell("touch /m/new; touch /m/sub/new; ls /m/sub", mounts=(mount,))
        assert (ran.stdout, ran.stderr.count("Read-only file system")) == ("", 2)
        assert os.listdir(outside / "sub") == []
    finally:
        subprocess.run(["umount", str(outside / "sub")], check=True)


def test_targets_are_found_through_links_of_the_image(roots: Roots, outside: Path) -> None:
    """A target below a link, or that is one, is where the image's link leads, within the root."""
    base = roots.layer("base")
    (base / "real").mkdir()
    (base / "link").symlink_to("/../real")
    (base / "nowhere").symlink_to("/not/there")
    mounts = (
        BindMount(outside, "/link/here"),
        BindMount(outside, "/link"),
        BindMount(outside, "/nowhere"),
    )
    for mount, where in zip(mounts, ("/real/here", "/real", "/not/there"), strict=True):
        ran = roots.shell(f"ls {where}", above=(base,), mounts=(mount,))
        assert (ran.stdout, ran.changes) == ("inner\nsub\n", {})


@pytest.mark.parametrize("target", ["relative", "/a/../../b", "/", "//./"])
def test_targets_are_absolute_and_not_the_root(roots: Roots, target: str) -> None:
    """A target is an absolute path without ``..``, and not the root itself."""
    with pytest.raises(ValueError, match="cannot be a mount's target"):
        roots.spec("true", mounts=(BindMount(roots.busybox, target),))


def test_a_target_below_a_file_is_refused(roots: Roots, outside: Path) -> None:
    """A target that cannot be is the Dockerfile's fault, and named."""
    mounts = (BindMount(outside, "/bin/busybox/here"),)
    with pytest.raises(DockerfileError, match=r"at /bin/busybox/here: Not a directory"):
        roots.shell("true", mounts=mounts)


def test_the_last_mount_of_a_target_counts(roots: Roots, outside: Path) -> None:
    """Two mounts at one place, spelled differently: the later one is there."""
    mounts = (BindMount(outside, "/m"), BindMount(outside / "sub", "/./m/"))
    assert roots.shell("ls /m", mounts=mounts).stdout == "deep\n"


def test_part_of_a_directory(roots: Roots, outside: Path) -> None:
    """``inside`` is found within the source; links, absolute ones too, do not lead out of it."""
    (outside / "out").symlink_to("/etc")
    (outside / "etc").mkdir()
    (outside / "etc/mine").write_text("")
    (outside / "up").symlink_to("../../../sub")
    mounts: tuple[Mount, ...] = (
        BindMount(outside, "/a", inside="out"),
        BindMount(outside, "/b", inside="up/deep"),
    )
    assert roots.shell("ls /a; cat /b", mounts=mounts).stdout == "mine\ndeep"
    with pytest.raises(DockerfileError, match="at /a: No such file or directory"):
        roots.shell("true", mounts=(BindMount(outside, "/a", inside="missing"),))


def test_a_foreign_owner_is_shown_as_root(roots: Roots, outside: Path) -> None:
    """Files of one owner on this machine belong to root in the RUN, without a copy."""
    for path in (outside, *outside.rglob("*")):
        os.chown(path, 1000, 1001)
    mounts = (
        BindMount(outside, "/m", read_only=True, read_as_root=(1000, 1001)),
        BindMount(outside / "inner", "/f", read_only=True, read_as_root=(1000, 1001)),
    )
    ran = roots.shell("stat -c %u:%g /m /m/inner /m/sub/deep /f; touch /m/x", mounts=mounts)
    assert ran.stdout == "0:0\n" * 4
    assert "Read-only file system" in ran.stderr
    assert (outside / "inner").stat().st_uid == 1000


# --- mounts in mounts ---------------------------------------------------------------------------------


def test_a_mount_in_a_mount(roots: Roots, outside: Path) -> None:
    """Its point is found in the outer mount, or made there if that can be written to."""
    cache = roots.layer("cache")
    mounts = (
        TmpfsMount("/cache/made/here"),
        BindMount(cache, "/cache"),
        BindMount(outside / "inner", "/cache/made/file"),
        BindMount(outside, "/ro", read_only=True),
        TmpfsMount("/ro/sub"),
    )
    script = "ls /cache/made /ro/sub; cat /cache/made/file; touch /cache/made/here/x"
    ran = roots.shell(script, mounts=mounts)
    assert ran.stdout == "/cache/made:\nfile\nhere\n\n/ro/sub:\ninner"
    assert listing(cache) == {"made": "dir", "made/here": "dir", "made/file": ""}


def test_no_point_is_made_in_a_read_only_mount(roots: Roots, outside: Path) -> None:
    """As runc: it fails, and here the hint says what to do."""
    mounts = (BindMount(outside, "/ro", read_only=True), TmpfsMount("/ro/missing"))
    with pytest.raises(DockerfileError, match="at /ro/missing: Read-only") as caught:
        roots.shell("true", mounts=mounts)
    assert "rw" in str(caught.value.hint)


# --- trees --------------------------------------------------------------------------------------------


def test_a_tree_is_read_only(roots: Roots) -> None:
    """Layers are shown merged, whiteouts applied, and cannot be written to."""
    below, above = roots.layer("below"), roots.layer("above")
    for name in ("gone", "kept"):
        (below / name).write_text(name)
    whiteout(above / "gone")
    (above / "new").write_text("new")
    mounts = (TreeMount((above, below), "/tree"),)
    ran = roots.shell("ls /tree; echo x > /tree/kept", mounts=mounts)
    assert (ran.stdout, ran.changes) == ("kept\nnew\n", {})
    assert "Read-only file system" in ran.stderr


def test_a_tree_of_one_layer_and_of_none(roots: Roots) -> None:
    """A whiteout without anything below it is nothing; an empty tree is an empty directory."""
    layer = roots.layer("layer")
    whiteout(layer / "gone")
    (layer / "there").mkdir()
    mounts = (TreeMount((layer,), "/one"), TreeMount((), "/none"))
    ran = roots.shell("ls -A /one /none; touch /none/x", mounts=mounts)
    assert ran.stdout == "/none:\n\n/one:\nthere\n"
    assert "Read-only file system" in ran.stderr


def test_what_is_written_to_a_tree_goes_elsewhere(roots: Roots, shm_path: Path) -> None:
    """A writable tree takes anything, and its layers stay as they are; it looks like its topmost layer."""
    layer = roots.layer("layer")
    (layer / "file").write_text("old")
    layer.chmod(0o710)
    writes = [shm_path / "writes", shm_path / "more"]
    for path in writes:
        path.mkdir()
    mounts = (
        TreeMount((layer,), "/tree", writes=writes[0]),
        TreeMount((layer,), "/file", inside="file", writes=writes[1]),
    )
    script = "stat -c %a /tree; echo new > /tree/file; echo 2 > /file; cat /tree/file /file; rm /tree/file"
    ran = roots.shell(script, mounts=mounts)
    assert (ran.stdout, ran.stderr, ran.changes) == ("710\nnew\n2\n", "", {})
    assert (layer / "file").read_text() == "old"


def test_part_of_a_tree(roots: Roots) -> None:
    """A file or directory in the tree, its links kept inside the tree."""
    layer = roots.layer("layer")
    (layer / "etc").mkdir()
    (layer / "etc/file").write_text("tree's")
    (layer / "link").symlink_to("/etc/file")
    mounts = (TreeMount((layer,), "/a", inside="etc"), TreeMount((layer,), "/b", inside="link"))
    assert roots.shell("cat /a/file /b", mounts=mounts).stdout == "tree'stree's"


# --- tmpfs, secrets, devices ----------------------------------------------------------------------------


def test_tmpfs(roots: Roots) -> None:
    """Empty, of the size asked for; open to all, or with the mode of the directory that it covers."""
    base = roots.layer("base")
    (base / "there").mkdir(0o700)
    (base / "there/file").write_text("")
    mounts = (
        TmpfsMount("/there", size=1 << 20),
        TmpfsMount("/new"),
        TmpfsMount("/ro", read_only=True),
        TmpfsMount("/dev/shm", size=128 << 20),
    )
    script = """
        ls /there; stat -c '%a %u' /there /new; touch /new/x; touch /ro/x
        grep -E ' /(there|dev/shm) ' /proc/mounts | cut -d ' ' -f 4
    """
    ran = roots.shell(script, above=(base,), mounts=mounts)
    lines = ran.stdout.splitlines()
    assert lines[:2] == ["700 0", "1777 0"]
    assert "size=1024k" in " ".join(lines)
    assert "size=131072k" in " ".join(lines)
    assert (ran.stderr.count("Read-only file system"), ran.changes) == (1, {})


def test_secrets(roots: Roots) -> None:
    """A read-only file with the owner and mode asked for, on a tmpfs; nothing of it stays."""
    mounts = (
        SecretFile("/run/secrets/one", b"s3cret\n"),
        SecretFile("/etc/two", b"x\0y", 0o741, 100, 102),
    )
    script = """
        stat -c '%u %g %a %s' /run/secrets/one /etc/two; cat /run/secrets/one
        echo x > /run/secrets/one; rm /etc/two
        grep /run/secrets/one /proc/mounts
    """
    ran = roots.shell(script, mounts=mounts)
    assert ran.stdout.startswith(
        "0 0 400 7\n100 102 741 3\ns3cret\nstage /run/secrets/one tmpfs ro,"
    )
    assert "noexec" in ran.stdout
    assert "Read-only file system" in ran.stderr
    assert ran.changes == {}


def test_a_secret_is_not_shown() -> None:
    """The data of a secret is in no repr."""
    assert "s3cret" not in repr(SecretFile("/x", b"s3cret"))


def test_a_device(roots: Roots) -> None:
    """A device that is asked for can be opened; one that the command makes cannot."""
    mounts = (DeviceNode("/dev/my/zero", "c", 1, 5, 0o600),)
    script = "dd if=/dev/my/zero bs=3 count=1 | wc -c; mknod /own c 1 5; head -c 1 /own"
    ran = roots.shell(script, mounts=mounts)
    assert ran.stdout == "3\n"
    assert "Permission denied" in ran.stderr
    assert stat.S_ISCHR((ran.upper / "own").stat().st_mode)


def test_a_mount_below_what_the_kernel_shows(roots: Roots) -> None:
    """/sys is read-only, and something can stand on one of its directories; devices stand anywhere in /dev."""
    mounts = (
        TmpfsMount("/sys/kernel"),
        TmpfsMount("/sys/fs", read_only=True),
        SecretFile("/dev/shm/secret", b"word"),
    )
    script = """
        ls -A /sys/kernel; touch /sys/kernel/x; touch /sys/fs/x; cat /dev/shm/secret
        mknod /sys/kernel/zero c 1 5; head -c 1 /sys/kernel/zero
    """
    ran = roots.shell(script, mounts=mounts)
    assert (ran.stdout, ran.changes) == ("word", {})
    assert "/sys/fs/x: Read-only file system" in ran.stderr
    assert "/sys/kernel/zero: Permission denied" in ran.stderr
