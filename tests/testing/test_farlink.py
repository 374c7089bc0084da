"""The relay over memory streams on trio's mock clock: what it delays, shares, logs and closes."""

import io
import json
import math
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from asyncbuild.testing.fargate import BearerGate
from asyncbuild.testing.farlink import Link, Relay
from asyncbuild.testing.farlog import Log
from asyncbuild.testing.linkmodel import LinkShape, fetch_seconds

ORIGIN = Path(__file__).resolve().parents[2] / "src"
FAR = LinkShape(rtt=0.1, bandwidth=125e6)

Memory = trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]
Story = Callable[["Site"], Awaitable[None]]


class Site:
    """A relay on a mock clock with a registry behind it that answers every request with ``size`` bytes."""

    def __init__(self, shape: LinkShape, size: int, nursery: trio.Nursery) -> None:
        self.size = size
        self.log = io.StringIO()
        self.upstreams: list[Memory] = []
        self.relay = Relay(Link(shape), self._connect, Log(self.log))
        self._nursery = nursery

    async def _connect(self) -> trio.abc.Stream:
        near, far = trio.testing.memory_stream_pair()
        self.upstreams.append(far)
        self._nursery.start_soon(self._answer, far)
        return near

    async def _answer(self, stream: Memory) -> None:
        seen = b""
        while data := await stream.receive_some():
            seen += data
            head, mark, rest = seen.partition(b"\r\n\r\n")
            length = int(head.partition(b"Content-Length: ")[2] or b"0") if mark else math.inf
            if len(rest) >= length:
                seen = b""
                body = b"x" * self.size
                await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % self.size)
                await stream.send_all(body)
        await stream.aclose()

    def dial(self) -> Memory:
        """The near end of a new connection."""
        client, near = trio.testing.memory_stream_pair()
        self._nursery.start_soon(self.relay.serve, near)
        return client

    def lines(self, key: str) -> list[dict[str, object]]:
        """The log's records that have ``key``."""
        records = [json.loads(line) for line in self.log.getvalue().splitlines()]
        return [record for record in records if key in record]


async def fetch(stream: trio.abc.Stream, body: bytes = b"") -> float:
    """Send one request, read its whole response, return the seconds it took."""
    started = trio.current_time()
    length = b"Content-Length: %d" % len(body) if body else b"X: y"
    await stream.send_all(b"POST /v2/thing HTTP/1.1\r\n" + length + b"\r\n\r\n" + body)
    seen = b""
    while b"\r\n\r\n" not in seen:
        seen += await stream.receive_some()
    head, _, rest = seen.partition(b"\r\n\r\n")
    left = int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0]) - len(rest)
    while left > 0:
        left -= len(await stream.receive_some())
    return trio.current_time() - started


def tell(shape: LinkShape, size: int, story: Story) -> Site:
    """Run ``story`` at a site on a clock that jumps; everything is over when it returns."""

    async def main() -> Site:
        async with trio.open_nursery() as nursery:
            site = Site(shape, size, nursery)
            await story(site)
            await trio.sleep(10)
            nursery.cancel_scope.cancel()
        return site

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_small_request_costs_two_round_trips_then_one() -> None:
    """A new connection charges its handshake; the next request on it does not."""

    async def story(site: Site) -> None:
        stream = site.dial()
        assert await fetch(stream) == pytest.approx(0.2, abs=0.001)
        assert await fetch(stream) == pytest.approx(0.1, abs=0.001)

    tell(FAR, 10, story)


def test_connection_dialled_ahead_costs_one() -> None:
    """Who dials early has paid the handshake when the request comes."""

    async def story(site: Site) -> None:
        stream = site.dial()
        await trio.sleep(0.3)
        assert await fetch(stream) == pytest.approx(0.1, abs=0.001)

    tell(FAR, 10, story)


@pytest.mark.parametrize("size", [20_000, 2_000_000, 20_000_000])
@pytest.mark.parametrize("shape", [FAR, LinkShape(rtt=0.02, bandwidth=50e6, per_connection=5e6)])
def test_cold_fetch_takes_what_the_model_says(shape: LinkShape, size: int) -> None:
    """The relay's transfers are those of the arithmetic, within four per cent."""

    async def story(site: Site) -> None:
        assert await fetch(site.dial()) == pytest.approx(fetch_seconds(shape, size), rel=0.04)

    tell(shape, size, story)


def test_upload_is_held_by_its_window() -> None:
    """Bytes up start slowly as bytes down do: the request's own way back comes on top."""

    async def story(site: Site) -> None:
        took = await fetch(site.dial(), b"y" * 2_000_000)
        assert took == pytest.approx(fetch_seconds(FAR, 2_000_000), rel=0.02)

    tell(FAR, 1, story)


def test_connections_share_the_bandwidth() -> None:
    """Four fetches at once on a thin link take as long as one of their sum."""
    thin = LinkShape(rtt=0.01, bandwidth=1e6)

    async def story(site: Site) -> None:
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(fetch, site.dial())
        assert trio.current_time() - started == pytest.approx(2.0, rel=0.05)

    tell(thin, 500_000, story)


def test_slow_reader_stops_the_sender() -> None:
    """While the near end reads nothing no more than a window travels; the rest comes a round trip later."""
    shape = LinkShape(rtt=0.1, window=100_000)

    async def story(site: Site) -> None:
        client, near = trio.testing.lockstep_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(site.relay.serve, near)
            await client.send_all(b"GET /v2/x HTTP/1.1\r\n\r\n")
            await trio.sleep(60)
            woken, taken = trio.current_time(), 0
            while trio.current_time() == woken:
                taken += len(await client.receive_some())
            assert taken < 2 * shape.window
            nursery.cancel_scope.cancel()

    tell(shape, 1_000_000, story)


def test_link_without_delay_passes_at_once() -> None:
    """RTT 0 and no bandwidth: nothing is held back."""

    async def story(site: Site) -> None:
        assert await fetch(site.dial()) == 0

    tell(LinkShape(), 1_000_000, story)


def test_log_has_the_near_ends_times_and_sizes() -> None:
    """One line per request: when it left, when its answer began and ended, bytes of heads and bodies."""

    async def story(site: Site) -> None:
        started = trio.current_time()
        stream = site.dial()
        await fetch(stream, b"y" * 1000)
        await stream.aclose()
        await trio.sleep(1)
        (line,) = site.lines("method")
        assert (line["method"], line["path"], line["status"]) == ("POST", "/v2/thing", 200)
        times = [float(str(line[name])) - started for name in ("start", "first_byte", "end")]
        assert times == pytest.approx([0.1, 0.2, fetch_seconds(FAR, 100_000)], abs=0.005)
        assert line["up"] == 1000 + len(b"POST /v2/thing HTTP/1.1\r\nContent-Length: 1000\r\n\r\n")
        assert line["down"] == 100_000 + len(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        (connection,) = site.lines("opened")
        assert connection["connection"] == 1

    tell(FAR, 100_000, story)


def test_cut_off_request_is_logged_without_status() -> None:
    """A client that hangs up before its answer leaves a line without status and end."""

    async def story(site: Site) -> None:
        stream = site.dial()
        await stream.send_all(b"GET /v2/x HTTP/1.1\r\nContent-Length: 5\r\n\r\n")
        await trio.sleep(1)
        await stream.aclose()
        await trio.sleep(1)
        (line,) = site.lines("method")
        assert line["status"] is None
        assert line["end"] is None

    tell(FAR, 10, story)


def test_either_end_closes_the_other() -> None:
    """The client's end reaches the registry one way later, the registry's end the client."""

    async def story(site: Site) -> None:
        stream = site.dial()
        await fetch(stream)
        await site.upstreams[0].send_stream.aclose()
        assert await stream.receive_some() == b""
        other = site.dial()
        await fetch(other)
        await other.aclose()
        await trio.sleep(1)
        assert len(site.lines("opened")) == 1

    tell(FAR, 10, story)


def test_gate_answers_over_the_link() -> None:
    """What the relay answers itself takes its round trip, and the registry sees nothing of it."""

    async def story(site: Site) -> None:
        site.relay.gates = [BearerGate("http://t/token")]
        stream = site.dial()
        assert await fetch(stream, b"z" * 100) == pytest.approx(0.2, abs=0.001)
        assert [line["status"] for line in site.lines("method")] == [401]

    tell(FAR, 10, story)


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, str]:
    """A key and a self-signed certificate for localhost."""
    paths = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    make = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ]
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = [*make, *name, "-out", paths[0], "-keyout", paths[1]]
    subprocess.run(command, check=True, capture_output=True)
    return paths


def test_tls_handshake_passes_through_the_link(certificate: tuple[str, str]) -> None:
    """TLS 1.3 costs one round trip more than TCP alone, and the log still sees the requests."""

    async def story(site: Site) -> None:
        site.relay.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        site.relay.tls.load_cert_chain(*certificate)
        trust = ssl.create_default_context(cafile=certificate[0])
        stream = trio.SSLStream(
            site.dial(), trust, server_hostname="localhost", https_compatible=True
        )
        assert await fetch(stream) == pytest.approx(0.3, abs=0.001)
        assert [line["status"] for line in site.lines("method")] == [200]

    tell(FAR, 10, story)


def _answer_once(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def test_command_relays_and_logs(tmp_path: Path) -> None:
    """The command says where it listens, relays a real connection, and ends on SIGTERM with its log complete."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        answering = threading.Thread(target=_answer_once, args=(listener,))
        answering.start()
        upstream = f"127.0.0.1:{listener.getsockname()[1]}"
        command = [sys.executable, "-m", "asyncbuild.testing.farlink", "--listen", "127.0.0.1:0"]
        command += ["--upstream", upstream, "--log", str(tmp_path / "log"), "--rtt", "0.01"]
        environment = {"PYTHONPATH": str(ORIGIN)}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as relay:
            assert relay.stdout is not None
            name, address = relay.stdout.readline().split()
            assert name == "registry"
            with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as client:
                client.sendall(b"GET /v2/ HTTP/1.1\r\n\r\n")
                assert client.makefile("rb").read().endswith(b"ok")
            answering.join()
            relay.send_signal(signal.SIGTERM)
        assert relay.returncode == 0
    records = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [record["status"] for record in records if "method" in record] == [200]
