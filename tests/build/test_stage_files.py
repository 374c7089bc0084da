"""COPY --from a stage that was cached whole: of that stage only what the COPY needs is fetched, and all of
it at once. What is fetched is read from the registry's log; the image is compared with one that is built
without any of it.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from asyncbuild.build.request import BuildResult, CachePlace
from asyncbuild.image.reference import Reference
from asyncbuild.testing.exchanges import Asked
from asyncbuild.testing.registry import RegistryDouble
from support.builds import HOST, GatedDouble, World, add_busybox
from support.images import EPOCH, Layer, directory, symlink, text

PLACE = CachePlace(Reference.parse(f"{HOST}/team/cache:main"), everything=True)
NAMES = ("a", "b", "c", "d")
NOISE = random.Random(5).randbytes(2 << 20)
MAKE = "mkdir /out && cp /src/file /out/{0} && touch -d @1 /out/{0} /out"


def own_layer(name: str) -> Layer:
    """What the base of stage ``name`` has and no other one: ``/etc/issue``, ``/opt`` and a link to it."""
    return Layer.of(
        text("etc/issue", name),
        directory("opt", 0o711),
        text(f"opt/{name}", name),
        symlink("o", "opt"),
    )


def dockerfile(taken: str, made: str = MAKE) -> str:
    """A stage for each name with its own base, and one that takes ``taken`` ({0}: the name) of each."""
    stages = [
        f"FROM {HOST}/base/{name} AS stage-{name}\nCOPY {name} /src/\nRUN {made.format(name)}\n"
        for name in NAMES
    ]
    copies = [f"COPY --from=stage-{name} {taken.format(name)} /taken/{name}\n" for name in NAMES]
    return "".join([*stages, f"FROM {HOST}/base/b\n", *copies])


def world(path: Path, double: RegistryDouble | None = None) -> World:
    """A machine with a store of its own; without ``double`` with a new registry, too."""
    path.mkdir()
    made = World.below(path, double)
    for name in NAMES:
        if double is None or not double.log:
            add_busybox(made.double, f"base/{name}", own_layer(name))
        write(made, name, f"{name}\n")
    return made


def write(where: World, name: str, content: str) -> None:
    """The file of stage ``name``; always of one time, for that is in the layers."""
    where.write({f"{name}/file": content})
    os.utime(where.context / name / "file", (EPOCH, EPOCH))


def bases_fetched(double: RegistryDouble, since: int) -> set[str]:
    """The names whose bases' own layers were fetched after ``since`` requests."""
    names = {own_layer(name).digest: name for name in NAMES}
    asked = [item.path.rpartition("/")[2] for item in double.log[since:] if item.method == "GET"]
    return {names[digest] for digest in asked if digest in names}


def rebuilt(one: World, tmp: Path, text: str) -> tuple[BuildResult, set[str]]:
    """Build ``text`` on another machine, with another file for stage a; and the bases that it fetched."""
    other = world(tmp, one.double)
    write(other, "a", "changed\n")
    before = len(one.double.log)
    result = other.run(text, "out:2", cache_from=(PLACE,))
    return result, bases_fetched(one.double, before)


def plainly(one: World, tmp: Path, text: str) -> list[str]:
    """The layers of the same image, built without a cache."""
    alone = world(tmp, one.double)
    write(alone, "a", "changed\n")
    return layers(alone.run(text, "out:3"))


def layers(result: BuildResult) -> list[str]:
    """The digests of an image's layers."""
    return [str(layer.digest) for layer in result.manifest.layers]


def forget_listings(double: RegistryDouble) -> None:
    """Take all listings out of the cache."""
    for tag in list(double.tags["team/cache"]):
        if tag.startswith("f-"):
            del double.tags["team/cache"][tag]


@pytest.mark.parametrize(
    "taken", ["/out", "/out/", "/out/*", "/out/{0}", "--exclude=x /out", "--parents /out/./{0}"]
)
def test_only_the_base_of_the_changed_stage_is_fetched(shm_path: Path, taken: str) -> None:
    """Three stages were cached whole; their bases are known by listings, which say that ``/out`` is new."""
    one = world(shm_path / "one")
    one.run(dockerfile(taken), "out:1", cache_to=(PLACE,))
    result, fetched = rebuilt(one, shm_path / "two", dockerfile(taken))
    assert fetched == {"a"}
    assert layers(result) == plainly(one, shm_path / "three", dockerfile(taken))


def test_a_file_of_a_cached_layer_needs_no_listing(shm_path: Path) -> None:
    """The layer that has the file says all about it."""
    one = world(shm_path / "one")
    wanted = dockerfile("/out/{0}").replace(f"FROM {HOST}/base/b\n", "FROM scratch\n")
    one.run(wanted, "out:1", cache_to=(PLACE,))
    forget_listings(one.double)
    result, fetched = rebuilt(one, shm_path / "two", wanted)
    assert fetched == {"a"}
    assert layers(result) == plainly(one, shm_path / "three", wanted)


@pytest.mark.parametrize("taken", ["/opt", "/opt/{0}", "/o", "/etc/iss*"])
def test_files_of_a_base_are_fetched_with_it(shm_path: Path, taken: str) -> None:
    """A listing tells their names alone."""
    one = world(shm_path / "one")
    wanted = dockerfile(taken, MAKE + " && echo {0} > /opt/more && touch -d @1 /opt/more /opt")
    one.run(wanted, "out:1", cache_to=(PLACE,))
    result, fetched = rebuilt(one, shm_path / "two", wanted)
    assert fetched == set(NAMES)
    assert layers(result) == plainly(one, shm_path / "three", wanted)


def test_a_missing_file_is_missing_in_the_base_itself(shm_path: Path) -> None:
    """No error rests on a listing: the base is asked, and the hint is what is in it."""
    one = world(shm_path / "one")
    one.run(dockerfile("/out"), "out:1", cache_to=(PLACE,))
    with pytest.raises(Exception, match=r"/etc/isue does not exist"):
        rebuilt(one, shm_path / "two", dockerfile("/etc/isue"))


def test_large_layers_below_the_file_are_not_fetched(shm_path: Path) -> None:
    """Of the layers of a cached stage the topmost come first; below them is what does not matter."""
    one = world(shm_path / "one")
    (one.context / "b/noise").write_bytes(NOISE)
    wanted = dockerfile("/out/{0}")
    one.run(wanted, "out:1", cache_to=(PLACE,))
    large = {digest for digest, raw in one.double.blobs["team/cache"].items() if len(raw) > 1 << 20}
    assert len(large) == 1
    other = world(shm_path / "two", one.double)
    (other.context / "b/noise").write_bytes(NOISE)
    write(other, "a", "changed\n")
    before = len(one.double.log)
    other.run(wanted, "out:2", cache_from=(PLACE,))
    asked = {item.path.rpartition("/")[2] for item in one.double.log[before:]}
    assert asked.isdisjoint(map(str, large))


def test_layers_of_all_cached_stages_come_at_once_and_early(shm_path: Path) -> None:
    """None of them is answered before all were asked for, and the changed stage's base only then."""
    double = GatedDouble()
    one = world(shm_path / "one", double)
    one.run(dockerfile("/out"), "out:1", cache_to=(PLACE,))
    before = len(double.log)
    own = {own_layer(name).digest for name in NAMES}
    busybox = {layer.digest for layer in add_busybox(RegistryDouble(), "any").layers}
    cached = {str(digest) for digest in double.blobs["team/cache"]}

    def asked_for() -> set[str]:
        found = {
            item.path.rpartition("/")[2] for item in double.log[before:] if item.method == "GET"
        }
        return {digest for digest in found if digest in cached}

    def is_layer(asked: Asked) -> bool:
        name = asked.path.rpartition("/")[2]
        return asked.method == "GET" and name in cached | own | busybox

    double.hold(is_layer, lambda: len(asked_for()) >= len(NAMES[1:]) * 2)
    _, fetched = rebuilt(one, shm_path / "two", dockerfile("/out"))
    assert fetched == {"a"}
