"""Against Debian's docker-registry, compared with skopeo."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from asyncbuild.errors import ImageNotFound, IntegrityError, NotAuthorized, RegistryError
from asyncbuild.image.config import HistoryEntry, ImageConfig
from asyncbuild.image.digest import DiffId, Digest
from asyncbuild.image.manifest import OCI_CONFIG, OCI_LAYER, Descriptor, Manifest
from asyncbuild.image.platform import Platform
from asyncbuild.registry.bodies import ChunksBody, FileBody
from asyncbuild.registry.client import RegistryClient
from asyncbuild.registry.credentials import DockerKeychain, load_docker_configs
from asyncbuild.registry.hosts import HostSettings
from asyncbuild.registry.registries import Registries, RegistrySettings
from asyncbuild.registry.upload import Mounted, UploadSession
from support.double import read_all
from support.registry import DockerRegistry

pytestmark = pytest.mark.integration

LAYER = bytes(10_240)
"""An empty tar: two blocks of zeros and more."""
BIG = random.Random(11).randbytes(5 << 20)


@dataclass(frozen=True)
class Target:
    """A running registry and how to reach it with our client and with skopeo."""

    registry: DockerRegistry
    settings: RegistrySettings
    skopeo: tuple[str, ...]


@pytest.fixture(params=["plain", "basic", "tls"])
def target(request: pytest.FixtureRequest, session_path: Path) -> Target:
    """Each kind of registry."""
    if request.param == "plain":
        return Target(
            request.getfixturevalue("registry"), RegistrySettings(), ("--tls-verify=false",)
        )
    if request.param == "basic":
        found: DockerRegistry = request.getfixturevalue("auth_registry")
        directory = str(request.getfixturevalue("auth_docker_config"))
        configs = load_docker_configs({"DOCKER_CONFIG": directory}, "/nonexistent")
        login = f"--creds={found.username}:{found.password}"
        settings = RegistrySettings(keychain=DockerKeychain(configs))
        return Target(found, settings, ("--tls-verify=false", login))
    found = request.getfixturevalue("tls_registry")
    certificates = session_path / "skopeo-certificates"
    certificates.mkdir(exist_ok=True)
    (certificates / "ca.crt").write_bytes(found.ca_file.read_bytes())
    hosts = {found.host: HostSettings(ca_files=(str(found.ca_file),))}
    return Target(found, RegistrySettings(hosts=hosts), (f"--cert-dir={certificates}",))


def using(target: Target, use: Callable[[RegistryClient], Awaitable[None]]) -> None:
    """Run ``use`` with a client of the target."""

    async def main() -> None:
        async with Registries(target.settings) as registries:
            await use(registries.client(target.registry.host))

    trio.run(main)


def skopeo(target: Target, command: str, *arguments: str) -> bytes:
    """Run skopeo; its output."""
    options = list(target.skopeo)
    if command == "copy":
        options = [f"--src-{option.removeprefix('--')}" for option in options]
    done = subprocess.run(
        ["skopeo", command, *options, *arguments], check=True, capture_output=True
    )
    return done.stdout


def image() -> tuple[Manifest, bytes]:
    """A manifest of one layer, and its configuration."""
    config = ImageConfig(
        Platform("linux", "amd64"),
        diff_ids=(DiffId.of(LAYER), DiffId.of(BIG)),
        history=(HistoryEntry("first"), HistoryEntry("second")),
    ).encode()
    layers = tuple(Descriptor(OCI_LAYER, Digest.of(data), len(data)) for data in (LAYER, BIG))
    return Manifest.make(Descriptor(OCI_CONFIG, Digest.of(config), len(config)), layers), config


async def push(client: RegistryClient, repository: str, data: bytes) -> None:
    """Push a blob in one piece, unless it is there."""
    begun = await client.mount_or_start_upload(repository, Digest.of(data))
    if isinstance(begun, UploadSession):
        await begun.put(data, Digest.of(data))


async def stream(client: RegistryClient, repository: str, data: bytes) -> None:
    """Push a blob while it is made."""
    session = await client.mount_or_start_upload(repository)
    assert isinstance(session, UploadSession)

    async def chunks() -> trio.MemoryReceiveChannel[bytes]:
        send, receive = trio.open_memory_channel[bytes](20)
        for place in range(0, len(data), 1 << 20):
            send.send_nowait(data[place : place + (1 << 20)])
        send.close()
        return receive

    assert await session.stream(ChunksBody(await chunks())) == len(data)
    await session.close(Digest.of(data))


def test_push_and_pull_back(target: Target, shm_path: Path) -> None:
    """What we push skopeo copies and finds whole; what we read back is what we wrote."""
    manifest, config = image()

    async def use(client: RegistryClient) -> None:
        client.expect("room/app", "push")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(push, client, "room/app", LAYER)
            nursery.start_soon(push, client, "room/app", config)
            nursery.start_soon(stream, client, "room/app", BIG)
        await client.put_manifest("room/app", "1.0", manifest.raw, manifest.media_type)
        found = await client.get_manifest("room/app", "1.0")
        assert found.manifest == manifest
        assert await client.get_blob("room/app", manifest.config) == config
        async with client.open_blob("room/app", manifest.layers[1]) as chunks:
            assert await read_all(chunks) == BIG
        async with client.open_blob("room/app", manifest.layers[1], start=10, end=20) as chunks:
            assert await read_all(chunks) == BIG[10:20]

    using(target, use)
    name = f"docker://{target.registry.host}/room/app:1.0"
    assert skopeo(target, "inspect", "--raw", name) == manifest.raw
    skopeo(target, "copy", "--preserve-digests", name, f"dir:{shm_path / 'copy'}")
    for descriptor in (manifest.config, *manifest.layers):
        blob = (shm_path / "copy" / descriptor.digest.hex).read_bytes()
        assert hashlib.sha256(blob).hexdigest() == descriptor.digest.hex


def test_pull_what_skopeo_pushed(target: Target, shm_path: Path) -> None:
    """An image that another tool pushed."""
    manifest, config = image()
    layout = shm_path / "layout"
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for data in (manifest.raw, config, LAYER, BIG):
        (blobs / Digest.of(data).hex).write_bytes(data)
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    entry = manifest.descriptor.to_json()
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    options = [f"--dest-{option.removeprefix('--')}" for option in target.skopeo]
    name = f"docker://{target.registry.host}/room/other:2.0"
    subprocess.run(
        ["skopeo", "copy", *options, f"oci:{layout}", name], check=True, capture_output=True
    )

    async def use(client: RegistryClient) -> None:
        found = await client.get_manifest("room/other", "2.0")
        assert isinstance(found.manifest, Manifest)
        assert found.digest == Digest.of(found.raw)
        for descriptor, data in zip(found.manifest.layers, (LAYER, BIG), strict=True):
            async with client.open_blob("room/other", descriptor) as chunks:
                got = await read_all(chunks)
            assert Digest.of(got) == descriptor.digest
            assert got == data or descriptor.media_type.endswith("gzip")
        head = await client.head_manifest("room/other", "2.0")
        assert head is not None
        assert head.digest == found.digest

    using(target, use)


def test_mounts_and_checks(target: Target, shm_path: Path) -> None:
    """A blob is mounted from another repository, found in its own, sent from a file."""
    path = shm_path / "blob"
    data = random.Random(target.registry.host).randbytes(2 << 20)
    path.write_bytes(data)
    digest = Digest.of(data)

    async def use(client: RegistryClient) -> None:
        assert not await client.blob_exists("room/one", digest)
        session = await client.mount_or_start_upload("room/one", digest)
        assert isinstance(session, UploadSession)
        await session.put(FileBody(str(path), len(data)), digest)
        assert await client.blob_exists("room/one", digest)
        assert await client.mount_or_start_upload("room/one", digest) == Mounted(digest)
        assert await client.mount_or_start_upload("room/two", digest, "room/one") == Mounted(digest)
        assert await client.blob_exists("room/two", digest)
        absent = Digest.of(b"absent")
        session = await client.mount_or_start_upload("room/two", absent, "room/one")
        assert isinstance(session, UploadSession)
        await session.abort()

    using(target, use)


def test_refusals(target: Target) -> None:
    """What the registry refuses has its error."""
    manifest, _ = image()

    async def use(client: RegistryClient) -> None:
        with pytest.raises(ImageNotFound, match="MANIFEST_UNKNOWN"):
            await client.get_manifest("room/none", "latest")
        assert await client.head_manifest("room/none", "latest") is None
        with pytest.raises(ImageNotFound):
            await client.get_blob("room/none", manifest.config)
        session = await client.mount_or_start_upload("room/bad")
        assert isinstance(session, UploadSession)
        with pytest.raises(IntegrityError, match="DIGEST_INVALID"):
            await session.put(b"data", Digest.of(b"other"))
        with pytest.raises(RegistryError, match="BLOB_UNKNOWN"):
            await client.put_manifest("room/bad", "latest", manifest.raw, manifest.media_type)

    using(target, use)


@pytest.mark.parametrize("password", ["", "wrong"])
def test_wrong_login(auth_registry: DockerRegistry, password: str) -> None:
    """Without the right password nothing is pulled, and the error says who was refused."""
    document = {
        "auths": {auth_registry.host: {"username": auth_registry.username, "password": password}}
    }
    configs = load_docker_configs({"DOCKER_AUTH_CONFIG": json.dumps(document)}, "/nonexistent")
    target = Target(auth_registry, RegistrySettings(keychain=DockerKeychain(configs)), ())

    async def use(client: RegistryClient) -> None:
        await client.get_manifest("room/app", "1.0")

    with pytest.raises(NotAuthorized, match=auth_registry.host) as caught:
        using(target, use)
    assert (
        "asyncbuild login" in (caught.value.hint or "")
        or auth_registry.username in caught.value.message
    )


def test_requests_of_a_pull(registry: DockerRegistry) -> None:
    """Resolving an image and reading its layers costs one request each, and no ping."""
    target = Target(registry, RegistrySettings(), ())
    manifest, config = image()

    async def fill(client: RegistryClient) -> None:
        for data in (LAYER, BIG, config):
            await push(client, "room/counted", data)
        await client.put_manifest("room/counted", "1.0", manifest.raw, manifest.media_type)

    async def pull(client: RegistryClient) -> None:
        found = await client.get_manifest("room/counted", "1.0")
        assert isinstance(found.manifest, Manifest)
        for descriptor in (found.manifest.config, *found.manifest.layers):
            async with client.open_blob("room/counted", descriptor) as chunks:
                await read_all(chunks)

    using(target, fill)
    mark = registry.mark()
    using(target, pull)
    requests = registry.requests(mark)
    assert [(request.method, request.status) for request in requests] == [("GET", 200)] * 4
    assert len({request.remote for request in requests}) == 1
    assert os.path.basename(requests[0].path) == "1.0"
