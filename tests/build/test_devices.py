"""Devices of CDI files: which a name means, what they bring, and which are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from asyncbuild.build.devices import KnownDevice, device_edits, read_devices
from asyncbuild.dockerfile.mounts import Device
from asyncbuild.errors import AsyncbuildError, DockerfileError, InputError, IsolationError
from asyncbuild.rootfs.runspec import BindMount, DeviceNode

CLASS = "org.mobyproject.buildkit.device.class"
ALL = frozenset(["device"])


def known(path: Path, *devices: Mapping[str, Any], **more: Any) -> tuple[KnownDevice, ...]:
    """The devices of one file of the kind v.com/d."""
    path.mkdir(exist_ok=True)
    document = {"cdiVersion": "0.6.0", "kind": "v.com/d", "devices": devices, **more}
    (path / "v.json").write_text(json.dumps(document))
    return read_devices([path])


def names(device: str, known: Sequence[KnownDevice]) -> list[str]:
    """Which devices a name means: each of them sets a variable called like it."""
    edits, _ = device_edits([Device(device)], known, ALL)
    return sorted(edits.environment)


@pytest.fixture
def three(shm_path: Path) -> tuple[KnownDevice, ...]:
    """Three devices, two of one class, each with its own variable."""
    classes = {"b": {CLASS: "big"}, "c": {CLASS: "big"}}
    return known(
        shm_path,
        *(
            {
                "name": name,
                "annotations": classes.get(name, {}),
                "containerEdits": {"env": [f"{name}=1"]},
            }
            for name in "cab"
        ),
    )


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("v.com/d=b", ["b"]),
        ("v.com/d", ["a"]),
        ("v.com/d=*", ["a", "b", "c"]),
        ("big", ["b", "c"]),
        ("v.com/d=z", []),
        ("v.com/other", []),
        ("small", []),
    ],
)
def test_names(three: tuple[KnownDevice, ...], device: str, expected: list[str]) -> None:
    """The reference's: a device, the first of a kind, all of a kind, a class."""
    assert names(device, three) == expected


def test_what_a_device_brings(shm_path: Path) -> None:
    """Variables, mounts and nodes; those of the whole file first."""
    devices = known(
        shm_path,
        {
            "name": "a",
            "containerEdits": {
                "env": ["A=own", "B=x=y"],
                "deviceNodes": [
                    {"path": "/dev/z", "hostPath": "/dev/zero", "fileMode": 0o600, "gid": 5}
                ],
            },
        },
        containerEdits={
            "env": ["A=file"],
            "mounts": [{"hostPath": "/", "containerPath": "/host", "options": ["ro", "rbind"]}],
        },
    )
    edits, missing = device_edits([Device("v.com/d=a")], devices, ALL)
    assert edits.environment == {"A": "own", "B": "x=y"}
    assert edits.mounts == [
        BindMount(Path("/"), "/host", read_only=True),
        DeviceNode("/dev/z", "c", 1, 5, 0o600, 0, 5),
    ]
    assert missing == ()


def test_what_is_not_there(three: tuple[KnownDevice, ...]) -> None:
    """An optional device is told, a required one is an error that names those there are."""
    assert device_edits([Device("x.y/z")], three, ALL)[1] == ("x.y/z",)
    with pytest.raises(DockerfileError, match=r"x\.y/z is not known") as caught:
        device_edits([Device("x.y/z", required=True)], three, ALL)
    assert "v.com/d=a" in str(caught.value.hint)
    with pytest.raises(DockerfileError) as caught:
        device_edits([Device("x.y/z", required=True)], (), ALL)
    assert "/etc/cdi" in str(caught.value.hint)


@pytest.mark.parametrize("allow", ["device", "device=v.com/d", "device=v.com/d=a"])
def test_permission(three: tuple[KnownDevice, ...], allow: str) -> None:
    """All devices, those of a kind, or one."""
    assert device_edits([Device("v.com/d=a")], three, {allow})[0].environment
    with pytest.raises(IsolationError, match=r"v\.com/d=a is not allowed"):
        device_edits([Device("v.com/d=a")], three, {"device=v.com/d=b"})


def test_a_file_may_permit_its_devices(shm_path: Path) -> None:
    """The annotation of BuildKit, on the file or on a device."""
    auto = {"org.mobyproject.buildkit.device.autoallow": "true"}
    devices = known(shm_path, {"name": "a", "containerEdits": {"env": ["A=1"]}}, annotations=auto)
    assert device_edits([Device("v.com/d")], devices, set())[0].environment == {"A": "1"}


@pytest.mark.parametrize(
    ("edits", "error", "message"),
    [
        ({"hooks": [{"hookName": "createContainer", "path": "/x"}]}, DockerfileError, "hooks"),
        ({"deviceNodes": [{"path": "/dev/nothing-here"}]}, InputError, "/dev/nothing-here"),
        ({"deviceNodes": [{"path": "/etc/passwd"}]}, InputError, "is no device"),
        ({"mounts": [{"hostPath": "/nothing", "containerPath": "/x"}]}, InputError, "/nothing"),
    ],
)
def test_what_cannot_be_given(
    shm_path: Path, edits: Mapping[str, Any], error: type[AsyncbuildError], message: str
) -> None:
    """Hooks are not called, and what a file names has to be there."""
    devices = known(shm_path, {"name": "a", "containerEdits": edits})
    with pytest.raises(error, match=message):
        device_edits([Device("v.com/d")], devices, ALL)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"kind": "a/b"}', '{"kind": "a/b", "devices": [1]}']
)
def test_damaged_files(shm_path: Path, text: str) -> None:
    """A file that describes nothing is an error that names it."""
    (shm_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=r"x\.json"):
        read_devices([shm_path])


def test_later_directories_win(shm_path: Path) -> None:
    """The specification: a file in /var/run/cdi over one in /etc/cdi; other files are none of ours."""
    first, second = shm_path / "etc", shm_path / "run"
    known(first, {"name": "a", "containerEdits": {"env": ["FROM=etc"]}})
    known(second, {"name": "a", "containerEdits": {"env": ["FROM=run"]}})
    (second / "README").write_text("not one")
    devices = read_devices([first, second, shm_path / "missing"])
    assert device_edits([Device("v.com/d")], devices, ALL)[0].environment == {"FROM": "run"}
