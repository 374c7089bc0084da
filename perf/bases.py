"""The base images of the bench: a many-layer Debian and four sibling bases, made once and cached.

Debian comes from debootstrap with the mirror that this machine's apt is configured with; the layers
above it come from ``apt-get install`` in a buildah build, so that no builder under test has made its
own input. Everything lies under ``cache_directory()``: an OCI layout ``layout`` with one tag per base,
and ``seed``, the storage of a docker-registry that already holds all of them (``bases/many``,
``bases/a`` ... ``bases/d``, ``bases/large``, ``bases/small-layers``).
"""

from __future__ import annotations

import functools
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

from perf.farsite import Registry

#: The many-layer base: one layer per line, in this order, on top of Debian's minbase.
MANY_LAYERS = (
    "ca-certificates curl openssl",
    "gcc libc6-dev",
    "g++",
    "make cmake",
    "python3",
    "python3-dev python3-venv python3-pip",
    "git",
    "gdb-minimal strace",
    "libssl-dev zlib1g-dev libffi-dev libsqlite3-dev",
    "nano less rsync",
)

#: J3's four bases: each is Debian's minbase and one layer, as today's language images are siblings.
SIBLINGS = {
    "a": "gcc libc6-dev make",
    "b": "python3 python3-venv",
    "c": "git curl ca-certificates",
    "d": "perl libperl-dev sqlite3",
}

#: Bases whose layers above Debian's do not compress: how many, and how many MB each (J7, J8).
RANDOM_LAYERS = {"large": (1, 500), "small-layers": (31, 1)}

_INSTALL = (
    "RUN apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends {} "
    "&& rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/aux-cache /var/log/*"
)


@dataclass(frozen=True, slots=True)
class BaseLayer:
    """One layer of a base: bytes compressed, bytes of the files in it, number of tar entries."""

    digest: str
    size: int
    unpacked: int
    entries: int


def cache_directory() -> Path:
    """``$PERF_CACHE``, or a directory of its own on the machine's tmpfs."""
    return Path(os.environ.get("PERF_CACHE", "/dev/shm/asyncbuild-perf"))


def seed_directory() -> Path:
    """The storage of a docker-registry that holds every base; made by `make_bases`."""
    return cache_directory() / "seed"


def load_bases() -> dict[str, tuple[BaseLayer, ...]]:
    """The layers of the bases that `make_bases` made, by the base's name; siblings share layers."""
    records = json.loads((cache_directory() / "bases.json").read_text())
    return {name: tuple(BaseLayer(**layer) for layer in layers) for name, layers in records.items()}


def apt_mirror() -> tuple[str, str]:
    """Mirror URL and suite of the machine's own Debian, from deb822 or one-line sources."""
    texts = [path.read_text() for path in Path("/etc/apt/sources.list.d").glob("*.sources")]
    for text in texts:
        uri = re.search(r"^URIs:\s*(\S+/debian/?)\s*$", text, re.MULTILINE)
        suite = re.search(r"^Suites:\s*(\S+)", text, re.MULTILINE)
        if uri and suite:
            return uri[1], suite[1]
    one_line = Path("/etc/apt/sources.list")
    found = one_line.exists() and re.search(
        r"^deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+(\S+)", one_line.read_text(), re.MULTILINE
    )
    if not found:
        raise SystemExit("perf/bases: no Debian mirror in /etc/apt: the bases cannot be made")
    return found[1], found[2]


def make_bases() -> None:
    """Make every base that is not there yet (some minutes the first time)."""
    cache = cache_directory()
    wanted = {"many", *SIBLINGS, *RANDOM_LAYERS}
    if (cache / "bases.json").exists() and wanted <= load_bases().keys():
        return
    cache.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    _debootstrap(cache)
    steps = {"many": [_INSTALL.format(packages) for packages in MANY_LAYERS]}
    steps |= {name: [_INSTALL.format(packages)] for name, packages in SIBLINGS.items()}
    steps |= {name: _random_steps(cache, *shape) for name, shape in RANDOM_LAYERS.items()}
    for name, lines in steps.items():
        _build(cache, name, lines)
    _seed(cache)
    shutil.rmtree(cache / "buildah", ignore_errors=True)
    print(f"perf/bases: made in {time.monotonic() - started:.0f} s under {cache}", file=sys.stderr)


def _debootstrap(cache: Path) -> None:
    archive = cache / "minbase.tar"
    if archive.exists():
        return
    root = cache / "minbase"
    shutil.rmtree(root, ignore_errors=True)
    mirror, suite = apt_mirror()
    _run("debootstrap", "--variant=minbase", suite, str(root), mirror)
    _carry_apt_settings(root)
    for waste in ("var/cache/apt/archives", "var/lib/apt/lists", "var/log"):
        shutil.rmtree(root / waste, ignore_errors=True)
        (root / waste).mkdir(parents=True)
    partial = cache / "minbase.tar.partial"
    sorted_tar = (
        "tar",
        "--sort=name",
        "--numeric-owner",
        "--mtime=@0",
        "-C",
        str(root),
        "-cf",
        str(partial),
    )
    _run(*sorted_tar, "--exclude=./dev/*", ".")
    partial.rename(archive)
    shutil.rmtree(root)


def _carry_apt_settings(root: Path) -> None:
    """Let apt inside the image reach the mirror as this machine does (proxy, certificates, dates)."""
    for path in Path("/etc/apt/apt.conf.d").iterdir():
        if re.search(r"Acquire|Check-", path.read_text()):
            shutil.copy(path, root / "etc/apt/apt.conf.d" / path.name)


def _random_steps(cache: Path, count: int, megabytes: int) -> list[str]:
    """Instructions that add ``count`` files of random bytes, the same ones each time, a layer each."""
    context = cache / "empty"
    context.mkdir(exist_ok=True)
    for number in range(count):
        with (context / f"random-{megabytes}-{number}").open("wb") as file:
            for part in range(megabytes):
                file.write(random.Random(number * 1000 + part).randbytes(1_000_000))
    return [f"COPY random-{megabytes}-{number} /random-{number}" for number in range(count)]


def _build(cache: Path, name: str, steps: list[str]) -> None:
    """One base as an image of ``len(steps) + 1`` layers, into the OCI layout under its name."""
    context = cache / "empty"
    context.mkdir(exist_ok=True)
    if not (context / "minbase.tar").exists():
        os.link(cache / "minbase.tar", context / "minbase.tar")
    dockerfile = cache / f"Dockerfile.{name}"
    dockerfile.write_text(
        "\n".join(["FROM scratch", "ADD minbase.tar /", *steps, 'CMD ["bash"]', ""])
    )
    store = ("--root", str(cache / "buildah/root"), "--runroot", str(cache / "buildah/run"))
    driver = ("--storage-driver", "overlay")
    build = (
        "bud",
        "--layers",
        "--isolation",
        "chroot",
        "--timestamp",
        "0",
        "-q",
        "-t",
        f"perf/{name}",
    )
    _run("buildah", *store, *driver, *build, "-f", str(dockerfile), str(context))
    layout = f"oci:{cache / 'layout'}:{name}"
    _run("buildah", *store, *driver, "push", "-q", "--format", "oci", f"perf/{name}", layout)


def _seed(cache: Path) -> None:
    """Push every base into a docker-registry's storage and note what each consists of."""
    shutil.rmtree(cache / "seed", ignore_errors=True)
    with Registry(cache / "seed") as registry:
        for name in ("many", *SIBLINGS, *RANDOM_LAYERS):
            source, target = f"oci:{cache / 'layout'}:{name}", f"{registry.address}/bases/{name}:1"
            _run("skopeo", "copy", "-q", "--dest-tls-verify=false", source, f"docker://{target}")
    describe_bases(cache)


def describe_bases(cache: Path) -> None:
    """Write ``bases.json`` from the OCI layout."""
    blobs = cache / "layout/blobs/sha256"
    index = json.loads((cache / "layout/index.json").read_text())
    records = {}
    for image in index["manifests"]:
        name = image["annotations"]["org.opencontainers.image.ref.name"]
        manifest = json.loads((blobs / image["digest"].removeprefix("sha256:")).read_text())
        records[name] = [
            _describe_layer(blobs, layer["digest"], layer["size"]) for layer in manifest["layers"]
        ]
    (cache / "bases.json").write_text(json.dumps(records, indent=1))


@functools.cache
def _describe_layer(blobs: Path, digest: str, size: int) -> dict[str, object]:
    with tarfile.open(blobs / digest.removeprefix("sha256:")) as archive:
        sizes = [entry.size for entry in archive]
    return {"digest": digest, "size": size, "unpacked": sum(sizes), "entries": len(sizes)}


def _run(*arguments: str) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = (done.stdout + done.stderr)[-2000:]
        raise SystemExit(
            f"perf/bases: {' '.join(arguments[:2])} failed ({done.returncode}):\n{tail}"
        )
    return done.stdout


if __name__ == "__main__":
    make_bases()
