"""Signatures as cosign makes them, by openssl: the code that verifies them has no part in it."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asyncbuild.image.manifest import Manifest, parse_manifest
from asyncbuild.testing.registry import RegistryDouble

PAYLOAD_TYPE = "application/vnd.dev.cosign.simplesigning.v1+json"
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SIGN = "https://sigstore.dev/cosign/sign/v1"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"
KINDS: Mapping[str, tuple[str, ...]] = {
    "P-256": ("EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
    "P-384": ("EC", "-pkeyopt", "ec_paramgen_curve:P-384"),
    "P-521": ("EC", "-pkeyopt", "ec_paramgen_curve:P-521"),
    "secp256k1": ("EC", "-pkeyopt", "ec_paramgen_curve:secp256k1"),
    "RSA-2048": ("RSA", "-pkeyopt", "rsa_keygen_bits:2048"),
    "RSA-1024": ("RSA", "-pkeyopt", "rsa_keygen_bits:1024"),
    "Ed25519": ("ED25519",),
    "X25519": ("X25519",),
}


def openssl(*words: str | Path, data: bytes = b"") -> bytes:
    """Run openssl; its output."""
    done = subprocess.run(
        ["openssl", *map(str, words)], input=data, capture_output=True, check=True
    )
    return done.stdout


@dataclass(frozen=True, slots=True)
class Signer:
    """A key pair in files (PEM)."""

    private: Path
    public: Path

    @classmethod
    def make(cls, directory: Path, name: str = "cosign", kind: str = "P-256") -> Signer:
        """A new pair."""
        made = cls(directory / f"{name}.key", directory / f"{name}.pub")
        openssl("genpkey", "-quiet", "-algorithm", *KINDS[kind], "-out", made.private)
        openssl("pkey", "-in", made.private, "-pubout", "-out", made.public)
        return made

    def sign(self, data: bytes, digest: str = "sha256") -> bytes:
        """A signature of ``data``; Ed25519 has no digest."""
        if digest:
            return openssl("dgst", f"-{digest}", "-sign", self.private, data=data)
        file = self.private.with_suffix(".data")
        file.write_bytes(data)
        return openssl("pkeyutl", "-sign", "-rawin", "-inkey", self.private, "-in", file)


def payload(digest: str, name: str = "registry.example/base", **more: Any) -> bytes:
    """What cosign signs in its classic format; ``more`` replaces members of ``critical``."""
    critical = {
        "identity": {"docker-reference": name},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
        **more,
    }
    return json.dumps({"critical": critical, "optional": None}).encode()


def envelope(
    statement: bytes, signature: bytes, kind: str = "application/vnd.in-toto+json"
) -> bytes:
    """A bundle of a signed statement."""
    return bundle(
        dsseEnvelope={
            "payload": text64(statement),
            "payloadType": kind,
            "signatures": [{"sig": text64(signature)}],
        }
    )


def bundle(**content: Any) -> bytes:
    """A bundle as cosign writes it for a key: the key is only hinted at."""
    hint = {"hint": text64(hashlib.sha256(b"a key").digest())}
    return json.dumps(
        {"mediaType": BUNDLE_TYPE, "verificationMaterial": {"publicKey": hint}, **content}
    ).encode()


def statement(digest: str, predicate: str = SIGN) -> bytes:
    """An in-toto statement about an image."""
    return json.dumps(
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"digest": {"sha256": digest.removeprefix("sha256:")}}],
            "predicateType": predicate,
            "predicate": {},
        }
    ).encode()


def to_be_signed(body: bytes, kind: str = "application/vnd.in-toto+json") -> bytes:
    """DSSE's encoding of a statement: lengths in decimal, one blank between all parts."""
    return b" ".join(
        [b"DSSEv1", str(len(kind)).encode(), kind.encode(), str(len(body)).encode(), body]
    )


def text64(data: bytes) -> str:
    """Base64."""
    return base64.b64encode(data).decode()


def digest_of(data: bytes) -> str:
    """SHA-256 as registries write it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Attachment:
    """A manifest to put into a registry, with its blobs; under a tag, or by its digest (None)."""

    tag: str | None
    manifest: bytes
    blobs: tuple[bytes, ...]
    media_type: str = _MANIFEST

    def put(self, double: RegistryDouble, repository: str) -> None:
        """Put it into a double."""
        for blob in self.blobs:
            double.add_blob(repository, blob)
        double.add_manifest(repository, self.tag, parse_manifest(self.manifest, self.media_type))


@dataclass(frozen=True, slots=True)
class Layer:
    """A payload and what stands beside it."""

    data: bytes
    signature: bytes | str
    media_type: str = PAYLOAD_TYPE
    size: int | None = None
    more: Mapping[str, str] = field(default_factory=dict)

    def descriptor(self) -> dict[str, Any]:
        """As a manifest has it."""
        said = self.signature if isinstance(self.signature, str) else text64(self.signature)
        return {
            "mediaType": self.media_type,
            "size": len(self.data) if self.size is None else self.size,
            "digest": digest_of(self.data),
            "annotations": {"dev.cosignproject.cosign/signature": said, **self.more},
        }


def classic(digest: str, *layers: Layer) -> Attachment:
    """Signatures of an image under cosign's tag."""
    config = b"{}"
    document = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "size": len(config),
            "digest": digest_of(config),
        },
        "layers": [layer.descriptor() for layer in layers],
    }
    tag = f"{digest.replace(':', '-')}.sig"
    blobs = tuple({layer.data: None for layer in layers})
    return Attachment(tag, json.dumps(document).encode(), (config, *blobs))


def referring(digest: str, data: bytes, artifact_type: str = BUNDLE_TYPE) -> Attachment:
    """A bundle as an artifact that refers to an image."""
    empty = b"{}"
    document = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "artifactType": artifact_type,
        "config": {
            "mediaType": "application/vnd.oci.empty.v1+json",
            "size": len(empty),
            "digest": digest_of(empty),
        },
        "layers": [{"mediaType": artifact_type, "size": len(data), "digest": digest_of(data)}],
        "subject": {"mediaType": _MANIFEST, "size": 1, "digest": digest},
    }
    return Attachment(None, json.dumps(document).encode(), (empty, data))


def listed(digest: str, *attachments: Attachment, told: str | None = None) -> Attachment:
    """The list of what refers to an image, as clients keep it where there is no API; ``told`` is the type
    that it tells of each, if that is not the artifact's.
    """
    entries = [
        {
            "mediaType": _MANIFEST,
            "size": len(item.manifest),
            "digest": digest_of(item.manifest),
            "artifactType": told or json.loads(item.manifest)["artifactType"],
        }
        for item in attachments
    ]
    document = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": entries}
    return Attachment(digest.replace(":", "-"), json.dumps(document).encode(), (), _INDEX)


def signed_layer(signer: Signer, digest: str) -> Layer:
    """A good classic signature."""
    said = payload(digest)
    return Layer(said, signer.sign(said))


def signed_bundle(signer: Signer, digest: str) -> bytes:
    """A good bundle, as cosign 3 makes it."""
    said = statement(digest)
    return envelope(said, signer.sign(to_be_signed(said)))


def digest_in(double: RegistryDouble, repository: str, tag: str = "latest") -> str:
    """What a tag means in a double."""
    return str(double.manifest(repository, tag).digest)


def sign(double: RegistryDouble, repository: str, signer: Signer) -> None:
    """Sign an image as cosign did until its version 3."""
    digest = digest_in(double, repository)
    classic(digest, signed_layer(signer, digest)).put(double, repository)


def manifest_in(double: RegistryDouble, repository: str, tag: str = "latest") -> Manifest:
    """The manifest of an image in a double."""
    found = double.manifest(repository, tag)
    assert isinstance(found, Manifest)
    return found
