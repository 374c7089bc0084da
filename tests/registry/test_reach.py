"""A registry outside does not send us inside, by name or by address."""

from __future__ import annotations

import pytest
import trio

from asyncbuild.errors import RegistryError, RemoteProtocolError
from asyncbuild.registry.authorities import TrustSettings
from asyncbuild.registry.client import RegistryClient
from asyncbuild.registry.network import AddressRefused, SocketBackend
from asyncbuild.registry.reach import Guard, check_place
from asyncbuild.registry.tls import Trust
from asyncbuild.registry.upload import UploadSession
from asyncbuild.testing.faults import Respond, Rule, WithHeaders
from asyncbuild.testing.quirks import Quirks
from asyncbuild.testing.registry import RegistryDouble
from asyncbuild.testing.registry_auth import TokenAccess
from asyncbuild.testing.registry_server import serving
from support.double import with_client

INSIDE = [
    "127.0.0.1",
    "127.0.0.1:5000",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:a9fe:a9fe]",
    "[fe80::1]",
    "[fd00:ec2::254]",
    "0.0.0.0",
    "[::]",
    "10.0.0.7",
    "172.16.3.4:8080",
    "192.168.1.1",
    "100.64.0.1",
    "169.254.169.254",
    "168.63.129.16",
    "224.0.0.1",
    "localhost",
    "localhost.",
    "x.localhost",
    "metadata.google.internal",
    "metadata",
    "printer.local",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "127.1",
    "0177.0.0.1",
]
OUTSIDE = ["cdn.example", "1.1.1.1", "[2606:4700::1111]", "s3.eu-west-1.amazonaws.com", "x.io."]


@pytest.mark.parametrize("host", INSIDE)
def test_from_outside_to_inside(host: str) -> None:
    """No address and no name of this machine or its network, however it is written."""
    with pytest.raises(RemoteProtocolError, match="inside this network"):
        check_place("https://registry.example", f"https://{host}/x")


@pytest.mark.parametrize("host", OUTSIDE)
def test_from_outside_to_outside(host: str) -> None:
    """Storage and token services elsewhere are as usual."""
    check_place("https://registry.example", f"https://{host}/x")


@pytest.mark.parametrize("home", ["localhost:5000", "127.0.0.1:5000", "10.1.1.1", "registry"])
@pytest.mark.parametrize("host", [*INSIDE, *OUTSIDE])
def test_from_inside(home: str, host: str) -> None:
    """A registry inside may name what is inside: one's own registry with one's own storage."""
    check_place(f"http://{home}", f"http://{host}/x")


def test_oneself() -> None:
    """The registry's own host is as it was named, whatever its address."""
    check_place("https://registry.internal", "https://registry.internal/x")


@pytest.mark.parametrize("place", ["169.254.169.254", "localhost:2375", "192.168.0.1", "[::1]"])
def test_nothing_inside_is_asked(place: str) -> None:
    """Redirects of manifests and blobs, upload locations and token services: no request is made there."""

    async def pull(client: RegistryClient) -> None:
        await client.get_manifest("a", "1")

    async def pull_blob(client: RegistryClient) -> None:
        await client.get_blob("a", blob)

    async def push(client: RegistryClient) -> None:
        session = await client.mount_or_start_upload("a")
        assert isinstance(session, UploadSession)
        await session.put(b"x", blob.digest)

    for use, way in ((pull, "redirect"), (pull_blob, "blob"), (push, "upload"), (pull, "realm")):
        double = RegistryDouble(TokenAccess(realm_host=place) if way == "realm" else None)
        blob = double.add_blob("a", b"x")
        if way == "redirect":
            double.faults.add(Rule(Respond(307, headers={"location": f"https://{place}/x"})))
        double.blob_host = place if way == "blob" else None
        double.quirks = Quirks(upload_host=place if way == "upload" else None)
        with pytest.raises(RegistryError, match="inside this network"):
            with_client(double, use)
        assert {entry.host for entry in double.log} == {"registry.example"}


def test_addresses_that_are_reached() -> None:
    """A name that leads to this machine is refused if the registry itself was reached outside."""
    guard = Guard("registry.example:5000")
    assert not guard.refuses("cdn.example", "127.0.0.1")  # nothing is known of the registry yet
    assert not guard.refuses("registry.example", "93.184.216.34")
    for reached in (
        "127.0.0.1",
        "::1",
        "169.254.169.254",
        "fe80::1%eth0",
        "0.0.0.0",
        "fd00:ec2::254",
    ):
        assert guard.refuses("cdn.example", reached)
    for reached in ("10.0.0.1", "1.1.1.1", "2606:4700::1111"):
        assert not guard.refuses("cdn.example", reached)
    inside = Guard("registry.example")
    assert not inside.refuses("registry.example", "10.0.0.1")
    assert not inside.refuses("cdn.example", "127.0.0.1")


def test_a_name_that_leads_here() -> None:
    """The connection is closed before a byte is sent."""
    double = RegistryDouble()

    async def main() -> None:
        async with serving(double) as address:
            port = int(address.rpartition(":")[2])
            guard = Guard("registry.example")
            guard.refuses("registry.example", "93.184.216.34")
            backend = SocketBackend(Trust(TrustSettings()), guard=guard)
            with pytest.raises(AddressRefused, match=r"127\.0\.0\.1"):
                await backend.connect_tcp("localhost", port, timeout=5)

    trio.run(main)
    assert double.log == []


@pytest.mark.parametrize(
    "location",
    ["https://a b/", "https://[::1/", "https://a:99999/", "https://x\x7f/", "gopher://x/"],
)
def test_a_location_that_is_no_address(location: str) -> None:
    """What no client can connect to is the registry's error."""
    double = RegistryDouble()
    blob = double.add_blob("b", b"x")
    double.faults.add(Rule(WithHeaders({"location": location}), "POST"))

    async def push(client: RegistryClient) -> None:
        session = await client.mount_or_start_upload("a")
        assert isinstance(session, UploadSession)
        await session.put(b"x", blob.digest)

    with pytest.raises(RegistryError):
        with_client(double, push)
    assert {entry.host for entry in double.log} == {"registry.example"}


@pytest.mark.parametrize(
    "realm", ["https://[::1", "https://a:99999/token", "https://a\x1b[31m/token", "https:///token"]
)
def test_a_token_service_that_is_no_address(realm: str) -> None:
    """The same of a challenge's realm; what people see of it cannot steer a terminal."""
    double = RegistryDouble()
    challenge = {"www-authenticate": f'Bearer realm="{realm}",service="a"'}
    double.faults.add(Rule(Respond(401, headers=challenge), times=None))

    async def pull(client: RegistryClient) -> None:
        await client.get_manifest("a", "1")

    with pytest.raises(RegistryError) as caught:
        with_client(double, pull)
    assert caught.value.render().replace("\n", "").isprintable()
    assert {entry.host for entry in double.log} == {"registry.example"}
