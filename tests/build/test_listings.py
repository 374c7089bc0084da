"""Listings of bases: COPY and WORKDIR without the base's layers, on this machine and on another one."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncbuild.build.request import BuildResult, CachePlace
from asyncbuild.cache.registry import CHAIN, LISTING
from asyncbuild.image.manifest import Manifest, parse_manifest
from asyncbuild.image.reference import Reference
from asyncbuild.layers.listing import Listing
from asyncbuild.testing.exchanges import Asked
from asyncbuild.testing.registry import RegistryDouble
from support.builds import HOST, GatedDouble, World, add_busybox, layer_digests
from support.images import EPOCH, Layer, directory, symlink, text

PLACE = CachePlace(Reference.parse(f"{HOST}/team/cache:main"), everything=True)
MORE = (
    Layer.of(
        directory("srv", 0o711, uid=3),
        directory("real"),
        symlink("link", "real"),
        text("etc/passwd", "root:x:0:0::/root:/bin/sh\nworker:x:7:8::/:/bin/sh\n"),
        text("etc/group", "root:x:0:\nteam:x:9:\n"),
        text("srv/old", "old"),
    ),
    Layer.of(text("srv/.wh.old", "")),
)
COPIES = f"""\
FROM {HOST}/base/busybox
WORKDIR /srv/deep
COPY file /srv/old
COPY file /link/
USER worker
WORKDIR /home/worker
COPY --chown=worker:team file /usr/share/
"""


def world(path: Path, double: RegistryDouble | None = None) -> World:
    """A machine with a store of its own; without ``double`` also a new registry with the base."""
    path.mkdir()
    made = World.below(path, double)
    if not double or not double.log:
        add_busybox(made.double, "base/busybox", *MORE)
    write(made, "content")
    return made


def write(where: World, content: str) -> None:
    """The context's file; always of one time, for that is in the layers."""
    where.write({"file": content})
    os.utime(where.context / "file", (EPOCH, EPOCH))


def layer_gets(double: RegistryDouble, since: int = 0) -> list[str]:
    """The base's layers that were fetched after ``since`` requests."""
    digests = layer_digests(add_busybox(RegistryDouble(), "any", *MORE))
    return [
        item.path
        for item in double.log[since:]
        if item.method == "GET" and item.path.rpartition("/")[2] in digests
    ]


def second(where: World, tmp: Path, text: str, **more: Any) -> tuple[BuildResult, list[str]]:
    """Build on another machine with another content of the file; and the base layers that it fetched."""
    other = world(tmp, where.double)
    write(other, "changed")
    before = len(where.double.log)
    result = other.run(text, "out:2", cache_from=(PLACE,), **more)
    return result, layer_gets(where.double, before)


def plainly(where: World, tmp: Path, text: str) -> list[str]:
    """The layers of the same image, built with no cache from the base itself."""
    alone = world(tmp, where.double)
    write(alone, "changed")
    result = alone.run(text, "out:3")
    return [str(layer.digest) for layer in result.manifest.layers]


@pytest.mark.parametrize("kept", ["registry", "directory"])
def test_copies_on_another_machine_need_no_base(shm_path: Path, kept: str) -> None:
    """A changed context and no RUN: no base layer is fetched, and the image is what it would be."""
    place = PLACE if kept == "registry" else CachePlace(path=shm_path / "cache", everything=True)
    one = world(shm_path / "one")
    one.run(COPIES, "out:1", cache_to=(place,))
    assert layer_gets(one.double) != []
    other = world(shm_path / "two", one.double)
    write(other, "changed")
    before = len(one.double.log)
    result = other.run(COPIES, "out:2", cache_from=(place,))
    assert layer_gets(one.double, before) == []
    expected = plainly(one, shm_path / "three", COPIES)
    assert [str(layer.digest) for layer in result.manifest.layers] == expected


def test_no_request_waits_for_a_listing(shm_path: Path) -> None:
    """It is asked for beside the keys: both requests are under way at once."""
    double = GatedDouble()
    one = world(shm_path / "one", double)
    one.run(COPIES, "out:1", cache_to=(PLACE,))
    before = len(double.log)

    def asked(what: str) -> bool:
        return any(what in item.path for item in double.log[before:])

    double.hold(lambda item: "/manifests/f-" in item.path, lambda: asked("/manifests/k-"))
    double.hold(lambda item: "/manifests/k-" in item.path, lambda: asked("/manifests/f-"))
    _, fetched = second(one, shm_path / "two", COPIES)
    assert fetched == []


def test_metadata_and_hits_need_no_base(shm_path: Path) -> None:
    """As before: nothing is fetched where nothing is looked at."""
    one = world(shm_path / "one")
    metadata = f"FROM {HOST}/base/busybox\nENV a=b\n"
    one.run(metadata, "out:1")
    assert layer_gets(one.double) == []
    one.run(COPIES + "RUN true\n", "out:1", cache_to=(PLACE,))
    other = world(shm_path / "two", one.double)
    before = len(one.double.log)
    hits = other.run(COPIES + "RUN true\n", "out:2", cache_from=(PLACE,))
    assert (hits.statistics.steps_cached, hits.statistics.layers_pushed) == (6, 0)
    assert layer_gets(one.double, before) == []


def damage(double: RegistryDouble, change: Callable[[bytes], bytes | None]) -> None:
    """Put ``change`` of every listing in the cache in its place; None takes it away."""
    for tag in list(double.tags["team/cache"]):
        if tag.startswith("f-"):
            manifest = double.manifest("team/cache", tag)
            document = json.loads(manifest.raw)
            raw = change(base64.b64decode(document["annotations"][LISTING]))
            if raw is None:
                del document["annotations"][LISTING]
            else:
                document["annotations"][LISTING] = base64.b64encode(raw).decode()
            altered = parse_manifest(json.dumps(document).encode(), manifest.media_type)
            double.add_manifest("team/cache", tag, altered)


def lie(raw: bytes) -> bytes:
    """A listing of another base: without ``/srv`` and the link, other owners."""
    told = Listing.decode(raw)
    without = {path: item for path, item in told.directories.items() if path != "srv"}
    root = without[""]
    links = {name: to for name, to in root.links.items() if name != "link"}
    without[""] = type(root)(root.directory, links, root.others)
    return Listing(without, {}).encode()


@pytest.mark.parametrize(
    "change", [lambda raw: raw[:-9], lambda _: b"", lambda _: None, lambda raw: raw[::-1]]
)
def test_a_damaged_listing_is_none(shm_path: Path, change: Callable[[bytes], bytes | None]) -> None:
    """The base is fetched then, and the image is the same."""
    one = world(shm_path / "one")
    one.run(COPIES, "out:1", cache_to=(PLACE,))
    damage(one.double, change)
    result, fetched = second(one, shm_path / "two", COPIES)
    assert fetched != []
    expected = plainly(one, shm_path / "three", COPIES)
    assert [str(layer.digest) for layer in result.manifest.layers] == expected


def test_a_wrong_listing_is_found_before_a_run(shm_path: Path) -> None:
    """Where the base comes anyway, what was answered in its place is compared; the listing is made anew,
    here and in the cache.
    """
    one = world(shm_path / "one")
    one.run(COPIES + "RUN true\n", "out:1", cache_to=(PLACE,))
    tag = next(tag for tag in one.double.tags["team/cache"] if tag.startswith("f-"))
    right = one.double.manifest("team/cache", tag).annotations[LISTING]
    damage(one.double, lie)
    assert one.double.manifest("team/cache", tag).annotations[LISTING] != right
    text = COPIES + "RUN true\n"
    result, _ = second(one, shm_path / "two", text, cache_to=(PLACE,))
    expected = plainly(one, shm_path / "three", text)
    assert [str(layer.digest) for layer in result.manifest.layers][:-1] == expected[:-1]
    assert one.double.manifest("team/cache", tag).annotations[LISTING] == right


def test_copy_does_not_wait_for_a_base_that_is_listed(shm_path: Path) -> None:
    """The layer of a COPY below a common name is sent before any of the base's layers has come."""
    double = GatedDouble()
    where = world(shm_path / "one", double)
    text = f"FROM {HOST}/base/busybox\nCOPY file /srv/files/\nRUN true\n"
    where.run(text, "out:1", cache_to=(PLACE,))
    other = world(shm_path / "two", double)
    write(other, "changed")
    before = len(double.log)
    digests = layer_digests(add_busybox(RegistryDouble(), "any", *MORE))

    def is_layer(asked: Asked) -> bool:
        return asked.method == "GET" and asked.path.rpartition("/")[2] in digests

    def copied() -> bool:
        return any(
            item.method == "PUT" and "/out/blobs/uploads/" in item.path and item.status == 201
            for item in double.log[before:]
        )

    double.hold(is_layer, copied)
    other.run(text, "out:2", cache_from=(PLACE,))
    assert copied()


def test_a_store_keeps_the_listing_of_a_base(shm_path: Path) -> None:
    """Without any cache: the layers are gone from the store, and COPY does without them."""
    where = world(shm_path / "one")
    where.run(COPIES, "out:1")
    for path in (where.store / "layers").glob("*/*"):
        path.rename(shm_path / path.name)
    write(where, "changed")
    before = len(where.double.log)
    result = where.run(COPIES, "out:2")
    assert layer_gets(where.double, before) == []
    expected = plainly(where, shm_path / "three", COPIES)
    assert [str(layer.digest) for layer in result.manifest.layers] == expected


def test_what_a_listing_cannot_tell_is_fetched(shm_path: Path) -> None:
    """An archive's hard link to a file of the base needs that file; an error is the base's own."""
    one = world(shm_path / "one")
    one.run(COPIES, "out:1", cache_to=(PLACE,))
    wrong = f"FROM {HOST}/base/busybox\nCOPY . /etc/passwd\n"
    with pytest.raises(Exception, match="passwd"):
        second(one, shm_path / "two", wrong)


def test_a_manifest_with_a_listing_is_an_oci_artifact(shm_path: Path) -> None:
    """Any registry takes it: an image manifest whose configuration and layer are the empty object."""
    one = world(shm_path / "one")
    one.run(COPIES, "out:1", cache_to=(PLACE,))
    tag = next(tag for tag in one.double.tags["team/cache"] if tag.startswith("f-"))
    manifest = parse_manifest(one.double.manifest("team/cache", tag).raw, "")
    assert isinstance(manifest, Manifest)
    assert manifest.annotations[CHAIN].endswith(tag.removeprefix("f-"))
    assert [layer.size for layer in manifest.layers] == [2] == [manifest.config.size]
