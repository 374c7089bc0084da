"""The tool's own image, built by the tool from deploy/Dockerfile, and its root for containers of tests.

What takes minutes (Debian's packages, wheels, the program's virtual environment) is done once for each state of
Dockerfile, base and requirements, and kept in the cache directory. The program itself is laid over it as it
stands now, so a change of the sources costs the copying of some hundred files.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.bases import cache_directory, debian_image
from support.pulled import pull, unpack
from support.registry import DockerRegistry, remove_tree

HERE = Path(__file__).resolve().parent.parent.parent
PYTHON = Path(sys.executable)
_RECIPE = "1"
_SOURCES = (
    "deploy/Dockerfile",
    "requirements/image.txt",
    "requirements/build.txt",
    "pyproject.toml",
)


@dataclass(frozen=True, slots=True)
class OwnImage:
    """The image's directories for an overlay, topmost first, and its ``config``."""

    lowers: tuple[Path, ...]
    config: dict[str, Any]


def stage_context(context: Path) -> Path:
    """What deploy/Dockerfile needs: tracked files as they are now, and wheels."""
    context.mkdir()
    wanted = ["src", "requirements", "deploy", "pyproject.toml", "README.md", "LICENSE"]
    listing = ["git", "-C", str(HERE), "ls-files", "-z", "--", *wanted]
    listed = subprocess.run(listing, check=True, capture_output=True, text=True).stdout
    for name in listed.split("\0"):
        if name and (HERE / name).is_file():
            (context / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(HERE / name, context / name)
    for table in ("image", "build"):
        pip = [str(PYTHON), "-m", "pip", "download", "-qq", "--require-hashes", "--no-deps"]
        pip += ["-r", str(HERE / f"requirements/{table}.txt"), "-d", str(context / "wheels")]
        subprocess.run(pip, check=True)
    return context


def build_own(registry: DockerRegistry, context: Path, target: str, base: str, store: Path) -> str:
    """One target of deploy/Dockerfile, pushed as ``own:TARGET``; its digest."""
    reference = f"{registry.host}/own:{target}"
    command = [str(PYTHON.parent / "asyncbuild"), "build", "-t", reference, "--target", target]
    command += ["-f", str(context / "deploy/Dockerfile"), "--store", str(store)]
    command += ["--build-arg", f"BASE={base}", "--build-arg", "PIP_NO_INDEX=1"]
    command += ["--build-arg", "PIP_FIND_LINKS=/build/wheels", "--progress", "quiet", str(context)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def own_image(registry: DockerRegistry, debian_base: str, scratch: Path) -> OwnImage:
    """The image with the program as it stands; ``scratch`` is an empty directory for this session."""
    kept = cache_directory() / f"own-image-{_key()}"
    if not kept.exists():
        _make(kept, registry, debian_base)
    config: dict[str, Any] = json.loads((kept / "config.json").read_text())
    (packages,) = (kept / "rootfs").glob("opt/asyncbuild/lib/python3*/site-packages")
    layer = scratch / "program"
    installed = layer / packages.relative_to(kept / "rootfs") / "asyncbuild"
    shutil.copytree(
        HERE / "src/asyncbuild", installed, ignore=shutil.ignore_patterns("__pycache__")
    )
    os.setxattr(installed, "trusted.overlay.opaque", b"y")
    return OwnImage((layer, kept / "rootfs"), config)


def _key() -> str:
    parts = [_RECIPE.encode(), debian_image().layers[0].digest.encode()]
    parts += [(HERE / name).read_bytes() for name in _SOURCES]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _make(kept: Path, registry: DockerRegistry, debian_base: str) -> None:
    part = Path(tempfile.mkdtemp(prefix=".own-image-", dir=kept.parent))
    try:
        with tempfile.TemporaryDirectory(prefix="asyncbuild-own-", dir="/dev/shm") as name:
            work = Path(name)
            context = stage_context(work / "context")
            build_own(registry, context, "asyncbuild", debian_base, work / "store")
            pulled = pull(f"{registry.host}/own:asyncbuild", work)
            unpack(pulled, part)
            (part / "config.json").write_text(json.dumps(pulled.configuration["config"]))
        part.rename(kept)
    except FileExistsError:  # another session was as slow
        remove_tree(part)
    except BaseException:
        remove_tree(part)
        raise
