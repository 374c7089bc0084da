"""RUN --device: devices of the container device interface (CDI), from the files that describe them.

The files are those of ``/etc/cdi`` and ``/var/run/cdi`` (the later directory wins), as JSON, or as YAML if
PyYAML is installed. Names are matched as BuildKit does (``solver/llbsolver/cdidevices``): a kind alone is
its first device, ``kind=*`` all of them, anything else a class that the files' annotations name. What is
not there is left out, unless it is required. The specification is
github.com/cncf-tags/container-device-interface, SPEC.md.

A device may come with hooks, programs that a container runtime calls. They are not called here: such a
device is refused.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Literal

from asyncbuild.build.entitlements import may_use_device
from asyncbuild.dockerfile.mounts import Device
from asyncbuild.errors import DockerfileError, InputError, IsolationError
from asyncbuild.records import dataclass, field
from asyncbuild.rootfs import runspec

_CLASS = "org.mobyproject.buildkit.device.class"
_AUTO_ALLOW = "org.mobyproject.buildkit.device.autoallow"
_TRUE = ("1", "t", "T", "TRUE", "true", "True")


@dataclass(frozen=True, slots=True)
class KnownDevice:
    """A device that a file describes: its whole name, annotations, and what it brings."""

    name: str
    annotations: Mapping[str, str]
    edits: tuple[Mapping[str, Any], ...]


@dataclass(slots=True)
class DeviceEdits:
    """What devices bring to a RUN."""

    environment: dict[str, str] = field(default_factory=dict)
    mounts: list[runspec.Mount] = field(default_factory=list)


def read_devices(directories: Sequence[Path]) -> tuple[KnownDevice, ...]:
    """Every device that the files describe, sorted by name. Blocks. `InputError` for a damaged file."""
    found: dict[str, KnownDevice] = {}
    for directory in directories:
        for path in sorted(directory.glob("*")):
            if path.suffix in (".json", ".yaml", ".yml"):
                found |= {device.name: device for device in _devices_in(path)}
    return tuple(found[name] for name in sorted(found))


def device_edits(
    wanted: Iterable[Device], known: Sequence[KnownDevice], allow: AbstractSet[str]
) -> tuple[DeviceEdits, tuple[str, ...]]:
    """What the wanted devices bring, and the names of those that are optional and not there. Blocks.

    `DockerfileError` if a required one is not there, `IsolationError` if one is not allowed.
    """
    edits, missing = DeviceEdits(), []
    chosen: dict[str, KnownDevice] = {}
    for device in wanted:
        matching = _matching(device.name, known)
        if not matching and device.required:
            raise DockerfileError(f"the device {device.name} is not known here", hint=_hint(known))
        if not matching:
            missing.append(device.name)
        chosen |= {item.name: item for item in matching}
    for item in chosen.values():
        automatic = item.annotations.get(_AUTO_ALLOW, "") in _TRUE
        if not automatic and not may_use_device(item.name, allow):
            hint = f"allow it: --allow device={item.name}"
            raise IsolationError(f"the device {item.name} is not allowed", hint=hint)
        for edit in item.edits:
            _apply(edit, item.name, edits)
    return edits, tuple(missing)


def _devices_in(path: Path) -> list[KnownDevice]:
    try:
        text = path.read_text(encoding="utf-8")
        document = json.loads(text) if path.suffix == ".json" else _yaml(text, path)
        common, shared = document.get("annotations") or {}, document.get("containerEdits") or {}
        return [
            KnownDevice(
                f"{document['kind']}={device['name']}",
                {**common, **(device.get("annotations") or {})},
                (shared, device.get("containerEdits") or {}),
            )
            for device in document["devices"]
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} describes no devices: {error}") from error


def _yaml(text: str, path: Path) -> Any:
    try:
        import yaml  # type: ignore[import-untyped,unused-ignore]  # noqa: PLC0415 - optional
    except ImportError:
        hint = "install PyYAML beside asyncbuild, or write the file as JSON"
        raise InputError(f"{path}: YAML cannot be read here", hint=hint) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{error}") from None


def _matching(name: str, known: Sequence[KnownDevice]) -> list[KnownDevice]:
    kind, _, which = name.partition("=")
    of_kind = [item for item in known if item.name.startswith(f"{kind}=")]
    if "/" in kind:
        found = {"": of_kind[:1], "*": of_kind}.get(which)
        if found is None:
            found = [item for item in of_kind if item.name == name]
        if found:
            return found
    return [item for item in known if item.annotations.get(_CLASS) == name]


def _hint(known: Sequence[KnownDevice]) -> str:
    if known:
        return f"there are {', '.join(item.name for item in known)}"
    return "no file in /etc/cdi or /var/run/cdi describes any"


def _apply(edit: Mapping[str, Any], name: str, edits: DeviceEdits) -> None:
    if edit.get("hooks"):
        raise DockerfileError(f"the device {name} has hooks, which asyncbuild does not call")
    for line in edit.get("env") or ():
        variable, _, value = line.partition("=")
        edits.environment[variable] = value
    for mount in edit.get("mounts") or ():
        read_only = "ro" in (mount.get("options") or ())
        source = Path(mount["hostPath"])
        if not source.exists():
            raise InputError(f"the device {name} needs {source}, which is not there")
        edits.mounts.append(runspec.BindMount(source, mount["containerPath"], read_only))
    for node in edit.get("deviceNodes") or ():
        edits.mounts.append(_node(node, name))


def _node(node: Mapping[str, Any], name: str) -> runspec.DeviceNode:
    path = node.get("hostPath") or node["path"]
    try:
        found = os.stat(path)
    except OSError as error:
        raise InputError(f"the device {name} needs {path}: {error.strerror}") from None
    if not (stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode)):
        raise InputError(f"the device {name} needs {path}, which is no device")
    kind: Literal["c", "b"] = "c" if stat.S_ISCHR(found.st_mode) else "b"
    return runspec.DeviceNode(
        node["path"],
        kind,
        os.major(found.st_rdev),
        os.minor(found.st_rdev),
        node.get("fileMode") or stat.S_IMODE(found.st_mode),
        node.get("uid") or found.st_uid,
        node.get("gid") or found.st_gid,
    )
