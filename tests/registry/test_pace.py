"""Progress: a trickle is none, in either direction; a body that gets on may take as long as it likes."""

from __future__ import annotations

import random

import pytest
import trio

from asyncbuild.errors import RegistryUnavailable
from asyncbuild.image.digest import Digest
from asyncbuild.registry.bodies import Reading
from asyncbuild.registry.client import RegistryClient
from asyncbuild.registry.pace import Pace, Progress
from asyncbuild.registry.registries import RegistrySettings
from asyncbuild.registry.retry import RetryBudget, RetryPolicy
from asyncbuild.registry.upload import UploadSession
from asyncbuild.testing.faults import Delay, Drop, Hang, Respond, Rule
from asyncbuild.testing.registry import RegistryDouble
from support.double import read_all, with_client

DATA = random.Random(8).randbytes(1_000_000)


def test_progress() -> None:
    """So many bytes in so many seconds of waiting, counted anew whenever they have come."""
    progress = Progress(Pace(least=100, seconds=30))
    progress.moved(99, 29.0)
    assert progress.seconds_left == 1.0
    progress.moved(1, 0.5)
    assert progress.seconds_left == 30.0
    progress.moved(1, 40.0)
    assert progress.seconds_left == 0.0
    assert Pace(least=100, seconds=30).seconds_for(1) == 30.0
    assert Pace(least=100, seconds=30).seconds_for(1000) == 300.0


def timed(double: RegistryDouble, settings: RegistrySettings | None = None) -> tuple[bytes, float]:
    """Download `DATA`; it, and the seconds that it took."""
    descriptor = double.add_blob("a", DATA)

    async def use(client: RegistryClient) -> tuple[bytes, float]:
        started = trio.current_time()
        async with client.open_blob("a", descriptor) as chunks:
            data = await read_all(chunks)
        return data, trio.current_time() - started

    return with_client(double, use, settings)


def test_a_trickle_is_taken_up_elsewhere() -> None:
    """A server that sends a byte every twenty seconds is left after half a minute, and the rest is asked
    for on another connection.
    """
    double = RegistryDouble()
    double.faults.add(Rule(Hang(after=400_000, trickle=20)))
    data, seconds = timed(double)
    assert data == DATA
    assert 30 <= seconds < 61
    assert [entry.headers.get("range") for entry in double.log] == [None, "bytes=400001-999999"]


def test_slow_is_not_stalled() -> None:
    """A little more than the slowest pace is no fault, however long the whole takes."""
    progress = Progress(Pace(least=100, seconds=30))
    for _ in range(10_000):
        progress.moved(10, 2.9)
        assert progress.seconds_left > 0


def test_a_manifest_that_trickles() -> None:
    """What is no blob may not trickle either."""
    double = RegistryDouble()
    double.add_image("a", "latest")
    double.faults.add(Rule(Hang(after=4, trickle=10), times=None))

    async def use(client: RegistryClient) -> None:
        await client.get_manifest("a", "latest")

    with pytest.raises(RegistryUnavailable, match="too slowly"):
        with_client(double, use)
    assert len(double.log) == 5


def test_headers_that_do_not_come() -> None:
    """The time until an answer's headers are there is bounded, whatever else happens on the connection."""
    double = RegistryDouble()
    double.add_image("a", "latest")
    double.faults.add(Rule(Delay(1000)))

    async def use(client: RegistryClient) -> float:
        started = trio.current_time()
        await client.get_manifest("a", "latest")
        return trio.current_time() - started

    assert 60 <= with_client(double, use) < 61


class Slow:
    """A body that takes its time: an hour between two chunks."""

    size = None
    replayable = True

    def read(self, start: int = 0) -> Reading:
        """From the first byte."""
        assert start == 0
        return _SlowReading()


class _SlowReading:
    def __init__(self) -> None:
        self._left = 3

    async def next_chunk(self) -> bytes:
        await trio.sleep(3600)
        self._left -= 1
        return b"x" if self._left >= 0 else b""

    def close(self) -> None:
        """Nothing to free."""


def test_the_maker_may_take_its_time() -> None:
    """How long a body's bytes take to be made is nobody's fault."""
    double = RegistryDouble()

    async def use(client: RegistryClient) -> None:
        session = await client.mount_or_start_upload("a")
        assert isinstance(session, UploadSession)
        await session.stream(Slow())
        await session.close(Digest.of(b"xxx"))

    with_client(double, use)
    assert double.blobs["a"] == {Digest.of(b"xxx"): b"xxx"}
    assert [entry.method for entry in double.log] == ["POST", "PATCH", "PUT"]


def test_tries_of_a_whole_build_are_bounded() -> None:
    """All requests together may be tried again so often and not more."""
    budget = RetryBudget(RetryPolicy(in_all=2))
    assert [budget.spend() for _ in range(3)] == [True, True, False]
    double = RegistryDouble()
    double.faults.add(Rule(Respond(503), times=None))

    async def use(client: RegistryClient) -> None:
        for _ in range(10):
            with pytest.raises(RegistryUnavailable):
                await client.blob_exists("a", Digest.of(b""))

    with_client(double, use, RegistrySettings(policy=RetryPolicy(attempts=5, in_all=6)))
    assert len(double.log) == 10 + 6


def test_a_bad_link_costs_no_budget() -> None:
    """Breaks of a download or an upload that gets on are endured, however many they are."""
    data = DATA * 12
    double = RegistryDouble()
    descriptor = double.add_blob("a", data)
    double.faults.add(Rule(Drop(after=1_100_000), "GET", times=None))

    async def use(client: RegistryClient) -> bytes:
        async with client.open_blob("a", descriptor) as chunks:
            return await read_all(chunks)

    policy = RegistrySettings(policy=RetryPolicy(in_all=3))
    assert with_client(double, use, policy) == data
    assert len(double.log) == 11
