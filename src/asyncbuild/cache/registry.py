"""The cache in a registry: entries are OCI image manifests, tagged by key; a scope index answers for all.

::

    REPOSITORY:k-<key>    one entry: a manifest with one layer (the step's) and an empty configuration;
                          its annotations hold the key and the result (`CachedResult`)
    REPOSITORY:f-<chain>  what a base shows (`asyncbuild.layers.listing`), in the annotations of a manifest
    REPOSITORY:[SCOPE-]m-<hash>   a cache mount, if they are kept here too (`asyncbuild.build.kept_mounts`)
    REPOSITORY:<scope>    an index of entries (`asyncbuild.cache.scope_index`): one request answers for all
                          keys that it lists, and for the configurations of the bases that they are made
                          upon; or an image with an inline cache (`asyncbuild.cache.inline`)

The tags are the truth: concurrent builds write different tags and never lose each other's entries. A
scope index is read, merged and written when a build ends, so the later of two builds may miss what the
other added at the same moment; a key that an index does not list is asked for by its tag, all in one wave.
"""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Iterable, Mapping

import trio

from asyncbuild.cache.inline import decode_inline
from asyncbuild.cache.keys import Key
from asyncbuild.cache.results import (
    Absence,
    Answer,
    CachedResult,
    DamagedResult,
    Hit,
)
from asyncbuild.cache.scope_index import (
    IndexEntry,
    ScopeIndex,
    chosen_configs,
    decode_index,
    encode_index,
)
from asyncbuild.errors import AsyncbuildError, ImageNotFound, RegistryError
from asyncbuild.image.digest import DiffId, Digest
from asyncbuild.image.manifest import (
    Descriptor,
    Index,
    Manifest,
)
from asyncbuild.image.reference import Reference
from asyncbuild.records import replace
from asyncbuild.registry.client import RegistryClient
from asyncbuild.registry.upload import UploadSession

EMPTY_CONFIG = b"{}"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
KEY = "dev.asyncbuild.cache.key"
RESULT = "dev.asyncbuild.cache.result"
CHAIN = "dev.asyncbuild.base.chain-id"
LISTING = "dev.asyncbuild.base.listing"
MOUNT = "dev.asyncbuild.mount.id"
WRITTEN = "org.opencontainers.image.created"
"""When a listing or the content of a cache mount was put here (RFC 3339)."""
MOST_ENTRIES = 2000
MOST_LISTED = 2 << 20
"""Bytes of a listing; manifests of up to 4 MiB are taken everywhere."""
_PROBES = 32


class RegistryCache:
    """Both ends of the cache at ``reference``: its tag is the scope, ``fallbacks`` are read too."""

    trouble = ""

    def __init__(
        self, client: RegistryClient, reference: Reference, fallbacks: tuple[str, ...] = ()
    ) -> None:
        self.name = f"registry {reference}"
        self._client = client
        self._reference = reference
        self._repository = reference.repository
        self._scopes = (reference.tag or "latest", *fallbacks)
        self._known: dict[Key, IndexEntry] = {}
        self._ours: dict[Key, IndexEntry] = {}
        self._configs: dict[Digest, bytes] = {}
        self._our_configs: list[bytes] = []
        self._current: ScopeIndex | None = None
        self._listed: set[DiffId] = set()
        self._probes: dict[Key, trio.Event] = {}
        self._answers: dict[Key, Answer] = {}
        self._loaded = trio.Event()
        self._available = True
        self._config_is_there = False
        self._config_lock = trio.Lock()

    async def load(self) -> None:
        """Read the indexes of the scope and of its fallbacks, at once."""
        found: dict[str, ScopeIndex] = {}

        async def read(scope: str) -> None:
            found[scope] = await self._read_index(scope)

        try:
            async with trio.open_nursery() as nursery:
                for scope in self._scopes:
                    nursery.start_soon(read, scope)
            for scope in reversed(self._scopes):
                self._known |= found[scope].entries
                self._configs |= found[scope].configs
        finally:
            self._loaded.set()

    async def config(self, digest: Digest) -> bytes | None:
        """The configuration of a base, if the indexes hold it; waits for them."""
        if not self._loaded.is_set():
            await self._loaded.wait()
        return self._configs.get(digest)

    def note_config(self, raw: bytes) -> None:
        """The configuration of a base of this build: the index will hold it."""
        self._our_configs.append(raw)

    async def look_up(self, keys: Iterable[Key], *, quick: bool = False) -> Mapping[Key, Answer]:
        """Answer from the indexes; what they do not list is asked for by tag, once for each, all at once,
        unless only a ``quick`` answer is worth having.
        """
        await self._loaded.wait()
        answers: dict[Key, Answer] = {}
        limit = trio.CapacityLimiter(_PROBES)

        async def probe(key: Key) -> None:
            if key not in self._probes:
                self._probes[key] = trio.Event()
                try:
                    async with limit:
                        self._answers[key] = await self._probe(key)
                finally:
                    self._probes[key].set()
            await self._probes[key].wait()
            answers[key] = self._answers.get(key, Absence.UNAVAILABLE)

        async with trio.open_nursery() as nursery:
            for key in keys:
                entry = self._known.get(key)
                if entry is not None:
                    answers[key] = Hit(key, entry.result, self.name)
                elif not self._available:
                    answers[key] = Absence.UNAVAILABLE
                elif quick:
                    answers[key] = Absence.MISS
                else:
                    nursery.start_soon(probe, key)
        return answers

    async def put(self, keys: tuple[Key, ...], result: CachedResult) -> None:
        """Tag a manifest with each key; the layer's blob is in the repository already.

        A key that leads to the same layers already is left as it is, unless it was written earlier.
        """
        failed: list[AsyncbuildError] = []

        async def put(key: Key) -> None:
            try:
                await self._put(key, result)
            except AsyncbuildError as error:
                failed.append(error)

        async with trio.open_nursery() as nursery:
            for key in keys:
                known = self._known.get(key)
                same = known is not None and known.result.same_layers(result)
                if known is None or not same or _younger(result, known):
                    nursery.start_soon(put, key)
        if failed:
            raise failed[0]

    async def _put(self, key: Key, result: CachedResult) -> None:
        layer = result.layer.descriptor
        assert layer is not None
        await self._put_config()
        config = Descriptor(EMPTY_TYPE, Digest.of(EMPTY_CONFIG), len(EMPTY_CONFIG))
        annotations = {KEY: key.hex, RESULT: result.encode().decode()}
        manifest = Manifest.make(config, (layer,), annotations=annotations)
        await self._client.put_manifest(
            self._repository, key.tag, manifest.raw, manifest.media_type
        )
        self._ours[key] = IndexEntry(manifest.descriptor, result)

    async def listing(self, chain: DiffId) -> bytes | None:
        """One request: the manifest has the listing in itself."""
        try:
            fetched = await self._client.get_manifest(self._repository, listing_tag(chain))
        except RegistryError:
            return None
        found = fetched.manifest.annotations
        if isinstance(fetched.manifest, Index) or found.get(CHAIN) != str(chain):
            return None
        try:
            raw = base64.b64decode(found.get(LISTING, ""), validate=True)
        except ValueError:
            return None
        self._listed.add(chain)
        return raw

    async def put_listing(self, chain: DiffId, data: bytes, *, anew: bool, written: int) -> None:
        """Tag a manifest that holds the listing; one too large for a manifest is left out."""
        tag = listing_tag(chain)
        if len(data) > MOST_LISTED:
            return
        if not anew:
            if chain in self._listed:
                return
            if await self._client.head_manifest(self._repository, tag) is not None:
                return
        await self._put_config()
        empty = Descriptor(EMPTY_TYPE, Digest.of(EMPTY_CONFIG), len(EMPTY_CONFIG))
        text = {
            CHAIN: str(chain),
            LISTING: base64.b64encode(data).decode(),
            WRITTEN: moment(written),
        }
        manifest = Manifest.make(empty, (empty,), annotations=text)
        await self._client.put_manifest(self._repository, tag, manifest.raw, manifest.media_type)

    async def refresh(self) -> None:
        """Read the scope's index as it is now: `finish` is near, and needs it."""
        self._current = await self._read_index(self._scopes[0])

    async def finish(self) -> None:
        """Merge what was put into the scope's index, as it is now or was at the last `refresh`."""
        if not self._ours:
            return
        current = self._current or await self._read_index(self._scopes[0])
        self._current = None
        merged = {**current.entries, **self._ours}
        configs = chosen_configs([*self._our_configs, *current.configs.values()])
        newest = sorted(merged, key=lambda key: (-_age_from(merged[key].result), key))[
            :MOST_ENTRIES
        ]
        index = encode_index(ScopeIndex({key: merged[key] for key in newest}, configs))
        await self._client.put_manifest(
            self._repository, self._scopes[0], index.raw, index.media_type
        )

    async def _read_index(self, scope: str) -> ScopeIndex:
        try:
            fetched = await self._client.get_manifest(self._repository, scope)
        except ImageNotFound:
            return ScopeIndex()
        except RegistryError:
            self._available = False
            return ScopeIndex()
        if isinstance(fetched.manifest, Index):
            return decode_index(fetched.manifest, self._reference)
        try:
            raw = await self._client.get_blob(self._repository, fetched.manifest.config)
        except RegistryError:
            return ScopeIndex()
        found = decode_inline(fetched.manifest, raw, replace(self._reference, tag=None))
        descriptor = fetched.manifest.descriptor
        return ScopeIndex({key: IndexEntry(descriptor, result) for key, result in found.items()})

    async def _probe(self, key: Key) -> Answer:
        try:
            fetched = await self._client.get_manifest(self._repository, key.tag)
        except ImageNotFound:
            return Absence.MISS
        except RegistryError:
            return Absence.UNAVAILABLE
        manifest = fetched.manifest
        if isinstance(manifest, Index) or manifest.annotations.get(KEY) != key.hex:
            return Absence.UNAVAILABLE
        try:
            raw = manifest.annotations.get(RESULT, "").encode()
            result = CachedResult.decode(raw, replace(self._reference, tag=None))
        except DamagedResult:
            return Absence.UNAVAILABLE
        return Hit(key, result, self.name)

    async def _put_config(self) -> None:
        async with self._config_lock:
            if self._config_is_there:
                return
            digest = Digest.of(EMPTY_CONFIG)
            answer = await self._client.mount_or_start_upload(self._repository, digest)
            if isinstance(answer, UploadSession):
                await answer.put(EMPTY_CONFIG, digest)
            self._config_is_there = True


def listing_tag(chain: DiffId) -> str:
    """The tag under which a registry keeps the listing of a base."""
    return f"f-{chain.hex}"


def moment(seconds: int) -> str:
    """A time since the epoch as annotations have it (RFC 3339)."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _age_from(result: CachedResult) -> int:
    return result.created if result.written is None else result.written


def _younger(result: CachedResult, known: IndexEntry) -> bool:
    return _age_from(result) > _age_from(known.result)
