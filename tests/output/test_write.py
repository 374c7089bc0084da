"""The door of the room: what a specification asks for is what is written."""

import os
import tarfile
from pathlib import Path

import pytest

from asyncbuild.errors import InputError, StoreError, UsageError
from asyncbuild.image.manifest import DOCKER_MANIFEST
from asyncbuild.output.built import BuiltImage
from asyncbuild.output.spec import parse_output
from asyncbuild.output.write import write_output
from support.built_sample import Sample, make_sample


@pytest.fixture
def sample(shm_path: Path) -> Sample:
    """An image called app:1."""
    return make_sample(shm_path / "s", "app:1")


def write(sample: Sample, text: str, stdout: int = -1) -> BuiltImage:
    """Write a sample as ``--output`` says."""
    return write_output(parse_output(text), sample.image, sample.blob_path, stdout)


def test_each_kind(shm_path: Path, sample: Sample) -> None:
    """A directory, an OCI tar and a docker tar appear where they are asked for."""
    write(sample, f"type=oci,dest={shm_path}/dir,tar=false")
    write(sample, f"type=oci,dest={shm_path}/oci.tar")
    write(sample, f"type=docker,dest={shm_path}/docker.tar")
    assert (shm_path / "dir/index.json").is_file()
    with tarfile.open(shm_path / "oci.tar") as tar:
        assert "manifest.json" not in tar.getnames()
    with tarfile.open(shm_path / "docker.tar") as tar:
        assert {"manifest.json", "index.json", "oci-layout"} < set(tar.getnames())


def test_an_image_is_written_nowhere(shm_path: Path, sample: Sample) -> None:
    """type=image is the build's affair."""
    assert write(sample, "type=image") == sample.image
    assert os.listdir(shm_path) == ["s"]


def test_stdout(shm_path: Path, sample: Sample) -> None:
    """A dash is the descriptor that was given, which stays open."""
    with open(shm_path / "stdout.tar", "wb") as stream:
        write(sample, "type=docker,dest=-", stream.fileno())
        assert not stream.closed
    write(sample, f"type=docker,dest={shm_path}/file.tar")
    assert (shm_path / "stdout.tar").read_bytes() == (shm_path / "file.tar").read_bytes()


def test_not_to_a_terminal(sample: Sample) -> None:
    """An archive is never written to a terminal."""
    controller, terminal = os.openpty()
    with pytest.raises(UsageError, match="terminal"):
        write(sample, "type=oci,dest=-", terminal)
    os.close(controller)
    os.close(terminal)


def test_media_types(shm_path: Path, sample: Sample) -> None:
    """oci-mediatypes=false gives docker's; an OCI layout turns docker's into OCI's."""
    docker = write(sample, f"type=docker,dest={shm_path}/d.tar,oci-mediatypes=false")
    assert docker.manifest.media_type == DOCKER_MANIFEST
    again = Sample(docker, sample.blobs)
    assert write(again, f"type=oci,dest={shm_path}/o.tar").manifest == sample.image.manifest


def test_annotations_of_the_descriptor(shm_path: Path, sample: Sample) -> None:
    """Those of the manifest's descriptor reach the index."""
    text = f"type=oci,dest={shm_path}/out,tar=false,annotation-manifest-descriptor.k=v"
    assert write(sample, text).descriptor.annotations["k"] == "v"
    assert b'"k": "v"' in (shm_path / "out/index.json").read_bytes()


def test_errors_of_the_destination(shm_path: Path, sample: Sample) -> None:
    """A missing directory is an input error; a directory in the place of a file, a full disk, the disk's."""
    with pytest.raises(InputError, match=r"cannot write dest=.*/no/a\.tar: No such file"):
        write(sample, f"type=oci,dest={shm_path}/no/a.tar")
    with pytest.raises(StoreError, match="Is a directory"):
        write(sample, f"type=oci,dest={shm_path}")
    with pytest.raises(StoreError, match="No space left"):
        write(sample, "type=docker,dest=/dev/full")
    (shm_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="File exists"):
        write(sample, f"type=oci,dest={shm_path}/file,tar=false")
