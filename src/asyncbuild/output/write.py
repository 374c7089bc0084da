"""One door for the build: write a finished image to where an `OutputSpec` says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from asyncbuild.errors import UsageError
from asyncbuild.output.annotations import AnnotationLevel, annotations_at
from asyncbuild.output.built import BlobPath, BuiltImage
from asyncbuild.output.files import CheckCancelled, appearing, disk_errors, never_cancelled
from asyncbuild.output.spec import OutputKind, OutputSpec
from asyncbuild.records import replace


def write_output(
    spec: OutputSpec,
    image: BuiltImage,
    blob_path: BlobPath,
    stdout: int,
    check: CheckCancelled = never_cancelled,
) -> BuiltImage:
    """Write ``image`` where ``spec`` says and return what was written.

    ``stdout`` is the descriptor for ``dest=-``. An OCI layout gets OCI media types; a docker archive
    keeps the image's unless ``oci-mediatypes`` asks for others: then the manifest's digest differs from
    the pushed one. An image of ``type=image`` is written by nobody here. Raises `InputError` and
    `StoreError` for the destination, `UsageError` for what cannot be written in the types asked.
    """
    image = prepared(spec, image)
    if spec.destination is None:
        return image
    # Here, since most builds push and write no file: tarfile and these are 25 ms of every start.
    from asyncbuild.output.docker import write_docker_archive  # noqa: PLC0415
    from asyncbuild.output.oci import write_oci_archive, write_oci_directory  # noqa: PLC0415

    with disk_errors(f"dest={spec.destination}"):
        match spec.kind:
            case OutputKind.OCI if not spec.tar:
                write_oci_directory(image, blob_path, Path(spec.destination), check)
            case OutputKind.OCI:
                with _target(spec.destination, stdout) as target:
                    write_oci_archive(image, blob_path, target, check)
            case OutputKind.DOCKER:
                with _target(spec.destination, stdout) as target:
                    write_docker_archive(image, blob_path, target, check)
    return image


def prepared(spec: OutputSpec, image: BuiltImage) -> BuiltImage:
    """The image with the media types and the descriptor's annotations that ``spec`` asks for."""
    if spec.kind is OutputKind.OCI:
        image = image.with_media_types(docker=False)
    elif spec.oci_media_types is not None:
        image = image.with_media_types(docker=not spec.oci_media_types)
    extra = annotations_at(spec.annotations, AnnotationLevel.DESCRIPTOR, image.platform)
    return replace(image, annotations={**image.annotations, **extra})


@contextmanager
def _target(destination: str, stdout: int) -> Iterator[int]:
    if destination != "-":
        with appearing(Path(destination)) as target:
            yield target
        return
    if os.isatty(stdout):
        raise UsageError(
            "dest=- would write an archive to a terminal", hint="redirect it, or name a file"
        )
    yield stdout
