"""Bombs in whole builds: the limits of the request reach the workers that unpack layers and archives."""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import pytest
import trio

from asyncbuild.build.fetch import FetchTools
from asyncbuild.build.incoming import receive_context
from asyncbuild.cli.arguments import parser
from asyncbuild.cli.limits import read_limits
from asyncbuild.errors import AsyncbuildError, InputError, LayerError, UsageError
from asyncbuild.layers.limits import LIMITS, LayerLimits
from asyncbuild.store.store import Store
from support.builds import HOST, Recorder, World
from support.layers import member, tar

MIB = 1 << 20
BOMB = tar(member("zeros", data=bytes(24 * MIB)))
CROWD = tar(*(member(f"f{number}", data=b"") for number in range(20)))
SMALL = LayerLimits(size=10 * MIB, entries=10)


def options(*words: str) -> argparse.Namespace:
    """What the command line of a build says."""
    return parser().parse_args(["build", *words, "."])


@pytest.mark.parametrize(("layer", "what"), [(BOMB, "10485760 bytes"), (CROWD, "10 entries")])
def test_a_layer(shm_path: Path, layer: bytes, what: str) -> None:
    """A base image's layer is an error that names the options, and nothing of it stays."""
    world = World.below(shm_path)
    world.double.add_image("base", "latest", layers=[layer])
    dockerfile = f"FROM {HOST}/base\nWORKDIR /made\n"
    with pytest.raises(LayerError, match=what) as caught:
        world.run(dockerfile, "app:1", limits=SMALL)
    assert "--max-layer-size" in (caught.value.hint or "")
    assert world.wrong() == []
    assert not list((world.store / "layers").glob("*/*"))
    world.run(dockerfile, "app:1")  # within the usual limits it is a layer like any other


@pytest.mark.parametrize(("archive", "what"), [(BOMB, "10485760 bytes"), (CROWD, "10 entries")])
def test_an_archive(shm_path: Path, archive: bytes, what: str) -> None:
    """What ADD unpacks, too; the error stands at the line of the ADD."""
    world = World.below(shm_path)
    (world.context / "a.tgz").write_bytes(gzip.compress(archive))
    with pytest.raises(InputError, match=what) as caught:
        world.run("FROM scratch\nADD a.tgz /a/\n", "app:1", limits=SMALL)
    assert caught.value.location is not None
    assert caught.value.location.line == 2
    assert world.wrong() == []


def test_a_context(shm_path: Path) -> None:
    """A context that is an archive has the same limits, before anything is planned."""
    archive = shm_path / "context.tgz"
    archive.write_bytes(gzip.compress(BOMB))
    with Store.open(shm_path / "store") as store:
        tools = FetchTools(store, Recorder(), limits=SMALL)
        with pytest.raises(InputError, match="10485760 bytes") as caught:
            trio.run(receive_context, archive, tools, 0)
    assert "--max-layer-size" in (caught.value.hint or "")


def test_options() -> None:
    """Each option sets its limit, the others stay; 0 is none."""
    assert read_limits(options()) == LIMITS
    found = read_limits(options("--max-layer-size", "2g", "--max-layer-entries", "0"))
    assert found == LayerLimits(2 << 30, LIMITS.ratio, 0)
    assert read_limits(options("--max-layer-ratio", "9")).ratio == 9.0
    assert read_limits(argparse.Namespace()) == LIMITS


@pytest.mark.parametrize("name", ["size", "ratio", "entries"])
def test_wrong_options(name: str) -> None:
    """What is no number is said with the option's name."""
    with pytest.raises(UsageError, match=f"--max-layer-{name}") as caught:
        read_limits(options(f"--max-layer-{name}", "much"))
    assert isinstance(caught.value, AsyncbuildError)
