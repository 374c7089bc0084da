"""The base images that tests, examples and benches build on, made on this machine.

- busybox: Debian's busybox-static, its applets as links, and a few users.
- debian: debootstrap's minbase of this machine's own release, with this machine's apt configuration
  (see ``machine_apt``), so that RUN apt-get works; compressed once and kept in a cache directory.
- variants of busybox for the corners: a multi-platform index, docker media types, many layers.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from support.images import EPOCH, Image, Layer, Node, directory, sha256, symlink, text
from support.machine_apt import MachineApt, read_machine_apt

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
app:x:1000:1000:an application:/home/app:/bin/sh
other:x:1001:50:another one:/home/other:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
"""

GROUP = """\
root:x:0:
daemon:x:1:
staff:x:50:app
extra:x:60:app,other
app:x:1000:
nogroup:x:65534:
"""

_DEBIAN_RECIPE = "2"  # part of the cached file's name: changes with what _bootstrap does


@functools.cache
def busybox_layer() -> Layer:
    """A root file system around one static program; depends on nothing but its bytes."""
    program = Path(shutil.which("busybox") or "/bin/busybox").read_bytes()
    listing = subprocess.run(["busybox", "--list"], check=True, capture_output=True, text=True)
    applets = sorted(set(listing.stdout.split()) - {"busybox"})
    return Layer.of(
        directory("bin"),
        Node("bin/busybox", mode=0o755, content=program),
        *(symlink(f"bin/{applet}", "busybox") for applet in applets),
        directory("dev"),
        directory("etc"),
        text("etc/group", GROUP),
        text("etc/os-release", 'NAME="busybox for tests"\nID=busybox\n'),
        text("etc/passwd", PASSWD),
        directory("home"),
        directory("home/app", uid=1000, gid=1000),
        directory("proc"),
        directory("root", 0o700),
        directory("run"),
        directory("sys"),
        directory("tmp", 0o1777),
        directory("usr"),
        directory("usr/bin"),
        symlink("usr/bin/env", "../../bin/busybox"),
        directory("var"),
        directory("var/tmp", 0o1777),
    )


def busybox_image(family: str = "oci", *more: Layer) -> Image:
    """The busybox base, with further layers on top of it."""
    return Image((busybox_layer(), *more), {"Env": [f"PATH={PATH}"], "Cmd": ["sh"]}, family)


def multi_platform_images() -> tuple[Image, Image, Image]:
    """The busybox base for linux/amd64 between two that only say that they are arm and arm64."""
    real = busybox_image()
    wrong = Layer.of(directory("bin"), text("bin/sh", "not for this machine\n", 0o755))
    return (
        Image((wrong,), real.config, architecture="arm", variant="v7"),
        real,
        Image((wrong,), real.config, architecture="arm64", variant="v8"),
    )


def many_layer_image(count: int = 12) -> Image:
    """Busybox and ``count`` small layers: each adds a file, changes a shared one and, from the third on,
    removes what the layer two below it added.
    """
    layers = []
    for number in range(1, count + 1):
        nodes = [
            directory("srv"),
            text(f"srv/layer-{number:02d}", f"added by layer {number}\n"),
            text("srv/last", f"{number}\n"),
        ]
        if number > 2:
            nodes.append(text(f"srv/.wh.layer-{number - 2:02d}", ""))
        layers.append(Layer.of(*nodes))
    return busybox_image("oci", *layers)


def cache_directory() -> Path:
    """Where what is slow to make is kept between runs; made if missing."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = Path(os.environ.get("ASYNCBUILD_DEV_CACHE") or f"{home}/asyncbuild-dev")
    path.mkdir(parents=True, exist_ok=True)
    return path


def debian_image() -> Image:
    """Debian's minbase of this machine's release; from the cache directory if it was made before."""
    config = {"Env": [f"PATH={PATH}"], "Cmd": ["bash"]}
    return Image((_debian_layer(cache_directory()),), config, "docker")


def _debian_layer(cache: Path) -> Layer:
    apt = read_machine_apt()
    recipe = json.dumps([_DEBIAN_RECIPE, apt.codename, [f[0] for f in apt.files]]).encode()
    recipe += b"".join(content for _, content in apt.files)
    name = f"debian-{apt.codename}-{hashlib.sha256(recipe).hexdigest()[:16]}"
    data, facts = cache / f"{name}.tar.gz", cache / f"{name}.json"
    if not (data.exists() and facts.exists()):
        with tempfile.TemporaryDirectory(prefix="asyncbuild-base-", dir=_fast()) as work:
            layer = _bootstrap(Path(work), apt)
        _write(data, layer.data)
        _write(facts, json.dumps({"digest": layer.digest, "diff_id": layer.diff_id}).encode())
        return layer
    known = json.loads(facts.read_text())
    layer = Layer(data.read_bytes(), known["digest"], known["diff_id"])
    if sha256(layer.data) != layer.digest:
        data.unlink()
        return _debian_layer(cache)
    return layer


def _fast() -> str | None:
    """A directory in memory for scratch files, where there is one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_bytes(data)
    part.replace(path)


def _bootstrap(work: Path, apt: MachineApt) -> Layer:
    root = work / "root"
    command = ["debootstrap", "--variant=minbase", f"--keyring={apt.keyring}"]
    log = work / "debootstrap.log"
    with log.open("wb") as output:
        made = subprocess.run(
            [*command, apt.codename, str(root), apt.mirror],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if made.returncode != 0:
        raise RuntimeError(f"debootstrap failed:\n{log.read_text(errors='replace')[-3000:]}")
    _slim(root)
    _configure(root, apt)
    tar = work / "root.tar"
    deterministic = ["--sort=name", f"--mtime=@{EPOCH}", "--clamp-mtime", "--numeric-owner"]
    pax = ["--format=pax", "--pax-option=delete=atime,delete=ctime", "--xattrs"]
    subprocess.run(["tar", *deterministic, *pax, "-C", root, "-cf", tar, "."], check=True)
    compressed = subprocess.run(["gzip", "-n", "-6", "-c", tar], check=True, capture_output=True)
    with tar.open("rb") as stream:
        diff_id = "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()
    return Layer(compressed.stdout, sha256(compressed.stdout), diff_id)


def _slim(root: Path) -> None:
    """Remove what an image does not need: caches, logs, manuals, this machine's own names."""
    for pattern in (
        "var/cache/apt/*",
        "var/lib/apt/lists/*",
        "var/log/*",
        "var/cache/debconf/*-old",
        "var/cache/ldconfig/aux-cache",
        "var/lib/dpkg/*-old",
        "usr/share/man/*",
        "usr/share/info/*",
        "usr/share/locale/*",
        "etc/machine-id",
        "etc/hostname",
        "etc/resolv.conf",
        "etc/apt/sources.list",
    ):
        for path in root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _configure(root: Path, apt: MachineApt) -> None:
    """This machine's way to its packages, quick dpkg, and no services started by packages."""
    quick = "force-unsafe-io\n" + "".join(
        f"path-exclude /usr/share/{name}/*\n" for name in ("doc", "info", "locale", "man")
    )
    files = (
        *apt.files,
        ("etc/dpkg/dpkg.cfg.d/image", quick.encode()),
        ("usr/sbin/policy-rc.d", b"#!/bin/sh\nexit 101\n"),
    )
    for name, content in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o755 if name.startswith("usr/sbin") else 0o644)
