"""Where a registry may send us: not into this machine, and not into the network behind it. Pure.

A registry names other places: blobs in object storage, upload sessions, its token service. One that is out
on the internet has no business with what only we can reach: this machine's own services, the metadata
service of a cloud (which gives out logins), an address in our network. Two checks, as neither sees all:

1. `check_place`, of a URL's host before anything is asked (`docs/adr/0012`).
2. `Guard`, of the address that a connection reached, as a name may resolve to anything. It lets private
   addresses pass: a cloud's storage is reached at one where its network has an endpoint for it.

A registry that is itself inside may name what is inside.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from asyncbuild.errors import RemoteProtocolError
from asyncbuild.registry.protocol import redact

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_INNER_SUFFIXES = (".localhost", ".local", ".internal", ".lan", ".home.arpa", ".localdomain")
_ODD_NUMBER = re.compile(r"(?:0x[0-9a-f]+|[0-9]+)(?:\.(?:0x[0-9a-f]+|[0-9]+)){0,3}")
_METADATA = frozenset(
    {ipaddress.ip_address("fd00:ec2::254"), ipaddress.ip_address("168.63.129.16")}
)
"""Metadata services at addresses that are not link-local: Amazon's over IPv6, Azure's."""


def check_place(base: str, url: str) -> None:
    """`RemoteProtocolError` if the registry at ``base`` must not send us to ``url``."""
    home, place = _host(base), _host(url)
    if place == home or _is_inner(home) or not _is_inner(place):
        return
    raise RemoteProtocolError(
        f"{redact(base)} leads to {redact(url)}: an address inside this network, which a registry outside"
        " of it has no business with"
    )


def _host(url: str) -> str:
    return (urlsplit(url).hostname or "").rstrip(".").lower()


def _is_inner(host: str) -> bool:
    """Whether a host is inside by its name alone; a number that is no usual address is taken for one."""
    address = _address(host)
    if address is not None:
        return not address.is_global or address.is_multicast or address in _METADATA
    return "." not in host or host.endswith(_INNER_SUFFIXES) or bool(_ODD_NUMBER.fullmatch(host))


def _address(text: str) -> _Address | None:
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(found, "ipv4_mapped", None)
    return found if mapped is None else mapped


class Guard:
    """Watches the addresses that connections of one registry's client reach; ``home`` is its host."""

    def __init__(self, home: str) -> None:
        self._home = _host(f"//{home}")
        self._outside = False

    def refuses(self, host: str, reached: str) -> bool:
        """Whether a connection to ``host``, which reached the address ``reached``, must not be used."""
        address = _address(reached)
        if address is None:
            return False
        if host.rstrip(".").lower() == self._home:
            self._outside = self._outside or address.is_global
            return False
        near = address.is_loopback or address.is_link_local or address.is_unspecified
        return self._outside and (near or address in _METADATA)
