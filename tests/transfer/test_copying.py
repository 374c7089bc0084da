"""Copying images between registries: what is sent, what is not, and what happens where something breaks."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import trio

from asyncbuild.errors import ImageNotFound, IntegrityError, RegistryError, RegistryUnavailable
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import (
    DOCKER_FOREIGN_LAYER,
    OCI_LAYER,
    Descriptor,
    Index,
    Manifest,
)
from asyncbuild.image.platform import Platform
from asyncbuild.image.reference import Reference
from asyncbuild.registry.registries import Registries, RegistrySettings
from asyncbuild.report.events import (
    ImagePushed,
    TransferFinished,
    TransferOutcome,
    WarningRaised,
)
from asyncbuild.testing.faults import (
    Corrupt,
    Drop,
    DropUpload,
    Respond,
    Rule,
    Shorten,
    WithHeaders,
)
from asyncbuild.testing.quirks import Quirks
from asyncbuild.testing.registry import RegistryDouble
from asyncbuild.transfer.copying import Copier, as_fetched, choose_platforms
from asyncbuild.transfer.sources import RegistrySource
from support.builds import Recorder
from support.double import ManyHosts, on_mock_clock

FROM, TO = "from.example", "to.example"
AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
LAYER = random.Random(5).randbytes(3 << 20)
SMALL = b"a small layer"
IMAGE = Reference.parse(f"{FROM}/team/app:1")


def full() -> RegistryDouble:
    """A registry with an index of two images that share a layer."""
    double = RegistryDouble()
    images = {
        platform: double.add_image(
            "team/app", None, layers=(LAYER, platform.architecture.encode()), compress=False
        )
        for platform in (AMD64, ARM64)
    }
    double.add_index("team/app", "1", images)
    return double


class Net:
    """Two registries, and what was told."""

    def __init__(self, source: RegistryDouble | None = None) -> None:
        self.source, self.target = source or full(), RegistryDouble()
        self.recorder = Recorder()

    def run(self, use: Callable[[Registries, trio.Nursery], Awaitable[None]]) -> None:
        """Run ``use`` on the mock clock; one error comes out alone."""

        async def main() -> None:
            network = ManyHosts({FROM: self.source, TO: self.target})
            async with Registries(RegistrySettings(transport=network)) as registries:
                async with trio.open_nursery() as nursery:
                    await use(registries, nursery)
                    nursery.cancel_scope.cancel()

        try:
            on_mock_clock(main)
        except BaseExceptionGroup as group:
            error: BaseException = group
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            raise error from None

    def copy(
        self, destination: str = f"{TO}/copied", *tags: str, keep_immutable: bool = False
    ) -> Copier:
        """Copy the image to a repository under ``tags`` (``1`` if there are none)."""
        place = Reference.parse_repository(destination)
        made: list[Copier] = []

        async def use(registries: Registries, nursery: trio.Nursery) -> None:
            copier = Copier(
                registries,
                self.recorder,
                place.registry,
                place.repository,
                keep_immutable=keep_immutable,
            )
            made.append(copier)
            client = registries.client(FROM)
            source = RegistrySource(client, IMAGE, nursery)
            await copier.copy(source, await client.resolve(IMAGE), tags or ("1",))

        self.run(use)
        return made[0]

    def outcomes(self) -> list[str]:
        """How blobs got where they are, sorted."""
        return sorted(event.outcome.name for event in self.recorder.of(TransferFinished))


def test_an_index_goes_whole() -> None:
    """Every manifest and every blob, each once, names last, and the same digest everywhere."""
    net = Net()
    copier = net.copy(f"{TO}/copied", "1", "latest")
    index = net.source.manifest("team/app", "1")
    assert net.target.manifest("copied", "1") == net.target.manifest("copied", "latest") == index
    assert isinstance(index, Index)
    assert net.target.blobs["copied"] == net.source.blobs["team/app"]
    assert (copier.statistics.moved, copier.statistics.existing) == (5, 0)
    puts = [entry.path.rpartition("/")[2] for entry in net.target.asked("PUT", "/manifests/")]
    assert set(puts[-2:]) == {"1", "latest"}
    assert len(puts) == 4
    assert len(net.recorder.of(ImagePushed)) == 2


def test_a_second_copy_sends_nothing() -> None:
    """Each name is asked for once; nothing is fetched but the manifest that the source's name means."""
    net = Net()
    net.copy()
    net.source.log.clear()
    net.target.log.clear()
    net.copy()
    assert [entry.method for entry in net.source.log] == ["GET"]
    assert [entry.method for entry in net.target.log] == ["HEAD", "HEAD"]


def test_a_copy_goes_on_where_it_was() -> None:
    """What an interrupted copy sent is not sent again."""
    net = Net()
    net.target.faults.add(Rule(Respond(403), "PUT", "/manifests/"))
    with pytest.raises(RegistryError):
        net.copy()
    sent = len(net.target.blobs["copied"])
    copier = net.copy()
    assert copier.statistics.moved == 5 - sent
    assert net.target.manifest("copied", "1") == net.source.manifest("team/app", "1")


def test_within_a_registry_blobs_are_mounted() -> None:
    """No byte of a blob moves."""
    net = Net()
    copier = net.copy(f"{FROM}/other/app")
    assert copier.statistics.mounted == 5
    assert net.source.asked("GET", "/blobs/") == []
    assert net.source.manifest("other/app", "1") == net.source.manifest("team/app", "1")


def test_a_mount_that_is_refused_is_a_copy() -> None:
    """A registry that mounts nothing gets the bytes, from itself."""
    net = Net()
    net.source.mounts = False
    copier = net.copy(f"{FROM}/other/app")
    assert (copier.statistics.mounted, copier.statistics.moved) == (0, 5)


def test_another_name_in_the_same_repository() -> None:
    """One manifest goes, under its new name."""
    net = Net()
    net.copy(f"{FROM}/team/app", "2")
    assert [str(entry) for entry in net.source.log if entry.method not in ("GET", "HEAD")] == [
        "PUT /v2/team/app/manifests/2 201"
    ]


def test_a_name_that_has_another_meaning_is_moved() -> None:
    """And one that means the image already is not written."""
    net = Net()
    net.copy()
    net.target.tags["copied"]["2"] = next(iter(net.target.manifests["copied"]))
    net.target.log.clear()
    net.copy(f"{TO}/copied", "1", "2")
    puts = net.target.asked("PUT")
    assert [entry.path for entry in puts] == ["/v2/copied/manifests/2"]


def test_foreign_layers_stay_where_they_are() -> None:
    """A layer that is not to be distributed is neither fetched nor sent."""
    source = RegistryDouble()
    config = source.add_blob("team/app", b"{}")
    foreign = Descriptor(
        DOCKER_FOREIGN_LAYER, Digest.of(b"windows"), 7, urls=("https://x.example",)
    )
    own = source.add_blob("team/app", SMALL, OCI_LAYER)
    source.add_manifest("team/app", "1", Manifest.make(config, (foreign, own)))
    net = Net(source)
    net.copy()
    assert set(net.target.blobs["copied"]) == {config.digest, own.digest}


BROKEN = {
    "the download breaks off once": ("source", Rule(Drop(1 << 20), "GET", "/blobs/")),
    "the download is refused once": ("source", Rule(Respond(503), "GET", "/blobs/")),
    "a blob comes damaged once": ("source", Rule(Corrupt(5), "GET", "/blobs/")),
    "a blob comes too short once": ("source", Rule(Shorten(5), "GET", "/blobs/")),
    "a page comes instead of a blob once": (
        "source",
        Rule(Respond(200, b"<html>"), "GET", "/blobs/"),
    ),
    "the upload breaks off once": ("target", Rule(DropUpload(1 << 20), "PUT", "/uploads/")),
    "the upload fails once": ("target", Rule(Respond(500), "PUT", "/uploads/")),
    "a session is refused once": ("target", Rule(Respond(502), "POST")),
    "digests are not told": (
        "target",
        Rule(WithHeaders({"docker-content-digest": None}), "HEAD", "/manifests/", times=None),
    ),
}


@pytest.mark.parametrize(("where", "rule"), BROKEN.values(), ids=BROKEN)
def test_what_breaks_once_is_mended(where: str, rule: Rule) -> None:
    """The copy is whole all the same."""
    net = Net()
    getattr(net, where).faults.add(rule)
    net.copy()
    assert net.target.manifest("copied", "1") == net.source.manifest("team/app", "1")
    assert net.target.blobs["copied"] == net.source.blobs["team/app"]


@pytest.mark.parametrize(
    ("where", "rule", "error"),
    [
        ("source", Rule(Respond(404), "GET", "/blobs/", times=None), ImageNotFound),
        ("source", Rule(Drop(), "GET", "/blobs/", times=None), RegistryUnavailable),
        ("source", Rule(Corrupt(5), "GET", "/blobs/", times=None), IntegrityError),
        ("source", Rule(Corrupt(5), "GET", "/manifests/sha256", times=None), IntegrityError),
        ("target", Rule(Respond(500), "PUT", "/uploads/", times=None), RegistryUnavailable),
    ],
    ids=str,
)
def test_what_stays_broken_is_an_error(where: str, rule: Rule, error: type[RegistryError]) -> None:
    """It is the right one, no name is pushed, and no session is left open."""
    net = Net()
    getattr(net, where).faults.add(rule)
    with pytest.raises(error):
        net.copy()
    assert net.target.tags.get("copied", {}) == {}


def test_indexes_inside_indexes_end() -> None:
    """A registry that nests indexes deeper than anyone does is not followed for ever."""
    source = RegistryDouble()
    image = source.add_image("team/app", None, layers=(SMALL,))
    entry = image.descriptor
    for _ in range(6):
        index = Index.make((entry,))
        source.add_manifest("team/app", "1", index)
        entry = Descriptor(index.media_type, index.digest, len(index.raw))
    with pytest.raises(RegistryError, match="without end"):
        Net(source).copy()


def test_choosing_platforms() -> None:
    """Entries in their order, with their attestations; all of them is the index itself."""
    double = RegistryDouble()
    images = [double.add_image("a", None, layers=(name,)) for name in (b"1", b"2", b"3")]
    platforms = (AMD64, ARM64, Platform("unknown", "unknown"))
    entries = [
        replace(image.descriptor, platform=platform)
        for image, platform in zip(images, platforms, strict=True)
    ]
    attested = {
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": str(entries[1].digest),
    }
    entries[2] = replace(entries[2], annotations=attested)
    index = Index.make(tuple(entries), annotations={"a": "b"})
    assert choose_platforms(index, (ARM64,)).manifests == tuple(entries[1:])
    assert choose_platforms(index, (ARM64,)).annotations == {"a": "b"}
    assert choose_platforms(index, (AMD64,)).manifests == (entries[0],)
    assert choose_platforms(index, (ARM64, AMD64)) is index
    with pytest.raises(LookupError):
        choose_platforms(index, (Platform("linux", "s390x"),))


def test_progress_is_told() -> None:
    """Each blob's way is told, with its bytes."""
    net = Net()
    net.copy()
    finished = net.recorder.of(TransferFinished)
    assert {event.outcome for event in finished} == {TransferOutcome.MOVED}
    assert sum(event.moved for event in finished) == sum(
        len(data) for data in net.target.blobs["copied"].values()
    )


def test_made_manifests() -> None:
    """What is made here looks as what was fetched."""
    index = Index.make(())
    fetched = as_fetched(index)
    assert (fetched.raw, fetched.digest, fetched.manifest) == (index.raw, index.digest, index)


def test_immutable_tags_may_stay() -> None:
    """A tag that the registry does not let be moved stays, with a warning, where that is asked for."""
    net = Net()
    net.target.quirks = Quirks(immutable=(400, "the tag is immutable"))
    old = net.target.add_image("copied", "1", layers=(b"old",))
    with pytest.raises(RegistryError, match="immutable"):
        net.copy()
    net.copy(f"{TO}/copied", "1", "2", keep_immutable=True)
    assert net.target.manifest("copied", "1").digest == old.digest
    assert net.target.manifest("copied", "2") == net.source.manifest("team/app", "1")
    assert [event.text for event in net.recorder.of(WarningRaised)] == [
        f"{TO}/copied:1 is immutable and stays as it is"
    ]
