"""Artifacts that refer to a manifest: the API for them (distribution specification 1.1, spec.md)."""

from __future__ import annotations

import contextlib
from urllib.parse import quote

from asyncbuild.errors import ImageNotFound, RegistryError
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import OCI_INDEX, Index, InvalidManifest, parse_manifest
from asyncbuild.records import replace
from asyncbuild.registry.auth import Scope
from asyncbuild.registry.caller import Call
from asyncbuild.registry.protocol import MANIFEST_LIMIT, next_page
from asyncbuild.registry.routing import Way
from asyncbuild.registry.wire import Answer

_MOST_PAGES = 16
_NO_SUCH_API = (400, 404, 405, 406, 501)
"""404 is the specification's. Registries that are older than it know the path by other rules."""


async def list_referrers(way: Way, digest: Digest, artifact_type: str) -> Index:
    """The list of what refers to ``digest``, of all pages; the registry may not have looked at the type.

    Raises `ImageNotFound` where there is no such API.
    """
    target = f"/v2/{way.repository}/referrers/{digest}?artifactType={quote(artifact_type, safe='')}"
    found: Index | None = None
    for _ in range(_MOST_PAGES):
        page, more = await _page(way, target, digest)
        found = (
            page if found is None else replace(found, manifests=(*found.manifests, *page.manifests))
        )
        if not more:
            break
        target = more
    assert found is not None
    return found


async def _page(way: Way, target: str, digest: Digest) -> tuple[Index, str]:
    """One page, and where the next one is. Asked twice, as for manifests: what something on the way put in
    its place may not come the second time.
    """
    for _ in range(2):
        answer, raw = await _asked(way, target, digest)
        with contextlib.suppress(InvalidManifest):
            page = parse_manifest(raw, answer.headers.get("content-type", ""))
            if isinstance(page, Index):
                return page, next_page(answer.headers.get("link", ""))
    raise ImageNotFound("what refers to a manifest is not told", exchange=answer.exchange)


async def _asked(way: Way, target: str, digest: Digest) -> tuple[Answer, bytes]:
    call = Call(
        "GET",
        target,
        f"list what refers to {digest} in {way.repository}",
        frozenset({Scope.of(way.repository, "pull")}),
        expected=frozenset({200}),
        headers=(("Accept", OCI_INDEX),),
    )
    try:
        return await way.caller.fetch(call, MANIFEST_LIMIT)
    except RegistryError as error:
        if error.exchange is not None and error.exchange.status in _NO_SUCH_API:
            raise ImageNotFound(error.message, hint=error.hint) from error
        raise
