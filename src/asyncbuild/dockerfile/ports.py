"""EXPOSE: port specifications, and what the image configuration keeps of them."""

from __future__ import annotations

import re

from asyncbuild.dockerfile.source import Problem

_PROTOCOLS = ("tcp", "udp", "sctp")
_IP = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}|\[?[0-9a-fA-F:]*:[0-9a-fA-F:.]*\]?")


def exposed_ports(spec: str) -> tuple[str, ...]:
    """``8000-8002/udp`` as ``("8000/udp", …)``.

    ``[ip:][host port:]port`` is accepted as BuildKit accepts it; only the container's port counts.
    Raises `Problem`.
    """
    *outer, container = spec.rsplit(":", 2)
    if len(outer) == 2 and outer[0] and not _IP.fullmatch(outer[0]):
        raise Problem(f"{outer[0]!r} is not an IP address", near=spec)
    ports, slash, protocol = container.partition("/")
    protocol = protocol.lower() or "tcp"
    if protocol not in _PROTOCOLS:
        hint = f"it is one of {', '.join(_PROTOCOLS)}"
        raise Problem(f"{spec!r} has no known protocol", hint=hint, near=f"{slash}{protocol}")
    first, last = _range(ports, spec)
    if outer and outer[-1]:
        low, high = _range(outer[-1], spec)
        if high - low != last - first and first != last:
            raise Problem(f"the port ranges of {spec!r} differ in length", near=spec)
    return tuple(f"{port}/{protocol}" for port in range(first, last + 1))


def _range(text: str, spec: str) -> tuple[int, int]:
    low, dash, high = text.partition("-")
    first = _port(low, spec)
    last = _port(high, spec) if dash else first
    if last < first:
        raise Problem(f"the port range of {spec!r} is backwards", near=spec)
    return first, last


def _port(text: str, spec: str) -> int:
    if not re.fullmatch(r"\+?[0-9]{1,9}", text) or int(text) > 65535:
        hint = "a port is a number from 0 to 65535, or a range like 8000-8010"
        raise Problem(f"{spec!r} is not a port", hint=hint, near=spec)
    return int(text)
