"""Glimpses of a base on its way: used before it is unpacked, and the same image whatever it turns out to be."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from asyncbuild.build.glimpses import is_silent
from asyncbuild.build.request import BuildResult
from asyncbuild.build.workers import WorkerPool
from asyncbuild.errors import DockerfileError
from asyncbuild.image.config import HistoryEntry, ImageConfig
from asyncbuild.image.digest import DiffId
from asyncbuild.image.manifest import Descriptor
from asyncbuild.layers.unpack import Unpacked
from asyncbuild.report.events import LayerPacked
from asyncbuild.testing.exchanges import Asked
from support.builds import (
    AMD64,
    HOST,
    GatedDouble,
    Recorder,
    World,
    add_busybox,
    add_image,
    requests_of,
)
from support.images import EPOCH, Layer, directory, symlink, text

FROM = f"FROM {HOST}/base/busybox\n"
COPY = f"{FROM}COPY tree /srv/files\nRUN true\n"
SRV = directory("srv", 0o751, uid=7, gid=8, mtime=12, xattrs={"user.note": "x"})
OPAQUE = text("srv/.wh..wh..opq", "")


class PatientPool(WorkerPool):
    """Unpacks layers only once something has been sent to ``double``."""

    double: GatedDouble

    async def unpack(
        self,
        descriptor: Descriptor,
        diff_id: DiffId | None,
        destination: Path,
        chunks: AsyncIterable[bytes] | int,
        *,
        tee: Path | None = None,
    ) -> Unpacked:
        """Wait, then unpack."""
        with trio.fail_after(60):  # it ends here where nothing is sent before the base is there
            await self.double.wait(lambda: bool(requests_of(self.double, "PUT")))
        return await super().unpack(descriptor, diff_id, destination, chunks, tee=tee)


def world(path: Path, *more: Layer, double: GatedDouble | None = None) -> World:
    """A world whose base has ``more`` layers on top of busybox, and a context with a tree."""
    made = World.below(path, double)
    add_busybox(made.double, "base/busybox", *more)
    made.write({"tree/file": "content", "tree/deep/other": "more"})
    for item in made.context.rglob("*"):
        os.utime(item, (EPOCH, EPOCH))
    return made


def packed(recorder: Recorder) -> int:
    """How many layers a build made."""
    return len(recorder.of(LayerPacked))


@pytest.mark.parametrize(
    "lines",
    [
        "COPY tree /srv/files\nRUN true",
        "WORKDIR /srv/files\nCOPY tree .\nRUN true",
        "RUN echo a > /a\nCOPY tree /srv/files",
    ],
)
def test_a_layer_arrives_before_the_base_is_unpacked(shm_path: Path, lines: str) -> None:
    """The base is unpacked only when the COPY's layer has been sent, and ``srv`` in it is the base's."""
    double = GatedDouble()
    where = world(shm_path, Layer.of(directory("etc"), SRV, directory("usr")), double=double)

    async def build() -> BuildResult:
        async with PatientPool(3) as pool:
            pool.double = double
            return await where.build(where.request(f"{FROM}{lines}\n", "out:1"), workers=pool)

    found = where.entries(trio.run(build), 3 if lines.startswith("RUN") else 2)
    srv = found["srv"]
    assert (srv.mode, srv.uid, srv.gid, srv.mtime) == (0o751, 7, 8, 12)
    assert srv.pax_headers["SCHILY.xattr.user.note"] == "x"
    assert "srv/files" in found


LOOKS: dict[str, tuple[tuple[Layer, ...], str, int]] = {
    "nothing": ((), "srv", 1),
    "a directory": ((Layer.of(SRV),), "srv", 1),
    "implied": ((Layer.of(SRV), Layer.of(text("srv/a", "a"))), "srv", 1),
    "implied alone": ((Layer.of(text("srv/a", "a")),), "srv", 1),
    "changed above": ((Layer.of(SRV), Layer.of(directory("srv", 0o700, mtime=13))), "srv", 1),
    "a link": ((Layer.of(directory("real"), symlink("srv", "real")),), "real", 1),
    "a link that is replaced": ((Layer.of(symlink("srv", "etc")), Layer.of(SRV)), "srv", 1),
    "whiteout": ((Layer.of(SRV), Layer.of(text(".wh.srv", ""))), "srv", 1),
    "whiteout and again": (
        (Layer.of(SRV), Layer.of(text(".wh.srv", ""), directory("srv", 0o711))),
        "srv",
        1,
    ),
    "opaque": ((Layer.of(SRV, directory("srv/files", 0o700)), Layer.of(OPAQUE)), "srv", 2),
    "opaque again": ((Layer.of(SRV), Layer.of(directory("srv", 0o711), OPAQUE)), "srv", 1),
    "the destination": ((Layer.of(SRV, directory("srv/files", 0o700)),), "srv", 1),
    "out of order": ((Layer.of(directory("usr"), SRV, directory("a")),), "srv", 2),
    "whiteout out of order": (
        (Layer.of(SRV), Layer.of(directory("usr"), text(".wh.srv", ""))),
        "srv",
        2,
    ),
    "a link out of order": (
        (Layer.of(directory("real"), directory("usr"), symlink("srv", "real")),),
        "real",
        2,
    ),
}
"""Layers of the base, where the files go, and how often they are packed: once more after a wrong glimpse."""


ORDERS = {
    "COPY tree /srv/files\nRUN true\n": -2,
    "COPY tree /srv/files\n": -1,
    "RUN true\nCOPY tree /srv/files\n": -1,
}
"""Steps, and which layer the COPY's is."""


FIRST, *OTHERS = ORDERS
SAMPLE = ("a directory", "implied", "a link", "whiteout out of order", "a link out of order")


@pytest.mark.parametrize(
    ("look", "steps"),
    [*((look, FIRST) for look in LOOKS), *((look, steps) for look in SAMPLE for steps in OTHERS)],
)
def test_the_same_image_as_upon_a_base_that_is_here(shm_path: Path, look: str, steps: str) -> None:
    """Whatever the base has at ``/srv``: cold, with glimpses, and with the base unpacked before."""
    layers, name, times = LOOKS[look]
    here, cold = world(_below(shm_path, "here"), *layers), world(_below(shm_path, "cold"), *layers)
    here.run(f"{FROM}RUN true\n", "base:1")
    for listing in (here.store / "listings").rglob("*"):
        listing.unlink()
    expected = here.run(FROM + steps, "out:1", use_cache=False)
    recorder = Recorder()
    built = trio.run(lambda: cold.build(cold.request(FROM + steps, "out:1"), recorder=recorder))
    assert built.manifest.layers == expected.manifest.layers
    assert f"{name}/files/deep/other" in cold.entries(built, ORDERS[steps])
    assert cold.wrong() == []
    assert packed(recorder) == times + steps.count("RUN")


def _below(path: Path, name: str) -> Path:
    (path / name).mkdir()
    return path / name


@pytest.mark.parametrize(
    "layers", [(text("srv", "no directory"),), (directory("a"), directory("usr"), text("srv", ""))]
)
def test_a_file_in_the_way(shm_path: Path, layers: tuple[Any, ...]) -> None:
    """It is the error that it always was, also where the glimpse did not see it; nothing is left."""
    where = world(shm_path, Layer.of(*layers))
    with pytest.raises(DockerfileError, match="file /srv"):
        where.run(COPY, "out:1")
    assert where.wrong() == []


def test_names_of_users_wait_for_the_base(shm_path: Path) -> None:
    """What is in a file no beginning tells."""
    where = world(shm_path, Layer.of(text("etc/passwd", "someone:x:7:8::/:/bin/sh\n"), SRV))
    result = where.run(COPY.replace("tree", "--chown=someone tree"), "out:1")
    assert where.entries(result, 2)["srv/files/file"].uid == 7


APT = "RUN /bin/sh -c apt-get install -y nginx # buildkit"
SILENT = {
    APT: True,
    "|1 A=b /bin/sh -c make install": True,
    "RUN /bin/sh -c mkdir /srv/x # buildkit": False,
    "/bin/sh -c #(nop) COPY dir:12 in / ": False,
    "COPY /rootfs / # buildkit": False,
    "WORKDIR /x": False,
    "bazel build ...": False,
    "": False,
}


@pytest.mark.parametrize(("line", "silent"), SILENT.items())
def test_which_layers_are_not_waited_for(line: str, *, silent: bool) -> None:
    """Those of RUNs that do not say the name, if the history tells which layer is whose."""
    diff_ids = (DiffId.of(b"1"), DiffId.of(b"2"))
    lines = (HistoryEntry("ADD file:1 in /"), HistoryEntry("CMD x", empty_layer=True))
    config = ImageConfig(AMD64, diff_ids=diff_ids, history=(*lines, HistoryEntry(line)))
    assert is_silent(config, 1, "srv") is silent
    assert not is_silent(config, 0, "srv")
    assert not is_silent(config, 1, "home")
    assert not is_silent(replace(config, history=config.history[1:]), 1, "srv")
    assert not is_silent(replace(config, history=()), 1, "srv")


@pytest.mark.parametrize("more", [(), (SRV,)])
def test_a_layer_of_a_run_need_not_have_come(shm_path: Path, more: tuple[Any, ...]) -> None:
    """The topmost layer is withheld until the COPY has been sent; if it has the name after all, the layer
    that was sent is in no image.
    """
    double = GatedDouble()
    where = World.below(shm_path, double)
    where.write({"tree/file": "content"})
    top = Layer.of(text("usr/x", "x"), *more)
    image = add_busybox(double, "base/busybox", top)
    lines = ["ADD file:1 in /"] * (len(image.layers) - 1)
    add_image(double, "base/busybox", replace(image, made_by=[*lines, APT]))

    def is_top(asked: Asked) -> bool:
        return asked.method == "GET" and asked.path.endswith(top.digest)

    double.hold(is_top, lambda: bool(requests_of(double, "PUT")))

    async def build() -> BuildResult:
        with trio.fail_after(60):
            return await where.build(where.request(COPY, "out:1"))

    result = trio.run(build)
    srv = where.entries(result, -2)["srv"]
    assert srv.mode == (0o751 if more else 0o755)
    assert len(result.manifest.layers) == len(image.layers) + 2
