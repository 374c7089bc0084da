"""Public keys that images must be signed with, and which images a key is for. Pure.

The package ``cryptography`` does the mathematics. It is an extra (``asyncbuild[verify]``) and imported
only where there is a key. Keys are public keys in PEM, as ``cosign generate-key-pair`` and openssl write
them: ECDSA on the NIST curves, RSA (PKCS #1 1.5, at least 2048 bits) and Ed25519, with SHA-256 as cosign
signs, or with the hash that is usual for a larger curve.
"""

from __future__ import annotations

from typing import Any

from asyncbuild.errors import UsageError
from asyncbuild.image.reference import (
    DOCKER_HUB,
    InvalidReference,
    Reference,
    canonical_host,
)
from asyncbuild.image.signing import Signed
from asyncbuild.records import dataclass, field

_SMALLEST_RSA = 2048
_CURVES = {
    "secp256r1": ("SHA256",),
    "secp384r1": ("SHA384", "SHA256"),
    "secp521r1": ("SHA512", "SHA256"),
}
_KINDS = "ECDSA (P-256, P-384, P-521), RSA of at least 2048 bits, Ed25519"


@dataclass(frozen=True, slots=True, eq=False)
class PublicKey:
    """A key; ``name`` is what errors call it, usually its file."""

    name: str
    _key: Any = field(repr=False)

    @classmethod
    def parse(cls, pem: bytes, name: str) -> PublicKey:
        """Read a key. Raises `UsageError` for what is none, for a kind that is not known, and if the
        library is not there.
        """
        try:
            from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - an extra
            from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
        except ImportError:
            raise UsageError(
                "--verify-key: signatures are verified by the package cryptography, which is not installed",
                hint="pip install 'asyncbuild[verify]'",
            ) from None
        try:
            key = serialization.load_pem_public_key(pem)
        except (ValueError, UnsupportedAlgorithm):
            secret = b"PRIVATE KEY-----" in pem
            raise UsageError(
                f"--verify-key: {name} is {'a private key' if secret else 'no public key in PEM'}",
                hint="cosign public-key --key cosign.key > cosign.pub" if secret else None,
            ) from None
        if not _is_known(key):
            raise UsageError(
                f"--verify-key: {name} is a key of another kind", hint=f"known: {_KINDS}"
            )
        return cls(name, key)

    def signed(self, what: Signed) -> bool:
        """Whether one of the signatures is this key's, of these bytes."""
        return any(self._verifies(signature, what.message) for signature in what.signatures)

    def _verifies(self, signature: bytes, message: bytes) -> bool:
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
        from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa  # noqa: PLC0415

        ways: list[tuple[Any, ...]] = [()]  # Ed25519: neither padding nor hash
        if isinstance(self._key, ec.EllipticCurvePublicKey):
            known = _CURVES[self._key.curve.name]
            ways = [(ec.ECDSA(getattr(hashes, name)()),) for name in known]
        elif isinstance(self._key, rsa.RSAPublicKey):
            ways = [(padding.PKCS1v15(), hashes.SHA256())]
        for way in ways:
            try:
                self._key.verify(signature, message, *way)
            except InvalidSignature:
                continue
            return True
        return False


def _is_known(key: object) -> bool:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: PLC0415

    if isinstance(key, ec.EllipticCurvePublicKey):
        return key.curve.name in _CURVES
    if isinstance(key, rsa.RSAPublicKey):
        return bool(key.key_size >= _SMALLEST_RSA)
    return isinstance(key, ed25519.Ed25519PublicKey)


@dataclass(frozen=True, slots=True)
class Scope:
    """Which images a key is for, as in containers' policy.json: all (no ``host``), those of a registry
    (``*.example.com``: of hosts below it), of a namespace, or one repository; each with all that is below.
    """

    host: str = ""
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Scope:
        """``HOST[:PORT][/PATH]``, ``*.DOMAIN[/PATH]``; raises `UsageError`."""
        host, slash, path = text.partition("/")
        below = host.startswith("*.")
        problem = _problem(host, path if slash else "any")
        if problem:
            raise UsageError(
                f"--verify-key {text}=…: {problem}",
                hint="write HOST, HOST/NAMESPACE or HOST/REPOSITORY: docker.io/library/debian",
            )
        return cls(host.lower() if below else canonical_host(host), path)

    def covers(self, image: Reference) -> bool:
        """Whether ``image`` is at or below this scope."""
        if not self.host:
            return True
        image = image.canonical
        if self.host.startswith("*."):
            if not image.registry.endswith(self.host[1:]):
                return False
        elif image.registry != self.host:
            return False
        paths = [self.path]
        if self.host == DOCKER_HUB and self.path and "/" not in self.path:
            paths.append(f"library/{self.path}")  # docker.io/debian is both
        return any(not path or f"{image.repository}/".startswith(f"{path}/") for path in paths)

    @property
    def rank(self) -> tuple[int, int, int]:
        """How specific it is: an exact host before hosts below a domain, then the longer path."""
        kind = 0 if not self.host else 1 if self.host.startswith("*.") else 2
        return kind, len(self.host) if kind == 1 else 0, len(self.path)


def _problem(host: str, path: str) -> str:
    """What is wrong with a scope; "" if nothing is."""
    if "@" in path or ":" in path:
        return "a key is for repositories, not for tags or digests"
    if not any(mark in host for mark in ".:") and host != "localhost":
        return "it does not begin with a registry's host"
    if host.startswith("*."):
        host = f"any{host[1:]}"
    try:
        Reference.parse_repository(f"{host}/{path}")
    except InvalidReference as error:
        return str(error)
    return ""


@dataclass(frozen=True, slots=True)
class VerifyKey:
    """A key, and the images that must be signed with it."""

    key: PublicKey
    scope: Scope = field(default_factory=Scope)


def keys_for(keys: tuple[VerifyKey, ...], image: Reference) -> tuple[PublicKey, ...]:
    """The keys of the most specific scope that covers ``image``; one of them must have signed it. None: it
    need not be signed.
    """
    found = [item for item in keys if item.scope.covers(image)]
    most = max((item.scope.rank for item in found), default=None)
    return tuple(item.key for item in found if item.scope.rank == most)
