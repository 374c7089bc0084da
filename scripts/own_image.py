"""Build the tool's own image by itself, then the examples by that image.

Run by scripts/own-image, which sets the machine up first. The base is Debian's minbase, the packages are
wheels that pip downloads through this machine's configuration; both need the network once. The image is
pulled by skopeo and unpacked by umoci; each example is built in its root, in namespaces of its own, and is
compared with what the same build gives outside where that is the same every time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.bases import busybox_image, debian_image
from support.own_image import HERE, PYTHON, build_own, stage_context
from support.pulled import pull, unpack
from support.registry import DockerRegistry, running_registry

TARGETS = ("slim", "asyncbuild", "executor", "warmer", "debug")
EXAMPLES = {
    "hello": "busybox",
    "metadata-only": "busybox",
    "static-c": "debian",
    "webservice": "debian",
}
ALWAYS_THE_SAME = ("hello", "metadata-only")
EPOCH = "1700000000"
MOUNTED = """
set -e
root=$1 examples=$2; shift 2
mount --make-rprivate /
mount --bind $root $root
mount -t proc proc $root/proc
mount --rbind /sys $root/sys
mount --rbind /dev $root/dev
mount -t tmpfs tmpfs $root/tmp
mount -t tmpfs tmpfs $root/var/lib/asyncbuild
mount --bind $examples $root/workspace
touch $root/etc/resolv.conf
mount --bind -o ro /etc/resolv.conf $root/etc/resolv.conf
exec env --ignore-environment "${variables[@]}" /usr/sbin/chroot $root "$@"
"""


def main() -> int:
    """Build, pull, build again inside."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="asyncbuild-own-image-", dir=memory) as name:
        work = Path(name)
        with running_registry(work / "registry") as registry:
            bases = {
                "debian": debian_image().push(registry, "base/debian"),
                "busybox": busybox_image().push(registry, "base/busybox"),
            }
            names = {base: f"{registry.host}/base/{base}:latest" for base in bases}
            context = stage_context(work / "context")
            report_size(context)
            for target in TARGETS:
                build_target(registry, context, target, names["debian"], work / "store")
            root, config = unpacked(f"{registry.host}/own:asyncbuild", work)
            for example in EXAMPLES:
                check_example(registry, example, names, (root, config, work))
            check_kaniko(registry, names, (root, config, work))
    return 0


def report_size(context: Path) -> None:
    """How much of the context the wheels are."""
    size = sum(path.stat().st_size for path in (context / "wheels").iterdir())
    print(f"wheels: {size / 1e6:.1f} MB", flush=True)


def build_target(
    registry: DockerRegistry, context: Path, target: str, base: str, store: Path
) -> None:
    """One target of deploy/Dockerfile, and what it cost."""
    started = time.monotonic()
    digest = build_own(registry, context, target, base, store)
    seconds = time.monotonic() - started
    sizes = [layer["size"] for layer in manifest(registry, "own", digest)["layers"]]
    print(
        f"own:{target}: {seconds:.1f} s, {sum(sizes) / 1e6:.1f} MB, {len(sizes)} layers", flush=True
    )


def manifest(registry: DockerRegistry, repository: str, reference: str) -> dict[str, Any]:
    """A manifest as the registry has it."""
    accept = "application/vnd.oci.image.manifest.v1+json"
    accept += ", application/vnd.docker.distribution.manifest.v2+json"
    path = f"/v2/{repository}/manifests/{reference}"
    document: dict[str, Any] = json.loads(registry.call("GET", path, headers={"Accept": accept})[2])
    return document


def unpacked(reference: str, work: Path) -> tuple[Path, dict[str, Any]]:
    """The image's root, and its configuration."""
    pulled = pull(reference, work)
    config: dict[str, Any] = pulled.configuration["config"]
    return unpack(pulled, work), config


Inside = tuple[Path, dict[str, Any], Path]
"""The root, the configuration and the scratch directory."""


def run_inside(inside: Inside, program: list[str], more: Mapping[str, str]) -> str:
    """Run a program of the image in its root; its standard output."""
    root, config, _ = inside
    variables = [*config["Env"], *(f"{name}={value}" for name, value in more.items())]
    quoted = " ".join(f"'{item}'" for item in variables)
    script = f"variables=({quoted})\n{MOUNTED}"
    isolated = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--", "bash", "-c", script]
    command = [*isolated, "own-image", str(root), str(HERE / "examples"), *program]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(program)}: exit code {done.returncode}")
    return done.stdout.strip()


def check_example(
    registry: DockerRegistry, name: str, bases: Mapping[str, str], inside: Inside
) -> None:
    """Build an example in the image, and outside if that must give the same digest."""
    entry: list[str] = inside[1]["Entrypoint"]
    arguments = ["build", "-t", f"{registry.host}/inside/{name}:1", "--progress", "quiet"]
    arguments += ["--build-arg", f"BASE={bases[EXAMPLES[name]]}"]
    started = time.monotonic()
    epoch = {"SOURCE_DATE_EPOCH": EPOCH}
    digest = run_inside(inside, [*entry, *arguments, f"/workspace/{name}"], epoch)
    seconds = time.monotonic() - started
    verdict = ""
    if name in ALWAYS_THE_SAME:
        outside = [
            str(PYTHON.parent / "asyncbuild"),
            *arguments,
            "--store",
            str(inside[2] / "other"),
        ]
        environ = {**os.environ, **epoch}
        same = subprocess.run(
            [*outside, str(HERE / "examples" / name)],
            env=environ,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout.strip()
        if same != digest:
            raise SystemExit(f"{name}: {digest} inside, {same} outside")
        verdict = ", as outside"
    print(f"inside {name}: {seconds:.1f} s, {digest[:19]}{verdict}", flush=True)


def check_kaniko(registry: DockerRegistry, bases: Mapping[str, str], inside: Inside) -> None:
    """The names of kaniko's programs, where kaniko's image has them."""
    executor = ["/kaniko/executor", "--context", "dir:///workspace/hello", "-v", "error"]
    executor += ["--destination", f"{registry.host}/inside/kaniko:1"]
    executor += ["--build-arg", f"BASE={bases['busybox']}"]
    print(f"inside /kaniko/executor: {run_inside(inside, executor, {})[:19]}", flush=True)
    warmer = ["/kaniko/warmer", "--cache-dir", "/tmp/cache", "-v", "error"]
    warmed = run_inside(inside, [*warmer, "--image", bases["busybox"]], {})
    print(f"inside /kaniko/warmer: {warmed}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
