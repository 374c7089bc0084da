"""Base images that are none, or odd: configurations and media types as no tool writes them.

Each is an error of its line in few words, or an image with a configuration that others can read.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from asyncbuild.errors import AsyncbuildError, LayerError, RemoteProtocolError
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import OCI_CONFIG, OCI_LAYER_GZIP, Descriptor, Manifest
from support.bases import busybox_image
from support.builds import HOST, World

GOOD: dict[str, Any] = json.loads(busybox_image().configuration())
FROM = f"FROM {HOST}/bad\n"
LONG = "x" * 1_000_000


def whole(**members: object) -> bytes:
    """The configuration of busybox with other members."""
    return json.dumps({**GOOD, **members}).encode()


def runtime(**members: object) -> bytes:
    """The same with other members of ``config``."""
    return whole(config={**GOOD["config"], **members})


def put(
    world: World,
    config: bytes | None = None,
    *,
    config_type: str = OCI_CONFIG,
    layer: bytes | None = None,
    layer_type: str = OCI_LAYER_GZIP,
) -> None:
    """Put busybox into the double as ``bad``, with a part of it replaced."""
    raw = busybox_image().configuration() if config is None else config
    data = busybox_image().layers[0].data if layer is None else layer
    for blob in (raw, data):
        world.double.add_blob("bad", blob)
    first = Descriptor(config_type, Digest.of(raw), len(raw))
    second = Descriptor(layer_type, Digest.of(data), len(data))
    world.double.add_manifest("bad", "latest", Manifest.make(first, (second,)))


@pytest.fixture
def world(shm_path: Path) -> World:
    """A place to build in."""
    return World.below(shm_path)


NONE: Mapping[str, bytes] = {
    "lists in lists": b"[" * 100_000,
    "objects in objects": b'{"a":' * 100_000,
    "a number of a million digits": whole()[:-1] + b',"a":' + b"9" * 1_000_000 + b"}",
    "more than eight MiB": whole(more="x" * (9 << 20)),
    "nothing": b"",
    "null": b"null",
    "a list": b"[]",
    "not UTF-8": b'{"architecture":"\xff"}',
    "an empty object": b"{}",
    "a chart": b'{"name":"chart","version":"1"}',
    "no diff ids": whole(rootfs=None),
    "diff ids that are a number": whole(rootfs={"diff_ids": 7}),
    "diff ids that are lists": whole(rootfs={"diff_ids": [[]]}),
    "an unknown algorithm": whole(rootfs={"diff_ids": ["md5:" + "0" * 32]}),
    "a diff id that is a way out": whole(rootfs={"diff_ids": ["sha256:../../../etc/passwd"]}),
    "a diff id of a megabyte": whole(rootfs={"diff_ids": [LONG]}),
    "a diff id too many": whole(rootfs={"diff_ids": GOOD["rootfs"]["diff_ids"] * 2}),
    "ports that are a number": runtime(ExposedPorts=7),
    "a history of numbers": whole(history=[1]),
    "a trigger that is a number": runtime(OnBuild=[1]),
    "a trigger that is nothing": runtime(OnBuild=[""]),
    "a trigger in a trigger": runtime(OnBuild=["ONBUILD RUN x"]),
    "a stage in a trigger": runtime(OnBuild=["FROM x"]),
    "two instructions in a trigger": runtime(OnBuild=["RUN a\nFROM x\nRUN b"]),
    "a trigger of a megabyte": runtime(OnBuild=[LONG]),
    "a trigger that steers a terminal": runtime(OnBuild=["\x1b]0;title\x07 x"]),
    "an image of a megabyte": runtime(OnBuild=[f"COPY --from={LONG} /a /b"]),
    "an image that is two headers": runtime(OnBuild=["COPY --from=a\r\nX-A:1/b /a /b"]),
    "triggers that explode": runtime(OnBuild=["ENV a=xx", *["ENV a=$a$a"] * 60]),
}


@pytest.mark.parametrize("config", NONE.values(), ids=NONE)
def test_no_configuration(world: World, config: bytes) -> None:
    """An error at the FROM, in words that are few and harmless; nothing is pushed."""
    put(world, config)
    with pytest.raises(AsyncbuildError) as caught:
        world.run(f"{FROM}LABEL a=b\n", "out:1")
    assert caught.value.exit_code in (65, 69)
    said = caught.value.render()
    assert "Dockerfile:1" in said
    assert len(said) < 2000
    assert said.replace("\n", "").isprintable()
    assert world.wrong() == []
    assert not world.double.asked("PUT", "/manifests/")


ODD: Mapping[str, bytes] = {
    "variables that are an object": runtime(Env={}),
    "variables that are numbers": runtime(Env=[1]),
    "a variable without a value": runtime(Env=["A", "=x", "A=\0", "B=\x1b[31m"]),
    "a hundred thousand variables": runtime(Env=[f"A{n}={n}" for n in range(100_000)]),
    "a command that is a text": runtime(Cmd="sh"),
    "a command of numbers": runtime(Cmd=[1], Entrypoint=[[]]),
    "a user that is a list": runtime(User=[], WorkingDir=5, StopSignal={}),
    "labels that are a list": runtime(Labels=[]),
    "labels that are numbers": runtime(Labels={"a": 1, "b": None}),
    "volumes that are a list": runtime(Volumes=["/a"], ExposedPorts=["80"]),
    "a health check that is a number": runtime(Healthcheck=7),
    "a shell that is nothing": runtime(Shell=[]),
    "a history that is an object": whole(history={}),
    "a history of other lengths": whole(history=[]),
    "another time": whole(created="yesterday"),
    "a platform that is a list": whole(architecture=[], os="\x1b[31m"),
}


def is_readable(document: dict[str, Any]) -> bool:
    """Whether members have the types of the image specification ("Properties" of config.md)."""
    texts = ("User", "WorkingDir", "StopSignal")
    lists = ("Env", "Entrypoint", "Cmd", "Shell", "OnBuild")
    sets = ("ExposedPorts", "Volumes")
    config = document["config"]
    return (
        all(isinstance(document[name], str) for name in ("architecture", "os", "created"))
        and all(isinstance(config.get(name, ""), str) for name in texts)
        and all(isinstance(word, str) for name in lists for word in config.get(name, []))
        and all(isinstance(config.get(name, []), list) for name in lists)
        and all(all(one == {} for one in config.get(name, {}).values()) for name in sets)
        and all(isinstance(text, str) for text in config.get("Labels", {}).values())
        and isinstance(config.get("Healthcheck", {}), dict)
        and all(isinstance(entry, dict) for entry in document["history"])
        and len(document["rootfs"]["diff_ids"]) == 1
    )


@pytest.mark.parametrize("config", ODD.values(), ids=ODD)
def test_odd_configurations(world: World, config: bytes) -> None:
    """They are read as far as they can be; what is pushed is as the specification has it."""
    put(world, config)
    result = world.run(f"{FROM}LABEL a=b\n", "out:1")
    pushed = json.loads(world.double.blobs["out"][result.manifest.config.digest])
    assert is_readable(pushed)
    assert pushed["config"]["Labels"]["a"] == "b"


@pytest.mark.parametrize(
    "kind",
    [
        "application/vnd.cncf.helm.config.v1+json",
        "application/vnd.oci.empty.v1+json",
        "text/html",
        "\x1b[31m",
        LONG,
    ],
)
def test_artifacts_are_no_images(world: World, kind: str) -> None:
    """A manifest whose configuration is none of an image is refused, whatever the bytes are."""
    put(world, config_type=kind)
    with pytest.raises(RemoteProtocolError, match="is no image") as caught:
        world.run(f"{FROM}LABEL a=b\n", "out:1")
    said = caught.value.render()
    assert "Dockerfile:1" in said
    assert len(said) < 1000
    assert said.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    "kind",
    [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
        "text/html",
        "",
    ],
)
def test_layers_are_what_their_bytes_are(world: World, kind: str) -> None:
    """A wrong name for a compression does no harm; bytes that are no layer are an error."""
    dockerfile = f"{FROM}RUN echo made > /made\n"
    put(world, layer_type=kind)
    world.run(dockerfile, "out:1")
    noise = random.Random(5).randbytes(5000)
    config = whole(rootfs={"type": "layers", "diff_ids": [str(Digest.of(noise))]})
    put(world, config, layer_type=kind, layer=noise)
    with pytest.raises(LayerError) as caught:
        world.run(dockerfile, "out:1")
    assert "Dockerfile:1" in caught.value.render()
    assert world.wrong() == []
