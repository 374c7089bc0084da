"""Listings of cached stages: COPY and WORKDIR upon layers that RUNs made, without any of these layers.

The truth is what the same build makes of the layers themselves, with no listing of them in the cache.
"""

from __future__ import annotations

import base64
import json
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from asyncbuild.build.request import BuildResult, CachePlace
from asyncbuild.cache.registry import LISTING
from asyncbuild.image.manifest import parse_manifest
from asyncbuild.image.reference import Reference
from asyncbuild.layers.listing import Listing
from support.builds import HOST, World, add_busybox
from support.images import EPOCH, Layer, directory, text

PLACE = CachePlace(Reference.parse(f"{HOST}/team/cache:main"), everything=True)
BASE = Layer.of(directory("srv", 0o711, uid=3), text("srv/old", "old"), directory("real"))
NOISE = random.Random(7).randbytes(2 << 20)
MAKES = """\
RUN mkdir -m 2750 -p /app/data && chown 7:8 /app/data && ln -s app/data /link && rm -rf /srv real \\
    && mkdir -m 0700 /srv && touch -d @1600000000 /app/data /srv && echo x > /app/taken \\
    && ln -s /srv /real && echo 'worker:x:70:80::/:/bin/sh' >> /etc/passwd
"""
PUTS = """\
WORKDIR /srv/deep
COPY --chown=worker:9 file /link/
COPY file /app/data/sub/
COPY file /real/
"""
STAGE = f"FROM {HOST}/base/busybox AS made\n{MAKES}"


def world(path: Path, one: World | None = None) -> World:
    """A machine with a store of its own; the first has a new registry with the base."""
    path.mkdir()
    made = World.below(path, None if one is None else one.double)
    if one is None:
        add_busybox(made.double, "base/busybox", BASE)
    made.write({"file": "content" if one is None else "changed", "noise": ""})
    (made.context / "noise").write_bytes(NOISE)
    for name in ("file", "noise"):
        os.utime(made.context / name, (EPOCH, EPOCH))
    return made


def rebuilt(
    one: World, tmp: Path, dockerfile: str, place: CachePlace = PLACE, *, exports: bool = False
) -> tuple[BuildResult, list[str]]:
    """Build on another machine with another file; and the layers that it fetched."""
    other, before = world(tmp, one), len(one.double.log)
    to = (place,) if exports else ()
    result = other.run(dockerfile, "out:2", cache_from=(place,), cache_to=to)
    asked = [item.path for item in one.double.log[before:] if item.method == "GET"]
    manifests = [raw for _, raw in one.double.manifests["out"].values()]
    layers = {layer["digest"] for raw in manifests for layer in json.loads(raw).get("layers", ())}
    cached = {str(digest) for digest in one.double.blobs.get("team/cache", ())}
    names = [path.rpartition("/")[2] for path in asked if "/blobs/" in path]
    return result, [name for name in names if name in layers | cached]


def forget(one: World) -> None:
    """Take all listings out of the registry's cache."""
    for tag in [tag for tag in one.double.tags["team/cache"] if tag.startswith("f-")]:
        del one.double.tags["team/cache"][tag]


def layers(result: BuildResult) -> list[str]:
    """The digests of an image's layers."""
    return [str(layer.digest) for layer in result.manifest.layers]


FORMS = {
    "in the stage itself": (STAGE + PUTS, 0),
    "in a stage upon it": (f"{STAGE}FROM made\nENV a=b\n{PUTS}", 1),
    "two stages up": (f"{STAGE}FROM made AS next\nRUN echo > /app/more\nFROM next\n{PUTS}", 1),
    "upon scratch": (f"{STAGE}FROM scratch\nCOPY --from=made / /\n{MAKES}{PUTS}", 0),
    "a layer between": (f"{STAGE}COPY noise /app/data/noise\n{PUTS}", 2),
}
"""Each with how many layers there are between what is listed and the changed COPY: these are fetched."""


@pytest.mark.parametrize("form", FORMS)
def test_copies_upon_a_cached_run_need_no_layer(shm_path: Path, form: str) -> None:
    """A changed file is put upon what RUNs made; none of the layers that these made is fetched, nor any of
    the base.
    """
    dockerfile, between = FORMS[form]
    one = world(shm_path / "one")
    one.run(dockerfile, "out:1", cache_to=(PLACE,))
    result, fetched = rebuilt(one, shm_path / "two", dockerfile)
    assert len(fetched) == between
    assert result.statistics.steps_executed > 0
    forget(one)
    truth, all_of_them = rebuilt(one, shm_path / "three", dockerfile)
    assert len(all_of_them) >= 2 + between
    assert layers(result) == layers(truth)


def test_the_cache_may_be_a_directory(shm_path: Path) -> None:
    """The listing stands beside the results, and the layers are not unpacked."""
    place = CachePlace(path=shm_path / "cache", everything=True)
    one = world(shm_path / "one")
    one.run(STAGE + PUTS, "out:1", cache_to=(place,))
    result, _ = rebuilt(one, shm_path / "two", STAGE + PUTS, place)
    unpacked = list((shm_path / "two/store/layers").glob("*/*"))
    assert unpacked == []
    for path in (shm_path / "cache/listings").iterdir():
        path.unlink()
    truth, _ = rebuilt(one, shm_path / "three", STAGE + PUTS, place)
    assert layers(result) == layers(truth)


@pytest.mark.parametrize(
    "taken", ["/app", "/app/", "/app/*", "/app/taken", "--parents /app/./taken"]
)
def test_what_a_copy_takes_of_a_cached_stage(shm_path: Path, taken: str) -> None:
    """Only the layer is fetched that has the file, though a large one lies below it."""
    dockerfile = (
        f"FROM {HOST}/base/busybox AS made\nCOPY noise /src/\nRUN mkdir /app; echo x > /app/taken;"
        f" touch -d @1 /app\nFROM scratch\nCOPY file /\nCOPY --from=made {taken} /taken/\n"
    )
    one = world(shm_path / "one")
    one.run(dockerfile, "out:1", cache_to=(PLACE,))
    result, fetched = rebuilt(one, shm_path / "two", dockerfile)
    assert len(fetched) == 1
    forget(one)
    truth, _ = rebuilt(one, shm_path / "three", dockerfile)
    assert layers(result) == layers(truth)


def test_a_run_behind_it_needs_all(shm_path: Path) -> None:
    """Then the layers come anyway, and their listing is not asked for."""
    dockerfile = STAGE + PUTS + "RUN cat /srv/file /link/file > /both\n"
    one = world(shm_path / "one")
    one.run(dockerfile, "out:1", cache_to=(PLACE,))
    before = len(one.double.log)
    result, fetched = rebuilt(one, shm_path / "two", dockerfile)
    assert len(fetched) >= 2
    listings = {item.path for item in one.double.log[before:] if "/manifests/f-" in item.path}
    assert len(listings) == 1, "that of the base"
    forget(one)
    truth, _ = rebuilt(one, shm_path / "three", dockerfile)
    assert layers(result)[:-1] == layers(truth)[:-1]


def test_the_machine_that_has_the_layers_asks_nobody(shm_path: Path) -> None:
    """Layers in the store are looked at themselves."""
    one = world(shm_path / "one")
    one.run(STAGE + PUTS, "out:1", cache_from=(PLACE,))
    one.write({"file": "other"})
    before = len(one.double.log)
    one.run(STAGE + PUTS, "out:1", cache_from=(PLACE,))
    asked = [item.path for item in one.double.log[before:] if item.method == "GET"]
    assert [path for path in asked if "/manifests/f-" in path or "/blobs/sha256" in path] == []


def test_a_wrong_listing_is_found_before_a_run(shm_path: Path) -> None:
    """In a stage upon it: what was answered is compared once the layers are here, the stage is executed again,
    and the listing is made anew in the cache.
    """
    dockerfile = f"{STAGE}FROM made\nCOPY file /link/\nRUN true\n"
    one = world(shm_path / "one")
    one.run(dockerfile, "out:1", cache_to=(PLACE,))
    right = {}
    for tag in [tag for tag in one.double.tags["team/cache"] if tag.startswith("f-")]:
        manifest = one.double.manifest("team/cache", tag)
        document = json.loads(manifest.raw)
        told = Listing.decode(base64.b64decode(document["annotations"][LISTING]))
        if "link" not in told.directories[""].links:
            continue
        right[tag] = document["annotations"][LISTING]
        root = told.directories[""]
        others = type(root)(root.directory, {**root.links, "link": "srv"}, root.others)
        lie = Listing({**told.directories, "": others}, told.texts).encode()
        document["annotations"][LISTING] = base64.b64encode(lie).decode()
        altered = parse_manifest(json.dumps(document).encode(), manifest.media_type)
        one.double.add_manifest("team/cache", tag, altered)
    assert len(right) == 1
    result, _ = rebuilt(one, shm_path / "two", dockerfile, exports=True)
    ((tag, told),) = right.items()
    assert inside(one.double.manifest("team/cache", tag).annotations[LISTING]) == inside(told)
    forget(one)
    truth, _ = rebuilt(one, shm_path / "three", dockerfile)
    assert layers(result)[:-1] == layers(truth)[:-1]


def inside(annotation: str) -> tuple[object, ...]:
    """All of a listing but the root's time, and parts of a second: no layer has them."""
    listing = Listing.decode(base64.b64decode(annotation))
    directories = {
        path: (
            replace(item.directory, mtime_ns=0),
            item.directory.mtime_ns // 10**9,
            item.links,
            item.others,
        )
        for path, item in listing.directories.items()
        if path
    }
    return directories, listing.directories[""].links, listing.texts


def test_nothing_is_listed_that_no_other_build_will_ask_for(shm_path: Path) -> None:
    """No listing of a stage without an export, nor where a RUN is the last of all."""
    one = world(shm_path / "one")
    one.run(STAGE + PUTS, "out:1")
    one.run(f"{STAGE}RUN true\n", "out:1", cache_to=(PLACE,))
    listings = [path.name for path in (one.store / "records/listings").iterdir()]
    assert len(listings) == 1, "that of the base"
