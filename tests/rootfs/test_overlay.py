"""The root of a RUN: layers, the stub of mount points, and what is left in the upper directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from asyncbuild.errors import IsolationError
from asyncbuild.rootfs.overlay import MAX_LOWER_DIRECTORIES
from support.roots import Roots, whiteout

pytestmark = pytest.mark.integration

TIME = 1_500_000_000
LOOK = "cat /etc/hosts /etc/resolv.conf >/dev/null && ls /proc/self >/dev/null && ls /sys/kernel >/dev/null"


@pytest.fixture
def roots(shm_path: Path) -> Roots:
    """A place for layers and RUNs."""
    return Roots(shm_path)


def test_nothing_changed_leaves_nothing(roots: Roots) -> None:
    """The upper directory of `true` is empty, though the image lacks every mount point."""
    ran = roots.shell(LOOK)
    assert (ran.code, ran.stderr, ran.changes) == (0, "", {})


def test_upper_holds_what_the_command_changed(roots: Roots) -> None:
    """Additions, changes, removals and replaced directories: each in overlayfs's own format."""
    base = roots.layer("base")
    for name in ("keep", "change", "remove", "move"):
        (base / name).write_text(name)
    for name in ("gone", "again", "moved"):
        (base / name).mkdir()
        (base / name / "old").write_text("old")
    script = """
        echo new > /add; echo more >> /change; rm /remove; mv /move /there
        rm -r /gone; rm -r /again; mkdir /again; echo x > /again/new; mv /moved /elsewhere
    """
    ran = roots.shell(script, above=(base,))
    assert (ran.code, ran.stderr) == (0, "")
    assert ran.changes == {
        "add": "new\n",
        "change": "changemore\n",
        "remove": "whiteout",
        "move": "whiteout",
        "there": "move",
        "gone": "whiteout",
        "again": "opaque dir",
        "again/new": "x\n",
        "moved": "whiteout",
        "elsewhere": "dir",
        "elsewhere/old": "old",
    }


def test_an_upper_directory_is_the_next_lower(roots: Roots) -> None:
    """The next RUN sees what the last one made, removed and replaced (also after ``volatile``)."""
    base = roots.layer("base")
    (base / "d").mkdir()
    (base / "d/old").write_text("old")
    (base / "gone").write_text("")
    first = roots.shell("rm -r /d /gone; mkdir /d; echo new > /d/new; sync", above=(base,))
    second = roots.shell("ls -d /gone; ls /d; rm -r /d", above=(first.upper, base))
    assert (second.stdout, second.changes) == ("new\n", {"d": "whiteout"})
    third = roots.shell("ls -d /d", above=(second.upper, first.upper, base))
    assert third.code == 1


def test_mount_points_that_exist_need_no_stub(roots: Roots) -> None:
    """An image that has every mount point gets no layer above it, and keeps them as they are."""
    base = roots.layer("base")
    for name in ("proc", "sys", "dev", "etc"):
        (base / name).mkdir()
    (base / "etc/hosts").write_text("mine")
    (base / "etc/resolv.conf").write_text("mine")
    ran = roots.shell(LOOK + " && grep -q lowerdir=0:1, /proc/mounts", above=(base,))
    assert (ran.code, ran.changes) == (0, {})
    assert os.listdir(ran.spec.work / "stub") == []
    assert (base / "etc/hosts").read_text() == "mine"


def test_resolv_conf_may_be_a_link(roots: Roots) -> None:
    """A link to nowhere is covered by the machine's file, and is what it was afterwards."""
    base = roots.layer("base")
    (base / "etc").mkdir()
    (base / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    ran = roots.shell("cat /etc/resolv.conf", above=(base,), resolv_conf=b"nameserver 192.0.2.1\n")
    assert (ran.stdout, ran.changes) == ("nameserver 192.0.2.1\n", {})
    next_ran = roots.shell("touch /etc/x", above=(ran.upper, base))
    assert next_ran.changes == {"etc": "dir", "etc/x": ""}
    assert (base / "etc/resolv.conf").is_symlink()


def test_hosts_may_be_a_directory(roots: Roots) -> None:
    """Whatever stands where a file belongs is covered, a directory too."""
    base = roots.layer("base")
    (base / "etc/hosts/inside").mkdir(parents=True)
    ran = roots.shell("test -f /etc/hosts && " + LOOK, above=(base,))
    assert (ran.code, ran.changes) == (0, {})


def test_etc_copied_up_keeps_its_attributes(roots: Roots) -> None:
    """A file added beside a stub's mount point copies up the image's /etc, not the stub's."""
    base = roots.layer("base")
    etc = base / "etc"
    etc.mkdir()
    os.chown(etc, 7, 8)
    etc.chmod(0o2751)
    os.setxattr(etc, "trusted.test", b"value")
    os.utime(etc, (TIME, TIME))
    ran = roots.shell("stat -c '%a %u %g %Y' /etc; > /etc/added", above=(base,))
    assert ran.stdout == f"2751 7 8 {TIME}\n"
    status = (ran.upper / "etc").stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o2751, 7, 8)
    assert os.getxattr(ran.upper / "etc", "trusted.test") == b"value"


def test_etc_touched_but_not_written_keeps_its_time(roots: Roots) -> None:
    """A directory that is copied up for its attributes alone has the image's mtime."""
    base = roots.layer("base")
    (base / "etc").mkdir()
    os.utime(base / "etc", (TIME, TIME))
    ran = roots.shell("chmod 700 /etc", above=(base,))
    assert ran.changes == {"etc": "dir"}
    assert (ran.upper / "etc").stat().st_mtime == TIME


def test_attributes_come_from_the_topmost_layer(roots: Roots) -> None:
    """Of several layers that have /etc, the topmost tells how it looks; so with the root itself."""
    low, top = roots.layer("low"), roots.layer("top")
    for layer, mode in ((low, 0o700), (top, 0o711)):
        (layer / "etc").mkdir()
        (layer / "etc").chmod(mode)
    top.chmod(0o750)
    os.chown(top, 3, 4)
    os.utime(top, (TIME, TIME))
    ran = roots.shell("stat -c %a /etc; stat -c '%a %u %g %Y' /", above=(top, low))
    assert ran.stdout == f"711\n750 3 4 {TIME}\n"


@pytest.mark.parametrize("target", ["usr/etc", "/usr/etc", "../../../usr/etc"])
def test_etc_may_be_a_link(roots: Roots, target: str) -> None:
    """An /etc that leads elsewhere in the image is followed there, and never out of the root."""
    base = roots.layer("base")
    (base / "usr/etc").mkdir(parents=True)
    (base / "etc").symlink_to(target)
    ran = roots.shell(LOOK + " && cat /usr/etc/hosts && > /etc/added", above=(base,))
    assert "localhost" in ran.stdout
    assert ran.changes == {"usr": "dir", "usr/etc": "dir", "usr/etc/added": ""}


def test_etc_may_lead_nowhere(roots: Roots) -> None:
    """Where /etc is a file, or a link to nothing, the image stays as it is and the RUN works."""
    for kind in ("file", "link", "loop"):
        base = roots.layer(kind)
        if kind == "file":
            (base / "etc").write_text("a file")
        else:
            (base / "etc").symlink_to("etc" if kind == "loop" else "nowhere/at/all")
        ran = roots.shell(
            "test -f /etc || test -L /etc; test -d /proc/self && ! test -e /nowhere", above=(base,)
        )
        assert (ran.code, ran.stdout, ran.changes) == (0, "", {}), kind


def test_etc_whited_out(roots: Roots) -> None:
    """A removed /etc does not come back through the stub, not even when it is written to."""
    base, removed = roots.layer("base"), roots.layer("removed")
    (base / "etc").mkdir()
    (base / "etc/secret").write_text("old")
    whiteout(removed / "etc")
    above = (removed, base)
    ran = roots.shell("ls /etc; echo x > /etc/new", above=above)
    assert (ran.stdout, ran.changes) == ("hosts\nresolv.conf\n", {"etc": "dir", "etc/new": "x\n"})
    assert roots.shell("ls /etc", above=(ran.upper, *above)).stdout == "hosts\nnew\nresolv.conf\n"


def test_mount_point_whited_out(roots: Roots) -> None:
    """A removed mount point is there for the RUN, and removed again afterwards."""
    base, removed = roots.layer("base"), roots.layer("removed")
    (base / "etc").mkdir()
    (base / "etc/hosts").write_text("old")
    (base / "dev").mkdir()
    (removed / "etc").mkdir()
    whiteout(removed / "etc/hosts")
    whiteout(removed / "dev")
    ran = roots.shell("grep -q localhost /etc/hosts && > /dev/null", above=(removed, base))
    assert (ran.code, ran.changes) == (0, {})


def test_opaque_etc(roots: Roots) -> None:
    """What an opaque directory hides stays hidden under the stub."""
    base, top = roots.layer("base"), roots.layer("top")
    (base / "etc").mkdir()
    (base / "etc/old").write_text("old")
    (top / "etc").mkdir()
    os.setxattr(top / "etc", "trusted.overlay.opaque", b"y")
    ran = roots.shell("ls /etc; > /etc/new", above=(top, base))
    assert ran.stdout == "hosts\nresolv.conf\n"
    assert ran.changes == {"etc": "dir", "etc/new": ""}
    only = roots.shell("ls /etc", lower_directories=(ran.upper, top, base, roots.busybox))
    assert only.stdout == "hosts\nnew\nresolv.conf\n"


def test_proc_may_be_a_link(roots: Roots) -> None:
    """A link or file where a system directory belongs is covered while the command runs."""
    base = roots.layer("base")
    (base / "proc").symlink_to("tmp")
    (base / "dev").write_text("a file")
    (base / "tmp").mkdir()
    ran = roots.shell("test -d /proc/self && ls -A /tmp && > /dev/null", above=(base,))
    assert (ran.code, ran.stdout, ran.changes) == (0, "", {})
    assert (base / "proc").is_symlink()


def test_no_layer_at_all(roots: Roots) -> None:
    """FROM scratch: nothing to run, said so; nothing is left."""
    ran = roots.run("/bin/sh", lower_directories=())
    assert ran.code == 127
    assert ran.stderr == "asyncbuild: cannot run /bin/sh: not found\n"
    assert ran.changes == {}


def test_three_hundred_layers(roots: Roots) -> None:
    """A root of 300 layers shows all of them, the topmost first."""
    layers = []
    for number in range(300):
        layer = roots.layer(f"{number:03d}")
        (layer / f"file{number}").write_text("")
        (layer / "same").write_text(str(number))
        layers.append(layer)
    ran = roots.shell("ls / | grep -c file; cat /same", above=tuple(reversed(layers)))
    assert (ran.stdout, ran.changes) == ("300\n299", {})


def test_a_layer_that_is_there_twice(roots: Roots) -> None:
    """Layers of equal bytes are one directory: what is between them is covered by the upper one."""
    twice, between = roots.layer("twice"), roots.layer("between")
    (twice / "file").write_text("twice")
    (between / "file").write_text("between")
    (between / "more").write_text("more")
    ran = roots.shell("cat /file /more", above=(twice, between, twice))
    assert (ran.stdout, ran.changes) == ("twicemore", {})


def test_as_many_layers_as_there_may_be(roots: Roots) -> None:
    """The greatest number works together with a stub; one more is refused in words."""
    layers = tuple(roots.layer(str(number)) for number in range(MAX_LOWER_DIRECTORIES - 1))
    assert roots.shell(LOOK, above=layers).code == 0
    with pytest.raises(IsolationError, match="500 layers"):
        roots.shell("true", above=(roots.layer("more"), *layers))


def test_paths_may_hold_anything(roots: Roots) -> None:
    """Colons, commas, backslashes, blanks, undecodable bytes and long names need no care."""
    name = "a:b,c\\d e=" + os.fsdecode(b"\xff") + "x" * 200
    deep = roots.layer(name + "/" + "y" * 250)
    (deep / "found").write_text("")
    assert roots.shell("ls -d /found", above=(deep,)).stdout == "/found\n"


def test_files_keep_their_identity(roots: Roots) -> None:
    """A file is on its directory's device, and writing to it does not change its inode number."""
    base = roots.layer("base")
    (base / "file").write_text("x")
    script = (
        "stat -c %d / /file | sort -u | wc -l; stat -c %i /file; echo y >> /file; stat -c %i /file"
    )
    devices, before, after = roots.shell(script, above=(base,)).stdout.split()
    assert (devices, before) == ("1", after)


def test_a_missing_layer_is_an_isolation_error(roots: Roots) -> None:
    """A lower directory that is not there fails the mount of the root, by name."""
    with pytest.raises(IsolationError, match="mounting the root failed: No such file"):
        roots.shell("true", above=(roots.path / "nothing",))
