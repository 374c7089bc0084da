"""Build and push every example through a local docker-registry; print time, requests, bytes and digest.

Run by scripts/quickstart, which sets the machine up first. The registry keeps everything in a temporary
directory and ends with this program.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from support.bases import busybox_image, cache_directory, debian_image
from support.images import Image
from support.registry import DockerRegistry, running_registry

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
BASES: dict[str, Callable[[], Image]] = {"debian": debian_image, "busybox": busybox_image}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What building one example took: seconds; requests, as the registry logged them; bytes, as asyncbuild
    counted them; and what came of it.
    """

    name: str
    seconds: float
    requests: int
    received: int
    sent: int
    image_size: int
    layers: int
    digest: str


def main() -> int:
    """Build the examples that the command line names, or all."""
    known = sorted(path.parent.name for path in EXAMPLES.glob("*/Dockerfile"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("example", nargs="*", help=f"one of {', '.join(known)}")
    names = parser.parse_args().example or known
    if unknown := set(names) - set(known):
        parser.error(f"no such example: {', '.join(sorted(unknown))}")
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="asyncbuild-quickstart-", dir=memory) as work:
        with running_registry(Path(work) / "registry") as registry:
            print(
                f"registry: {registry.host} (docker-registry, ends with this program)", flush=True
            )
            bases = {name: _push_base(registry, name) for name in sorted(_needed(names))}
            outcomes = [_build(registry, bases, name, Path(work)) for name in names]
            _print_table(outcomes)
    return 0


def _base_of(name: str) -> str | None:
    """The base that an example's ``ARG BASE=`` line asks for: debian, busybox, or none."""
    text = (EXAMPLES / name / "Dockerfile").read_text()
    found = re.search(r"^ARG BASE=(\w+)", text, re.MULTILINE)
    return found[1] if found else None


def _needed(names: list[str]) -> set[str]:
    return {base for name in names if (base := _base_of(name)) is not None}


def _push_base(registry: DockerRegistry, name: str) -> str:
    started = time.monotonic()
    image = BASES[name]()
    image.push(registry, f"base/{name}")
    size = sum(len(layer.data) for layer in image.layers)
    seconds = time.monotonic() - started
    place = f" (kept in {cache_directory()})" if name == "debian" else ""
    print(f"base {name}: {size / 1e6:.1f} MB in {seconds:.1f} s{place}", flush=True)
    return f"{registry.host}/base/{name}:latest"


def _build(registry: DockerRegistry, bases: dict[str, str], name: str, work: Path) -> Outcome:
    reference = f"{registry.host}/examples/{name}:latest"
    metadata = work / f"{name}.json"
    command = [f"{os.path.dirname(sys.executable)}/asyncbuild", "build", "--tag", reference]
    command += ["--store", str(work / "store"), "--metadata-file", str(metadata)]
    command += ["--progress", "plain"]
    base = _base_of(name)
    if base is not None:
        command += ["--build-arg", f"BASE={bases[base]}"]
    print(f"\n== {name}\n$ {' '.join(['asyncbuild', *command[1:]])} examples/{name}", flush=True)
    mark = registry.mark()
    started = time.monotonic()
    subprocess.run([*command, str(EXAMPLES / name)], check=True)
    seconds = time.monotonic() - started
    facts = json.loads(metadata.read_text())
    sizes = _layer_sizes(registry, f"examples/{name}", facts["containerimage.digest"])
    return Outcome(
        name=name,
        seconds=seconds,
        requests=len(registry.requests(mark)),
        received=facts["asyncbuild.bytes_received"],
        sent=facts["asyncbuild.bytes_sent"],
        image_size=sum(sizes),
        layers=len(sizes),
        digest=facts["containerimage.digest"],
    )


def _layer_sizes(registry: DockerRegistry, repository: str, digest: str) -> list[int]:
    """The compressed sizes of a pushed image's layers, in bytes."""
    accept = "application/vnd.oci.image.manifest.v1+json"
    accept += ", application/vnd.docker.distribution.manifest.v2+json"
    path = f"/v2/{repository}/manifests/{digest}"
    manifest = json.loads(registry.call("GET", path, headers={"Accept": accept})[2])
    return [layer["size"] for layer in manifest["layers"]]


def _print_table(outcomes: list[Outcome]) -> None:
    print(
        "\nPushed. Received and sent: by asyncbuild, to and from the registry; image: compressed layers."
    )
    head = ("example", "seconds", "requests", "received", "sent", "image", "layers", "digest")
    rows = [
        (
            outcome.name,
            f"{outcome.seconds:.1f}",
            str(outcome.requests),
            _megabytes(outcome.received),
            _megabytes(outcome.sent),
            _megabytes(outcome.image_size),
            str(outcome.layers),
            outcome.digest,
        )
        for outcome in outcomes
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size / 1e3:.1f} kB"


if __name__ == "__main__":
    sys.exit(main())
