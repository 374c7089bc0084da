"""An OCI registry in this process: a double with a log of every request, and faults as data.

The same `RegistryDouble` is used without sockets (`DoubleTransport` of `registry_transport`, which works
under trio's mock clock) and on a loopback port (`serving` of `registry_server`). It knows manifests, tags,
blobs, ranges, uploads (POST, PATCH, PUT, in one piece or streamed), mounts, and the kinds of access of
`registry_auth`. Blobs may be redirected to another host, as large registries do.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import parse_qsl, quote

import trio

from asyncbuild.image.config import HistoryEntry, ImageConfig
from asyncbuild.image.digest import DiffId, Digest
from asyncbuild.image.manifest import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    Descriptor,
    Index,
    Manifest,
    is_foreign,
    parse_manifest,
)
from asyncbuild.image.platform import Platform
from asyncbuild.testing.exchanges import (
    Answered,
    Asked,
    CountedBody,
    LoggedRequest,
    error_answer,
    instead,
    read_whole,
    spoilt,
)
from asyncbuild.testing.faults import Delay, Deny, DropUpload, Faults
from asyncbuild.testing.quirks import Quirks, TooLarge
from asyncbuild.testing.registry_auth import Access, Doorkeeper, OpenAccess, TokenAccess
from asyncbuild.testing.registry_uploads import Upload, Uploads

_MANIFEST = re.compile(r"/v2/(?P<name>.+)/manifests/(?P<reference>[^/]+)")
_BLOB = re.compile(r"/v2/(?P<name>.+)/blobs/(?P<digest>[a-z0-9]+:[0-9a-f]+)")
_UPLOAD = re.compile(r"/v2/(?P<name>.+)/blobs/uploads/(?P<id>[^/]*)")
_TAGS = re.compile(r"/v2/(?P<name>.+)/tags/list")
_REFERRERS = re.compile(r"/v2/(?P<name>.+)/referrers/(?P<digest>[a-z0-9]+:[0-9a-f]+)")


class RegistryDouble:
    """The registry. Everything in it may be looked at and changed by a test.

    ``blob_host``: GET of a blob redirects to ``/cdn/DIGEST`` there. ``mounts`` False: no blob is mounted.
    ``quirks``: what it does otherwise than the specification says, or than most do. ``referrers`` are the
    entries of one page of the referrers API; None: there is no such API.
    """

    def __init__(
        self, access: Access | None = None, *, blob_host: str | None = None, mounts: bool = True
    ) -> None:
        self.doorkeeper = Doorkeeper(access or OpenAccess())
        self.blob_host = blob_host
        self.mounts = mounts
        self.referrers: int | None = 100
        self.quirks = Quirks()
        self.faults = Faults()
        self.log: list[LoggedRequest] = []
        self.blobs: dict[str, dict[Digest, bytes]] = {}
        self.manifests: dict[str, dict[Digest, tuple[str, bytes]]] = {}
        self.tags: dict[str, dict[str, Digest]] = {}
        self.uploads: dict[str, Upload] = {}
        self.upload_sessions = Uploads(self.uploads, self.add_blob)

    # Filling it, and looking into it

    def add_blob(self, repository: str, data: bytes, media_type: str = OCI_LAYER) -> Descriptor:
        """Put a blob into a repository."""
        digest = Digest.of(data)
        self.blobs.setdefault(repository, {})[digest] = data
        return Descriptor(media_type, digest, len(data))

    def add_manifest(self, repository: str, tag: str | None, manifest: Manifest | Index) -> None:
        """Put a manifest or an index into a repository, and tag it."""
        entries = self.manifests.setdefault(repository, {})
        entries[manifest.digest] = (manifest.media_type, manifest.raw)
        if tag is not None:
            self.tags.setdefault(repository, {})[tag] = manifest.digest

    def add_image(
        self,
        repository: str,
        tag: str | None,
        config: ImageConfig | None = None,
        layers: tuple[bytes, ...] | list[bytes] = (),
        *,
        compress: bool = True,
    ) -> Manifest:
        """Put an image of uncompressed layer tars into a repository (compressed by gzip unless told).

        The configuration's diff ids are replaced by those of ``layers``; without history it gets one.
        """
        config = config or ImageConfig(Platform("linux", "amd64"))
        diff_ids = tuple(DiffId.of(layer) for layer in layers)
        history = config.history or tuple(HistoryEntry("a layer of the double") for _ in layers)
        document = replace(config, diff_ids=diff_ids, history=history).encode()
        descriptors = tuple(
            self.add_blob(repository, gzip.compress(layer, 6, mtime=0), OCI_LAYER_GZIP)
            if compress
            else self.add_blob(repository, layer)
            for layer in layers
        )
        manifest = Manifest.make(self.add_blob(repository, document, OCI_CONFIG), descriptors)
        self.add_manifest(repository, tag, manifest)
        return manifest

    def add_index(
        self, repository: str, tag: str | None, images: Mapping[Platform, Manifest]
    ) -> Index:
        """Put an index of images that are there into a repository."""
        entries = tuple(
            replace(image.descriptor, platform=platform) for platform, image in images.items()
        )
        index = Index.make(entries)
        self.add_manifest(repository, tag, index)
        return index

    def manifest(self, repository: str, reference: str) -> Manifest | Index:
        """The manifest under a tag or digest; KeyError if there is none."""
        digest = self.tags.get(repository, {}).get(reference) or Digest.parse(reference)
        media_type, raw = self.manifests[repository][digest]
        return parse_manifest(raw, media_type)

    def asked(self, method: str = "", path: str = "") -> list[LoggedRequest]:
        """The requests of a method whose path matches a regular expression, in order."""
        return [
            entry
            for entry in self.log
            if method in ("", entry.method) and re.search(path, entry.path)
        ]

    # Answering

    def begin(self, asked: Asked) -> LoggedRequest:
        """Write a request down; whoever delivers the answer fills the entry in."""
        entry = LoggedRequest(
            asked.method, asked.host, asked.path, asked.query, asked.headers, trio.current_time()
        )
        self.log.append(entry)
        return entry

    async def handle(self, asked: Asked, entry: LoggedRequest) -> Answered:
        """Answer one request; raises `UploadDropped` where a fault closes the connection at once."""
        action = self.faults.strike(asked.method, asked.path)
        dropped = action.after if isinstance(action, DropUpload) else None
        asked = replace(asked, body=CountedBody(asked.body, entry, dropped))
        if isinstance(action, Delay):
            await trio.sleep(action.seconds)
        answered = instead(action)
        if isinstance(action, Deny):
            answered = self._refused(asked, "")
        if answered is None:
            answered = spoilt(await self._with_quirks(asked), action)
        entry.status = answered.status
        return answered

    async def _with_quirks(self, asked: Asked) -> Answered:
        quirks = self.quirks
        try:
            asked = quirks.asked(asked)
            refused = quirks.refuses(asked)
            answered = refused if refused is not None else await self._answer(asked)
        except TooLarge:
            return Answered(413, {"content-type": "text/html"}, b"<html>too large</html>")
        return quirks.answered(asked, answered)

    async def _answer(self, asked: Asked) -> Answered:
        doorkeeper = self.doorkeeper
        now = trio.current_time()
        if asked.path == "/token" and isinstance(doorkeeper.access, TokenAccess):
            form = await read_whole(asked.body)
            query = parse_qsl(asked.query)
            authorization = asked.headers.get("authorization", "")
            status, body = doorkeeper.token(authorization, query, form, now)
            return Answered(status, {"content-type": "application/json"}, body)
        if asked.path.startswith("/cdn/"):
            return self._cdn(asked)
        if asked.host == self.quirks.upload_host:
            return await self._route(asked)
        authorization = asked.headers.get("authorization", "")
        return self._refused(asked, authorization) or await self._route(asked)

    def _refused(self, asked: Asked, authorization: str) -> Answered | None:
        """401 with a challenge, unless ``authorization`` lets the request in."""
        now = trio.current_time()
        verdict = self.doorkeeper.check(authorization, _needed(asked), self._realm(asked), now)
        if verdict.allowed:
            return None
        refused = error_answer(401, "UNAUTHORIZED", "authentication required")
        headers = {**refused.headers, "www-authenticate": verdict.challenge}
        return replace(refused, headers=headers)

    def _realm(self, asked: Asked) -> str:
        access = self.doorkeeper.access
        if not isinstance(access, TokenAccess):
            return ""
        scheme = access.realm_scheme or asked.scheme
        return f"{scheme}://{access.realm_host or asked.host}/token"

    async def _route(self, asked: Asked) -> Answered:
        if match := _MANIFEST.fullmatch(asked.path):
            if asked.method == "PUT":
                return await self._put_manifest(asked, match["name"], match["reference"])
            if asked.method == "DELETE":
                return error_answer(405, "UNSUPPORTED", "The operation is unsupported.")
            return self._get_manifest(match["name"], match["reference"])
        if match := _BLOB.fullmatch(asked.path):
            return self._get_blob(asked, match["name"], Digest.parse(match["digest"]))
        if match := _UPLOAD.fullmatch(asked.path):
            if asked.method == "POST":
                return self._start_or_mount(asked, match["name"])
            return await self.upload_sessions.proceed(asked, match["id"])
        if match := _TAGS.fullmatch(asked.path):
            name = match["name"]
            document = {"name": name, "tags": sorted(self.tags.get(name, {}))}
            return Answered(
                200, {"content-type": "application/json"}, json.dumps(document).encode()
            )
        if (match := _REFERRERS.fullmatch(asked.path)) and self.referrers is not None:
            return self._list_referrers(asked, match["name"], match["digest"])
        if asked.path == "/v2/":
            return Answered(200, body=b"{}")
        return error_answer(404, "NOT_FOUND", "no such path")

    def _list_referrers(self, asked: Asked, name: str, digest: str) -> Answered:
        """A page of an index of what has ``digest`` as its subject (spec.md, "Listing Referrers")."""
        query = dict(parse_qsl(asked.query))
        start, wanted = int(query.get("start", "0")), query.get("artifactType")
        found = []
        for entry, (media_type, raw) in self.manifests.get(name, {}).items():
            document = json.loads(raw)
            if document.get("subject", {}).get("digest") == digest:
                artifact = str(document.get("artifactType") or document["config"]["mediaType"])
                if wanted in (None, artifact):
                    found.append(Descriptor(media_type, entry, len(raw), artifact_type=artifact))
        assert self.referrers is not None
        end = start + self.referrers
        headers = {"content-type": OCI_INDEX, "oci-filters-applied": "artifactType"}
        if end < len(found):
            link = f"/v2/{name}/referrers/{digest}?artifactType={quote(wanted or '')}&start={end}"
            headers["link"] = f'<{link}>; rel="next"'
        return Answered(200, headers, Index.make(tuple(found[start:end])).raw)

    def _get_manifest(self, name: str, reference: str) -> Answered:
        entries = self.manifests.get(name)
        if entries is None:
            return error_answer(404, "NAME_UNKNOWN", "repository name not known to registry")
        digest = self.tags.get(name, {}).get(reference)
        found = next((key for key in entries if key == digest or str(key) == reference), None)
        if found is None:
            return error_answer(404, "MANIFEST_UNKNOWN", "manifest unknown")
        media_type, raw = entries[found]
        return Answered(200, {"content-type": media_type, "docker-content-digest": str(found)}, raw)

    async def _put_manifest(self, asked: Asked, name: str, reference: str) -> Answered:
        raw = await read_whole(asked.body)
        manifest = parse_manifest(raw, asked.headers.get("content-type", ""))
        if isinstance(manifest, Manifest):
            known = self.blobs.get(name, {})
            wanted = (manifest.config, *(e for e in manifest.layers if not is_foreign(e)))
            missing = [e for e in wanted if e.digest not in known]
        else:
            missing = [
                e for e in manifest.manifests if e.digest not in self.manifests.get(name, {})
            ]
        if missing:
            return error_answer(400, "MANIFEST_BLOB_UNKNOWN", f"{missing[0].digest} unknown")
        if ":" in reference and reference != str(manifest.digest):
            return error_answer(400, "DIGEST_INVALID", "another digest")
        held = self.tags.get(name, {}).get(reference)
        if self.quirks.immutable is not None and held not in (None, manifest.digest):
            return error_answer(self.quirks.immutable[0], "DENIED", self.quirks.immutable[1])
        self.add_manifest(name, None if ":" in reference else reference, manifest)
        place = f"/v2/{name}/manifests/{manifest.digest}"
        return Answered(
            201, {"location": place, "docker-content-digest": str(manifest.digest)}, b""
        )

    def _get_blob(self, asked: Asked, name: str, digest: Digest) -> Answered:
        data = self.blobs.get(name, {}).get(digest)
        if data is None:
            return error_answer(404, "BLOB_UNKNOWN", "blob unknown to registry")
        if self.blob_host is not None and asked.method == "GET":
            place = f"{asked.scheme}://{self.blob_host}/cdn/{digest}?signature=secret"
            return Answered(307, {"location": place})
        return _ranged(asked, data, {"docker-content-digest": str(digest)})

    def _cdn(self, asked: Asked) -> Answered:
        digest = Digest.parse(asked.path.removeprefix("/cdn/"))
        for blobs in self.blobs.values():
            if digest in blobs:
                return _ranged(asked, blobs[digest], {})
        return Answered(404)

    def _start_or_mount(self, asked: Asked, name: str) -> Answered:
        query = dict(parse_qsl(asked.query))
        if "mount" in query and self.mounts:
            digest = Digest.parse(query["mount"])
            data = self.blobs.get(query.get("from", ""), {}).get(digest)
            if self.quirks.mounts_unnamed:
                data = next(
                    (found[digest] for found in self.blobs.values() if digest in found), None
                )
            if data is not None:
                self.blobs.setdefault(name, {})[digest] = data
                return Answered(201, {"location": f"/v2/{name}/blobs/{digest}"})
        return self.upload_sessions.start(asked, name)


def _needed(asked: Asked) -> frozenset[tuple[str, str]]:
    """The pairs of repository and action that a request needs."""
    match = re.fullmatch(r"/v2/(.+)/(?:manifests|blobs|tags|referrers)/.*", asked.path)
    if match is None:
        return frozenset()
    name = match[1].removesuffix("/blobs")
    if asked.method in ("GET", "HEAD"):
        return frozenset({(name, "pull")})
    needed = {(name, "pull"), (name, "push")}
    source = dict(parse_qsl(asked.query)).get("from")
    return frozenset(needed | ({(source, "pull")} if source else set()))


def _ranged(asked: Asked, data: bytes, headers: Mapping[str, str]) -> Answered:
    sent = {**headers, "content-type": "application/octet-stream"}
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", asked.headers.get("range", ""))
    if match is None:
        return Answered(200, sent, data)
    first = int(match[1])
    last = min(int(match[2]) if match[2] else len(data) - 1, len(data) - 1)
    if first > last:
        return Answered(416, {**sent, "content-range": f"bytes */{len(data)}"})
    span = {"content-range": f"bytes {first}-{last}/{len(data)}"}
    return Answered(206, {**sent, **span}, data[first : last + 1])
