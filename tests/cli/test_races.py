"""Builds that race on one store, one scope of a registry cache, one cache directory: none loses or breaks."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from asyncbuild.testing.exchanges import Asked
from asyncbuild.testing.registry_server import serving
from support.builds import Belongings, GatedDouble, add_busybox, store_faults
from support.commands import COMMAND, build_quietly

pytestmark = pytest.mark.integration

PATIENCE = 100.0
RACERS = 3
DOCKERFILE = """\
FROM HOST/base/busybox
RUN --mount=type=cache,target=/c echo x >> /c/all; echo common > /common; touch -d @1700000000 /common
COPY file /copied
RUN echo NUMBER > /own; touch -d @1700000000 /own
"""
SCOPE = ("--cache-from", "HOST/cache/app:main", "--cache-to", "HOST/cache/app:main")
DIRECTORY = ("--cache-from", "type=local,src=kept", "--cache-to", "type=local,dest=kept,mode=max")


def command(host: str, number: int, store: str, words: tuple[str, ...]) -> list[str]:
    """One build: the Dockerfile of ``number``, a store, and what is shared beside it."""
    shared = [word.replace("HOST", host) for word in words]
    given = ["--store", store, "-t", f"{host}/app:{number}", "--progress", "plain", *shared]
    return [*COMMAND, "build", *given, f"context{number}"]


@pytest.mark.parametrize(
    ("stores", "words"),
    [("store", ()), ("store-{}", SCOPE), ("store-{}", DIRECTORY)],
    ids=["store", "scope", "directory"],
)
def test_a_race(stores: str, words: tuple[str, ...], shm_path: Path) -> None:
    """Builds that begin together end well, and what each made is found by those that come later.

    The base is answered for when all have asked, and an index of the cache is written when all have read
    the one before: the worst that can happen to a scope.
    """
    mine = Belongings.now()
    double = GatedDouble()
    add_busybox(double)
    double.hold(
        lambda asked: asked.method == "GET" and asked.path.endswith("/busybox/manifests/latest"),
        lambda: len(double.asked("GET", "/busybox/manifests/latest")) >= RACERS,
    )

    def writes_the_index(asked: Asked) -> bool:
        return asked.method == "PUT" and asked.path == "/v2/cache/app/manifests/main"

    double.hold(
        writes_the_index,
        lambda: len(double.asked("PUT", "^/v2/cache/app/manifests/main$")) >= RACERS,
    )

    async def main() -> None:
        async with serving(double) as host:
            for number in range(RACERS):
                path = shm_path / f"context{number}"
                path.mkdir()
                text = DOCKERFILE.replace("HOST", host).replace("NUMBER", str(number))
                (path / "Dockerfile").write_text(text)
                (path / "file").write_text("content\n")
            with trio.fail_after(PATIENCE):
                async with trio.open_nursery() as nursery:
                    for number in range(RACERS):
                        line = command(host, number, stores.format(number), words)
                        nursery.start_soon(build_quietly, shm_path, line)
                raced = dict(double.tags["app"])
                async with trio.open_nursery() as nursery:
                    for number in range(RACERS):
                        nursery.start_soon(look, host, number)
            assert double.tags["app"] == raced

    async def look(host: str, number: int) -> None:
        store = stores.format(f"later-{number}")
        said = await build_quietly(shm_path, command(host, number, store, words[:2]))
        assert said.count("(cached)") == 3, said

    trio.run(main)
    assert Belongings.now().more_than(mine) == []
    for store in shm_path.glob("store*"):
        assert store_faults(store) == []
    assert [*shm_path.glob("store*/tmp/*"), *shm_path.glob("kept/tmp/*")] == []
