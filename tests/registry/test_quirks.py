"""A whole build against a registry with each quirk: it succeeds, or the error is the right one."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import trio

from asyncbuild.errors import AsyncbuildError
from asyncbuild.image.manifest import Manifest
from asyncbuild.image.reference import Reference
from asyncbuild.registry.auth import Credential
from asyncbuild.registry.registries import RegistrySettings
from asyncbuild.registry.retry import RetryPolicy
from asyncbuild.testing.faults import Delay, Respond, Rule, WithHeaders, WrongLength
from asyncbuild.testing.quirks import Quirks
from asyncbuild.testing.registry import RegistryDouble
from asyncbuild.testing.registry_auth import Access, BasicAccess, OpenAccess, TokenAccess
from support.builds import HOST, Recorder, World, add_busybox
from support.double import OneLogin

USERS = {"u": "p"}
OTHER = "other.example"
STORAGE = "storage.example"
BIG = random.Random(9).randbytes(6 << 20)
"""Streamed while it is packed: more than a request may carry that may carry 4 MiB."""
DOCKERFILE = f"""\
FROM {HOST}/base/busybox
COPY big /big
COPY small /small
"""
PUT_TAG = "^/v2/app/manifests/1$"


@dataclass(frozen=True, slots=True)
class Case:
    """A registry, and what comes of a build there: an exit code, and words of the error."""

    quirks: Quirks = field(default_factory=Quirks)
    access: Access = field(default_factory=OpenAccess)
    faults: tuple[Rule, ...] = ()
    mounts: bool = True
    storage: bool = False
    taken: bool = False
    keep_immutable: bool = False
    code: int = 0
    words: tuple[str, ...] = ()


def always(action: object, method: str, path: str) -> tuple[Rule, ...]:
    """A fault that strikes every such request."""
    return (Rule(action, method, path, times=None),)  # type: ignore[arg-type]


WORDS = "The image tag '1' already exists and cannot be overwritten because the tag is immutable."
TOKENS = TokenAccess(USERS)
CASES = {
    "none": Case(),
    "no ranges": Case(Quirks(ranges=False)),
    "no mounts": Case(mounts=False),
    "mounts are refused, 401": Case(Quirks(mount_refusal=401)),
    "mounts are refused, 401, with tokens": Case(Quirks(mount_refusal=401), TOKENS),
    "mounts are refused, 403": Case(Quirks(mount_refusal=403)),
    "mounts are refused, 404": Case(Quirks(mount_refusal=404)),
    "mounts are refused, 405": Case(Quirks(mount_refusal=405)),
    "mounts whatever is anywhere": Case(Quirks(mounts_unnamed=True)),
    "blobs whole only": Case(Quirks(streams=False)),
    "blobs in chunks only": Case(Quirks(whole=False)),
    "locations are paths": Case(Quirks(relative=True)),
    "uploads go to another host": Case(Quirks(upload_host=STORAGE)),
    "uploads go to another host, with tokens": Case(Quirks(upload_host=STORAGE), TOKENS),
    "4 MiB a request": Case(Quirks(most=4 << 20)),
    "4 MiB a request, no mounts": Case(Quirks(most=4 << 20), mounts=False),
    "less than 4 MiB a request": Case(Quirks(most=1 << 20), code=73, words=("413",)),
    "immutable tags": Case(Quirks(immutable=(400, WORDS))),
    "immutable tags, taken": Case(
        Quirks(immutable=(400, WORDS)), taken=True, code=73, words=("immutable", "asyncbuild push")
    ),
    "immutable tags, taken, may stay": Case(
        Quirks(immutable=(400, WORDS)), taken=True, keep_immutable=True
    ),
    "immutable tags, taken, may stay, 412": Case(
        Quirks(immutable=(412, "configured as Immutable")), taken=True, keep_immutable=True
    ),
    "docker's types only": Case(
        Quirks(docker_only=True), code=73, words=("415", "oci-mediatypes=false")
    ),
    "no catalog": Case(Quirks(catalog=False)),
    "slow token service": Case(access=TOKENS, faults=always(Delay(0.2), "GET", "/token")),
    "a token service that fails at first": Case(
        access=TOKENS, faults=(Rule(Respond(503), "GET", "/token"),)
    ),
    "a token service that never works": Case(
        access=TOKENS, faults=always(Respond(503), "GET", "/token"), code=69, words=("/token",)
    ),
    "tokens for one repository": Case(access=replace(TOKENS, joins=False)),
    "tokens that end at once": Case(access=replace(TOKENS, lifetime=1)),
    "basic logins": Case(access=BasicAccess(USERS)),
    "too long a Content-Length of a blob, once": Case(
        faults=(Rule(WrongLength(7), "GET", "/blobs/"),)
    ),
    "too long a Content-Length of blobs": Case(
        faults=always(WrongLength(7), "GET", "/blobs/"), code=69, words=("bytes",)
    ),
    "too short a Content-Length of blobs": Case(
        faults=always(WrongLength(-7), "GET", "/blobs/"), code=69, words=("bytes",)
    ),
    "too short a Content-Length of a manifest, once": Case(
        faults=(Rule(WrongLength(-7), "GET", "/manifests/"),)
    ),
    "gzip around manifests": Case(Quirks(encoding="/manifests/")),
    "gzip around blobs": Case(Quirks(encoding="/blobs/")),
    "gzip around everything": Case(Quirks(encoding="."), TOKENS),
    "429 at a pull, with Retry-After": Case(
        faults=(Rule(Respond(429, headers={"retry-after": "0"}), "GET", "/blobs/"),)
    ),
    "429 at a pull, without": Case(faults=(Rule(Respond(429), "GET", "/manifests/"),)),
    "429 at a push": Case(faults=(Rule(Respond(429), "PUT", ""), Rule(Respond(429), "POST", ""))),
    "429 for long": Case(
        faults=always(Respond(429, headers={"retry-after": "3600"}), "GET", "/manifests/"),
        code=75,
        words=("come back later",),
    ),
    "429 for long at the end": Case(
        faults=always(Respond(429, headers={"retry-after": "3600"}), "PUT", PUT_TAG),
        code=73,
        words=("come back later", "asyncbuild push"),
    ),
    "blobs in object storage": Case(storage=True),
    "blobs in object storage, with tokens": Case(access=TOKENS, storage=True),
    "blobs in object storage, no ranges": Case(Quirks(ranges=False), storage=True),
    "no word of digests": Case(
        faults=always(WithHeaders({"docker-content-digest": None}), "*", "/manifests/|/blobs/")
    ),
}


def world_for(case: Case, directory: Path) -> World:
    """A registry as the case has it, with bases, and a context."""
    double = RegistryDouble(
        case.access, blob_host=STORAGE if case.storage else None, mounts=case.mounts
    )
    double.quirks = case.quirks
    add_busybox(double)
    if case.taken:
        double.add_image("app", "1", layers=(b"another",))
    double.faults.add(*case.faults)
    world = World.below(directory, double)
    (world.context / "big").write_bytes(BIG)
    (world.context / "small").write_text("small")
    return world


def build(world: World, case: Case) -> AsyncbuildError | None:
    """Build to three repositories, one of them elsewhere."""
    names = [Reference.parse(f"{OTHER}/elsewhere:1")]
    request = world.request(DOCKERFILE, "app:1", "second:1")
    request = replace(
        request,
        destinations=(*request.destinations, *names),
        keep_immutable_tags=case.keep_immutable,
    )

    class Logins(OneLogin):
        """One login for both hosts."""

        async def credential(self, registry: str, repository: str = "") -> Credential:
            """Always the same."""
            await trio.lowlevel.checkpoint()
            return Credential("u", "p")

    settings = RegistrySettings(
        keychain=Logins(Credential("u", "p")), policy=RetryPolicy(attempts=3, base=0.001)
    )

    async def main() -> None:
        await world.build(request, recorder=Recorder(), settings=settings)

    try:
        trio.run(main)
    except AsyncbuildError as error:
        return error
    return None


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_build(case: Case, shm_path: Path) -> None:
    """The image is everywhere, whole; or the error has its code and says what is wrong."""
    world = world_for(case, shm_path)
    error = build(world, case)
    shown = "" if error is None else error.render()
    assert (0 if error is None else error.exit_code) == case.code, shown
    assert [words for words in case.words if words not in shown] == [], shown
    assert world.wrong() == []
    outsiders = [entry for entry in world.double.log if entry.host == STORAGE]
    assert [entry for entry in outsiders if entry.authorization] == []
    if case.storage or case.quirks.upload_host:
        assert outsiders
    if not case.code:
        check_images(world.double, ("second", "elsewhere") if case.taken else None)


def check_images(double: RegistryDouble, repositories: tuple[str, ...] | None = None) -> None:
    """Every repository has the image, and every blob of it is what its name says."""
    for name in repositories or ("app", "second", "elsewhere"):
        manifest = double.manifest(name, "1")
        assert isinstance(manifest, Manifest)
        for blob in (manifest.config, *manifest.layers):
            data = double.blobs[name][blob.digest]
            assert blob.digest.matches(data)
            assert len(data) == blob.size


def test_a_small_limit_is_learnt_once(shm_path: Path) -> None:
    """After one request that was too large no other one is."""
    case = CASES["4 MiB a request, no mounts"]
    world = world_for(case, shm_path)
    assert build(world, case) is None
    refused = [entry for entry in world.double.log if entry.status == 413]
    assert 1 <= len(refused) <= 2 * 3  # what was under way at once, at two hosts


def test_nobody_lists(shm_path: Path) -> None:
    """A build asks for no catalog and no lists of tags."""
    world = world_for(CASES["none"], shm_path)
    assert build(world, CASES["none"]) is None
    assert world.double.asked("", "_catalog|tags/list") == []
