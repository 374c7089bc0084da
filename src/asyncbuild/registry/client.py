"""What the other rooms know of a registry: manifests, blobs, uploads. One client per host and build."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager

from asyncbuild.errors import (
    ImageNotFound,
    IntegrityError,
    RegistryError,
    RemoteProtocolError,
)
from asyncbuild.image.digest import Digest, InvalidDigest
from asyncbuild.image.manifest import (
    OCI_EMPTY,
    Descriptor,
    Index,
    InvalidManifest,
    Manifest,
    is_docker,
    parse_manifest,
)
from asyncbuild.image.reference import Reference
from asyncbuild.image.signing import referrers_tag
from asyncbuild.records import dataclass
from asyncbuild.registry.auth import Scope, Scopes
from asyncbuild.registry.bodies import BytesBody
from asyncbuild.registry.caller import Call
from asyncbuild.registry.protocol import (
    API_ROOT,
    MANIFEST_ACCEPT,
    MANIFEST_LIMIT,
    blob_path,
    manifest_path,
    next_page,
)
from asyncbuild.registry.referrers import list_referrers
from asyncbuild.registry.routing import (
    BlobChunks,
    Span,
    Way,
    Ways,
    expect_everywhere,
    open_blob,
    try_each,
)
from asyncbuild.registry.transport import Timeouts
from asyncbuild.registry.upload import (
    Mounted,
    UploadSession,
    check_digest,
    push_scopes,
    start_upload,
)

_MOST_PAGES = 1000
_NEAR_SECONDS = 0.03
"""An answer has its server's and our own processor's time in it, and often the connection's set-up."""
SMALL_BLOB_LIMIT = 8 << 20
_DOCKER_ONLY = "it may know docker's media types only: -o type=image,push=true,oci-mediatypes=false"


@dataclass(frozen=True, slots=True)
class Fetched:
    """A manifest or an index as the registry has it; ``digest`` is of ``raw``."""

    raw: bytes
    media_type: str
    digest: Digest
    manifest: Manifest | Index


class _NoManifest(RemoteProtocolError):
    """What came instead of a manifest is none."""


class RegistryClient:
    """Talks to one registry. May be used by many tasks at once; `Registries` makes and closes it.

    Every method raises `NotAuthorized`, `RateLimited`, `RegistryUnavailable` (after bounded tries) or
    `RemoteProtocolError`; what else it raises, it says.
    """

    def __init__(self, registry: str, ways: Ways, timeouts: Timeouts) -> None:
        self.registry = registry
        self._ways = ways
        self._timeouts = timeouts

    def expect(self, repository: str, *actions: str) -> None:
        """Say ahead what the build will do with ``repository`` (``"pull"``, ``"push"``): everything that
        is said before the first token request is asked for in that one.
        """
        expect_everywhere(self._ways, repository, actions or ("pull",))

    async def resolve(self, reference: Reference) -> Fetched:
        """The manifest or index that ``reference`` names; raises as `get_manifest`."""
        return await self.get_manifest(reference.repository, reference.identifier)

    async def get_manifest(self, repository: str, identifier: str | Digest) -> Fetched:
        """Fetch and decode a manifest by tag or digest, from a mirror if there is one that has it.

        Raises `ImageNotFound`; `IntegrityError` if the bytes are not those of a digest.
        """
        tag = not isinstance(identifier, Digest) and ":" not in identifier
        ways = self._ways.pull(repository, tag=tag)
        return await try_each(self._ways, ways, lambda way: self._get_manifest(way, identifier))

    async def _get_manifest(self, way: Way, identifier: str | Digest) -> Fetched:
        """Asked twice: what something on the way damaged may come whole the second time."""
        with contextlib.suppress(IntegrityError, _NoManifest):
            return await self._get_manifest_once(way, identifier)
        return await self._get_manifest_once(way, identifier)

    async def _get_manifest_once(self, way: Way, identifier: str | Digest) -> Fetched:
        repository = way.repository
        call = _manifest_call("GET", repository, identifier, {200})
        answer, raw = await way.caller.fetch(call, MANIFEST_LIMIT)
        media_type = answer.headers.get("content-type", "").partition(";")[0].strip()
        asked = identifier if isinstance(identifier, Digest) else _digest_or_none(identifier)
        asked = asked or _digest_or_none(answer.headers.get("docker-content-digest", ""))
        if asked is not None and not asked.matches(raw):
            raise IntegrityError(
                f"the manifest of {repository} is not {asked}", exchange=answer.exchange
            )
        try:
            manifest = parse_manifest(raw, media_type)
        except InvalidManifest as error:
            raise _NoManifest(
                f"{repository}:{identifier} is no image manifest or index: {error}",
                exchange=answer.exchange,
            ) from None
        return Fetched(raw, manifest.media_type, asked or Digest.of(raw), manifest)

    async def head_manifest(self, repository: str, identifier: str | Digest) -> Descriptor | None:
        """What a tag or digest names at the registry itself (no mirror is asked), without its bytes;
        None if it has no such manifest.

        Raises `RemoteProtocolError` if the registry does not tell the digest (`get_manifest` does).
        """
        return await self._head_manifest(self._ways.push(repository), identifier)

    async def find_manifest(self, repository: str, tag: str) -> Descriptor | None:
        """What a tag means, asked where `get_manifest` asks, without its bytes (registries that limit pulls
        do not count it); None if it names nothing or the place does not tell the digest.
        """
        ways = self._ways.pull(repository, tag=True)
        try:
            return await try_each(self._ways, ways, lambda way: self._head_manifest(way, tag))
        except RemoteProtocolError:
            return None

    async def _head_manifest(self, way: Way, identifier: str | Digest) -> Descriptor | None:
        call = _manifest_call("HEAD", way.repository, identifier, {200, 404})
        answer = await way.caller.open(call)
        await answer.discard()
        if answer.status == 404:
            return None
        digest = _digest_or_none(answer.headers.get("docker-content-digest", ""))
        length = answer.headers.get("content-length", "")
        if digest is None or not length.isdigit():
            raise RemoteProtocolError(
                "a manifest without its digest or size", exchange=answer.exchange
            )
        media_type = answer.headers.get("content-type", "").partition(";")[0].strip()
        return Descriptor(media_type, digest, int(length))

    async def get_blob(
        self, repository: str, descriptor: Descriptor, limit: int = SMALL_BLOB_LIMIT
    ) -> bytes:
        """A small blob (a configuration), whole and verified.

        Raises `ImageNotFound`; `IntegrityError` for other bytes than the descriptor names, and for a
        descriptor of more than ``limit`` bytes.
        """
        if descriptor.size > limit:
            raise IntegrityError(
                f"blob {descriptor.digest.short} of {repository} has {descriptor.size} bytes, "
                f"more than the {limit} that are taken into memory"
            )
        with contextlib.suppress(IntegrityError):
            return await self._get_blob_once(repository, descriptor)
        return await self._get_blob_once(repository, descriptor)

    async def _get_blob_once(self, repository: str, descriptor: Descriptor) -> bytes:
        async with self.open_blob(repository, descriptor) as chunks:
            data = b"".join([chunk async for chunk in chunks])
        if not descriptor.digest.matches(data):
            raise IntegrityError(f"blob {descriptor.digest} of {repository} has another digest")
        return data

    def open_blob(
        self, repository: str, descriptor: Descriptor, *, start: int = 0, end: int | None = None
    ) -> AbstractAsyncContextManager[BlobChunks]:
        """A blob's bytes as they are stored, in chunks of up to half a MiB, only those from ``start`` to
        before ``end`` if given: ``async with client.open_blob(…) as chunks: async for chunk in chunks``.

        Exactly as many bytes come as asked for, after breaks too, or an error: `IntegrityError` for a blob
        of another size. The digest is the reader's to check. Entering raises `ImageNotFound`. What a mirror
        cannot give, from the beginning or from some byte on, comes from the registry itself.
        """
        stop = descriptor.size if end is None else min(end, descriptor.size)
        return open_blob(self._ways, repository, Span(descriptor, start, stop))

    def knows_ranges(self, repository: str) -> bool:
        """Whether to ask for parts of blobs: False once such a request was answered with the whole blob."""
        return self._first_way(repository).caller.reading.ranges

    def is_near(self, repository: str) -> bool:
        """Whether an answer has shown that a round trip to where blobs are costs next to nothing."""
        return self._first_way(repository).caller.quickest < _NEAR_SECONDS

    def _first_way(self, repository: str) -> Way:
        return self._ways.pull(repository, tag=False)[0]

    async def referrers(
        self, repository: str, digest: Digest, artifact_type: str
    ) -> tuple[Descriptor, ...]:
        """The artifacts of a type that refer to a manifest, and those that do not tell theirs, asked where
        `get_manifest` asks: by the API for that, or by the tag of registries that have none (spec.md,
        "Listing Referrers"). Lists that cosign keeps under such a tag tell the configuration's type.
        """
        ways = self._ways.pull(repository, tag=True)
        found: Manifest | Index | None = None
        with contextlib.suppress(ImageNotFound):
            found = await try_each(
                self._ways, ways, lambda way: list_referrers(way, digest, artifact_type)
            )
        if found is None:
            with contextlib.suppress(ImageNotFound):
                found = (await self.get_manifest(repository, referrers_tag(digest))).manifest
        entries = found.manifests if isinstance(found, Index) else ()
        known = (artifact_type, OCI_EMPTY, "")
        return tuple(entry for entry in entries if entry.artifact_type in known)

    async def blob_exists(self, repository: str, digest: Digest, size: int | None = None) -> bool:
        """Whether the repository itself has a blob (HEAD), of ``size`` bytes if that is known; no mirror is
        asked.
        """
        way = self._ways.push(repository)
        call = Call(
            "HEAD",
            blob_path(way.repository, digest),
            f"look for blob {digest.short} in {repository}",
            _pull(way.repository),
            expected=frozenset({200, 404}),
        )
        answer = await way.caller.open(call)
        await answer.discard()
        length = answer.headers.get("content-length", "")
        other = size is not None and length.isdigit() and int(length) != size
        return answer.status == 200 and not other

    async def mount_or_start_upload(
        self, repository: str, mount: Digest | None = None, source_repository: str | None = None
    ) -> Mounted | UploadSession:
        """Begin to push a blob, in one request.

        With ``mount`` the registry is asked to take the blob from ``source_repository``; that may be
        ``repository`` itself, which asks whether it is there. If it cannot, this is an upload session.
        """
        source = source_repository
        if mount is not None and source is None:
            source = repository
        way = self._ways.push(repository)
        return await start_upload(
            way.caller, way.repository, mount=mount, source=source, commit=self._timeouts.commit
        )

    async def put_manifest(
        self, repository: str, identifier: str | Digest, raw: bytes, media_type: str
    ) -> None:
        """Push a manifest or an index by tag or digest.

        Raises `ImageNotFound` if it names blobs that the repository does not have, `IntegrityError` if
        the registry keeps it under another digest.
        """
        way = self._ways.push(repository)
        colon = "@" if isinstance(identifier, Digest) or ":" in identifier else ":"
        put = Call(
            "PUT",
            manifest_path(way.repository, str(identifier)),
            f"push {repository}{colon}{identifier}",
            push_scopes(way.repository),
            expected=frozenset({200, 201, 202, 204}),
            headers=(("Content-Type", media_type),),
            body=BytesBody(raw),
        )
        try:
            answer = await way.caller.open(put)
        except RegistryError as error:
            refused = error.exchange is not None and error.exchange.status in (400, 415)
            if refused and not is_docker(media_type) and "media" in error.message.lower():
                error.hint = _DOCKER_ONLY
            raise
        await answer.discard()
        check_digest(answer, Digest.of(raw))

    async def list_tags(self, repository: str) -> tuple[str, ...]:
        """Every tag of a repository at the registry itself, page by page. Raises `ImageNotFound`."""
        way = self._ways.push(repository)
        target = f"{API_ROOT}/{way.repository}/tags/list"
        found: list[str] = []
        for _ in range(_MOST_PAGES):
            purpose = f"list the tags of {repository}"
            call = Call("GET", target, purpose, _pull(way.repository), frozenset({200}))
            answer, raw = await way.caller.fetch(call, MANIFEST_LIMIT)
            try:
                found += [str(tag) for tag in json.loads(raw).get("tags") or ()]
            except (ValueError, AttributeError, TypeError):
                raise RemoteProtocolError(
                    f"the list of the tags of {repository} is none", exchange=answer.exchange
                ) from None
            target = next_page(answer.headers.get("link", ""))
            if not target:
                break
        return tuple(dict.fromkeys(found))

    async def delete_manifest(self, repository: str, digest: Digest) -> None:
        """Delete a manifest, and with it every tag of it; one that is gone already is no error."""
        way = self._ways.push(repository)
        call = Call(
            "DELETE",
            manifest_path(way.repository, str(digest)),
            f"delete {repository}@{digest}",
            frozenset({Scope.of(way.repository, "pull", "delete")}),
            expected=frozenset({200, 202, 204, 404}),
        )
        try:
            answer = await way.caller.open(call)
        except RegistryError as error:
            if error.exchange is not None and error.exchange.status in (400, 405, 501):
                error.hint = (
                    f"{self.registry} does not delete images on request: let its own rules for"
                    " old images do it, or turn deletion on there"
                )
            raise
        await answer.discard()

    async def check_access(self) -> None:
        """Ask the registry for nothing but an answer (GET of the API's root): whether a login is good."""
        way = self._ways.push("")
        call = Call("GET", f"{API_ROOT}/", f"use {self.registry}", frozenset(), frozenset({200}))
        try:
            answer = await way.caller.open(call)
        except ImageNotFound as error:
            raise RemoteProtocolError(
                f"{self.registry} is no registry: it has no {API_ROOT}/", exchange=error.exchange
            ) from None
        await answer.discard()


def _manifest_call(
    method: str, repository: str, identifier: str | Digest, expected: Iterable[int]
) -> Call:
    colon = "@" if isinstance(identifier, Digest) or ":" in identifier else ":"
    return Call(
        method,
        manifest_path(repository, str(identifier)),
        f"pull {repository}{colon}{identifier}",
        _pull(repository),
        expected=frozenset(expected),
        headers=(("Accept", MANIFEST_ACCEPT),),
    )


def _pull(repository: str) -> Scopes:
    return frozenset({Scope.of(repository, "pull")})


def _digest_or_none(text: str) -> Digest | None:
    try:
        return Digest.parse(text)
    except InvalidDigest:
        return None
