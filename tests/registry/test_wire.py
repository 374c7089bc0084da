"""What is counted and logged of an exchange."""

from __future__ import annotations

import pytest
import trio

from asyncbuild import __version__
from asyncbuild.errors import RegistryError
from asyncbuild.registry.client import RegistryClient
from asyncbuild.registry.protocol import USER_AGENT
from asyncbuild.registry.registries import Registries, RegistrySettings
from asyncbuild.registry.retry import RetryPolicy
from asyncbuild.registry.upload import UploadSession
from asyncbuild.registry.wire import ExchangeRecord, Statistics
from asyncbuild.testing.faults import Delay, Drop, Respond, Rule
from asyncbuild.testing.registry import RegistryDouble
from support.double import HOST, settings_for, with_client


def recording(double: RegistryDouble) -> tuple[list[ExchangeRecord], RegistrySettings]:
    """Settings whose hook fills a list; nothing is tried again."""
    records: list[ExchangeRecord] = []
    settings = RegistrySettings(on_request=records.append, policy=RetryPolicy(attempts=1))
    return records, settings_for(double, settings)


def test_records() -> None:
    """Each exchange once, at its end: times, bytes of both bodies, the redacted URL."""
    double = RegistryDouble(blob_host="cdn.example")
    blob = double.add_blob("a", b"x" * 200_000)
    double.faults.add(Rule(Delay(2), path="^/cdn/"))
    records, settings = recording(double)

    async def use(client: RegistryClient) -> None:
        async with client.open_blob("a", blob) as chunks:
            async for _ in chunks:
                await trio.sleep(1)

    with_client(double, use, settings)
    redirect, whole = records
    assert redirect.status == 307
    assert (whole.method, whole.status, whole.received) == ("GET", 200, 200_000)
    assert whole.url == f"https://cdn.example/cdn/{blob.digest}?signature=…"
    assert (whole.sent, whole.error) == (0, "")
    assert whole.first_byte is not None
    assert whole.first_byte - whole.started == 2
    assert whole.ended - whole.first_byte == 4


def test_failures_are_recorded() -> None:
    """An exchange without an answer, one that breaks off, one that is left and one that is cancelled."""
    double = RegistryDouble()
    blob = double.add_blob("a", b"x" * 200_000)
    double.faults.add(
        Rule(Drop()), Rule(Drop(after=1000), nth=2), Rule(Delay(9), nth=4), Rule(Drop(), nth=5)
    )
    records, settings = recording(double)

    async def use(client: RegistryClient) -> None:
        for _ in range(2):
            try:
                async with client.open_blob("a", blob) as chunks:
                    async for _ in chunks:
                        pass
            except RegistryError:
                pass
        async with client.open_blob("a", blob) as chunks:
            await anext(chunks)
        with trio.move_on_after(1):
            await client.blob_exists("a", blob.digest)

    with_client(double, use, settings)
    assert [(record.status, record.received) for record in records] == [
        (None, 0),
        (200, 1000),
        (200, 65536),
        (None, 0),
    ]
    assert "broke" in records[0].error
    assert "broke" in records[1].error
    assert records[2].error == "closed early"
    assert records[3].error == "cancelled"


def test_statistics() -> None:
    """Requests and body bytes of all hosts are added up."""
    double = RegistryDouble()
    blob = double.add_blob("a", b"x" * 1000)

    async def main() -> Statistics:
        async with Registries(settings_for(double)) as registries:
            client = registries.client(HOST)
            await client.get_blob("a", blob)
            session = await registries.client("other.example").mount_or_start_upload("a")
            assert isinstance(session, UploadSession)
            await session.put(b"x" * 1000, blob.digest)
            assert registries.client(HOST) is client
            return registries.statistics()

    assert trio.run(main) == Statistics(requests=3, bytes_received=1000, bytes_sent=1000)
    assert {entry.headers["user-agent"] for entry in double.log} == {USER_AGENT}
    assert [entry.host for entry in double.log] == [HOST, "other.example", "other.example"]


@pytest.mark.parametrize(
    ("environ", "suffix"),
    [
        ({}, ""),
        ({"UPSTREAM_CLIENT_TYPE": "cloud-build"}, ",cloud-build"),
        ({"UPSTREAM_CLIENT_TYPE": "a\r\nX: y"}, ""),
        ({"UPSTREAM_CLIENT_TYPE": "x" * 500}, f",{'x' * 64}"),
    ],
)
def test_user_agent(environ: dict[str, str], suffix: str) -> None:
    """We say who we are, and who runs us if that is said; nothing can be smuggled into the header."""
    double = RegistryDouble()

    async def use(client: RegistryClient) -> None:
        await client.check_access()

    with_client(double, use, RegistrySettings(environ=environ))
    assert double.log[0].headers["user-agent"] == f"asyncbuild/{__version__}{suffix}"


def test_cookies_are_not_kept() -> None:
    """What a registry wants to be told again it hears no more."""
    double = RegistryDouble()
    blob = double.add_blob("a", b"x")
    double.faults.add(Rule(Respond(404, headers={"Set-Cookie": "a=b"})))

    async def use(client: RegistryClient) -> None:
        for _ in range(2):
            await client.blob_exists("a", blob.digest, blob.size)

    with_client(double, use)
    assert len(double.log) == 2
    assert "cookie" not in double.log[1].headers


def test_a_place_with_a_name_and_a_password() -> None:
    """Who sends us there with them in the URL gets them, and nobody else's (RFC 7617)."""
    double = RegistryDouble()
    blob = double.add_blob("a", b"xyz")
    place = "https://user:pass%21@cdn.example/there?signature=1"
    double.faults.add(
        Rule(Respond(307, headers={"Location": place})), Rule(Respond(200, b"xyz"), path="^/there")
    )

    async def use(client: RegistryClient) -> None:
        async with client.open_blob("a", blob) as chunks:
            assert b"".join([chunk async for chunk in chunks]) == b"xyz"

    with_client(double, use)
    assert double.log[-1].host == "cdn.example"
    assert double.log[-1].authorization == "Basic dXNlcjpwYXNzIQ=="
    assert all(entry.authorization == "" for entry in double.log[:-1])
