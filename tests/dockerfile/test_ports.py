"""EXPOSE's port specifications."""

from __future__ import annotations

import pytest

from asyncbuild.dockerfile.ports import exposed_ports
from asyncbuild.dockerfile.source import Problem


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("80", ["80/tcp"]),
        ("80/tcp", ["80/tcp"]),
        ("53/UDP", ["53/udp"]),
        ("80/", ["80/tcp"]),
        ("8000-8002", ["8000/tcp", "8001/tcp", "8002/tcp"]),
        ("7-7/sctp", ["7/sctp"]),
        ("8080:80", ["80/tcp"]),
        (":80", ["80/tcp"]),
        ("127.0.0.1:8080:80/udp", ["80/udp"]),
        ("[::1]:8080:80", ["80/tcp"]),
        ("1-5:80", ["80/tcp"]),
        ("0", ["0/tcp"]),
        ("65535", ["65535/tcp"]),
    ],
)
def test_ports(spec: str, expected: list[str]) -> None:
    """Ranges are spelled out, the protocol defaults to tcp, the host's part does not count."""
    assert list(exposed_ports(spec)) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "not a port"),
        ("x", "not a port"),
        ("-1", "not a port"),
        ("65536", "not a port"),
        ("/tcp", "not a port"),
        ("8002-8000", "backwards"),
        ("1-2:1-3", "differ in length"),
        ("80/http", "protocol"),
        ("host:80:80", "not an IP address"),
    ],
)
def test_wrong_ports(spec: str, message: str) -> None:
    """Each error says what is wrong with the port."""
    with pytest.raises(Problem, match=message):
        exposed_ports(spec)
