"""``--verify-key``: commands with keys in files, against docker-registry, which has no API for referrers."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import bases
from support.commands import asyncbuild_here, told
from support.registry import DockerRegistry
from support.signing import (
    Attachment,
    Signer,
    classic,
    digest_of,
    listed,
    referring,
    signed_bundle,
    signed_layer,
)

pytestmark = pytest.mark.integration
_INDEX = "application/vnd.oci.image.index.v1+json"


def push(registry: DockerRegistry, repository: str, attachment: Attachment) -> None:
    """Put a signature into a real registry."""
    for blob in attachment.blobs:
        registry.put_blob(repository, digest_of(blob), blob)
    tag = attachment.tag or digest_of(attachment.manifest)
    registry.put_manifest(repository, tag, attachment.media_type, attachment.manifest)


def pushed(registry: DockerRegistry, repository: str) -> tuple[str, str]:
    """The busybox base in a repository of its own: its name, and its digest."""
    image = bases.busybox_image()
    image.push(registry, repository)
    return f"{registry.host}/{repository}", digest_of(image.manifest())


def run(code: int, *words: str | Path) -> str:
    """Run a command, and see its exit code; what it says."""
    done = asyncbuild_here(*words)
    assert done.returncode == code, told(done)
    return (done.stdout + done.stderr).decode()


@pytest.fixture(scope="module")
def signer(session_path: Path) -> Signer:
    """Who signs."""
    return Signer.make(session_path, "cli")


@pytest.mark.parametrize("form", ["classic", "bundle"])
def test_every_command(registry: DockerRegistry, shm_path: Path, signer: Signer, form: str) -> None:
    """Each refuses the image until it is signed, and then does what it is for."""
    name, digest = pushed(registry, f"verify/{form}")
    dockerfile = shm_path / "Dockerfile"
    dockerfile.write_text(f"FROM {name}\nRUN true\n")
    key = f"--verify-key={registry.host}/verify={signer.public}"
    store = f"--store={shm_path / 'store'}"
    warm = shm_path / "warm"
    commands: tuple[tuple[str | Path, ...], ...] = (
        ("build", shm_path, store, "-t", f"{registry.host}/verified/{form}", key),
        ("copy", name, f"{registry.host}/verified/{form}-copy", key),
        ("inspect", name, key),
        ("pin", dockerfile, key),
        ("warm", warm, "--image", name, key),
    )
    for words in commands:
        assert "is not signed" in run(77, *words)
    assert "@" not in dockerfile.read_text()
    for repository in (f"verified/{form}", f"verified/{form}-copy"):
        assert registry.call("GET", f"/v2/{repository}/tags/list")[0] == 404
    if form == "classic":
        push(registry, f"verify/{form}", classic(digest, signed_layer(signer, digest)))
    else:
        bundle = referring(digest, signed_bundle(signer, digest))
        push(registry, f"verify/{form}", bundle)
        push(registry, f"verify/{form}", listed(digest, bundle))
    for words in commands:
        run(0, *words)
    assert digest in dockerfile.read_text()
    cached = ("build", shm_path, f"--store={shm_path / 'new'}", "--cache-dir", warm, key)
    run(0, *cached, "-t", f"{registry.host}/verified/{form}")


def test_options_that_are_wrong(shm_path: Path, signer: Signer) -> None:
    """Before anything is built or asked for."""
    (shm_path / "Dockerfile").write_text("FROM scratch\n")
    (shm_path / "text").write_text("no key\n")
    build = ("build", str(shm_path))
    for code, text, says in (
        (66, f"{shm_path}/none.pub", "cannot read"),
        (66, "awskms:///alias/key", "keys are files here"),
        (2, f"{shm_path}/text", "no public key"),
        (2, str(signer.private), "a private key"),
        (2, f"alpine={signer.public}", "registry's host"),
        (2, f"r.example/a:1={signer.public}", "not for tags"),
        (2, "r.example=", "write FILE or SCOPE=FILE"),
        (2, f"={signer.public}", "write FILE or SCOPE=FILE"),
    ):
        assert says in run(code, *build, f"--verify-key={text}")
    key = f"--verify-key={signer.public}"
    assert "asks a question" in run(2, *build, "--check", key)
    assert "asks a question" in run(2, *build, "--call=outline", key)
    assert "in registries" in run(2, "inspect", shm_path, key)
