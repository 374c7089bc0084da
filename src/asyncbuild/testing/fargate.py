"""Requests that the far link answers itself: bearer tokens from another host, blobs redirected to
another host.

A docker-registry with files behind it has neither, and both cost round trips where registries are
large. The tokens prove nothing: what is simulated is the conversation (the distribution project's token
specification).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Protocol

from asyncbuild.testing.httpscan import Head

TOKEN = "far-link-token"  # noqa: S105 - opens nothing

_REPOSITORY = re.compile(r"/v2/(.+)/(manifests|blobs|tags)/")
_BLOB = re.compile(r"/v2/.+/blobs/sha256:[0-9a-f]{64}$")


class Gate(Protocol):
    """Answers some requests in the registry's place."""

    def answer(self, head: Head) -> bytes | None:
        """The whole response to the request, or ``None`` to pass it on."""
        ...


def first_answer(gates: Sequence[Gate], head: Head) -> bytes | None:
    """What the first gate that answers the request says."""
    return next((answer for gate in gates if (answer := gate.answer(head)) is not None), None)


def _response(status: str, fields: dict[str, str], body: bytes = b"") -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in fields.items())]
    lines += [f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


class BearerGate:
    """Refuses every request without the token, with a challenge that names ``realm``."""

    def __init__(self, realm: str) -> None:
        self._realm = realm

    def answer(self, head: Head) -> bytes | None:
        """401 with the scope that the request needs (no scope for ``/v2/``)."""
        if head.fields.get("authorization") == f"Bearer {TOKEN}":
            return None
        challenge = f'Bearer realm="{self._realm}",service="far-link"'
        repository = _REPOSITORY.match(head.words[1])
        if repository:
            actions = "pull" if head.words[0] in {"GET", "HEAD"} else "pull,push"
            challenge += f',scope="repository:{repository[1]}:{actions}"'
        body = b"" if head.words[0] == "HEAD" else b'{"errors":[{"code":"UNAUTHORIZED"}]}'
        fields = {"WWW-Authenticate": challenge, "Content-Type": "application/json"}
        return _response("401 Unauthorized", fields, body)


class TokenHost:
    """Gives every caller the token, for five minutes."""

    def answer(self, head: Head) -> bytes | None:
        """The token as GET and POST of the token specification give it; 404 for anything else."""
        if not head.words[1].startswith("/token"):
            return _response("404 Not Found", {})
        body = json.dumps({"token": TOKEN, "access_token": TOKEN, "expires_in": 300}).encode()
        return _response("200 OK", {"Content-Type": "application/json"}, body)


class RedirectGate:
    """Sends GETs of blobs to ``origin`` (scheme, host and port), as object stores serve them."""

    def __init__(self, origin: str) -> None:
        self._origin = origin

    def answer(self, head: Head) -> bytes | None:
        """307 to the same path at the other host."""
        path = head.words[1]
        if head.words[0] != "GET" or not _BLOB.match(path):
            return None
        return _response("307 Temporary Redirect", {"Location": self._origin + path})
