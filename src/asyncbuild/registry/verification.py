"""Verification: an image may be used only if one of its keys has signed what its name means.

What a name means is an index or a manifest, by its digest: cosign signs that, and everything else of the
image is named by it. Both of cosign's places are looked at side by side (`asyncbuild.image.signing`), and
the first good signature ends the search. Only keys count; certificates and logs are not looked at.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from asyncbuild.errors import ImageNotFound, NotSigned, RegistryError
from asyncbuild.image.digest import Digest
from asyncbuild.image.keys import PublicKey, VerifyKey, keys_for
from asyncbuild.image.manifest import Index, Manifest
from asyncbuild.image.reference import Reference
from asyncbuild.image.signing import (
    BUNDLE_TYPE,
    LARGEST_BUNDLE,
    LARGEST_PAYLOAD,
    PAYLOAD_TYPE,
    Signed,
    UnreadableSignature,
    read_bundle,
    read_payload,
    signature_tag,
)
from asyncbuild.records import dataclass, field
from asyncbuild.registry.client import RegistryClient

MOST_SIGNATURES = 64
"""Signatures of one image that are looked at, in each of the two places."""

Look = Callable[["_Search"], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Verification:
    """The keys that images must be signed with. Without keys nothing is asked for."""

    keys: tuple[VerifyKey, ...] = ()

    def wanted(self, *names: Reference) -> tuple[PublicKey, ...]:
        """The keys of an image that has several names (what a policy made of it, what the Dockerfile says):
        those of the first name that has some.
        """
        for name in names:
            found = keys_for(self.keys, name)
            if found:
                return found
        return ()

    async def verify(
        self, client: RegistryClient, image: Manifest | Index, *names: Reference
    ) -> None:
        """Return if ``image``, which the first of ``names`` means, is signed as it must be, or need not be.

        Raises `NotSigned`, and `RegistryError` if a place that may have a good signature cannot be read.
        """
        keys = self.wanted(*names)
        if not keys:
            return
        search = _Search(client, names[0].repository, image, keys)
        async with trio.open_nursery() as nursery:
            for look in (_look_at_tag, _look_at_referrers):
                nursery.start_soon(_looked, look, search, nursery.cancel_scope)
        if search.good:
            return
        if search.errors:
            error = search.errors[0]
            error.hint = error.hint or f"{names[0].familiar} is used only with a good signature"
            raise error
        raise search.refusal(names[0])


def refuse_unsigned(keys: tuple[PublicKey, ...], what: str) -> None:
    """Raise `NotSigned` if keys are wanted of ``what``, which is not in a registry."""
    if keys:
        raise NotSigned(
            f"{what} is not in a registry: there is no signature to verify",
            hint="name the registries whose images must be signed: --verify-key HOST=FILE",
        )


@dataclass(slots=True)
class _Search:
    """What was found of one image's signatures."""

    client: RegistryClient
    repository: str
    image: Manifest | Index
    keys: tuple[PublicKey, ...]
    good: bool = False
    unreadable: int = 0
    foreign: int = 0
    misused: list[str] = field(default_factory=list)
    skipped: int = 0
    errors: list[RegistryError] = field(default_factory=list)

    @property
    def digest(self) -> Digest:
        """What a signature must name."""
        return self.image.digest

    def judge(self, found: Signed) -> None:
        """Take note of a signature."""
        by = next((key for key in self.keys if key.signed(found)), None)
        if by is None:
            self.foreign += 1
        elif found.image is None:
            self.misused.append(f"{by.name} signed something that is no signature of an image")
        elif found.image != self.digest:
            self.misused.append(f"{by.name} signed another image, {found.image}")
        else:
            self.good = True

    def refusal(self, name: Reference) -> NotSigned:
        """Why the image may not be used."""
        files = " or ".join(key.name for key in self.keys)
        reasons = []
        if self.foreign:
            reasons.append(
                f"{_counted(self.foreign)} by another key, or of bytes that were altered since"
            )
        if self.unreadable:
            reasons.append(f"{_counted(self.unreadable)} in no format that is understood")
        reasons += self.misused[:3]
        if self.skipped:
            reasons.append(f"{self.skipped} more were not looked at: {MOST_SIGNATURES} are")
        if not reasons:
            return NotSigned(
                f"{name.familiar} is not signed: {name.name} has no signature of {self.digest}",
                hint=f"it must be signed by {files}; keyless signatures are not verified",
            )
        return NotSigned(
            f"{name.familiar} has no good signature by {files}: {'; '.join(reasons)}",
            hint=f"its digest is {self.digest}",
        )


async def _looked(look: Look, search: _Search, scope: trio.CancelScope) -> None:
    """Look at one place; a good signature ends the look at the other one."""
    try:
        await look(search)
    except RegistryError as error:
        search.errors.append(error)
    if search.good:
        scope.cancel()


async def _look_at_tag(search: _Search) -> None:
    try:
        tag = signature_tag(search.digest)
        fetched = await search.client.get_manifest(search.repository, tag)
    except ImageNotFound:
        return
    layers = () if isinstance(fetched.manifest, Index) else fetched.manifest.layers
    search.skipped += max(0, len(layers) - MOST_SIGNATURES)
    for layer in layers[:MOST_SIGNATURES]:
        if layer.media_type != PAYLOAD_TYPE or layer.size > LARGEST_PAYLOAD:
            search.unreadable += 1
            continue
        raw = await search.client.get_blob(search.repository, layer, LARGEST_PAYLOAD)
        _read(search, read_payload, layer, raw)
        if search.good:
            return


async def _look_at_referrers(search: _Search) -> None:
    found = await search.client.referrers(search.repository, search.digest, BUNDLE_TYPE)
    search.skipped += max(0, len(found) - MOST_SIGNATURES)
    for entry in found[:MOST_SIGNATURES]:
        fetched = await search.client.get_manifest(search.repository, entry.digest)
        layers = () if isinstance(fetched.manifest, Index) else fetched.manifest.layers
        if [layer.media_type for layer in layers] != [BUNDLE_TYPE]:
            continue  # another artifact
        if layers[0].size > LARGEST_BUNDLE:
            search.unreadable += 1
            continue
        raw = await search.client.get_blob(search.repository, layers[0], LARGEST_BUNDLE)
        _read(search, read_bundle, raw, search.image.raw)
        if search.good:
            return


def _read(search: _Search, read: Callable[..., Signed], *what: Any) -> None:
    try:
        search.judge(read(*what))
    except UnreadableSignature:
        search.unreadable += 1


def _counted(number: int) -> str:
    return "a signature is" if number == 1 else f"{number} signatures are"
