"""Built images as independent tools see them: pulled by skopeo, unpacked by umoci, read by lstat."""

from __future__ import annotations

import gzip
import io
import json
import os
import stat
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


@dataclass(frozen=True, slots=True)
class Pulled:
    """An image in an OCI layout: its manifest and configuration as JSON, its digest."""

    layout: Path
    digest: str
    manifest: dict[str, Any]
    configuration: dict[str, Any]

    def blob(self, digest: str) -> bytes:
        """A blob's bytes."""
        return (self.layout / "blobs" / digest.replace(":", "/")).read_bytes()

    def layer(self, number: int) -> list[tarfile.TarInfo]:
        """The tar entries of a layer; negative numbers count from the top."""
        data = self.blob(self.manifest["layers"][number]["digest"])
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data))) as tar:
            return tar.getmembers()


@dataclass(frozen=True, slots=True)
class Found:
    """What is at a path. Two names with one ``inode`` are one file; ``mtime`` is in seconds."""

    kind: str
    mode: int
    uid: int
    gid: int
    link: str = ""
    content: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[str, bytes], ...] = ()
    mtime: float = field(default=0.0, compare=False)
    inode: int = field(default=0, compare=False)

    def __str__(self) -> str:
        more = f" -> {self.link}" if self.link else ""
        if self.kind == "file":
            more = f" {self.content[:60]!r}"
        attributes = "".join(f" {name}={value!r}" for name, value in self.xattrs)
        return f"{self.kind} {self.mode:04o} {self.uid}:{self.gid}{more}{attributes}"


Tree = dict[str, Found]
"""Absolute path -> what is there; without the root itself."""


def pull(
    reference: str, directory: Path, options: Sequence[str] = ("--src-tls-verify=false",)
) -> Pulled:
    """Copy an image from a registry into an OCI layout below ``directory``, by skopeo."""
    layout = directory / "layout"
    command = ["skopeo", "--insecure-policy", "copy", "--quiet", *options]
    _run([*command, f"docker://{reference}", f"oci:{layout}:image"])
    return read_layout(layout)


def read_layout(layout: Path) -> Pulled:
    """The one image of an OCI layout."""
    entry = json.loads((layout / "index.json").read_text())["manifests"][0]
    blobs = layout / "blobs"
    manifest = json.loads((blobs / entry["digest"].replace(":", "/")).read_text())
    config = json.loads((blobs / manifest["config"]["digest"].replace(":", "/")).read_text())
    return Pulled(layout, entry["digest"], manifest, config)


def unpack(pulled: Pulled, directory: Path) -> Path:
    """Apply the layers onto an empty directory, by umoci; returns that directory."""
    root = directory / "rootfs"
    _run(["umoci", "raw", "unpack", "--image", f"{pulled.layout}:image", str(root)])
    return root


def inspect_config(
    reference: str, options: Sequence[str] = ("--tls-verify=false",)
) -> dict[str, Any]:
    """An image's configuration as the registry has it, by skopeo."""
    command = ["skopeo", "inspect", "--config", "--raw", *options, f"docker://{reference}"]
    answer: dict[str, Any] = json.loads(_run(command))
    return answer


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def read_tree(root: Path) -> Tree:
    """Everything below ``root``, without following a link."""
    tree: Tree = {}
    for directory, directories, files in os.walk(root):
        for name in [*directories, *files]:
            path = os.path.join(directory, name)
            tree[path.removeprefix(str(root))] = _find(path)
    return tree


def _find(path: str) -> Found:
    status = os.lstat(path)
    kind = _KINDS[stat.S_IFMT(status.st_mode)]
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return Found(
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        link=os.readlink(path) if kind == "symlink" else "",
        content=Path(path).read_bytes() if kind == "file" else b"",
        device=(os.major(status.st_rdev), os.minor(status.st_rdev)),
        xattrs=tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names),
        mtime=status.st_mtime,
        inode=status.st_ino,
    )
