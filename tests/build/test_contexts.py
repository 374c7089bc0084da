"""Named contexts and remote ones in whole builds, against a registry double: images of layouts, and what
is fetched when.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from asyncbuild.errors import DockerfileError, ImageNotFound, InputError, IntegrityError
from asyncbuild.output.spec import parse_output
from support.bases import busybox_image
from support.builds import World, add_busybox, manifest_of
from support.sources import Page, WebServer


@pytest.fixture
def world(shm_path: Path) -> World:
    """A place to build in."""
    world = World.below(shm_path)
    add_busybox(world.double)
    return world


def layout(world: World, path: Path) -> Path:
    """An OCI layout with an image of our own: busybox and a file; its tag is v1."""
    output = parse_output(f"type=oci,dest={path},tar=false,name=any.example/img:v1")
    world.write({"f": "in the layout"})
    dockerfile = "FROM registry.example/base/busybox\nCOPY f /f\nENV A=b"
    world.run(dockerfile, outputs=(output,), names=output.names)
    return path


def built(world: World, dockerfile: str, **more: object) -> dict[str, object]:
    """The manifest of a build that was pushed."""
    world.run(dockerfile, "out:latest", **more)
    return manifest_of(world.double, "out", "latest")


@pytest.mark.parametrize("tail", ["", ":v1", "@DIGEST", ":v1@DIGEST"])
def test_from_a_layout(world: World, shm_path: Path, tail: str) -> None:
    """Its layers go to the registry, its configuration is the base's; nothing is asked of a registry."""
    path = layout(world, shm_path / "layout")
    entry = json.loads((path / "index.json").read_text())["manifests"][0]
    place = f"oci-layout://{path}{tail.replace('DIGEST', entry['digest'])}"
    world.double.log.clear()
    fresh = World(world.double, shm_path / "other", world.context)
    dockerfile = "FROM img\nRUN test $A = b && grep -q layout /f && touch /g"
    made = built(fresh, dockerfile, contexts={"img": place})
    layers = made["layers"]
    assert isinstance(layers, list)
    assert len(layers) == len(busybox_image().layers) + 2
    assert not any("/base/" in entry.path for entry in world.double.log if entry.method == "GET")
    assert sorted(path.joinpath("blobs/sha256").iterdir())  # it still has its blobs


def test_copy_from_a_layout(world: World, shm_path: Path) -> None:
    """``COPY --from`` and a mount read its files."""
    path = layout(world, shm_path / "layout")
    dockerfile = (
        "FROM registry.example/base/busybox\nCOPY --from=img /f /g\n"
        "RUN --mount=from=img,target=/m cmp /m/f /g"
    )
    built(world, dockerfile, contexts={"img": f"oci-layout://{path}:v1"})


def test_what_a_layout_does_not_have(world: World, shm_path: Path) -> None:
    """The tag, the layout itself, or a blob with its bytes."""
    path = layout(world, shm_path / "layout")
    with pytest.raises(ImageNotFound, match="no image 'v2'") as caught:
        built(world, "FROM img", contexts={"img": f"oci-layout://{path}:v2"})
    assert caught.value.hint == "it has: v1"
    with pytest.raises(InputError, match="no OCI layout"):
        built(world, "FROM img", contexts={"img": f"oci-layout://{shm_path}/none"})
    entry = json.loads((path / "index.json").read_text())["manifests"][0]
    blob = path / "blobs" / entry["digest"].replace(":", "/")
    blob.write_bytes(blob.read_bytes() + b" ")
    with pytest.raises(IntegrityError):
        built(world, "FROM img", contexts={"img": f"oci-layout://{path}:v1"})


def test_fetches_begin_together(world: World, web: WebServer) -> None:
    """Every URL of every stage is under way before the first RUN ends; each is fetched once."""
    for name in ("one", "two"):
        web.pages[f"/together/{name}"] = Page(name.encode(), (200, 404))
    base = f"{web.base}/together"
    dockerfile = (
        f"FROM registry.example/base/busybox AS a\nARG X=one\nADD {base}/$X /1\n"
        f"FROM registry.example/base/busybox\nADD {base}/two /2\nADD {base}/one /3\n"
        "COPY --from=a /1 /4\n"
    )
    built(world, dockerfile)
    assert {web.pages[f"/together/{name}"].asked for name in ("one", "two")} == {1}


def test_a_checksum_spares_the_fetch(world: World, web: WebServer) -> None:
    """What is in the cache by its checksum is not asked for again; without one the content decides."""
    page = web.pages["/spared/f"] = Page(b"f")
    digest = "sha256:252f10c83610ebca1a059c0bae8255eba2f95be4d1d7bcfa89d7248a82d9f111"
    sure = f"FROM scratch\nADD --checksum={digest} {web.base}/spared/f /f"
    built(world, sure)
    built(world, sure)
    assert page.asked == 1
    plain = f"FROM scratch\nADD {web.base}/spared/f /f"
    first = built(world, plain)
    assert built(world, plain)["layers"] == first["layers"]
    page.body = b"changed"
    assert built(world, plain)["layers"] != first["layers"]


def test_a_linked_copy_brings_nothing_of_another_base(world: World) -> None:
    """The cached result of ``--link`` is its layer alone: nothing comes with it that it was once put upon."""
    world.write({"f": "f"})
    built(world, "FROM registry.example/base/busybox\nRUN touch /a\nCOPY --link f /f")
    other = "FROM registry.example/base/busybox\nRUN touch /b\nCOPY --link f /f\n"
    built(world, f"{other}RUN test -e /b && test ! -e /a && test -e /f")


def test_the_registry_of_layouts_is_no_registry(world: World) -> None:
    """Its name stands for layouts inside a build; in a Dockerfile it is an error of that line."""
    with pytest.raises(DockerfileError, match=r"--build-context NAME=oci-layout://PATH") as caught:
        built(world, "FROM registry.example/base/busybox\nCOPY --from=oci-layout.invalid/x / /y")
    assert caught.value.location is not None
    assert caught.value.location.line == 2
    assert world.double.log == []
