"""containerd's hosts.toml."""

from __future__ import annotations

import pytest

from asyncbuild.errors import InputError
from asyncbuild.registry.hosts import HostSettings
from asyncbuild.registry.hosts_toml import Endpoint, HostsFile, parse_hosts_toml

PULL = frozenset({"pull", "resolve"})
ALL = PULL | {"push"}
SECURE = HostSettings(plain=False)


def parse(text: str) -> HostsFile:
    """Decode ``/certs.d/r.example/hosts.toml``."""
    return parse_hosts_toml(text, "/certs.d/r.example/hosts.toml", "r.example")


def test_containerds_example() -> None:
    """Hosts come in their order, with everything that may be said of them; then the server."""
    found = parse(
        """
        server = "https://registry-1.docker.io"    # Exclude this to not use upstream

        [host."https://public-mirror.example.com"]
          capabilities = ["pull"]                  # Requires less trust, won't resolve tag to digest
        [host."http://docker-mirror.internal:5000"]
          capabilities = ["pull", "resolve"]
          ca = "docker-mirror.crt"                 # Or absolute path
        [host."https://a.example/v2/path"]
          override_path = true
          skip_verify = true
          client = [["/certs/client.cert", "/certs/client.key"], ["/certs/client.pem", ""]]
          capabilities = ["push"]
          [host."https://a.example/v2/path".header]
            x-custom-1 = "custom header"
            x-custom-2 = ["a", "b"]
        """
    )
    assert found.hosts == (
        Endpoint("public-mirror.example.com", SECURE, frozenset({"pull"})),
        Endpoint(
            "docker-mirror.internal:5000",
            HostSettings(
                insecure=True, plain=True, ca_files=("/certs.d/r.example/docker-mirror.crt",)
            ),
            PULL,
        ),
        Endpoint(
            "a.example",
            HostSettings(
                insecure=True,
                plain=False,
                client_certificate=("/certs/client.cert", "/certs/client.key"),
                headers=(
                    ("x-custom-1", "custom header"),
                    ("x-custom-2", "a"),
                    ("x-custom-2", "b"),
                ),
                root="/v2/path",
            ),
            frozenset({"push"}),
        ),
    )
    assert found.server == Endpoint("docker.io", SECURE, ALL)


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("https://a.example", "/v2"),
        ("https://a.example/", "/v2"),
        ("https://a.example/v2", "/v2"),
        ("https://a.example/v2/", "/v2"),
        ("https://a.example/proxy", "/proxy/v2"),
        ("a.example", "/v2"),
    ],
)
def test_paths(url: str, root: str) -> None:
    """The API's own path is added where it is missing."""
    assert parse(f'[host."{url}"]').hosts == (
        Endpoint("a.example", HostSettings(plain=False, root=root), PULL),
    )


def test_without_a_server_it_is_the_registry() -> None:
    """What stands outside of hosts is said of the registry itself, whose name says how it is reached."""
    found = parse('ca = ["/a", "b"]\nclient = "c.pem"')
    settings = HostSettings(
        ca_files=("/a", "/certs.d/r.example/b"),
        client_certificate=("/certs.d/r.example/c.pem", ""),
    )
    assert found == HostsFile((), Endpoint("r.example", settings, ALL))


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "host = 3",
        '[host]\n"https://a" = 3',
        '[host."ftp://a"]',
        '[host."https://user@a"]',
        '[host."https://a:x"]',
        '[host."https://"]',
        'capabilities = ["fly"]',
        "capabilities = 3",
        "ca = [3]",
        "client = [3]",
        "client = [[3]]",
        "header = 3",
        '[header]\nx = "a\\nb"',
        '[header]\n"x:y" = "a"',
    ],
)
def test_damage(text: str) -> None:
    """What is wrong in a file is named with the file."""
    with pytest.raises(InputError, match=r"^/certs\.d/r\.example/hosts\.toml"):
        parse(text)
