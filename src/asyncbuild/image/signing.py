"""What signatures of images look like: cosign's two formats, read into one noun. Pure.

1. The classic one: an image manifest under the tag ``sha256-HEX.sig`` beside the image. Each of its layers
   is a payload (simple signing), and the annotation `SIGNATURE` of the layer's descriptor is the signature
   of the payload's bytes (sigstore/cosign, specs/SIGNATURE_SPEC.md).
2. Bundles: artifacts that refer to the image (distribution specification 1.1, "Listing Referrers"), whose
   one layer is a document (sigstore/cosign, specs/BUNDLE_SPEC.md; protobuf-specs, sigstore_bundle.proto).
   It signs a statement about the image (DSSE, in-toto), or the bytes of its manifest.

``docker-reference``, the name in a payload, is ignored, as cosign does: the digest says which image it is.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from asyncbuild.image.digest import Digest, InvalidDigest
from asyncbuild.image.manifest import Descriptor
from asyncbuild.records import dataclass

PAYLOAD_TYPE = "application/vnd.dev.cosign.simplesigning.v1+json"
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SIGNATURE = "dev.cosignproject.cosign/signature"
LARGEST_PAYLOAD = 64 << 10
"""Bytes. A payload names one digest and a few words."""
LARGEST_BUNDLE = 1 << 20
"""Bytes. A bundle may carry proofs of logs."""
_PAYLOAD_KIND = "cosign container image signature"
_STATEMENT_TYPE = "application/vnd.in-toto+json"
_SIGN_PREDICATE = "https://sigstore.dev/cosign/sign/v1"


class UnreadableSignature(ValueError):
    """What stands where a signature should be is none that is understood."""


@dataclass(frozen=True, slots=True)
class Signed:
    """Bytes, the signatures that somebody says they have, and the image that they speak of.

    None of it is true before a key says that a signature is good. ``image`` None: the bytes do not state
    that an image is signed.
    """

    message: bytes
    signatures: tuple[bytes, ...]
    image: Digest | None


def signature_tag(digest: Digest) -> str:
    """Where the classic signatures of an image are."""
    return f"{digest.algorithm}-{digest.hex}.sig"


def referrers_tag(digest: Digest) -> str:
    """Where a registry without an API for referrers has their list (distribution specification 1.1)."""
    return f"{digest.algorithm}-{digest.hex}"


def read_payload(layer: Descriptor, raw: bytes) -> Signed:
    """A layer of a classic signature. Raises `UnreadableSignature`."""
    return Signed(raw, (_decoded(layer.annotations.get(SIGNATURE)),), _image_of_payload(raw))


def read_bundle(raw: bytes, manifest: bytes) -> Signed:
    """A bundle that refers to an image; ``manifest`` are the bytes of its index or manifest.

    Raises `UnreadableSignature`.
    """
    bundle = _object(_parsed(raw))
    if bundle.get("mediaType") != BUNDLE_TYPE:
        raise UnreadableSignature(f"its type is {bundle.get('mediaType')!r}")
    if "messageSignature" in bundle:
        signature = _decoded(_object(bundle["messageSignature"]).get("signature"))
        return Signed(manifest, (signature,), Digest.of(manifest))
    envelope = _object(bundle.get("dsseEnvelope"))
    kind, payload = str(envelope.get("payloadType")), _decoded(envelope.get("payload"))
    entries = envelope.get("signatures")
    if not isinstance(entries, list) or len(entries) != 1:  # the bundle's schema allows one
        raise UnreadableSignature("an envelope has one signature")
    signatures = tuple(_decoded(_object(entry).get("sig")) for entry in entries)
    about = _image_of_statement(payload) if kind == _STATEMENT_TYPE else None
    return Signed(_envelope_bytes(kind, payload), signatures, about)


def _envelope_bytes(kind: str, payload: bytes) -> bytes:
    """What is signed of an envelope (DSSE, protocol.md: pre-authentication encoding)."""
    name = kind.encode()
    return b"DSSEv1 %d %b %d %b" % (len(name), name, len(payload), payload)


def _image_of_payload(raw: bytes) -> Digest | None:
    try:
        critical = _object(_object(_parsed(raw)).get("critical"))
        if critical.get("type") != _PAYLOAD_KIND:
            return None
        return Digest.parse(str(_object(critical.get("image")).get("docker-manifest-digest")))
    except (UnreadableSignature, InvalidDigest):
        return None


def _image_of_statement(raw: bytes) -> Digest | None:
    """The one subject of a signature; attestations (other predicates) say nothing of who may be trusted."""
    try:
        statement = _object(_parsed(raw))
        subjects = statement.get("subject")
        if statement.get("predicateType") != _SIGN_PREDICATE or not isinstance(subjects, list):
            return None
        if len(subjects) != 1:
            return None
        digests = _object(_object(subjects[0]).get("digest"))
        return Digest.parse(f"sha256:{digests.get('sha256')}")
    except (UnreadableSignature, InvalidDigest):
        return None


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        raise UnreadableSignature("it is no JSON") from None


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UnreadableSignature("it lacks what its format wants")
    return value


def _decoded(value: object) -> bytes:
    try:
        found = base64.b64decode(value, validate=True) if isinstance(value, str) else b""
    except (binascii.Error, ValueError):
        found = b""
    if not found:
        raise UnreadableSignature("it has no signature in base64")
    return found
