"""The OCI distribution protocol's words: paths, locations, ranges, errors. Pure.

Sources: the OCI distribution specification 1.1 ("spec.md"), RFC 9110 for redirects and ranges. Where a
registry in the field forced a deviation, the line says which.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

from asyncbuild import __version__
from asyncbuild.errors import (
    Exchange,
    ImageNotFound,
    IntegrityError,
    NotAuthorized,
    RateLimited,
    RegistryError,
    RegistryUnavailable,
    RemoteProtocolError,
)
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import INDEX_TYPES, MANIFEST_TYPES
from asyncbuild.image.reference import DOCKER_HUB
from asyncbuild.records import dataclass

API_ROOT = "/v2"
USER_AGENT = f"asyncbuild/{__version__}"
MANIFEST_ACCEPT = ", ".join((*MANIFEST_TYPES, *INDEX_TYPES))
MANIFEST_LIMIT = 4 << 20
"""Bytes of the largest manifest that a registry must take (spec.md, "Pushing Manifests")."""

DOCKER_HUB_API = "registry-1.docker.io"
REDIRECTS = frozenset({301, 302, 303, 307, 308})
REDIRECT_LIMIT = 5

_SHOWN_PARAMETERS = frozenset({"digest", "from", "mount", "n", "last", "scope", "service"})
_WORDS_LIMIT = 300


def api_host(registry: str) -> str:
    """The host (with port) that serves a registry's API: Docker Hub's differs from its name."""
    return DOCKER_HUB_API if registry == DOCKER_HUB else registry


def is_loopback(host: str) -> bool:
    """Whether ``host`` (with or without port, IPv6 with or without brackets) is this machine."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host
    if name.count(":") == 1:
        name = name.partition(":")[0]
    if name.lower() == "localhost" or name.lower().endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def user_agent(environ: Mapping[str, str]) -> str:
    """Who we say that we are; UPSTREAM_CLIENT_TYPE may add who runs us, as with kaniko."""
    upstream = environ.get("UPSTREAM_CLIENT_TYPE", "")
    plain = upstream.isascii() and upstream.isprintable()
    return f"{USER_AGENT},{upstream[:64]}" if upstream and plain else USER_AGENT


def path_at(path: str, root: str, namespace: str) -> str:
    """A path of ours as it is at a host whose API is below ``root``, and which is told of the registry
    ``namespace`` that its images are meant (``?ns=``, "" for its own).
    """
    moved = root + path.removeprefix(API_ROOT)
    if not namespace:
        return moved
    return f"{moved}{'&' if '?' in moved else '?'}ns={quote(namespace, safe='')}"


def manifest_path(repository: str, identifier: str) -> str:
    """``identifier`` is a tag or a digest."""
    return f"/v2/{repository}/manifests/{identifier}"


def blob_path(repository: str, digest: Digest) -> str:
    """Where a blob is read."""
    return f"/v2/{repository}/blobs/{digest}"


def uploads_path(repository: str, mount: Digest | None = None, source: str | None = None) -> str:
    """Where an upload session begins; with ``mount`` and ``source`` also "Mounting a blob"."""
    path = f"/v2/{repository}/blobs/uploads/"
    if mount is None:
        return path
    origin = "" if source is None else f"&from={quote(source, safe='')}"
    return f"{path}?mount={quote(str(mount), safe='')}{origin}"


def with_digest(location: str, digest: Digest) -> str:
    """An upload's location with the parameter that closes it; its own parameters stay as they are."""
    parts = urlsplit(location)
    parameter = f"digest={quote(str(digest), safe='')}"
    return urlunsplit(
        parts._replace(query=f"{parts.query}&{parameter}" if parts.query else parameter)
    )


@lru_cache(maxsize=64)
def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: what a login belongs to."""
    parts = urlsplit(url)
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme, 0)
    return parts.scheme, (parts.hostname or "").lower(), port


def resolve_location(url: str, location: str) -> str:
    """The absolute URL that a Location header of an answer to ``url`` names.

    A registry behind a TLS proxy may name itself with ``http://`` (distribution without ``http.host``):
    the same host is then asked over https, as before. Raises `RemoteProtocolError` for what is no
    http(s) URL and for a way from https to another host over http.
    """
    try:
        target = urlsplit(urljoin(url, location.strip()))
        source = urlsplit(url)
        good = target.scheme in ("http", "https") and bool(target.hostname) and target.port != 0
        good = good and target.netloc.isprintable() and " " not in target.netloc
    except ValueError:
        good = False
    if not good or not location.strip():
        raise RemoteProtocolError(f"{redact(url)} answers with a location that is no URL")
    target = target._replace(fragment="")
    if source.scheme == "https" and target.scheme == "http":
        if target.hostname == source.hostname and target.port in (None, 80, source.port):
            return urlunsplit(target._replace(scheme="https", netloc=source.netloc))
        raise RemoteProtocolError(
            f"{redact(url)} leads from https to http ({redact(urlunsplit(target))})"
        )
    return urlunsplit(target)


def redact(url: str) -> str:
    """``url`` for people: no user name, no password, no parameter but the protocol's own."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(not a URL)"
    kept = []
    for item in parts.query.split("&") if parts.query else ():
        name, _, value = item.partition("=")
        kept.append(f"{name}={value}" if name in _SHOWN_PARAMETERS else f"{name}=…")
    netloc = parts.netloc.rpartition("@")[2]
    return printable(urlunsplit((parts.scheme, netloc, parts.path, "&".join(kept), "")))


def printable(text: str, limit: int = 2048) -> str:
    """One line without control characters: a registry's words never steer a terminal."""
    line = text[: limit + 1]
    if not line.isprintable():
        line = "".join(char if char.isprintable() else " " for char in line)
    return line if len(line) <= limit else f"{line[:limit]}…"


def next_page(link: str) -> str:
    """Where a Link header says that a list goes on (spec.md, "Listing Tags"): a path at this host, or ""
    where the list ends.
    """
    found = re.match(r'<([^>]+)>;\s*rel="?next"?', link)
    if found is None:
        return ""
    there = urlsplit(found[1])  # the host stays ours, whatever the link says
    return f"{there.path}?{there.query}"


@dataclass(frozen=True, slots=True)
class ContentRange:
    """``bytes first-last/total`` of a 206 answer; ``total`` is None where the server wrote ``*``."""

    first: int
    last: int
    total: int | None


def parse_content_range(text: str) -> ContentRange | None:
    """Read a Content-Range header (RFC 9110, 14.4); None for what is not one of a 206 answer."""
    match = re.fullmatch(r"\s*bytes\s+(\d{1,19})-(\d{1,19})/(\d{1,19}|\*)\s*", text, re.ASCII)
    if match is None:
        return None
    first, last = int(match[1]), int(match[2])
    total = None if match[3] == "*" else int(match[3])
    if last < first or (total is not None and last >= total):
        return None
    return ContentRange(first, last, total)


def parse_upload_range(text: str) -> int:
    """How many bytes an upload session has, by the Range header of its state (``0-N``, N inclusive).

    Nothing, and ``0-0``, which docker-registry writes for nothing, are 0: to send one byte again is cheap.
    """
    match = re.fullmatch(r"\s*(?:bytes=)?0-(\d{1,19})\s*", text, re.ASCII)
    last = int(match[1]) if match is not None else 0
    return last + 1 if last else 0


@dataclass(frozen=True, slots=True)
class Words:
    """What a registry says of its error: the codes (spec.md, "Error Codes") and a line to show."""

    codes: frozenset[str] = frozenset()
    text: str = ""


def read_words(body: bytes) -> Words:
    """Decode an error's body: the specification's JSON, a token service's JSON, or plain text."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        plain = body.decode("utf-8", "replace").strip()
        return Words(text="" if plain.startswith("<") else printable(plain, _WORDS_LIMIT))
    if not isinstance(document, dict):
        return Words()
    errors = document.get("errors")
    if not isinstance(errors, list):
        simple = [
            document.get(name) for name in ("details", "message", "error_description", "error")
        ]
        text = next((item for item in simple if isinstance(item, str) and item), "")
        return Words(text=printable(text, _WORDS_LIMIT))
    entries = [entry for entry in errors if isinstance(entry, dict)]
    codes = frozenset(str(entry.get("code", "")).upper() for entry in entries)
    lines = [f"{entry.get('code') or ''}: {entry.get('message') or ''}" for entry in entries]
    return Words(codes, printable("; ".join(line.strip(": ") for line in lines), _WORDS_LIMIT))


_NOT_FOUND_CODES = frozenset({"NAME_UNKNOWN", "MANIFEST_UNKNOWN", "BLOB_UNKNOWN"})
_DAMAGE_CODES = frozenset({"DIGEST_INVALID", "SIZE_INVALID"})


def failure(what: str, exchange: Exchange, words: Words) -> RegistryError:
    """The error for an answer that is none of the expected ones; ``what`` says what was tried."""
    status = exchange.status or 0
    if status in (401, 403):
        return NotAuthorized(f"not allowed: {what}", exchange=exchange)
    if status == 429 or "TOOMANYREQUESTS" in words.codes:
        return RateLimited(
            f"{what}: the registry asks to come back later",
            exchange=exchange,
            hint="logging in usually raises the limit",
        )
    if status == 404:
        return ImageNotFound(f"not found: {what}", exchange=exchange)
    if status >= 500 or status == 408:
        return RegistryUnavailable(f"{what} failed", exchange=exchange)
    if words.codes & _DAMAGE_CODES:
        return IntegrityError(f"{what}: the registry got other bytes", exchange=exchange)
    if words.codes & _NOT_FOUND_CODES:
        return ImageNotFound(f"{what} names what the registry does not have", exchange=exchange)
    if status < 400:
        return RemoteProtocolError(f"{what}: an answer that is not one", exchange=exchange)
    return RegistryError(f"{what}: the registry refuses", exchange=exchange)
