"""``--metadata-file`` and ``--iidfile``.

The first has buildx's members (docs/reference/buildx_build.md, "Write build result metadata"):
``containerimage.digest``, ``containerimage.config.digest``, ``containerimage.descriptor`` and
``image.name`` (names joined by commas); ours begin with ``asyncbuild.``. The second has buildx's image ID
and no newline: the configuration's digest (commands/build.go, getImageID).
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from asyncbuild.errors import InputError, StoreError
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import Descriptor
from asyncbuild.image.reference import Reference
from asyncbuild.records import dataclass, field
from asyncbuild.report.events import (
    BuildFailed,
    BuildFinished,
    Event,
    Statistics,
    StepFinished,
    WarningRaised,
)
from asyncbuild.report.wording import place


@dataclass(slots=True)
class BuildRecord:
    """A reporter that keeps what the metadata file tells: steps, warnings, statistics."""

    steps: list[StepFinished] = field(default_factory=list)
    warnings: list[WarningRaised] = field(default_factory=list)
    statistics: Statistics = field(default_factory=Statistics)

    def emit(self, event: Event) -> None:
        """Keep one event, if the file has a place for it."""
        match event:
            case StepFinished():
                self.steps.append(event)
            case WarningRaised():
                self.warnings.append(event)
            case BuildFinished() | BuildFailed():
                self.statistics = event.statistics

    def tick(self) -> None:
        """Nothing changes by time alone."""

    def close(self) -> None:
        """Nothing is held back."""


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What was built: the manifest's descriptor, the configuration's digest, the names."""

    descriptor: Descriptor
    config_digest: Digest
    names: tuple[Reference, ...] = ()


def render_metadata(facts: ImageFacts, record: BuildRecord) -> bytes:
    """The bytes of the metadata file: JSON, indented by two, members sorted as buildx has them."""
    document: dict[str, Any] = {
        "containerimage.digest": str(facts.descriptor.digest),
        "containerimage.config.digest": str(facts.config_digest),
        "containerimage.descriptor": facts.descriptor.to_json(),
    }
    if facts.names:
        document["image.name"] = ",".join(str(name) for name in facts.names)
    document |= {f"asyncbuild.{name}": value for name, value in _ours(record).items()}
    return json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"


def _ours(record: BuildRecord) -> dict[str, Any]:
    facts = record.statistics
    value: dict[str, Any] = {
        "wall_seconds": round(facts.seconds, 3),
        "bytes_received": facts.bytes_received,
        "bytes_sent": facts.bytes_sent,
        "requests": facts.requests,
        "layers": {
            "pulled": facts.layers_pulled,
            "pushed": facts.layers_pushed,
            "mounted": facts.layers_mounted,
            "existing": facts.layers_existing,
        },
        "steps": [
            {
                "stage": event.step.stage,
                "index": event.step.index,
                "total": event.step.total,
                "instruction": event.step.text,
                "seconds": round(event.seconds, 3),
                "outcome": event.outcome.value,
            }
            for event in record.steps
        ],
    }
    if record.warnings:
        value["warnings"] = [place(item.location) + item.text for item in record.warnings]
    return value


def write_metadata_file(path: Path, facts: ImageFacts, record: BuildRecord) -> None:
    """Write the metadata file, whole or not at all; `InputError` or `StoreError` if it cannot be."""
    _write(path, render_metadata(facts, record))


def write_iidfile(path: Path, config_digest: Digest) -> None:
    """Write the image ID file; errors as `write_metadata_file`."""
    _write(path, str(config_digest).encode())


def _write(path: Path, data: bytes) -> None:
    """A rename, as buildx does, but for devices and pipes (``/dev/stdout``), which are written to."""
    special = path.exists() and not path.is_file() and not path.is_dir()
    temporary = path if special else path.with_name(f".{path.name[:180]}.{os.getpid()}.partial")
    try:
        temporary.write_bytes(data)
        if not special:
            temporary.replace(path.resolve() if path.is_symlink() else path)
    except OSError as error:
        if not special:
            with contextlib.suppress(OSError):
                temporary.unlink()
        message = f"cannot write {path}: {error.strerror}"
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            raise InputError(message, hint="the directory that holds it must exist") from error
        raise StoreError(message, hint="choose a place that this user may write") from error
