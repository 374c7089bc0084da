"""Keys: which kinds there are, which images they are for, and what they have signed (openssl judges)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from asyncbuild.errors import UsageError
from asyncbuild.image.keys import PublicKey, Scope, VerifyKey, keys_for
from asyncbuild.image.reference import Reference
from asyncbuild.image.signing import Signed
from support.signing import Signer, openssl


@pytest.mark.parametrize(
    ("kind", "digest"),
    [
        ("P-256", "sha256"),
        ("P-384", "sha256"),
        ("P-384", "sha384"),
        ("P-521", "sha256"),
        ("P-521", "sha512"),
        ("RSA-2048", "sha256"),
        ("Ed25519", ""),
    ],
)
def test_signatures_of_openssl(shm_path: Path, kind: str, digest: str) -> None:
    """Each kind of key knows its own signature, of these bytes only."""
    signer = Signer.make(shm_path, kind=kind)
    key = PublicKey.parse(signer.public.read_bytes(), "a key")
    signature = signer.sign(b"message", digest)
    assert key.signed(Signed(b"message", (signature,), None))
    assert not key.signed(Signed(b"Message", (signature,), None))
    assert not key.signed(Signed(b"message", (b"no signature",), None))
    assert not key.signed(Signed(b"message", (signature[:-1],), None))
    other = Signer.make(shm_path, "other", kind)
    assert not key.signed(Signed(b"message", (other.sign(b"message", digest),), None))


@pytest.mark.parametrize("kind", ["secp256k1", "RSA-1024", "X25519"])
def test_other_kinds_are_refused(shm_path: Path, kind: str) -> None:
    """They are named before anything is built."""
    signer = Signer.make(shm_path, kind=kind)
    with pytest.raises(UsageError, match="a key is a key of another kind") as caught:
        PublicKey.parse(signer.public.read_bytes(), "a key")
    assert "ECDSA" in str(caught.value.hint)


def test_what_is_no_public_key(shm_path: Path) -> None:
    """A private key, a certificate and other bytes; the message shows none of them."""
    signer = Signer.make(shm_path)
    private = signer.private.read_bytes()
    certificate = openssl("req", "-x509", "-key", signer.private, "-subj", "/CN=a")
    sealed = b"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----\n"
    for pem, what in (
        (private, "a private key"),
        (sealed, "a private key"),
        (certificate, "no public key"),
        (b"", "no public key"),
        (b"\xff" * 100, "no public key"),
        (signer.public.read_bytes()[:60], "no public key"),
    ):
        with pytest.raises(UsageError, match=f"a key is {what}") as caught:
            PublicKey.parse(pem, "a key")
        assert len(caught.value.render()) < 200


def test_without_the_library(shm_path: Path) -> None:
    """The command ends before any request, and says what to install."""
    signer = Signer.make(shm_path)
    program = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from asyncbuild.cli import main\n"
        f"sys.exit(main(['build', '--verify-key', {str(signer.public)!r}, {str(shm_path)!r}]))"
    )
    (shm_path / "Dockerfile").write_text("FROM scratch\n")
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "pip install 'asyncbuild[verify]'" in done.stderr


@pytest.mark.parametrize(
    ("scope", "image"),
    [
        ("r.example", "r.example/a:1"),
        ("r.example", "R.Example:443/a"),
        ("R.Example", "r.example/a"),
        ("r.example:5000", "r.example:5000/a/b"),
        ("r.example/team", "r.example/team/app"),
        ("r.example/team", "r.example/team"),
        ("r.example/team/app", "r.example/team/app:2"),
        ("*.example", "a.b.example/x"),
        ("*.example/team", "r.example/team/app"),
        ("docker.io", "alpine"),
        ("docker.io/library", "alpine"),
        ("docker.io/library/alpine", "registry-1.docker.io/library/alpine:3"),
        ("docker.io/alpine", "alpine"),
        ("docker.io/alpine", "alpine/helm"),
        ("index.docker.io/library", "alpine"),
        ("localhost", "localhost/a"),
        ("[::1]:5000", "[::1]:5000/a"),
    ],
)
def test_a_scope_covers(scope: str, image: str) -> None:
    """What is at or below it, however it is written; a key without scope is for everything."""
    assert Scope.parse(scope).covers(Reference.parse(image))
    assert Scope().covers(Reference.parse(image))


@pytest.mark.parametrize(
    ("scope", "image"),
    [
        ("r.example", "r.example:5000/a"),
        ("r.example", "evil.example/r.example/a"),
        ("r.example/team", "r.example/teams/app"),
        ("r.example/team/app", "r.example/team"),
        ("*.example", "example/x"),
        ("*.example", "r.example.org/x"),
        ("*.example", "evilexample/r.example/x"),
        ("docker.io/library/alpine", "alpine/helm"),
        ("docker.io/me/alpine", "alpine"),
    ],
)
def test_a_scope_ends(scope: str, image: str) -> None:
    """Nothing beside it."""
    assert not Scope.parse(scope).covers(Reference.parse(image))


@pytest.mark.parametrize(
    "text",
    [
        "alpine",
        "library/alpine",
        "r.example/a:1",
        "r.example/a@sha256:" + "a" * 64,
        "r.example/",
        "r.example/*",
        "*",
        "r.example/A",
        "https://r.example/a",
        "*.",
        "r .example",
    ],
)
def test_a_scope_that_would_cover_nothing(text: str) -> None:
    """Is an error: a key that is for no image would verify none."""
    with pytest.raises(UsageError, match="--verify-key"):
        Scope.parse(text)


def test_the_most_specific_scope_counts(shm_path: Path) -> None:
    """As in containers' policy.json; of several keys with that scope each will do."""
    pem = Signer.make(shm_path).public.read_bytes()
    scopes = ["", "*.example", "r.example", "r.example/a", "r.example/a", "r.example/a/b"]
    keys = tuple(
        VerifyKey(PublicKey.parse(pem, f"{place}"), Scope.parse(text) if text else Scope())
        for place, text in enumerate(scopes)
    )
    for image, names in (
        ("r.example/a/b/c", ["5"]),
        ("r.example/a", ["3", "4"]),
        ("r.example/b", ["2"]),
        ("s.example/b", ["1"]),
        ("alpine", ["0"]),
    ):
        assert [key.name for key in keys_for(keys, Reference.parse(image))] == names
    assert keys_for(keys[1:], Reference.parse("alpine")) == ()
