"""A push that failed for good: the image is kept, with what is needed to push it without building."""

from __future__ import annotations

import trio

from asyncbuild.build.layers import BaseLayer
from asyncbuild.build.session import Session
from asyncbuild.build.stage import StageState
from asyncbuild.errors import PushFailed, RegistryError
from asyncbuild.image.digest import Digest
from asyncbuild.output.built import BuiltImage
from asyncbuild.store.kept import KeptImage, keep_image


async def keep_unpushed(session: Session, state: StageState, image: BuiltImage) -> None:
    """Return if the image arrived everywhere; else record it in the store and raise `PushFailed`.

    The record names the places that it did not reach. Raises `StoreError` if it cannot be written.
    """
    failed = [item for item in session.destinations if item.failure is not None]
    if not failed:
        return
    kept = KeptImage(
        image.manifest.digest,
        tuple(name for item in failed for name in item.references),
        {
            layer.descriptor.digest: layer.origin
            for layer in state.layers
            if isinstance(layer, BaseLayer) and layer.origin is not None
        },
    )
    await trio.to_thread.run_sync(keep_image, session.job.store, kept)
    cause = failed[0].failure
    assert cause is not None
    error = PushFailed(cause.message, hint=_hint(session, kept.manifest, cause))
    error.exchange = cause.exchange
    raise error from cause


def _hint(session: Session, manifest: Digest, cause: RegistryError) -> str:
    command = f"asyncbuild push --store {session.request.store} {manifest}"
    text = f"the image is kept: `{command}` sends it without building"
    return f"{cause.hint}; {text}" if cause.hint else text
