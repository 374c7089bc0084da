"""Which proxy is used, and requests through one."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path

import pytest
import trio

from asyncbuild.errors import RegistryError, UsageError
from asyncbuild.registry.hosts import HostSettings
from asyncbuild.registry.proxies import Proxies, Proxy
from asyncbuild.registry.registries import Registries, RegistrySettings
from asyncbuild.registry.retry import RetryPolicy
from asyncbuild.testing.registry import RegistryDouble
from asyncbuild.testing.registry_server import serving
from support.double import read_all
from support.proxy import ForwardProxy, forwarding
from support.registry import make_tls

PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("exempt", "host", "direct"),
    [
        ("", "registry.example", False),
        ("*", "registry.example", True),
        ("registry.example", "registry.example", True),
        ("registry.example", "a.registry.example", True),
        ("registry.example", "otherregistry.example", False),
        (".registry.example", "registry.example", False),
        (".registry.example", "a.registry.example", True),
        ("*.registry.example", "a.registry.example", True),
        ("other.example, Registry.Example ,", "registry.EXAMPLE", True),
        ("registry.example:443", "registry.example", True),
        ("registry.example:5000", "registry.example", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3:5000", "10.1.2.3", False),
        ("fd00::/8", "fd00::5", True),
        ("[fd00::5]:443", "fd00::5", True),
        ("registry.example", "10.1.2.3", False),
        ("", "localhost", True),
        ("", "127.0.0.1", True),
        ("", "::1", True),
        ("nonsense/8", "10.1.2.3", False),
    ],
)
def test_no_proxy(exempt: str, host: str, *, direct: bool) -> None:
    """NO_PROXY names hosts, domains, addresses and networks; this machine needs no naming."""
    found = Proxies.from_environment({"HTTPS_PROXY": PROXY, "NO_PROXY": exempt})
    assert (found.find("https", host, 443) is None) == direct


def test_each_scheme_has_its_variable() -> None:
    """Both schemes have their own variable; a lower-case name wins; a proxy may stand without a scheme."""
    environ = {
        "HTTP_PROXY": "a.example",
        "HTTPS_PROXY": "b.example:1",
        "https_proxy": "c.example:2",
    }
    found = Proxies.from_environment(environ)
    assert found.find("http", "registry.example", 80) == Proxy("a.example", 80)
    assert found.find("https", "registry.example", 443) == Proxy("c.example", 2)
    assert Proxies.from_environment({}).find("https", "registry.example", 443) is None


def test_a_password_is_sent_and_never_shown() -> None:
    """User and password of the URL become Basic authorization, and appear nowhere."""
    proxy = Proxy.parse("http://user:p%40ss@proxy.example:3128")
    assert proxy.authorization == "Basic dXNlcjpwQHNz"
    assert "p@ss" not in repr(proxy)
    assert "dXNl" not in repr(proxy)
    assert str(proxy) == "proxy.example:3128"
    with pytest.raises(UsageError) as caught:
        Proxy.parse("socks5://user:secret@proxy.example")
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("text", ["http://", "https://proxy.example", "http://proxy.example:x"])
def test_proxies_that_cannot_be_used(text: str) -> None:
    """What is no HTTP proxy is refused by name."""
    with pytest.raises(UsageError, match="proxy"):
        Proxies.from_environment({"HTTPS_PROXY": text})


def fetch(
    proxy: ForwardProxy,
    environ: Mapping[str, str],
    *,
    tls: ssl.SSLContext | None = None,
    ca_file: str = "",
) -> RegistryDouble:
    """Get a blob of a registry that only the proxy can reach: its name does not resolve."""
    double = RegistryDouble()
    blob = double.add_blob("a", b"bytes")

    async def main() -> None:
        async with serving(double, tls=tls) as place, forwarding(proxy):
            host = f"registry.invalid:{place.rpartition(':')[2]}"
            settings = RegistrySettings(
                hosts={
                    host: HostSettings(plain=tls is None, ca_files=(ca_file,) if ca_file else ())
                },
                environ={**environ, "HTTP_PROXY": proxy.url, "HTTPS_PROXY": proxy.url},
                policy=RetryPolicy(attempts=1),
            )
            async with Registries(settings) as registries:
                await registries.dial(host)
                async with registries.client(host).open_blob("a", blob) as chunks:
                    assert await read_all(chunks) == b"bytes"
                assert registries.statistics().connections == 1

    trio.run(main)
    return double


def test_plain_requests_are_forwarded() -> None:
    """Over http the proxy is asked for the whole URL; the registry sees its own path and host."""
    proxy = ForwardProxy()
    double = fetch(proxy, {})
    assert [line.split("/v2/")[0].split(":")[:2] for line in proxy.asked] == [
        ["GET http", "//registry.invalid"]
    ]
    assert [entry.host.partition(":")[0] for entry in double.log] == ["registry.invalid"]


def test_encrypted_requests_go_through_a_tunnel(shm_path: Path) -> None:
    """Over https the proxy opens a tunnel, ahead of the request, and sees nothing of what goes through."""
    tls = make_tls(shm_path, names=("registry.invalid",))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate, tls.key)
    proxy = ForwardProxy()
    fetch(proxy, {}, tls=context, ca_file=str(tls.ca_file))
    assert [line.partition(":")[0] for line in proxy.asked] == ["CONNECT registry.invalid"]


@pytest.mark.parametrize("plain", [True, False])
def test_a_proxy_that_refuses(*, plain: bool) -> None:
    """A refusal names the proxy and what to look at, and is not tried again."""

    async def main() -> None:
        async with forwarding(ForwardProxy(password="Basic eDp5")) as proxy:
            settings = RegistrySettings(
                hosts={"registry.invalid:5": HostSettings(plain=plain)},
                environ={"HTTP_PROXY": proxy.url, "HTTPS_PROXY": proxy.url},
            )
            async with Registries(settings) as registries:
                with pytest.raises(RegistryError, match="407") as caught:
                    await registries.client("registry.invalid:5").get_manifest("a", "latest")
            assert len(proxy.asked) == 1
            assert plain or "NO_PROXY" in (caught.value.hint or "")

    trio.run(main)
