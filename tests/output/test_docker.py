"""Docker archives: read back by skopeo, and OCI layouts besides."""

import json
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from asyncbuild.image.manifest import OCI_LAYER_ZSTD, Manifest
from asyncbuild.image.reference import Reference
from asyncbuild.output.docker import encode_docker_manifest, write_docker_archive
from asyncbuild.output.files import appearing
from support.built_sample import Sample, make_sample


def run(*words: str | Path) -> str:
    """Run a program; its output, or a failing test with what it said."""
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, check=False, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def sample(shm_path: Path) -> Sample:
    """An image with two names."""
    return make_sample(shm_path / "s", "app:1", "localhost:5000/team/app:2")


def write(sample: Sample, path: Path) -> Path:
    """Write a sample as a docker archive."""
    with appearing(path) as target:
        write_docker_archive(sample.image, sample.blob_path, target)
    return path


def test_skopeo_reads_it_as_a_docker_archive(shm_path: Path, sample: Sample) -> None:
    """Copied by name to a layout by skopeo and unpacked by umoci, the files are those of the image."""
    tar = write(sample, shm_path / "image.tar")
    copy = f"{shm_path}/oci:x"
    run(
        "skopeo",
        "copy",
        "--insecure-policy",
        f"docker-archive:{tar}:app:1",
        f"oci:{copy}",
    )
    run("umoci", "unpack", "--image", copy, shm_path / "bundle")
    assert (shm_path / "bundle/rootfs/etc/greeting").read_bytes() == b"hello\n"
    assert (shm_path / "bundle/rootfs/big").stat().st_size == 256 * 9000
    config = json.loads(run("skopeo", "inspect", "--config", f"oci:{copy}"))
    assert config["rootfs"] == json.loads(sample.image.config)["rootfs"]
    assert config["config"] == {"Cmd": ["/bin/true"], "Env": ["A=b"]}


def test_skopeo_reads_it_as_an_oci_archive(shm_path: Path, sample: Sample) -> None:
    """The same file is an OCI layout with the very manifest."""
    tar = write(sample, shm_path / "image.tar")
    answer = json.loads(run("skopeo", "inspect", f"oci-archive:{tar}:2"))
    assert answer["Digest"] == str(sample.image.manifest.digest)


def test_names(sample: Sample) -> None:
    """RepoTags are the familiar names; a name without a tag is left out, none at all is null."""
    assert json.loads(encode_docker_manifest(sample.image))[0]["RepoTags"] == [
        "app:1",
        "localhost:5000/team/app:2",
    ]
    digest = sample.image.manifest.digest
    pinned = (
        Reference("docker.io", "library/app", None, digest),
        Reference("docker.io", "me/app", "3", digest),
    )
    image = replace(sample.image, names=pinned)
    assert json.loads(encode_docker_manifest(image))[0]["RepoTags"] == ["me/app:3"]
    nameless = replace(sample.image, names=())
    assert json.loads(encode_docker_manifest(nameless))[0]["RepoTags"] is None


def test_without_a_name(shm_path: Path) -> None:
    """An image without a name is read by its place."""
    tar = write(make_sample(shm_path / "s"), shm_path / "image.tar")
    run("skopeo", "inspect", f"docker-archive:{tar}")


def test_a_layer_that_occurs_twice_is_stored_once(shm_path: Path, sample: Sample) -> None:
    """manifest.json lists it twice, the tar holds it once."""
    layers = sample.image.manifest.layers
    manifest = Manifest.make(sample.image.manifest.config, (layers[0], *layers))
    twice = replace(sample, image=replace(sample.image, manifest=manifest))
    with tarfile.open(write(twice, shm_path / "image.tar")) as tar:
        member = tar.extractfile("manifest.json")
        assert member is not None
        listed = json.loads(member.read())[0]["Layers"]
        names = tar.getnames()
    assert len(listed) == 3
    assert len(names) == len(set(names))
    assert set(listed) < set(names)


def test_zstd_layers_are_kept(sample: Sample) -> None:
    """Layers are listed whatever their compression: readers detect it."""
    layers = tuple(
        replace(item, media_type=OCI_LAYER_ZSTD) for item in sample.image.manifest.layers
    )
    image = replace(sample.image, manifest=Manifest.make(sample.image.manifest.config, layers))
    assert len(json.loads(encode_docker_manifest(image))[0]["Layers"]) == 2
