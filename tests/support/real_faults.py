"""Operations against docker-registry with TLS and tokens, behind a proxy that makes faults.

Two registries, one token service at a host of its own, one authority that signs all their certificates. A
*case* is an operation with a script of faults at one kind of its requests. Each case has a user, a proxy
before each registry and a store of its own, so that many run at once; they share the registries.
"""

from __future__ import annotations

import json
import queue
import random
import re
import ssl
import subprocess
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import trio

from asyncbuild.build.builder import build_image
from asyncbuild.build.growing import GrowingBody, GrowingFile
from asyncbuild.build.outcome import one_error
from asyncbuild.build.request import BuildRequest, CachePlace
from asyncbuild.build.warming import Warming, warm_images
from asyncbuild.build.workers import WorkerPool
from asyncbuild.cli.transferring import Desk, copy_everywhere
from asyncbuild.errors import AsyncbuildError
from asyncbuild.image.config import HistoryEntry, ImageConfig
from asyncbuild.image.digest import DiffId, Digest
from asyncbuild.image.manifest import OCI_CONFIG, OCI_LAYER, Descriptor, Index, Manifest
from asyncbuild.image.reference import Reference
from asyncbuild.registry.auth import ANONYMOUS, Credential
from asyncbuild.registry.hosts import HostSettings
from asyncbuild.registry.pace import Pace
from asyncbuild.registry.registries import Registries, RegistrySettings
from asyncbuild.registry.retry import RetryPolicy
from asyncbuild.registry.transport import Timeouts
from asyncbuild.registry.upload import UploadSession
from asyncbuild.testing.exchanges import LoggedRequest
from asyncbuild.testing.fault_scripts import parse_script
from asyncbuild.transfer.files import open_image_file
from asyncbuild.transfer.indexes import IndexAnnotations, IndexPush, fetch_parts, index_of
from asyncbuild.transfer.inspection import Access, inspect_image
from asyncbuild.transfer.sources import RegistrySource
from support.bases import multi_platform_images
from support.builds import AMD64, CREATED, Recorder, store_faults
from support.front import CountedFaults, Front, before, server_context
from support.images import push_index
from support.matrix import TINY
from support.registry import DockerRegistry, Tls, make_tls, running_registry
from support.tokens import ADMIN, PASSWORD, TokenService, token_service

TIMEOUTS = Timeouts(connect=20.0, receive=8.0, send=20.0, commit=10.0)
"""Longer than a busy machine keeps anybody waiting: of these operations, their proxies and registries many
run at once.
"""
POLICY = RetryPolicy(base=0.02, longest=0.2)
LARGE = 1 << 20
"""Bytes of the layer that is sent while it is made."""
PACE = Pace(least=64 << 10, seconds=8.0)

KINDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "manifest HEAD": ("HEAD", "/manifests/"),
        "manifest GET": ("GET", "/manifests/"),
        "manifest PUT": ("PUT", "/manifests/"),
        "blob HEAD": ("HEAD", "/blobs/sha256:"),
        "blob GET": ("GET", "/blobs/sha256:"),
        "upload POST": ("POST", "/blobs/uploads/"),
        "upload PATCH": ("PATCH", "/blobs/uploads/"),
        "upload PUT": ("PUT", "/blobs/uploads/"),
        "API GET": ("GET", "^/v2/$"),
        "token GET": ("GET", "^/token$"),
    }
)
"""Kinds of requests: a method, and a regular expression of paths."""


def kind_of(entry: LoggedRequest) -> str:
    """The kind of a request."""
    for name, (method, path) in KINDS.items():
        if entry.method == method and re.search(path, entry.path):
            return name
    return f"{entry.method} {entry.path}"


@dataclass(frozen=True, slots=True)
class Logins:
    """A keychain: one user everywhere."""

    login: Credential

    async def credential(self, registry: str, repository: str = "") -> Credential:
        """The login."""
        await trio.lowlevel.checkpoint()
        return self.login


@dataclass(slots=True)
class Site:
    """What all cases share. ``one`` has the bases and the cache, ``two`` is empty."""

    directory: Path
    tls: Tls
    tokens: TokenService
    one: DockerRegistry
    two: DockerRegistry
    client: httpx.AsyncClient
    context: ssl.SSLContext
    workers: WorkerPool
    cases: int = 0

    def base(self, host: str, name: str) -> Reference:
        """A base image as a proxy of ``one`` has it."""
        return Reference.parse(f"{host}/base/{name}:latest")


@asynccontextmanager
async def site(directory: Path) -> AsyncIterator[Site]:
    """Start it all, and end it all."""
    tls = make_tls(directory / "tls")
    context = server_context(tls)
    _fill(directory / "one")
    trust = ssl.create_default_context(cafile=str(tls.ca_file))
    (directory / "context").mkdir()
    (directory / "context/hello.txt").write_text("hello\n")
    async with AsyncExitStack() as stack:
        tokens = await stack.enter_async_context(token_service(directory / "signer", context))
        one, two = (
            stack.enter_context(running_registry(directory / name, tls=tls, tokens=tokens.auth))
            for name in ("one", "two")
        )
        client = await stack.enter_async_context(httpx.AsyncClient(verify=trust, timeout=60))
        workers = await stack.enter_async_context(WorkerPool(3))
        yield Site(directory, tls, tokens, one, two, client, context, workers)


def _fill(directory: Path) -> None:
    """Put the bases where a registry finds them: by one that asks for no login."""
    with running_registry(directory) as open_registry:
        TINY.push(open_registry, "base/tiny")
        push_index(open_registry, multi_platform_images(), "base/multi")


@dataclass(slots=True)
class Case:
    """One operation's surroundings: who acts, by way of which proxies, with which store."""

    site: Site
    user: str
    one: Front
    two: Front
    directory: Path
    recorder: Recorder = field(default_factory=Recorder)

    @property
    def settings(self) -> RegistrySettings:
        """A client's, with less patience than usual."""
        known = HostSettings(ca_files=(str(self.site.tls.ca_file),))
        return RegistrySettings(
            keychain=Logins(Credential(self.user, PASSWORD) if self.user else ANONYMOUS),
            hosts={front.host: known for front in (self.one, self.two)},
            policy=POLICY,
            timeouts=TIMEOUTS,
            pace=PACE,
        )

    @property
    def store(self) -> Path:
        """A build's store, or a warmer's directory."""
        return self.directory / "store"

    def name(self, front: Front, name: str = "app", tag: str = "1") -> Reference:
        """A name of this user's."""
        return Reference.parse(f"{front.host}/{self.user}/{name}:{tag}")

    def requests(self) -> list[LoggedRequest]:
        """Every request, whoever answered."""
        return [*self.one.log, *self.two.log, *self.site.tokens.asked_by(self.user)]

    def build_request(self, dockerfile: str, name: Reference, **more: Any) -> BuildRequest:
        """A build of this case's."""
        context = self.site.directory / "context"
        request = BuildRequest(
            context=context,
            dockerfile=dockerfile.encode(),
            dockerfile_path=context / "Dockerfile",
            store=self.store,
            platform=AMD64,
            build_platform=AMD64,
            created=CREATED,
            destinations=(name,),
            workers=2,
        )
        return replace(request, **more)

    @asynccontextmanager
    async def desk(self) -> AsyncIterator[Desk]:
        """Where images are moved."""
        with one_error():
            async with Registries(self.settings) as registries, trio.open_nursery() as nursery:
                yield Desk(registries, self.recorder, nursery)
                nursery.cancel_scope.cancel()


@asynccontextmanager
async def case_at(site: Site, user: str | None = None) -> AsyncIterator[Case]:
    """A new case, with proxies of its own."""
    site.cases += 1
    name = f"case-{site.cases}"
    directory = site.directory / name
    directory.mkdir()
    async with (
        before(site.one.host, site.client, site.context) as one,
        before(site.two.host, site.client, site.context) as two,
    ):
        yield Case(site, user or name, one, two, directory)


# --- operations: each gives the digest of what came of it, and the name under which that is ------------

Result = tuple[Digest, Reference | None]
Operation = Callable[[Case], Awaitable[Result]]


async def build(case: Case) -> Result:
    """Build upon a base, and push."""
    base = case.site.base(case.one.host, "tiny")
    return await _build(case, f"FROM {base}\nCOPY hello.txt /there/\nLABEL a=b\n")


CACHED = "FROM {base}\nCOPY hello.txt /cached/\nWORKDIR /cached\nCOPY hello.txt /again\n"


def cache_of(case: Case) -> CachePlace:
    """The cache that all may read, and one user fills."""
    return CachePlace(Reference.parse(f"{case.one.host}/cache/app:main"), everything=True)


async def rebuild(case: Case) -> Result:
    """Build what the cache in the registry has, with an empty store."""
    dockerfile = CACHED.format(base=case.site.base(case.one.host, "tiny"))
    return await _build(case, dockerfile, cache_from=(cache_of(case),))


async def fill_cache(case: Case) -> Result:
    """What `rebuild` finds."""
    dockerfile = CACHED.format(base=case.site.base(case.one.host, "tiny"))
    return await _build(case, dockerfile, cache_to=(cache_of(case),), cache_patience=60.0)


async def _build(case: Case, dockerfile: str, **more: Any) -> Result:
    name = case.name(case.one)
    request = case.build_request(dockerfile, name, **more)
    result = await build_image(request, case.settings, case.recorder, workers=case.site.workers)
    return result.manifest.digest, name


async def send_while_made(case: Case) -> Result:
    """Send a layer while it is made, as a build does with large ones; then the rest of its image."""
    name, data = case.name(case.one), random.Random(3).randbytes(LARGE)
    config = ImageConfig(AMD64, diff_ids=(DiffId.of(data),), history=(HistoryEntry("x"),)).encode()
    layer = Descriptor(OCI_LAYER, Digest.of(data), len(data))
    manifest = Manifest.make(Descriptor(OCI_CONFIG, Digest.of(config), len(config)), (layer,))
    spool = GrowingFile(case.directory / "growing")
    async with case.desk() as desk:
        client = desk.registries.client(name.registry)
        client.expect(name.repository, "push")
        session = await client.mount_or_start_upload(name.repository)
        assert isinstance(session, UploadSession)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(spool.write_from, _made(data))
                await session.stream(GrowingBody(spool))
            await session.close(layer.digest)
        finally:
            await session.abort()
            spool.close()
        session = await client.mount_or_start_upload(name.repository)
        assert isinstance(session, UploadSession)
        await session.put(config, manifest.config.digest)
        await client.put_manifest(name.repository, "1", manifest.raw, manifest.media_type)
    return manifest.digest, name


async def _made(data: bytes) -> AsyncIterator[bytes]:
    for place in range(0, len(data), 1 << 18):
        yield data[place : place + (1 << 18)]


async def push(case: Case) -> Result:
    """Push a layout that skopeo made."""
    name = case.name(case.two)
    async with case.desk() as desk:
        file = open_image_file(str(case.site.directory / "layout"))
        try:
            image = await file.manifest(file.choose(None).descriptor.digest)
            await copy_everywhere(desk, file, image, (name,))
        finally:
            file.close()
    return image.digest, name


async def _copy(case: Case, name: Reference) -> Result:
    source = case.site.base(case.one.host, "tiny")
    async with case.desk() as desk:
        client = desk.registries.client(source.registry)
        client.expect(source.repository, "pull")
        desk.registries.client(name.registry).expect(name.repository, "pull", "push")
        image = await client.resolve(source)
        place = RegistrySource(client, source, desk.nursery)
        await copy_everywhere(desk, place, image, (name,))
    return image.digest, name


async def copy_within(case: Case) -> Result:
    """Copy between repositories of one registry: by mounts."""
    return await _copy(case, case.name(case.one))


async def copy_across(case: Case) -> Result:
    """Copy from one registry to another."""
    return await _copy(case, case.name(case.two))


async def inspect(case: Case) -> Result:
    """Look at an image of several platforms, down to a configuration."""
    source = case.site.base(case.one.host, "multi")
    async with case.desk() as desk:
        client = desk.registries.client(source.registry)
        client.expect(source.repository, "pull")
        access = Access(
            lambda entry: client.get_manifest(source.repository, entry.digest),
            lambda config: client.get_blob(source.repository, config),
        )
        top = await client.resolve(source)
        found = await inspect_image(str(source), top, access, AMD64, AMD64)
    return Digest.of(found.top.raw + found.config), None


async def create_index(case: Case) -> Result:
    """One name for images that were pushed by digest."""
    source, name = case.site.base(case.one.host, "multi"), case.name(case.one)
    async with case.desk() as desk:
        top = await desk.registries.client(source.registry).resolve(source)
        assert isinstance(top.manifest, Index)
        entries = top.manifest.manifests[:2]
        parts = await fetch_parts(
            desk.registries, [replace(source, tag=None, digest=entry.digest) for entry in entries]
        )
        made = index_of(parts, IndexAnnotations())
        await IndexPush(desk.registries, desk.reporter, desk.nursery, parts, made).run([name])
    return made.digest, name


async def login(case: Case) -> Result:
    """Ask whether a login is good."""
    async with case.desk() as desk:
        await desk.registries.client(case.one.host).check_access()
    return Digest.of(b"good"), None


async def warm(case: Case) -> Result:
    """Bring a base into a directory."""
    image = (case.site.base(case.one.host, "tiny"), AMD64)
    (found,) = await warm_images(Warming([image], case.store), case.settings, case.recorder)
    return found.digest, None


OPERATIONS: Mapping[str, Operation] = MappingProxyType(
    {
        "build and push": build,
        "a layer sent while it is made": send_while_made,
        "rebuild from a registry cache": rebuild,
        "push of a layout": push,
        "copy within a registry": copy_within,
        "copy between registries": copy_across,
        "inspect": inspect,
        "index create": create_index,
        "login": login,
        "warm": warm,
    }
)


# --- a case, and what came of it -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a case: a digest and where it is, or an error; how often the fault struck; what is
    wrong besides; the requests.
    """

    digest: Digest | None
    place: str
    error: AsyncbuildError | None
    struck: int
    wrong: tuple[str, ...]
    requests: tuple[LoggedRequest, ...] = field(repr=False)

    @property
    def name(self) -> str:
        """``done``, or the error's class."""
        return "done" if self.error is None else type(self.error).__name__


def script(fault: str, kind: str) -> str:
    """The script of a fault at a kind of requests. A stalled range is a download that breaks off, and
    whose rest hangs.
    """
    method, path = KINDS[kind]
    where = {"method": method, "path": path}
    if fault == "stalled-range":
        broken = {"fault": "reset-in-the-middle", **where}
        return json.dumps([broken, {"fault": "hang-in-the-middle", **where, "nth": 2}])
    return json.dumps([{"fault": fault, **where}])


async def play(
    site: Site, operation: Operation, faults: str = "[]", user: str | None = None
) -> Outcome:
    """Carry one operation out under a script of faults."""
    digest, place, error = None, "", None
    async with case_at(site, user) as case:
        rules = parse_script(faults)
        counted = [CountedFaults(*rules, patience=1) for _ in range(3)]
        case.one.faults, case.two.faults, site.tokens.faults[case.user] = counted
        try:
            digest, name = await operation(case)
            if name is not None:
                registry = site.one if name.registry == case.one.host else site.two
                place = f"{registry.host}/{name.repository}:{name.tag}"
        except AsyncbuildError as raised:
            error = raised
        struck = sum(item.struck for item in counted)
        requests = tuple(case.requests())
    wrong = tuple(_left_over(case.store))
    return Outcome(digest, place, error, struck, wrong, requests)


def _left_over(store: Path) -> Iterator[str]:
    """What an operation must not leave: damaged blobs, and files of work that is over."""
    yield from store_faults(store)
    for path in (*store.glob("**/*.part"), *store.glob("tmp/sha256-*")):
        yield f"{path.relative_to(store)} is still there"


# --- the same site for commands, which run a loop of their own -----------------------------------------


class SiteBeside:
    """A site with one case, in a thread; ``multi.json`` there is the index of several platforms as skopeo
    sees it. A context manager that gives the case.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ready: queue.SimpleQueue[Case | BaseException] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run)
        self._stop: Callable[[], None] = lambda: None

    def __enter__(self) -> Case:
        self._thread.start()
        found = self._ready.get()
        if isinstance(found, BaseException):
            self._thread.join()
            raise found
        return found

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._thread.join()

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:
            self._ready.put(error)

    async def _main(self) -> None:
        stop, token = trio.Event(), trio.lowlevel.current_trio_token()
        self._stop = lambda: token.run_sync_soon(stop.set)
        async with site(self._directory) as made, case_at(made) as case:
            await make_layout(made)
            raw = await skopeo(made, "inspect", "--raw", f"docker://{made.one.host}/base/multi")
            (self._directory / "multi.json").write_bytes(raw.stdout)
            self._ready.put(case)
            await stop.wait()


# --- skopeo --------------------------------------------------------------------------------------------


async def skopeo(site: Site, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Run skopeo, which trusts our authority and nobody else's login files."""
    env = {"PATH": "/usr/bin:/bin", "HOME": str(site.directory)}
    env["SSL_CERT_FILE"] = str(site.tls.ca_file)
    return await trio.run_process(
        ["skopeo", *words], capture_stdout=True, capture_stderr=True, check=False, env=env
    )


async def make_layout(site: Site) -> None:
    """What `push` pushes: a base as skopeo copies it."""
    source = f"docker://{site.one.host}/base/tiny:latest"
    done = await skopeo(site, "copy", "-q", source, f"oci:{site.directory / 'layout'}:latest")
    assert done.returncode == 0, done.stderr.decode()


async def read_by_skopeo(site: Site, places: Mapping[str, Digest]) -> list[str]:
    """Let skopeo fetch every place from its registry; what it does not find as it should be.

    One process fetches all of them (``skopeo sync``), with every platform, and verifies each blob.
    """
    listed: dict[str, Any] = {}
    for place in places:
        host, _, rest = place.partition("/")
        repository, _, tag = rest.partition(":")
        login = {"username": ADMIN, "password": PASSWORD}
        entry = listed.setdefault(host, {"tls-verify": True, "credentials": login, "images": {}})
        entry["images"].setdefault(repository, []).append(tag)
    target = Path(tempfile.mkdtemp(prefix="synced-", dir=site.directory))
    file = target.with_suffix(".json")
    file.write_text(json.dumps(listed))  # JSON is YAML
    words = ["sync", "--all", "--scoped", "--src", "yaml", "--dest", "dir"]
    done = await skopeo(site, *words, str(file), str(target))
    wrong = [] if done.returncode == 0 else [done.stderr.decode()[-2000:]]
    for place, digest in places.items():
        manifest = target / place / "manifest.json"
        if not manifest.exists() or not digest.matches(manifest.read_bytes()):
            wrong.append(f"skopeo does not find {digest} at {place}")
    return wrong
