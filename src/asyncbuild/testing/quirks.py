"""What registries in the field do differently, as data: a `Quirks` makes a registry double one of them."""

from __future__ import annotations

import gzip
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl

from asyncbuild.image.manifest import DOCKER_INDEX, DOCKER_MANIFEST
from asyncbuild.testing.exchanges import Answered, Asked, error_answer

_UPLOAD = re.compile(r"/v2/.+/blobs/uploads/[^/]*")
_MANIFEST = re.compile(r"/v2/.+/manifests/[^/]+")


@dataclass(frozen=True, slots=True)
class Quirks:
    """Each field is one quirk; the default has none.

    ``ranges`` False: Range is ignored. ``mount_refusal``: the status of an answer to a mount.
    ``mounts_unnamed``: a blob that any repository has is mounted, named or not (and only so: ``from`` is
    ignored). ``whole`` False: a blob must not come with the closing PUT; ``streams`` False: PATCH is
    refused. ``most``: bytes of a request's body. ``upload_host``: where uploads are sent to, which
    must not see an Authorization header; ``relative``: locations of uploads are always paths.
    ``immutable``: a tag cannot be moved, and these are the status and the words. ``docker_only``: OCI's
    manifests are refused. ``catalog`` False: nobody may list. ``encoding``: answers of GETs of this kind
    of path (a pattern) are sent with Content-Encoding gzip.
    """

    ranges: bool = True
    mount_refusal: int | None = None
    mounts_unnamed: bool = False
    whole: bool = True
    streams: bool = True
    most: int | None = None
    upload_host: str | None = None
    relative: bool = False
    immutable: tuple[int, str] | None = None
    docker_only: bool = False
    catalog: bool = True
    encoding: str | None = None

    def asked(self, asked: Asked) -> Asked:
        """The request as such a registry sees it."""
        headers = dict(asked.headers)
        if not self.ranges:
            headers.pop("range", None)
        body = asked.body if self.most is None else _Bounded(asked.body, self.most)
        return replace(asked, headers=headers, body=body)

    def refuses(self, asked: Asked) -> Answered | None:
        """Its answer to what it does not take; None for what it does."""
        if asked.path == "/v2/_catalog" and not self.catalog:
            return error_answer(404, "UNSUPPORTED", "no catalog")
        if asked.host == self.upload_host and "authorization" in asked.headers:
            return error_answer(400, "UNSUPPORTED", "two ways of authorization")
        length = asked.headers.get("content-length", "0")
        if self.most is not None and int(length) > self.most:
            return Answered(413, {"content-type": "text/html"}, b"<html>too large</html>")
        if _UPLOAD.fullmatch(asked.path):
            return self._refuses_upload(asked, int(length))
        manifest = asked.method == "PUT" and _MANIFEST.fullmatch(asked.path) is not None
        docker = asked.headers.get("content-type") in (DOCKER_MANIFEST, DOCKER_INDEX)
        if manifest and self.docker_only and not docker:
            return error_answer(415, "MANIFEST_INVALID", "media type not supported")
        return None

    def _refuses_upload(self, asked: Asked, length: int) -> Answered | None:
        mount = "mount" in dict(parse_qsl(asked.query))
        if asked.method == "POST" and mount and self.mount_refusal is not None:
            return error_answer(self.mount_refusal, "DENIED", "no mounts here")
        if asked.method == "PATCH" and not self.streams:
            return error_answer(405, "UNSUPPORTED", "one request for a blob")
        if asked.method == "PUT" and not self.whole and length:
            return error_answer(400, "BLOB_UPLOAD_INVALID", "chunks first")
        return None

    def answered(self, asked: Asked, answered: Answered) -> Answered:
        """The answer as such a registry gives it."""
        headers = dict(answered.headers)
        location = headers.get("location", "")
        if "/blobs/uploads/" in location:
            path = location[location.index("/v2/") :]
            if self.relative:
                headers["location"] = path
            if self.upload_host is not None:
                headers["location"] = f"{asked.scheme}://{self.upload_host}{path}"
        body = answered.body
        encoded = self.encoding is not None and re.search(self.encoding, asked.path)
        if encoded and asked.method == "GET" and answered.status == 200:
            headers["content-encoding"] = "gzip"
            body = gzip.compress(body, 1, mtime=0)
        return replace(answered, headers=headers, body=body)


class TooLarge(Exception):
    """More came than the registry takes in one request."""


class _Bounded:
    """A body that ends with `TooLarge` beyond so many bytes. Not a generator: it may be left half read."""

    def __init__(self, body: AsyncIterator[bytes], most: int) -> None:
        self._body = body
        self._left = most

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        chunk = await anext(self._body)
        self._left -= len(chunk)
        if self._left < 0:
            raise TooLarge
        return chunk
