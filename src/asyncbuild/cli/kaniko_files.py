"""The files that a pipeline reads after kaniko: digests, names with digests, BUILDER_OUTPUT."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from asyncbuild.cli.kaniko_options import Outputs
from asyncbuild.errors import StoreError
from asyncbuild.image.digest import Digest
from asyncbuild.image.reference import DOCKER_HUB, Reference


def digest_files(
    outputs: Outputs, digest: Digest, destinations: Iterable[Reference]
) -> tuple[tuple[str, bytes], ...]:
    """Each file that was asked for (a path or an https URL), and its bytes: kaniko's, to the byte."""
    names = tuple(destinations)
    texts = (
        (outputs.digest, str(digest)),
        (outputs.name_with_digest, _lines(digest, (_name(item) for item in names))),
        (outputs.name_tag_with_digest, _lines(digest, (_name_tag(item) for item in names))),
    )
    return tuple((place, text.encode()) for place, text in texts if place)


def builder_output(
    environ: Mapping[str, str], digest: Digest, pushed: Iterable[Reference]
) -> tuple[tuple[str, bytes], ...]:
    """``images`` in the directory BUILDER_OUTPUT (Skaffold's and Cloud Build's contract), if it is set."""
    directory = environ.get("BUILDER_OUTPUT", "")
    if not directory:
        return ()
    lines = [json.dumps({"name": _name_tag(item), "digest": str(digest)}) for item in pushed]
    return ((str(Path(directory) / "images"), "".join(f"{line}\n" for line in lines).encode()),)


def write_file(place: str, data: bytes) -> None:
    """Write ``data`` to a path, whose directories are made, or put it to an https URL (a signed one)."""
    if place.startswith("https://"):
        _put(place, data)
        return
    path = Path(place)
    try:
        path.parent.mkdir(0o700, parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise StoreError(f"cannot write {place}: {error.strerror}") from error


def _put(url: str, data: bytes) -> None:
    import httpx  # noqa: PLC0415 - only for URLs

    shown = url.partition("?")[0]  # what signs the URL is a secret
    try:
        answer = httpx.put(url, content=data, headers={"Content-Type": "text/plain"}, timeout=60)
    except httpx.HTTPError as error:
        raise StoreError(f"cannot write {shown}: {error}") from None
    if answer.status_code >= 400:
        raise StoreError(f"cannot write {shown}: {answer.status_code} {answer.reason_phrase}")


def _lines(digest: Digest, names: Iterable[str]) -> str:
    return "".join(f"{name}@{digest}\n" for name in names)


def _name(reference: Reference) -> str:
    """``registry/repository``; kaniko's library calls Docker Hub index.docker.io."""
    host = "index.docker.io" if reference.registry == DOCKER_HUB else reference.registry
    return f"{host}/{reference.repository}"


def _name_tag(reference: Reference) -> str:
    return f"{_name(reference)}:{reference.tag or 'latest'}"
