"""A push that fails for good: the build goes on, the image is kept, and is pushed without building."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from asyncbuild.errors import AsyncbuildError, InputError, PushFailed
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import Manifest
from asyncbuild.image.reference import Reference
from asyncbuild.registry.registries import Registries, RegistrySettings
from asyncbuild.registry.retry import RetryPolicy
from asyncbuild.report.events import StepFinished, WarningRaised
from asyncbuild.store.kept import KeptImage, forget_image, keep_image, kept_images
from asyncbuild.store.store import Store
from asyncbuild.testing.faults import Drop, DropUpload, Respond, Rule
from asyncbuild.testing.registry import RegistryDouble
from asyncbuild.testing.registry_transport import DoubleTransport
from asyncbuild.transfer.copying import Copier
from asyncbuild.transfer.stored import StoredSource
from support.builds import HOST, Recorder, World, add_busybox

DOCKERFILE = f"FROM {HOST}/base/busybox\nCOPY a /a\nCOPY b /b\n"
QUICK = RegistrySettings(policy=RetryPolicy(attempts=2, base=0.001))


def world_for(directory: Path, *rules: Rule) -> World:
    """A base, a context, and faults."""
    double = RegistryDouble()
    add_busybox(double)
    double.faults.add(*rules)
    world = World.below(directory, double)
    world.write({"a": "a" * 1000, "b": "b"})
    return world


def fail(world: World, *names: str, recorder: Recorder | None = None) -> AsyncbuildError:
    """Build, and return the error."""
    request = world.request(DOCKERFILE, *names)

    async def main() -> None:
        await world.build(request, recorder=recorder, settings=QUICK)

    with pytest.raises(AsyncbuildError) as caught:
        trio.run(main)
    return caught.value


def kept(world: World) -> tuple[KeptImage, ...]:
    """What the store kept."""
    with Store.open(world.store) as store:
        return kept_images(store)


def push(world: World, image: KeptImage) -> None:
    """Push it from the store to where it shall go."""

    async def main() -> None:
        settings = RegistrySettings(transport=DoubleTransport(world.double))
        with Store.open(world.store) as store:
            async with Registries(settings) as registries, trio.open_nursery() as nursery:
                source = StoredSource(store, image, registries, nursery)
                for name in image.names:
                    copier = Copier(registries, Recorder(), name.registry, name.repository)
                    await copier.copy(source, await source.manifest(image.manifest), (name.tag,))
                nursery.cancel_scope.cancel()
            forget_image(store, image)

    try:
        trio.run(main)
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None


FAULTS = {
    "the manifest": (Rule(Respond(500), "PUT", "/app/manifests/", times=None),),
    "the right to tag": (Rule(Respond(403), "PUT", "/app/manifests/", times=None),),
    "closing requests": (Rule(Respond(502), "PUT", "/app/blobs/uploads/", times=None),),
    "uploads break off": (Rule(DropUpload(0), "PUT", "/app/blobs/uploads/", times=None),),
    "sessions, after the first": (Rule(Respond(503), "POST", "/app/", nth=2, times=None),),
    "no answer to mounts": (Rule(Drop(), "POST", "/app/", nth=2, times=None),),
    "rate limit": (Rule(Respond(429, headers={"retry-after": "900"}), "PUT", "/app/", times=None),),
}


@pytest.mark.parametrize("rules", FAULTS.values(), ids=FAULTS)
def test_what_fails_is_kept_and_pushed_later(rules: tuple[Rule, ...], shm_path: Path) -> None:
    """Exit code 73; every step was executed; then the image goes as it was built."""
    world, recorder = world_for(shm_path, *rules), Recorder()
    error = fail(world, "app:1", "app:2", recorder=recorder)
    assert isinstance(error, PushFailed)
    assert error.exit_code == 73
    assert len(recorder.of(StepFinished)) == 2
    assert any("keeps the image" in event.text for event in recorder.of(WarningRaised))
    (image,) = kept(world)
    assert f"asyncbuild push --store {world.store} {image.manifest}" in (error.hint or "")
    assert image.names == tuple(Reference.parse(f"{HOST}/app:{tag}") for tag in "12")
    assert world.wrong() == []
    world.double.faults = RegistryDouble().faults
    push(world, image)
    assert world.double.tags["app"] == {"1": image.manifest, "2": image.manifest}
    pushed = world.double.manifest("app", "1")
    assert isinstance(pushed, Manifest)
    assert {pushed.config.digest, *(layer.digest for layer in pushed.layers)} <= set(
        world.double.blobs["app"]
    )
    assert kept(world) == ()


def test_it_is_what_a_build_would_have_pushed(shm_path: Path) -> None:
    """Build once to a registry that works: the digest is the same."""
    world = world_for(shm_path, *FAULTS["the manifest"])
    fail(world, "app:1")
    (image,) = kept(world)
    world.double.faults = RegistryDouble().faults
    assert world.run(DOCKERFILE, "app:1").manifest.digest == image.manifest


def test_other_destinations_get_the_image(shm_path: Path) -> None:
    """Only what did not arrive is recorded."""
    world = world_for(shm_path, *FAULTS["the manifest"])
    error = fail(world, "app:1", "good:1")
    assert error.exit_code == 73
    assert "1" in world.double.tags["good"]
    assert [str(name) for name in kept(world)[0].names] == [f"{HOST}/app:1"]


def test_a_base_that_is_elsewhere_comes_from_there(shm_path: Path) -> None:
    """Layers of the base need not be in the store: they are mounted or fetched from where they were."""
    world = world_for(shm_path, *FAULTS["the manifest"])
    world.double.mounts = False
    fail(world, "app:1")
    (image,) = kept(world)
    assert [place.repository for place in image.origins.values()] == ["base/busybox"]
    world.double.faults = RegistryDouble().faults
    world.double.blobs["app"].clear()
    push(world, image)
    assert "1" in world.double.tags["app"]


def test_what_was_pruned_is_told(shm_path: Path) -> None:
    """A kept image whose blobs are gone cannot be pushed, and says why."""
    world = world_for(shm_path, *FAULTS["the manifest"])
    fail(world, "app:1")
    (image,) = kept(world)
    world.double.faults = RegistryDouble().faults
    world.double.blobs["app"].clear()
    for path in (world.store / "blobs/sha256").iterdir():
        if path.name != image.manifest.hex:
            path.unlink()
    with pytest.raises(InputError, match="no longer has"):
        push(world, image)


def test_a_step_that_fails_is_the_error(shm_path: Path) -> None:
    """A push that failed on the way does not hide why the build failed."""
    world = world_for(shm_path, *FAULTS["closing requests"])
    request = world.request(DOCKERFILE + "COPY none /none\n", "app:1")

    async def main() -> None:
        await world.build(request, settings=QUICK)

    with pytest.raises(InputError, match="none"):
        trio.run(main)
    assert kept(world) == ()


def test_records(shm_path: Path) -> None:
    """A record is read as it was written; the newest of an image counts; damage is passed over."""
    image = KeptImage(
        Digest.of(b"manifest"),
        (Reference.parse("r.example/a:1"), Reference.parse("r.example:5000/b:2")),
        {Digest.of(b"layer"): Reference.parse_repository("docker.io/library/base")},
    )
    other = KeptImage(Digest.of(b"other"), image.names[:1])
    with Store.open(shm_path / "store") as store:
        assert kept_images(store) == ()
        keep_image(store, other)
        keep_image(store, image)
        assert sorted(found.encode() for found in kept_images(store)) == sorted(
            (image.encode(), other.encode())
        )
        forget_image(store, other)
        forget_image(store, other)
        assert kept_images(store) == (image,)
        (shm_path / "store/records/kept" / str(image.manifest)).write_text("damaged")
        assert kept_images(store) == ()
