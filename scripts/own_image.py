"""Build the tool's own image by itself, then the examples by that image.

Run by scripts/own-image, which sets the machine up first. The base is Debian's minbase, the packages are
wheels that pip downloads through this machine's configuration; both need the network once. The image is
pulled by skopeo and unpacked by umoci; each example is built in its root, in namespaces of its own, and is
compared with what the same build gives outside where that is the same every time.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.bases import busybox_image, debian_image
from support.pulled import pull, unpack
from support.registry import DockerRegistry, running_registry

HERE = Path(__file__).resolve().parent.parent
PYTHON = Path(sys.executable)
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
            for target in TARGETS:
                build_own(registry, context, target, names["debian"], work / "store")
            root, config = unpacked(f"{registry.host}/own:asyncbuild", work)
            for example in EXAMPLES:
                check_example(registry, example, names, (root, config, work))
            check_kaniko(registry, names, (root, config, work))
    return 0


def stage_context(context: Path) -> Path:
    """What deploy/Dockerfile needs: tracked files as they are now, and wheels."""
    context.mkdir()
    wanted = ["src", "requirements", "deploy", "pyproject.toml", "README.md", "LICENSE"]
    listing = ["git", "-C", str(HERE), "ls-files", "-z", "--", *wanted]
    for name in subprocess.run(listing, check=True, capture_output=True, text=True).stdout.split(
        "\0"
    ):
        if name and (HERE / name).is_file():
            (context / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(HERE / name, context / name)
    for table in ("image", "build"):
        pip = [str(PYTHON), "-m", "pip", "download", "-qq", "--require-hashes", "--no-deps"]
        pip += ["-r", str(HERE / f"requirements/{table}.txt"), "-d", str(context / "wheels")]
        subprocess.run(pip, check=True)
    size = sum(path.stat().st_size for path in (context / "wheels").iterdir())
    print(f"wheels: {size / 1e6:.1f} MB", flush=True)
    return context


def build_own(registry: DockerRegistry, context: Path, target: str, base: str, store: Path) -> None:
    """One target of deploy/Dockerfile, pushed as ``own:TARGET``."""
    reference = f"{registry.host}/own:{target}"
    command = [str(PYTHON.parent / "asyncbuild"), "build", "-t", reference, "--target", target]
    command += ["-f", str(context / "deploy/Dockerfile"), "--store", str(store)]
    command += ["--build-arg", f"BASE={base}", "--build-arg", "PIP_NO_INDEX=1"]
    command += ["--build-arg", "PIP_FIND_LINKS=/build/wheels", "--progress", "quiet", str(context)]
    started = time.monotonic()
    digest = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
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
