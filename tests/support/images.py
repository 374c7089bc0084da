"""Images made from nothing by the standard library alone: layers as deterministic tars, manifests as JSON.

Used for base images and for damaged or hostile ones. It shares no code with asyncbuild.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from support.registry import DockerRegistry

EPOCH = 1_700_000_000
"""The time (seconds) of everything made here."""

_FAMILIES = {
    "oci": (
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.index.v1+json",
    ),
    "docker": (
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.container.image.v1+json",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    ),
}


@dataclass(frozen=True, slots=True)
class Node:
    """One tar entry. ``kind`` is a tarfile type flag; ``target`` is what a link names, as it is."""

    path: str
    kind: bytes = tarfile.REGTYPE
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    content: bytes = b""
    target: str = ""
    mtime: float = EPOCH
    device: tuple[int, int] = (0, 0)
    xattrs: Mapping[str, str] = field(default_factory=dict)


def directory(path: str, mode: int = 0o755, **more: Any) -> Node:
    """A directory."""
    return Node(path, tarfile.DIRTYPE, mode, **more)


def symlink(path: str, target: str, **more: Any) -> Node:
    """A symbolic link to ``target``."""
    return Node(path, tarfile.SYMTYPE, 0o777, target=target, **more)


def hardlink(path: str, target: str, **more: Any) -> Node:
    """A hard link to the entry ``target``."""
    return Node(path, tarfile.LNKTYPE, target=target, **more)


def text(path: str, content: str, mode: int = 0o644, **more: Any) -> Node:
    """A regular file."""
    return Node(path, mode=mode, content=content.encode(), **more)


def make_tar(nodes: Iterable[Node]) -> bytes:
    """A pax tar of the nodes in their order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for node in nodes:
            info = tarfile.TarInfo(node.path)
            info.type, info.mode, info.linkname = node.kind, node.mode, node.target
            info.uid, info.gid, info.mtime = node.uid, node.gid, node.mtime
            info.devmajor, info.devminor = node.device
            info.size = len(node.content)
            info.pax_headers = {
                f"SCHILY.xattr.{name}": value for name, value in node.xattrs.items()
            }
            tar.addfile(info, io.BytesIO(node.content))
    return buffer.getvalue()


@dataclass(frozen=True, slots=True)
class Layer:
    """A gzip-compressed tar with both of its digests."""

    data: bytes
    digest: str
    diff_id: str

    @classmethod
    def of_tar(cls, tar: bytes) -> Layer:
        """Compress ``tar``; the result depends on nothing but its bytes."""
        data = gzip.compress(tar, 6, mtime=0)
        return cls(data, sha256(data), sha256(tar))

    @classmethod
    def of(cls, *nodes: Node) -> Layer:
        """A layer of these entries."""
        return cls.of_tar(make_tar(nodes))


@dataclass(frozen=True, slots=True)
class Image:
    """Layers, the ``config`` object of the configuration, and the media types' family (oci, docker).
    ``made_by``: what the history says of each layer.
    """

    layers: Sequence[Layer]
    config: Mapping[str, Any] = field(default_factory=dict)
    family: str = "oci"
    architecture: str = "amd64"
    variant: str = ""
    made_by: Sequence[str] = ()

    def configuration(self) -> bytes:
        """The configuration's JSON, with one history line per layer."""
        created = "2023-11-14T22:13:20Z"
        return _json(
            {
                "architecture": self.architecture,
                **({"variant": self.variant} if self.variant else {}),
                "os": "linux",
                "created": created,
                "config": dict(self.config),
                "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in self.layers]},
                "history": [
                    {"created": created, "created_by": line}
                    for line in self.made_by or self._numbers()
                ],
            }
        )

    def _numbers(self) -> list[str]:
        return [f"base layer {number}" for number, _ in enumerate(self.layers, 1)]

    def manifest(self) -> bytes:
        """The manifest's JSON."""
        manifest_type, config_type, layer_type, _ = _FAMILIES[self.family]
        configuration = self.configuration()
        return _json(
            {
                "schemaVersion": 2,
                "mediaType": manifest_type,
                "config": {
                    "mediaType": config_type,
                    "digest": sha256(configuration),
                    "size": len(configuration),
                },
                "layers": [
                    {"mediaType": layer_type, "digest": layer.digest, "size": len(layer.data)}
                    for layer in self.layers
                ],
            }
        )

    def push(self, registry: DockerRegistry, repository: str, tag: str = "latest") -> str:
        """Upload to ``registry``; returns ``host/repository@digest``."""
        for layer in self.layers:
            registry.put_blob(repository, layer.digest, layer.data)
        configuration = self.configuration()
        registry.put_blob(repository, sha256(configuration), configuration)
        media_type = _FAMILIES[self.family][0]
        digest = registry.put_manifest(repository, tag, media_type, self.manifest())
        return f"{registry.host}/{repository}@{digest}"


def push_index(
    registry: DockerRegistry, images: Sequence[Image], repository: str, tag: str = "latest"
) -> str:
    """Upload several platforms' images and an index of them; returns ``host/repository@digest``."""
    family = images[0].family
    manifest_type, _, _, index_type = _FAMILIES[family]
    entries = []
    for image in images:
        manifest = image.manifest()
        image.push(registry, repository, sha256(manifest))
        platform = {"os": "linux", "architecture": image.architecture}
        if image.variant:
            platform["variant"] = image.variant
        entries.append(
            {
                "mediaType": manifest_type,
                "digest": sha256(manifest),
                "size": len(manifest),
                "platform": platform,
            }
        )
    index = _json({"schemaVersion": 2, "mediaType": index_type, "manifests": entries})
    return (
        f"{registry.host}/{repository}@{registry.put_manifest(repository, tag, index_type, index)}"
    )


def sha256(data: bytes) -> str:
    """The digest of ``data``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
