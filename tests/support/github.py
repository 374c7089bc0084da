"""A double of GitHub's cache service, version 2, and of the storage that it signs URLs for.

It is a registry double too, so one transport is the whole network of a build. It is stricter than the
service: a request that Azure would refuse is refused, and so is one that shows the token to the storage.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl
from xml.etree import ElementTree as ET

from asyncbuild.testing.exchanges import Answered, Asked, read_whole
from asyncbuild.testing.registry import RegistryDouble

SERVICE = "results.example"
STORAGE = "storage.example"
TOKEN = "the-token-of-a-job.of-the-tests"
TWIRP = "/twirp/github.actions.results.api.v1.CacheService/"
JSON = {"content-type": "application/json"}
SIGNATURE = "signed-by-the-service-of-the-tests"


@dataclass(slots=True)
class Held:
    """One entry: ``data`` is None until it is uploaded, and it cannot be found until it is ``whole``."""

    key: str
    version: str
    data: bytes | None = None
    whole: bool = False
    blocks: dict[str, bytes] = field(default_factory=dict)


class GithubDouble(RegistryDouble):
    """``held`` has the entries in the order of their making; ``storage`` is the host of signed URLs ("" for
    the service's own).
    """

    def __init__(self, *, storage: str = STORAGE, **more: Any) -> None:
        super().__init__(**more)
        self.held: list[Held] = []
        self.storage = storage
        self.calls: list[str] = []

    def keys(self, part: str = "") -> list[str]:
        """The keys of whole entries, those that contain ``part``."""
        return [item.key for item in self.held if item.whole and part in item.key]

    def drop(self, part: str) -> None:
        """Forget entries, as the service does when there are too many."""
        self.held = [item for item in self.held if part not in item.key]

    async def _answer(self, asked: Asked) -> Answered:
        if asked.path.startswith(TWIRP):
            return await self._call(asked)
        if asked.path.startswith("/storage/"):
            return await self._store(asked)
        return await super()._answer(asked)

    async def _call(self, asked: Asked) -> Answered:
        if asked.headers.get("authorization") != f"Bearer {TOKEN}":
            return _twirp(401, "unauthenticated", "who are you?")
        document = json.loads(await read_whole(asked.body))
        method = asked.path.removeprefix(TWIRP)
        self.calls.append(f"{method} {document['key']}")
        assert len(document["key"]) <= 512
        assert "," not in document["key"]
        match method:
            case "CreateCacheEntry":
                return self._create(asked, document)
            case "FinalizeCacheEntryUpload":
                return self._finalize(document)
            case "GetCacheEntryDownloadURL":
                return self._find(asked, document)
        return _twirp(404, "bad_route", "no such method")

    def _create(self, asked: Asked, document: Mapping[str, Any]) -> Answered:
        if self._held(document) is not None:
            return _twirp(409, "already_exists", "cache entry with the same key already exists")
        self.held.append(Held(document["key"], document["version"]))
        return _json({"ok": True, "signed_upload_url": self._url(asked, len(self.held) - 1, "w")})

    def _finalize(self, document: Mapping[str, Any]) -> Answered:
        item = self._held(document)
        if item is None or item.data is None or len(item.data) != int(document["size_bytes"]):
            return _twirp(400, "invalid_argument", "it is not there, or has another size")
        item.whole = True
        return _json({"ok": True, "entry_id": "1"})

    def _find(self, asked: Asked, document: Mapping[str, Any]) -> Answered:
        def found(wanted: str, *, exact: bool) -> int | None:
            for place, item in reversed(list(enumerate(self.held))):
                fits = item.key == wanted if exact else item.key.startswith(wanted)
                if item.whole and fits and item.version == document["version"]:
                    return place
            return None

        place = found(document["key"], exact=True)
        for wanted in document.get("restore_keys", ()):
            place = found(wanted, exact=False) if place is None else place
        if place is None:
            return _json({"ok": False})
        url = self._url(asked, place, "r")
        return _json({"ok": True, "signed_download_url": url, "matched_key": self.held[place].key})

    def _held(self, document: Mapping[str, Any]) -> Held | None:
        name = (document["key"], document["version"])
        return next((item for item in self.held if (item.key, item.version) == name), None)

    def _url(self, asked: Asked, place: int, right: str) -> str:
        host = self.storage or asked.host
        return f"{asked.scheme}://{host}/storage/{place}?sp={right}&sig={SIGNATURE}"

    async def _store(self, asked: Asked) -> Answered:
        query = dict(parse_qsl(asked.query))
        wanted = "r" if asked.method == "GET" else "w"
        if query.get("sig") != SIGNATURE or query.get("sp") != wanted:
            return Answered(403)
        if (
            "authorization" in asked.headers
        ):  # Azure takes one of both, and nobody needs to see the token
            return Answered(400)
        place = int(asked.path.rpartition("/")[2])
        if place >= len(self.held):
            return Answered(404)
        item = self.held[place]
        if asked.method == "GET":
            return Answered(200, {}, item.data or b"")
        body = await read_whole(asked.body)
        match query.get("comp"):
            case "block":
                item.blocks[query["blockid"]] = body
            case "blocklist":
                names = [node.text or "" for node in ET.fromstring(body)]
                item.data = b"".join(item.blocks[name] for name in names)
            case _ if asked.headers.get("x-ms-blob-type") == "BlockBlob":
                item.data = body
            case _:
                return Answered(400)
        return Answered(201)


def _json(document: Mapping[str, Any]) -> Answered:
    return Answered(200, JSON, json.dumps(document).encode())


def _twirp(status: int, code: str, message: str) -> Answered:
    return Answered(status, JSON, json.dumps({"code": code, "msg": message}).encode())
