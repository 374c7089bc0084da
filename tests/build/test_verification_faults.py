"""Faults where signatures are looked for: a signed image is built or the right error comes, and no fault lets
an image pass that is not signed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from asyncbuild.build import workers as workers_module
from asyncbuild.build.request import BuildRequest
from asyncbuild.errors import NotSigned
from asyncbuild.image.keys import PublicKey, VerifyKey
from asyncbuild.registry.verification import Verification
from asyncbuild.testing.fault_scripts import NAMED
from asyncbuild.testing.registry import RegistryDouble
from support.builds import HOST, World
from support.matrix import Matrix, new_double
from support.signing import (
    Attachment,
    Signer,
    classic,
    digest_in,
    digest_of,
    referring,
    signed_bundle,
    signed_layer,
)

TINY = "base/tiny"
DOCKERFILE = f"FROM {HOST}/{TINY}\nLABEL a=b\n"
ONCE = {
    "refused",
    "reset-before",
    "reset-after",
    "reset-in-the-middle",
    "truncated",
    "wrong-size",
    "429",
    "500",
    "502",
    "503",
    "hang",
    "hang-in-the-middle",
    "trickle",
    "page",
}
"""Faults that a further try mends."""


FINAL = {
    "wrong-digest",
    "garbage",
    "401-once",
    "401-always",
    "403",
    "404",
    "416",
    "503-always",
}
"""Faults that may hide a signature."""
Attach = Callable[[str, Signer], tuple[Attachment, ...]]


def matrix_of(directory: Path, wanted: Signer, signer: Signer, attach: Attach) -> Matrix:
    """A build of a base that ``wanted`` must have signed, and ``signer`` has."""
    context = directory / "context"
    context.mkdir()
    key = PublicKey.parse(wanted.public.read_bytes(), "cosign.pub")
    verification = Verification((VerifyKey(key),))
    attachments = attach(digest_in(new_double(), TINY), signer)

    def make() -> RegistryDouble:
        double = new_double()
        for item in attachments:
            item.put(double, TINY)
        return double

    def request(world: World) -> BuildRequest:
        return world.request(DOCKERFILE, "app:1", verification=verification)

    blobs = [digest_of(blob) for item in attachments for blob in item.blobs]
    manifests = [digest_of(item.manifest) for item in attachments]
    about = "|".join(["sha256-", "/referrers/", *blobs, *manifests])
    return Matrix(directory, context, make, request, about)


def tagged(digest: str, signer: Signer) -> tuple[Attachment, ...]:
    """The classic form."""
    return (classic(digest, signed_layer(signer, digest)),)


def bundled(digest: str, signer: Signer) -> tuple[Attachment, ...]:
    """A bundle."""
    return (referring(digest, signed_bundle(signer, digest)),)


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes know no mock clock."""
    monkeypatch.setattr(workers_module, "_CLOSING_SECONDS", math.inf)


@pytest.mark.parametrize("attach", [tagged, bundled])
def test_a_signed_image(shm_path: Path, attach: Attach) -> None:
    """What can be mended is; what hides the signature ends the build with an error that says so."""
    signer = Signer.make(shm_path)
    matrix = matrix_of(shm_path, signer, signer, attach)
    right, found = matrix.run()
    assert (right.error, right.wrong) == (None, ())
    assert len(found) >= 3
    wrong = [
        f"{fault} at {place}: {outcome.name} {outcome.wrong}"
        for (place, fault), outcome in matrix.outcomes.items()
        if outcome.wrong
        or outcome.digest not in (None, right.digest)
        or (outcome.error is not None and fault not in FINAL)
        or (outcome.error is not None and outcome.error.exit_code not in (66, 69, 77))
    ]
    assert wrong == []
    assert set(NAMED) == ONCE | FINAL


def test_an_image_that_is_not_signed(shm_path: Path) -> None:
    """Another's signatures in both places: whatever fails while they are read, nothing is built."""
    wanted, stranger = Signer.make(shm_path), Signer.make(shm_path, "stranger")
    matrix = matrix_of(
        shm_path, wanted, stranger, lambda *given: (*tagged(*given), *bundled(*given))
    )
    right, found = matrix.run()
    assert isinstance(right.error, NotSigned)
    assert len(found) == 5
    built = [
        f"{fault} at {place}: {outcome.name} {outcome.wrong}"
        for (place, fault), outcome in matrix.outcomes.items()
        if outcome.error is None or outcome.wrong
    ]
    assert built == []
