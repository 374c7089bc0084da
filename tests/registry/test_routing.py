"""Mirrors and their like in use: who is asked for what, and what happens where one fails."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest
import trio

from asyncbuild.errors import ImageNotFound, NotAuthorized, RegistryUnavailable
from asyncbuild.image.manifest import Manifest
from asyncbuild.registry.auth import Credential
from asyncbuild.registry.client import RegistryClient
from asyncbuild.registry.mirrors import Mirror, Mirrors
from asyncbuild.registry.places import Files, find_files
from asyncbuild.registry.registries import Registries, RegistrySettings
from asyncbuild.registry.upload import Mounted, UploadSession
from asyncbuild.testing.faults import Action, Corrupt, Drop, Respond, Rule, Shorten, WithHeaders
from asyncbuild.testing.registry import RegistryDouble
from asyncbuild.testing.registry_auth import BasicAccess, TokenAccess
from support.double import ManyHosts, OneLogin, on_mock_clock, read_all

OWN, MIRROR = "own.example", "mirror.example"
LAYER = random.Random(3).randbytes(3 << 20)
MIRRORS = Mirrors({OWN: (Mirror(MIRROR, "proxy"),)})


class Net:
    """A registry and a mirror of it that has everything below ``proxy/``; and what was noticed."""

    def __init__(self, *rules: Rule) -> None:
        self.own, self.mirror = RegistryDouble(), RegistryDouble()
        self.manifest: Manifest = self.own.add_image("app", "1", layers=(LAYER,), compress=False)
        self.mirror.add_image("proxy/app", "1", layers=(LAYER,), compress=False)
        self.mirror.faults.add(*rules)
        self.notices: list[str] = []

    def run(
        self,
        use: Callable[[RegistryClient], Awaitable[None]],
        hosts: Mapping[str, RegistryDouble] | None = None,
        **settings: object,
    ) -> None:
        """Run ``use`` with the registry's client."""

        async def main() -> None:
            chosen = RegistrySettings(
                transport=ManyHosts(
                    {OWN: self.own, MIRROR: self.mirror} if hosts is None else hosts
                ),
                on_notice=self.notices.append,
                **{"mirrors": MIRRORS, **settings},  # type: ignore[arg-type]
            )
            async with Registries(chosen) as registries:
                await use(registries.client(OWN))

        on_mock_clock(main)

    async def pull(self, client: RegistryClient) -> None:
        """Fetch the image's manifest and its layer, and see that they are right."""
        found = await client.get_manifest("app", "1")
        assert found.manifest == self.manifest
        async with client.open_blob("app", self.manifest.layers[0]) as chunks:
            assert await read_all(chunks) == LAYER


def test_the_mirror_has_it() -> None:
    """Everything comes from the mirror, under its names; the registry is not asked at all."""
    net = Net()
    net.run(net.pull)
    assert net.own.log == []
    digest = net.manifest.layers[0].digest
    assert [entry.path for entry in net.mirror.log] == [
        "/v2/proxy/app/manifests/1",
        f"/v2/proxy/app/blobs/{digest}",
    ]
    assert net.notices == []


FAILURES = (
    Respond(401),
    Respond(403),
    Respond(404),
    Respond(429),
    Respond(500),
    Respond(200, b"garbage"),
    Drop(),
    Drop(5),
)


@pytest.mark.parametrize(
    ("action", "what"),
    [
        *((action, what) for action in FAILURES for what in ("manifests", "blobs")),
        (Corrupt(3), "manifests"),
        (WithHeaders({"docker-content-digest": "sha256:" + "0" * 64}), "manifests"),
    ],
    ids=str,
)
def test_a_mirror_that_fails(action: Action, what: str) -> None:
    """Whatever it answers, the image comes whole, from the registry if need be, and it is told why."""
    net = Net(Rule(action, path=f"/{what}/", times=None))
    net.run(net.pull)
    assert f"{MIRROR}/proxy/app is not used" in net.notices[0]
    assert net.own.asked("GET", f"/{what}/")


def test_a_silent_mirror_is_asked_once() -> None:
    """Who gave no answer is not asked again: a dead mirror costs a build two tries, not two each."""
    net = Net()
    net.run(net.pull, hosts={OWN: net.own})
    assert len(net.notices) == 1
    assert "for the rest of the build" in net.notices[0]


def test_a_blob_goes_on_at_the_next_way() -> None:
    """A mirror that breaks off in the middle and for good: the registry gives the rest, by range."""
    net = Net(Rule(Drop(1 << 20), path="/blobs/"), Rule(Drop(), path="/blobs/", nth=2, times=None))
    net.run(net.pull)
    [rest] = net.own.asked("GET", "/blobs/")
    assert rest.headers["range"] == f"bytes={1 << 20}-{len(LAYER) - 1}"
    assert rest.bytes_out == len(LAYER) - (1 << 20)


def test_a_blob_that_is_shorter_at_the_mirror() -> None:
    """A size that is not the manifest's is a reason to ask the registry."""
    net = Net(Rule(Shorten(7), path="/blobs/", times=None))
    net.run(net.pull)
    assert "bytes where its manifest says" in net.notices[0]


def test_without_fallback_the_mirrors_error_counts() -> None:
    """The last way's error is raised; nobody else is asked."""
    net = Net(Rule(Respond(404), times=None))
    with pytest.raises(ImageNotFound):
        net.run(net.pull, mirrors=Mirrors(MIRRORS.places, fallback=False))
    with pytest.raises(RegistryUnavailable):
        net.run(net.pull, {}, mirrors=Mirrors(MIRRORS.places, fallback=False))
    assert net.own.log == []


def test_pushes_go_to_the_registry() -> None:
    """A mirror is never pushed to, nor asked whether something is there."""
    net = Net()

    async def push(client: RegistryClient) -> None:
        client.expect("app", "pull", "push")
        layer = net.manifest.layers[0]
        assert await client.blob_exists("app", layer.digest)
        assert await client.head_manifest("app", "1") == net.manifest.descriptor
        mounted = await client.mount_or_start_upload("other", layer.digest, "app")
        assert mounted == Mounted(layer.digest)
        session = await client.mount_or_start_upload("other")
        assert isinstance(session, UploadSession)
        await session.put(b"x", net.own.add_blob("x", b"x").digest)

    net.run(push)
    assert net.mirror.log == []


def test_logins_of_mirrors_are_their_own() -> None:
    """A mirror's login goes to the mirror, the registry's to the registry, whatever each answers."""
    net = Net(Rule(Respond(404), path="/blobs/", times=None))
    net.mirror.doorkeeper.access = BasicAccess({"m": "secret"})
    net.own.doorkeeper.access = TokenAccess({"o": "secret"})

    class TwoHosts:
        """A login for each host."""

        async def credential(self, registry: str, repository: str = "") -> Credential:
            """The host's."""
            await trio.lowlevel.checkpoint()
            return Credential({OWN: "o", MIRROR: "m"}[registry], "secret")

    net.run(net.pull, keychain=TwoHosts())
    assert {entry.authorization.partition(" ")[0] for entry in net.mirror.log} == {"", "Basic"}
    bearers = [entry.authorization for entry in net.own.log if entry.path != "/token"]
    assert {value.partition(" ")[0] for value in bearers} == {"", "Bearer"}


def test_a_mirror_without_a_login() -> None:
    """A registry's login is of no use at a mirror, and is not shown to it."""
    net = Net()
    net.mirror.doorkeeper.access = BasicAccess({"o": "secret"})
    net.run(net.pull, keychain=OneLogin(Credential("o", "secret"), OWN))
    assert {entry.authorization for entry in net.mirror.log} == {""}


HOSTS_TOML = """
[host."https://mirror.example/some/path"]
override_path = true
[host."https://mirror.example/some/path".header]
x-team = "blue"
"""


def test_hosts_toml(shm_path: Path) -> None:
    """A path of its own, headers, and the registry that is meant; the headers go nowhere else."""
    net = Net()
    (shm_path / OWN).mkdir()
    (shm_path / OWN / "hosts.toml").write_text(HOSTS_TOML)
    net.run(net.pull, mirrors=Mirrors(), files=Files((str(shm_path),)))
    first = net.mirror.log[0]
    assert (first.path, first.query) == ("/some/path/app/manifests/1", f"ns={OWN}")
    assert first.headers["x-team"] == "blue"
    assert all("x-team" not in entry.headers for entry in net.own.log)
    assert all(entry.query == "" for entry in net.own.log)


def test_headers_do_not_follow_a_redirect(shm_path: Path) -> None:
    """Where a mirror redirects to is told nothing of what was for the mirror."""
    net = Net()
    storage = RegistryDouble()
    net.own.blob_host = storage_host = "storage.example"
    storage.blobs = net.own.blobs
    (shm_path / OWN).mkdir()
    (shm_path / OWN / "hosts.toml").write_text('header = { x-team = "blue" }')
    hosts = {OWN: net.own, storage_host: storage}
    net.run(net.pull, hosts, mirrors=Mirrors(), files=Files((str(shm_path),)))
    assert {entry.headers.get("x-team") for entry in net.own.log} == {"blue"}
    assert [entry.headers.get("x-team") for entry in storage.log] == [None]


def test_a_blocked_registry(shm_path: Path) -> None:
    """What registries.conf blocks is not asked."""
    net = Net()
    (shm_path / "conf").write_text(f"[[registry]]\nlocation='{OWN}'\nblocked=true")
    files = find_files({}, "/nonexistent", conf=str(shm_path / "conf"))
    with pytest.raises(NotAuthorized, match=f"{OWN}/app is blocked"):
        net.run(net.pull, mirrors=Mirrors(), files=files)
    assert net.own.log == []


def test_large_transfers_wait_for_each_other() -> None:
    """No more large blobs come from one host at a time than were allowed; small ones do not wait."""
    net = Net()
    running = most = 0

    async def use(client: RegistryClient) -> None:
        async def download() -> None:
            nonlocal running, most
            async with client.open_blob("app", net.manifest.layers[0]) as chunks:
                running += 1
                most = max(most, running)
                await client.get_blob("app", net.manifest.config)
                await trio.sleep(1)
                assert len(await read_all(chunks)) == len(LAYER)
                running -= 1

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(download)

    net.run(use, transfers=2)
    assert most == 2
