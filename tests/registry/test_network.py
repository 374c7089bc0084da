"""Real sockets on loopback: the double served with and without TLS."""

from __future__ import annotations

import math
import random
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import httpcore
import pytest
import trio
import trio.testing

from asyncbuild.errors import RegistryUnavailable, UsageError
from asyncbuild.image.manifest import Descriptor
from asyncbuild.registry import headstart
from asyncbuild.registry.authorities import TrustSettings
from asyncbuild.registry.client import Fetched, RegistryClient
from asyncbuild.registry.headstart import Ask, HeadStart, Place
from asyncbuild.registry.hosts import HostSettings
from asyncbuild.registry.network import SocketBackend
from asyncbuild.registry.protocol import MANIFEST_ACCEPT, USER_AGENT
from asyncbuild.registry.reach import Guard
from asyncbuild.registry.registries import Registries, RegistrySettings
from asyncbuild.registry.retry import RetryPolicy
from asyncbuild.registry.tls import Trust
from asyncbuild.registry.transport import Timeouts
from asyncbuild.registry.upload import UploadSession
from asyncbuild.registry.wire import ExchangeRecord, NoAnswer
from asyncbuild.testing.exchanges import Answered, Asked, LoggedRequest
from asyncbuild.testing.faults import Drop, DropUpload, Hang, Lengthen, Respond, Rule, WrongLength
from asyncbuild.testing.registry import RegistryDouble
from asyncbuild.testing.registry_server import serving
from support.double import read_all
from support.registry import Tls, make_tls

QUICK = RetryPolicy(attempts=4, base=0.001)
DATA = random.Random(8).randbytes(3 << 20)


@pytest.fixture(scope="module")
def tls(session_path: Path) -> Tls:
    """A certificate for 127.0.0.1 and its authority."""
    return make_tls(session_path / "network-tls")


def server_context(tls: Tls) -> ssl.SSLContext:
    """The server's side of ``tls``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate, tls.key)
    return context


Use = Callable[[Registries, RegistryClient], Awaitable[None]]


def over_sockets(
    double: RegistryDouble,
    use: Use,
    *,
    tls: Tls | None = None,
    host: HostSettings | None = None,
    timeouts: Timeouts | None = None,
) -> None:
    """Serve ``double`` on loopback and run ``use`` with a client of it."""

    async def main() -> None:
        context = None if tls is None else server_context(tls)
        async with serving(double, tls=context) as name:
            settings = RegistrySettings(
                hosts={} if host is None else {name: host},
                policy=QUICK,
                timeouts=timeouts or Timeouts(),
            )
            async with Registries(settings) as registries:
                await use(registries, registries.client(name))

    trio.run(main)


async def download(client: RegistryClient, blob: Descriptor) -> bytes:
    """A whole blob of repository ``a``."""
    async with client.open_blob("a", blob) as chunks:
        return await read_all(chunks)


def trusting(tls: Tls) -> HostSettings:
    """Settings of a host whose authority is ours."""
    return HostSettings(ca_files=(str(tls.ca_file),))


@pytest.mark.parametrize("secure", [False, True])
def test_large_blobs_both_ways(tls: Tls, *, secure: bool) -> None:
    """Three MiB down and up, whole, over connections that are used again."""
    double = RegistryDouble()
    blob = double.add_blob("a", DATA)

    async def use(registries: Registries, client: RegistryClient) -> None:
        assert await download(client, blob) == DATA
        session = await client.mount_or_start_upload("b")
        assert isinstance(session, UploadSession)
        await session.put(DATA, blob.digest)
        assert double.blobs["b"] == {blob.digest: DATA}
        statistics = registries.statistics()
        assert (statistics.requests, statistics.bytes_received) == (3, len(DATA))
        # The try for TLS, which plain HTTP answers with nonsense, is the second connection.
        assert statistics.connections == (1 if secure else 2)

    options = {"tls": tls, "host": trusting(tls)} if secure else {}
    over_sockets(double, use, **options)  # type: ignore[arg-type]
    assert [entry.method for entry in double.log] == ["GET", "POST", "PUT"]


def test_large_chunks_cost_few_reads() -> None:
    """What has arrived is handed over in large pieces: far fewer than one for each 64 KiB."""
    double = RegistryDouble()
    data = bytes(32 << 20)
    blob = double.add_blob("a", data)

    async def use(_: Registries, client: RegistryClient) -> None:
        sizes = []
        async with client.open_blob("a", blob) as chunks:
            async for chunk in chunks:
                sizes.append(len(chunk))
        assert sum(sizes) == len(data)
        assert max(sizes) <= 512 << 10
        assert max(sizes) > 64 << 10

    over_sockets(double, use)
    assert len(double.log) == 1


def test_many_tasks_share_a_client(tls: Tls) -> None:
    """Downloads and uploads of many tasks at once."""
    double = RegistryDouble()
    blobs = [double.add_blob("a", DATA[number:]) for number in range(12)]

    async def use(registries: Registries, client: RegistryClient) -> None:
        async def one(number: int) -> None:
            data = await download(client, blobs[number])
            session = await client.mount_or_start_upload("b")
            assert isinstance(session, UploadSession)
            await session.put(data, blobs[number].digest)

        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(one, number)
        assert registries.statistics().connections <= 12

    over_sockets(double, use, tls=tls, host=trusting(tls))
    assert set(double.blobs["b"]) == {blob.digest for blob in blobs}


def test_scheme_is_found_out_once(tls: Tls) -> None:
    """Tasks that begin at once try TLS once; a registry with TLS on loopback is used with it."""
    double = RegistryDouble()
    image = double.add_image("a", "latest")

    async def use(registries: Registries, client: RegistryClient) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(client.get_manifest, "a", "latest")
        assert registries.statistics().connections <= 6
        assert (await client.get_manifest("a", str(image.digest))).digest == image.digest

    over_sockets(double, use)
    over_sockets(double, use, tls=tls, host=trusting(tls))


def test_a_handshake_that_breaks_is_no_answer(tls: Tls) -> None:
    """A registry on this machine whose authority was named speaks TLS, also if it resets a connection."""
    double = RegistryDouble()
    image = double.add_image("a", "latest")

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]

            def reset_one() -> None:
                server.accept()[0].close()

            settings = RegistrySettings(
                hosts={f"127.0.0.1:{port}": trusting(tls)}, policy=RetryPolicy(base=0.2)
            )
            async with Registries(settings) as registries, trio.open_nursery() as nursery:
                client = registries.client(f"127.0.0.1:{port}")
                found: list[Fetched] = []
                done = trio.Event()

                async def ask() -> None:
                    found.append(await client.get_manifest("a", "latest"))
                    done.set()

                nursery.start_soon(ask)
                await trio.to_thread.run_sync(reset_one)
                server.close()
                async with serving(double, tls=server_context(tls), port=port):
                    await done.wait()
        assert found[0].digest == image.digest

    trio.run(main)


def test_a_connection_that_is_gone_when_it_is_looked_at() -> None:
    """A server that resets at once leaves a socket without another side: no answer, and no traceback."""

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            opened = await trio.open_tcp_stream(*server.getsockname())
            other, _ = server.accept()
            other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            other.close()
            await trio.lowlevel.wait_readable(opened.socket)
            with suppress(OSError):
                opened.socket._sock.recv(1)  # type: ignore[attr-defined]
            backend = SocketBackend(Trust(TrustSettings()))
            with pytest.raises(httpcore.ConnectError):
                await backend._check_reach("localhost", opened, Guard("registry.example"))
            assert opened.socket.fileno() == -1

    trio.run(main)


def test_certificate_that_is_not_trusted(tls: Tls) -> None:
    """A certificate of an unknown authority is refused, once, and never answered by plain http."""
    double = RegistryDouble()

    async def use(_: Registries, client: RegistryClient) -> None:
        await client.get_manifest("a", "latest")

    with pytest.raises(NoAnswer, match="the certificate is not trusted: unable to get") as caught:
        over_sockets(double, use, tls=tls)
    assert caught.value.hint is not None
    assert "--registry-ca" in caught.value.hint
    assert double.log == []


def test_insecure(tls: Tls) -> None:
    """A host that was declared insecure may have any certificate, or none."""
    double = RegistryDouble()
    double.add_image("a", "latest")

    async def use(_: Registries, client: RegistryClient) -> None:
        await client.get_manifest("a", "latest")

    over_sockets(double, use, tls=tls, host=HostSettings(insecure=True))
    over_sockets(double, use, host=HostSettings(insecure=True))
    over_sockets(double, use, host=HostSettings(plain=True))
    assert [entry.status for entry in double.log] == [200, 200, 200]


def test_https_is_not_given_up() -> None:
    """A host that must speak TLS and does not is an error."""

    async def use(_: Registries, client: RegistryClient) -> None:
        await client.get_manifest("a", "latest")

    with pytest.raises(RegistryUnavailable, match="no TLS handshake"):
        over_sockets(RegistryDouble(), use, host=HostSettings(plain=False))


def test_authority_that_cannot_be_read(shm_path: Path) -> None:
    """A file of authorities that is missing or empty is the user's to mend."""
    empty = shm_path / "empty"
    empty.write_text("")

    async def use(_: Registries, client: RegistryClient) -> None:
        await client.get_manifest("a", "latest")

    for path in (empty, shm_path / "none"):
        with pytest.raises(UsageError, match="certificate authorities in"):
            over_sockets(RegistryDouble(), use, host=HostSettings(ca_files=(str(path),)))


@pytest.mark.parametrize("secure", [False, True])
def test_dialled_connection_is_used(tls: Tls, *, secure: bool) -> None:
    """A connection that was opened ahead, even one that is still being opened, carries the first request."""
    double = RegistryDouble()
    double.add_image("a", "latest")

    async def use(registries: Registries, client: RegistryClient) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(registries.dial, client.registry)
            await trio.testing.wait_all_tasks_blocked()
            await client.get_manifest("a", "latest")
        assert registries.statistics().connections == 1
        await registries.dial(client.registry)
        assert registries.statistics().connections == 2

    if secure:
        over_sockets(
            double, use, tls=tls, host=HostSettings(plain=False, ca_files=(str(tls.ca_file),))
        )
    else:
        over_sockets(double, use, host=HostSettings(plain=True))


@pytest.mark.parametrize(("far", "count"), [(0.0, 5), (math.inf, 1)])
def test_connections_ahead(far: float, count: int) -> None:
    """To a host that is far away as many are opened as a wave of requests will want; to a near one none."""
    double = RegistryDouble()
    double.add_image("a", "latest")

    async def use(registries: Registries, client: RegistryClient) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(registries.dial_ahead, client.registry, "a", 5)
            await client.get_manifest("a", "latest")
        assert registries.statistics().connections == count
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(client.get_manifest, "a", "latest")
        assert registries.statistics().connections == 5

    over_sockets(double, use, host=HostSettings(plain=True), timeouts=Timeouts(far=far))


class SlowDouble(RegistryDouble):
    """Answers only after ``seconds``."""

    seconds = 0.0

    async def handle(self, asked: Asked, entry: LoggedRequest) -> Answered:
        """Wait, then answer."""
        await trio.sleep(self.seconds)
        return await super().handle(asked, entry)


def early_manifest(start: HeadStart, name: str) -> None:
    """Ask for a manifest as the program will."""
    path = "/v2/a/manifests/latest"
    said = (("User-Agent", USER_AGENT), ("Accept-Encoding", "identity"))
    headers = (*said, ("Accept", MANIFEST_ACCEPT))
    place = Place("127.0.0.1", int(name.rpartition(":")[2]))
    start.ask(place, Ask(f"http://{name}{path}", path, name, headers))


@pytest.mark.parametrize(("seconds", "near_seconds", "near"), [(0.0, 1e9, True), (0.1, 0.1, False)])
def test_an_early_answer_tells_how_far_its_registry_is(
    seconds: float, near_seconds: float, *, near: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the time that it took; that it is here when the program asks says nothing."""
    monkeypatch.setattr("asyncbuild.registry.client._NEAR_SECONDS", near_seconds)
    double = SlowDouble()
    double.seconds = seconds
    double.add_image("a", "latest")

    async def main() -> None:
        async with serving(double) as name:
            start = HeadStart()
            early_manifest(start, name)
            hosts = {name: HostSettings(plain=True)}
            async with Registries(RegistrySettings(hosts=hosts, head_start=start)) as registries:
                client = registries.client(name)
                await client.get_manifest("a", "latest")
                assert client.is_near("a") == near

    trio.run(main)
    assert len(double.log) == 1


def test_connections_of_a_head_start_are_not_made_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are being made count among the connections ahead."""
    double = RegistryDouble()
    double.add_image("a", "latest")
    gate, connect = threading.Event(), headstart._connected

    def connected(place: Place) -> socket.socket:
        gate.wait(60)
        return connect(place)

    monkeypatch.setattr(headstart, "_connected", connected)

    async def main() -> None:
        async with serving(double) as name:
            start = HeadStart()
            for _ in range(3):
                start.dial(Place("127.0.0.1", int(name.rpartition(":")[2])))
            settings = RegistrySettings(
                hosts={name: HostSettings(plain=True)}, head_start=start, timeouts=Timeouts(far=0.0)
            )
            async with Registries(settings) as registries:
                await registries.dial_ahead(name, "a", 5)
                assert registries.statistics().connections == 2
                gate.set()
                await registries.client(name).get_manifest("a", "latest")

    trio.run(main)


def test_dial_never_fails() -> None:
    """A host that does not answer is the first request's error, not the dialler's."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        name = f"127.0.0.1:{taken.getsockname()[1]}"

        async def main() -> None:
            async with Registries(RegistrySettings(policy=QUICK)) as registries:
                await registries.dial(name)
                await registries.client(name).get_manifest("a", "latest")

        with pytest.raises(RegistryUnavailable, match="no connection: Connection refused"):
            trio.run(main)


def test_unknown_host() -> None:
    """A name that does not resolve is said at once."""
    records: list[ExchangeRecord] = []

    async def main() -> None:
        settings = RegistrySettings(on_request=records.append, policy=QUICK)
        async with Registries(settings) as registries:
            await registries.client("no-such-host.invalid").get_manifest("a", "latest")

    with pytest.raises(RegistryUnavailable):
        trio.run(main)
    assert len(records) >= 1


@pytest.mark.parametrize("secure", [False, True])
def test_broken_connections(tls: Tls, *, secure: bool) -> None:
    """Breaks before and within an answer, and while a body is sent, are survived."""
    double = RegistryDouble()
    blob = double.add_blob("a", DATA)
    double.faults.add(
        Rule(Drop(), "GET"),
        Rule(Drop(after=1_000_000), "GET", nth=2),
        Rule(DropUpload(1_000_000), "PUT"),
    )

    async def use(_: Registries, client: RegistryClient) -> None:
        assert await download(client, blob) == DATA
        session = await client.mount_or_start_upload("b")
        assert isinstance(session, UploadSession)
        await session.put(DATA, blob.digest)

    options = {"tls": tls, "host": trusting(tls)} if secure else {}
    over_sockets(double, use, **options)  # type: ignore[arg-type]
    assert [entry.method for entry in double.log[3:]] == ["POST", "PUT", "GET", "PATCH", "PUT"]
    assert double.blobs["b"] == {blob.digest: DATA}


def test_connection_that_hangs() -> None:
    """A connection on which nothing comes any more is given up after its time."""
    double = RegistryDouble()
    blob = double.add_blob("a", DATA)
    double.faults.add(Rule(Hang()), Rule(Hang(after=1_000_000), nth=2))

    async def use(_: Registries, client: RegistryClient) -> None:
        assert await download(client, blob) == DATA

    over_sockets(double, use, timeouts=Timeouts(receive=0.5))
    assert len(double.log) >= 3


def test_answers_that_are_too_long_or_too_short() -> None:
    """A server that says one length and sends another is not believed, and does no harm after it."""
    double = RegistryDouble()
    blob = double.add_blob("a", DATA)
    double.faults.add(
        Rule(Lengthen(b"more"), "GET"), Rule(WrongLength(-5), nth=2), Rule(WrongLength(5), nth=3)
    )

    async def use(_: Registries, client: RegistryClient) -> None:
        for _attempt in range(3):
            with pytest.raises(Exception, match="bytes where its manifest says"):
                await download(client, blob)
        assert await download(client, blob) == DATA

    over_sockets(double, use)


def test_early_answer_to_an_upload() -> None:
    """A refusal that comes while the body is still being sent is read, not lost."""
    double = RegistryDouble()
    blob = double.add_blob("a", DATA)
    double.faults.add(Rule(Respond(413, b"too large"), "PUT"))

    async def use(_: Registries, client: RegistryClient) -> None:
        session = await client.mount_or_start_upload("b")
        assert isinstance(session, UploadSession)
        with pytest.raises(Exception, match="413 too large"):
            await session.put(DATA, blob.digest)

    over_sockets(double, use)


@pytest.mark.parametrize("secure", [False, True])
def test_leaving_in_the_middle(tls: Tls, *, secure: bool) -> None:
    """Readers that leave, fail or are cancelled free what they held; the client goes on."""
    double = RegistryDouble()
    blob = double.add_blob("a", DATA * 4)

    async def use(_: Registries, client: RegistryClient) -> None:
        async with client.open_blob("a", blob) as chunks:
            await anext(chunks)
        with trio.CancelScope() as scope:
            async with client.open_blob("a", blob) as chunks:
                await anext(chunks)
                scope.cancel()
                await read_all(chunks)
        assert scope.cancelled_caught
        async with client.open_blob("a", blob):
            pass
        assert await download(client, blob) == DATA * 4

    options = {"tls": tls, "host": trusting(tls)} if secure else {}
    over_sockets(double, use, **options)  # type: ignore[arg-type]


def test_cancelled_with_everything_under_way(tls: Tls) -> None:
    """A build that is cancelled closes every connection, whatever it was doing."""
    double = RegistryDouble()
    blob = double.add_blob("a", DATA * 4)
    double.faults.add(Rule(Hang(), "POST", times=None))

    async def main() -> None:
        async with serving(double, tls=server_context(tls)) as name:
            settings = RegistrySettings(hosts={name: trusting(tls)})
            with trio.CancelScope() as scope:
                async with Registries(settings) as registries, trio.open_nursery() as nursery:
                    client = registries.client(name)
                    for _ in range(4):
                        nursery.start_soon(download, client, blob)
                        nursery.start_soon(client.mount_or_start_upload, "b")
                        nursery.start_soon(registries.dial, name)
                    async with client.open_blob("a", blob) as chunks:
                        await anext(chunks)
                        scope.cancel()
                        await trio.sleep_forever()
            assert scope.cancelled_caught

    trio.run(main)


def test_registry_that_was_restarted() -> None:
    """A kept connection that is gone is replaced, without an error and without a second try."""
    double = RegistryDouble()
    double.add_image("a", "latest")

    async def main() -> None:
        async with Registries() as registries:
            async with serving(double) as name:
                client = registries.client(name)
                await client.get_manifest("a", "latest")
            async with serving(double, port=int(name.partition(":")[2])):
                await client.get_manifest("a", "latest")
            assert registries.statistics().requests == 2

    trio.run(main)
