"""What there is to say of an image: its manifest or index, and one of its configurations."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from asyncbuild.errors import AsyncbuildError, UsageError
from asyncbuild.image.config import ImageConfig, InvalidConfig
from asyncbuild.image.manifest import Descriptor, Index, Manifest
from asyncbuild.image.platform import Platform
from asyncbuild.records import dataclass
from asyncbuild.registry.client import Fetched
from asyncbuild.transfer.copying import ATTESTATION_OF


@dataclass(frozen=True, slots=True)
class Inspected:
    """What a name means (``top``), the image that was chosen, and its configuration's bytes."""

    name: str
    top: Fetched
    image: Fetched | None = None
    config: bytes = b""

    def document(self) -> dict[str, Any]:
        """As one JSON object."""
        top = self.top
        found: dict[str, Any] = {
            "name": self.name,
            "mediaType": top.media_type,
            "digest": str(top.digest),
            "size": len(top.raw),
        }
        if top.manifest.annotations:
            found["annotations"] = dict(top.manifest.annotations)
        if isinstance(top.manifest, Index):
            found["manifests"] = [entry.to_json() for entry in top.manifest.manifests]
        if self.image is not None and isinstance(self.image.manifest, Manifest):
            found["image"] = self._image(self.image, self.image.manifest)
        return found

    def _image(self, fetched: Fetched, manifest: Manifest) -> dict[str, Any]:
        found: dict[str, Any] = {
            "digest": str(fetched.digest),
            "mediaType": fetched.media_type,
            "config": manifest.config.to_json(),
            "layers": [layer.to_json() for layer in manifest.layers],
        }
        config = self.parsed_config()
        if config is not None:
            found["platform"] = str(config.platform)
            found["created"] = config.created
            found["diffIds"] = [str(diff_id) for diff_id in config.diff_ids]
            found["history"] = [entry.created_by for entry in config.history]
            found["labels"] = dict(config.runtime.labels)
        return found

    def parsed_config(self) -> ImageConfig | None:
        """The configuration; None for an artifact that is no image."""
        try:
            return ImageConfig.parse(self.config) if self.config else None
        except InvalidConfig:
            return None

    def text(self) -> str:
        """For people."""
        top = self.top
        lines = [
            f"Name:      {self.name}",
            f"MediaType: {top.media_type}",
            f"Digest:    {top.digest}",
        ]
        if isinstance(top.manifest, Index):
            lines += ["", "Manifests:"]
            lines += [_entry_line(entry) for entry in top.manifest.manifests]
        if self.image is not None and isinstance(self.image.manifest, Manifest):
            lines += ["", *self._image_lines(self.image.manifest)]
        return "\n".join(lines) + "\n"

    def _image_lines(self, manifest: Manifest) -> list[str]:
        lines = []
        config = self.parsed_config()
        if config is not None:
            lines += [f"Platform:  {config.platform}", f"Created:   {config.created or 'unknown'}"]
            runtime = config.runtime
            for title, words in (("Entrypoint", runtime.entrypoint), ("Cmd", runtime.cmd)):
                if words:
                    lines.append(f"{title + ':':<10} {' '.join(words)}")
        lines.append(f"Config:    {manifest.config.digest}")
        total = sum(layer.size for layer in manifest.layers)
        lines.append(f"Layers:    {len(manifest.layers)}, {total} bytes")
        lines += [
            f"  {layer.digest} {layer.size:>12} {layer.media_type}" for layer in manifest.layers
        ]
        return lines


def _entry_line(entry: Descriptor) -> str:
    kind = "attestation" if ATTESTATION_OF in entry.annotations else str(entry.platform or "")
    return f"  {entry.digest} {entry.size:>8} {kind}"


@dataclass(frozen=True, slots=True)
class Access:
    """How a place gives manifests and configurations."""

    look: Callable[[Descriptor], Awaitable[Fetched]]
    read: Callable[[Descriptor], Awaitable[bytes]]


async def inspect_image(
    name: str, top: Fetched, access: Access, wanted: Platform | None, here: Platform
) -> Inspected:
    """Choose the image for ``wanted`` (None: for ``here``, and none if there is none for it), and read
    its configuration. Raises `UsageError` for a platform that was wanted and is not there.
    """
    image = top
    if isinstance(top.manifest, Index):
        entry = top.manifest.choose(wanted or here)
        if entry is None:
            if wanted is not None:
                raise UsageError(f"--platform: {name} has no image for {wanted}")
            return Inspected(name, top)
        image = await access.look(entry)
    assert isinstance(image.manifest, Manifest | Index)
    if isinstance(image.manifest, Index):
        raise AsyncbuildError(f"{name}: an index inside an index")
    return Inspected(name, top, image, await access.read(image.manifest.config))
