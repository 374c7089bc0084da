"""The registry double against skopeo, which did not grow up with it."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import trio

from asyncbuild.image.config import HistoryEntry, ImageConfig
from asyncbuild.image.digest import DiffId, Digest
from asyncbuild.image.manifest import Index, Manifest
from asyncbuild.image.platform import Platform
from asyncbuild.testing.registry import RegistryDouble
from asyncbuild.testing.registry_auth import BasicAccess, Permission, TokenAccess
from asyncbuild.testing.registry_server import serving

TAR = bytes(10_240)
AMD64 = Platform("linux", "amd64")
T = TypeVar("T")


def served(double: RegistryDouble, use: Callable[[str], Awaitable[T]]) -> T:
    """Run ``use`` with the host of a served double."""

    async def main() -> T:
        async with serving(double) as host:
            return await use(host)

    return trio.run(main)


async def skopeo(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run skopeo; it may fail."""
    return await trio.run_process(
        ["skopeo", *arguments], capture_stdout=True, capture_stderr=True, check=False
    )


def test_image_is_pulled(shm_path: Path) -> None:
    """An image that was put in is what skopeo takes out, bit for bit."""
    double = RegistryDouble()
    image = double.add_image("team/app", "1.0", layers=[TAR, TAR + TAR])

    async def use(host: str) -> None:
        source = f"docker://{host}/team/app:1.0"
        done = await skopeo(
            "copy", "--src-tls-verify=false", "--preserve-digests", source, f"dir:{shm_path / 'x'}"
        )
        assert done.returncode == 0, done.stderr

    served(double, use)
    for descriptor in (image.config, *image.layers):
        assert descriptor.digest.matches((shm_path / "x" / descriptor.digest.hex).read_bytes())
    assert (shm_path / "x" / "manifest.json").read_bytes() == image.raw


def test_image_is_made_as_asked() -> None:
    """Diff ids are those of the uncompressed layers; history and runtime are the caller's."""
    double = RegistryDouble()
    config = ImageConfig(AMD64, history=(HistoryEntry("FROM nothing"),), author="me")
    image = double.add_image("a", "latest", config, [TAR])
    stored = ImageConfig.parse(double.blobs["a"][image.config.digest])
    assert stored.diff_ids == (DiffId.of(TAR),)
    assert (stored.author, stored.history) == ("me", config.history)
    assert gzip.decompress(double.blobs["a"][image.layers[0].digest]) == TAR
    plain = double.add_image("a", None, config, [TAR], compress=False)
    assert plain.layers[0].digest == Digest.of(TAR)


def test_index_is_inspected() -> None:
    """An index leads to the image of a platform."""
    double = RegistryDouble()
    image = double.add_image("a", None)
    index = double.add_index("a", "multi", {AMD64: image, Platform("linux", "arm64"): image})

    async def use(host: str) -> bytes:
        return (
            await skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{host}/a:multi")
        ).stdout

    assert served(double, use) == index.raw
    assert isinstance(double.manifest("a", "multi"), Index)


def test_image_is_pushed(shm_path: Path) -> None:
    """What skopeo pushes, with a password, is there."""
    double = RegistryDouble(BasicAccess({"bob": "secret"}))
    other = RegistryDouble()
    image = other.add_image("a", "latest", layers=[TAR])
    layout = shm_path / "layout" / "blobs" / "sha256"
    layout.mkdir(parents=True)
    for data in (image.raw, *other.blobs["a"].values()):
        (layout / Digest.of(data).hex).write_bytes(data)
    (shm_path / "layout" / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    entries = {"schemaVersion": 2, "manifests": [image.descriptor.to_json()]}
    (shm_path / "layout" / "index.json").write_text(json.dumps(entries))

    async def use(host: str) -> None:
        options = ["--dest-tls-verify=false", "--dest-creds=bob:secret"]
        target = f"docker://{host}/b:new"
        done = await skopeo("copy", *options, f"oci:{shm_path / 'layout'}", target)
        assert done.returncode == 0, done.stderr

    served(double, use)
    pushed = double.manifest("b", "new")
    assert isinstance(pushed, Manifest)
    assert set(double.blobs["b"]) == {pushed.config.digest, *(e.digest for e in pushed.layers)}


def test_tokens() -> None:
    """Who has no right gets none: skopeo's own token conversation."""
    access = TokenAccess(
        {"bob": "secret"}, permissions=(Permission("public", frozenset({"pull"})),)
    )
    double = RegistryDouble(access)
    for name in ("public", "private"):
        double.add_image(name, "latest")

    async def use(host: str) -> list[bool]:
        async def may(*arguments: str) -> bool:
            done = await skopeo("inspect", "--raw", "--tls-verify=false", *arguments)
            return done.returncode == 0

        login = "--creds=bob:secret"
        return [
            await may(f"docker://{host}/public"),
            await may(f"docker://{host}/private"),
            await may(login, f"docker://{host}/private"),
            await may("--creds=bob:wrong", f"docker://{host}/private"),
        ]

    assert served(double, use) == [True, False, True, False]


def test_log() -> None:
    """Every request is written down, with its bytes and times, and can be asked for."""
    double = RegistryDouble()
    image = double.add_image("a", "latest")

    async def use(host: str) -> None:
        await skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{host}/a:latest")

    served(double, use)
    (entry,) = double.asked("GET", "manifests")
    assert str(entry) == "GET /v2/a/manifests/latest 200"
    assert (entry.bytes_in, entry.bytes_out) == (0, len(image.raw))
    assert entry.ended is not None
    assert entry.started <= entry.ended
