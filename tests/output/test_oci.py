"""OCI layouts: read back by skopeo and umoci, deterministic, and kind to what is there already."""

import fcntl
import json
import os
import subprocess
import tarfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from asyncbuild.errors import InputError, StoreError
from asyncbuild.image.digest import Digest
from asyncbuild.image.reference import Reference
from asyncbuild.output.files import appearing
from asyncbuild.output.oci import write_oci_archive, write_oci_directory
from support.built_sample import Sample, make_sample


def run(*words: str | Path) -> str:
    """Run a program; its output, or a failing test with what it said."""
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, check=False, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def index_of(layout: Path) -> Any:
    """The parsed index of a layout directory."""
    return json.loads((layout / "index.json").read_bytes())


def put(sample: Sample, layout: Path) -> None:
    """Write a sample into a layout directory."""
    write_oci_directory(sample.image, sample.blob_path, layout)


def archive(sample: Sample, path: Path) -> bytes:
    """Write a sample as a tar and return its bytes."""
    with appearing(path) as target:
        write_oci_archive(sample.image, sample.blob_path, target)
    return path.read_bytes()


def test_directory_is_unpacked_by_umoci(shm_path: Path) -> None:
    """The tag is how umoci finds the image, and unpacks its files."""
    put(make_sample(shm_path / "s", "localhost:5000/app:1"), shm_path / "out")
    run("umoci", "unpack", "--image", f"{shm_path}/out:1", shm_path / "bundle")
    root = shm_path / "bundle/rootfs"
    assert (root / "etc/greeting").read_bytes() == b"hello\n"
    assert (root / "etc/greeting").stat().st_mode & 0o7777 == 0o640
    assert (root / "big").stat().st_size == 256 * 9000


def test_archive_is_read_by_skopeo(shm_path: Path) -> None:
    """A copy by skopeo of the tar to a layout has the same manifest's digest."""
    sample = make_sample(shm_path / "s", "localhost:5000/app:1")
    archive(sample, shm_path / "out.tar")
    source = f"oci-archive:{shm_path}/out.tar:1"
    run(
        "skopeo",
        "copy",
        "--insecure-policy",
        "--preserve-digests",
        source,
        f"oci:{shm_path}/copy:1",
    )
    assert json.loads(run("skopeo", "inspect", source))["Digest"] == str(
        sample.image.manifest.digest
    )
    (entry,) = index_of(shm_path / "copy")["manifests"]
    assert entry["digest"] == str(sample.image.manifest.digest)


def test_archive_is_deterministic(shm_path: Path) -> None:
    """Two writes give the same bytes, whatever the blobs' times and the umask are."""
    sample = make_sample(shm_path / "s", "app:1")
    first = archive(sample, shm_path / "1.tar")
    for blob in sample.blobs.iterdir():
        os.utime(blob, (1, 1))
    old = os.umask(0o077)
    try:
        assert archive(sample, shm_path / "2.tar") == first
    finally:
        os.umask(old)
    with tarfile.open(shm_path / "1.tar") as tar:
        names = tar.getnames()
    assert names[:4] == ["oci-layout", "index.json", "blobs", "blobs/sha256"]
    assert len(names) == len(set(names)) == 8


def test_index_names_the_image_as_buildkit_does(shm_path: Path) -> None:
    """Each name has an entry: its tag as ref name, the whole name for containerd."""
    put(make_sample(shm_path / "s", "app:1", "localhost:5000/app:2"), shm_path / "out")
    index = index_of(shm_path / "out")
    assert (index["schemaVersion"], index["mediaType"]) == (
        2,
        "application/vnd.oci.image.index.v1+json",
    )
    assert [entry["annotations"] for entry in index["manifests"]] == [
        {
            "org.opencontainers.image.created": "2024-05-06T07:08:09Z",
            "org.opencontainers.image.ref.name": tag,
            "io.containerd.image.name": name,
        }
        for tag, name in (("1", "docker.io/library/app:1"), ("2", "localhost:5000/app:2"))
    ]
    assert index["manifests"][0]["platform"] == {"architecture": "amd64", "os": "linux"}


def test_images_without_a_name(shm_path: Path) -> None:
    """A directory calls such an image latest; an archive has one entry without a name."""
    sample = make_sample(shm_path / "s")
    put(sample, shm_path / "out")
    (entry,) = index_of(shm_path / "out")["manifests"]
    assert entry["annotations"]["org.opencontainers.image.ref.name"] == "latest"
    archive(sample, shm_path / "out.tar")
    run("skopeo", "inspect", f"oci-archive:{shm_path}/out.tar")


def test_a_name_with_only_a_digest(shm_path: Path) -> None:
    """Without a tag the whole name is the ref name."""
    name = "r.example/app@" + str(Digest.of(b"x"))
    sample = make_sample(shm_path / "s")
    image = replace(sample.image, names=(Reference.parse(name),))
    write_oci_directory(image, sample.blob_path, shm_path / "out")
    (entry,) = index_of(shm_path / "out")["manifests"]
    assert entry["annotations"]["org.opencontainers.image.ref.name"] == name


def test_a_layout_is_updated(shm_path: Path) -> None:
    """The entry of the same name is replaced; other images and fields that we do not know stay."""
    out = shm_path / "out"
    put(make_sample(shm_path / "s", "app:1", "app:2"), out)
    index = index_of(out)
    index["annotations"] = {"kept": "yes"}
    index["manifests"][1]["unknown"] = 7
    (out / "index.json").write_text(json.dumps(index))
    newer = make_sample(shm_path / "s", "app:1", text=b"other\n")
    put(newer, out)
    after = index_of(out)
    assert after["annotations"] == {"kept": "yes"}
    assert after["manifests"][0] == index["manifests"][1]
    assert after["manifests"][1]["digest"] == str(newer.image.manifest.digest)
    assert len(after["manifests"]) == 2
    run("umoci", "unpack", "--image", f"{out}:2", shm_path / "old")
    run("umoci", "unpack", "--image", f"{out}:1", shm_path / "new")
    assert (shm_path / "old/rootfs/etc/greeting").read_bytes() == b"hello\n"
    assert (shm_path / "new/rootfs/etc/greeting").read_bytes() == b"other\n"


def test_an_entry_of_another_tool_gives_way(shm_path: Path) -> None:
    """An entry with our tag and no full name (skopeo, umoci) is replaced: the tag must be ours."""
    out = shm_path / "out"
    run("umoci", "init", "--layout", out)
    run("umoci", "new", "--image", f"{out}:1")
    run("umoci", "new", "--image", f"{out}:other")
    put(make_sample(shm_path / "s", "app:1"), out)
    tags = [
        entry["annotations"]["org.opencontainers.image.ref.name"]
        for entry in index_of(out)["manifests"]
    ]
    assert tags == ["other", "1"]


def test_writing_twice_changes_nothing(shm_path: Path) -> None:
    """The same image again copies no blob and gives the same index."""
    sample = make_sample(shm_path / "s", "app:1")
    put(sample, shm_path / "out")
    files = {path: path.stat().st_ino for path in (shm_path / "out/blobs/sha256").iterdir()}
    index = (shm_path / "out/index.json").read_bytes()
    put(sample, shm_path / "out")
    assert {path: path.stat().st_ino for path in (shm_path / "out/blobs/sha256").iterdir()} == files
    assert (shm_path / "out/index.json").read_bytes() == index


def test_a_blob_of_a_wrong_size_is_written_again(shm_path: Path) -> None:
    """What a crashed machine left cut short is not taken for the blob."""
    sample = make_sample(shm_path / "s", "app:1")
    put(sample, shm_path / "out")
    victim = shm_path / "out/blobs/sha256" / sample.image.manifest.layers[1].digest.hex
    victim.write_bytes(b"")
    put(sample, shm_path / "out")
    assert Digest.of(victim.read_bytes()) == sample.image.manifest.layers[1].digest


def test_blobs_are_not_hard_links(shm_path: Path) -> None:
    """Changing owner or bytes of the layout cannot reach the store."""
    sample = make_sample(shm_path / "s", "app:1")
    put(sample, shm_path / "out")
    assert {path.stat().st_nlink for path in (shm_path / "out/blobs/sha256").iterdir()} == {1}


def test_a_directory_with_other_things_is_refused(shm_path: Path) -> None:
    """No blobs are strewn into somebody's project, and nothing in it changes."""
    (shm_path / "project").mkdir()
    (shm_path / "project/main.c").write_text("int main;")
    with pytest.raises(InputError, match=r"neither empty nor an OCI layout: it holds 'main.c'"):
        put(make_sample(shm_path / "s", "app:1"), shm_path / "project")
    assert os.listdir(shm_path / "project") == ["main.c"]


@pytest.mark.parametrize("index", ["{", "[]", '{"manifests": 3}'])
def test_a_damaged_index_is_refused(shm_path: Path, index: str) -> None:
    """An index that cannot be merged is an error and stays as it is."""
    sample = make_sample(shm_path / "s", "app:1")
    put(sample, shm_path / "out")
    (shm_path / "out/index.json").write_text(index)
    with pytest.raises(InputError, match=r"index\.json"):
        put(sample, shm_path / "out")
    assert (shm_path / "out/index.json").read_text() == index


def test_a_failure_leaves_nothing(shm_path: Path) -> None:
    """A missing blob removes what was written before it, the new directory included."""
    sample = make_sample(shm_path / "s", "app:1")
    sample.blob_path(sample.image.manifest.layers[1].digest).unlink()
    with pytest.raises(StoreError, match="cannot read blob"):
        put(sample, shm_path / "out")
    assert not (shm_path / "out").exists()
    with pytest.raises(StoreError, match="cannot read blob"):
        archive(sample, shm_path / "out.tar")
    assert os.listdir(shm_path) == ["s"]


def test_a_failure_leaves_the_other_images(shm_path: Path) -> None:
    """A failing update of a layout leaves it as it was."""
    put(make_sample(shm_path / "s", "app:1"), shm_path / "out")
    before = {
        path: path.stat().st_mtime_ns for path in (shm_path / "out").rglob("*") if path.is_file()
    }
    other = make_sample(shm_path / "t", "app:2", text=b"two\n")
    other.blob_path(other.image.manifest.layers[1].digest).unlink()
    with pytest.raises(StoreError):
        put(other, shm_path / "out")
    after = {
        path: path.stat().st_mtime_ns for path in (shm_path / "out").rglob("*") if path.is_file()
    }
    assert after == before


def test_waits_for_another_writer(shm_path: Path) -> None:
    """While someone holds the layout's lock nothing is written; a cancelled wait ends."""
    sample = make_sample(shm_path / "s", "app:1")
    (shm_path / "out").mkdir()
    handle = os.open(shm_path / "out", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    asked = threading.Event()

    def check() -> None:
        if asked.is_set():
            raise InterruptedError
        asked.set()

    with pytest.raises(StoreError):
        write_oci_directory(sample.image, sample.blob_path, shm_path / "out", check)
    assert os.listdir(shm_path / "out") == []
    os.close(handle)
    put(sample, shm_path / "out")


def test_many_writers_of_one_layout(shm_path: Path) -> None:
    """Concurrent writers lose no entry."""
    samples = [make_sample(shm_path / "s", f"app:{number}") for number in range(8)]
    threads = [threading.Thread(target=put, args=(item, shm_path / "out")) for item in samples]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(index_of(shm_path / "out")["manifests"]) == 8
    assert not list((shm_path / "out").rglob("*.partial"))


def test_a_layout_that_was_never_finished(shm_path: Path) -> None:
    """A writer that was killed left halves of files: they go, and the directory is no stranger's."""
    sample = make_sample(shm_path / "s", "app:1")
    (shm_path / "out/blobs/sha256").mkdir(parents=True)
    for name in (".oci-layout.01.partial", "blobs/sha256/.abc.01.partial"):
        (shm_path / "out" / name).write_bytes(b"half")
    put(sample, shm_path / "out")
    assert len(index_of(shm_path / "out")["manifests"]) == 1
    assert not list((shm_path / "out").rglob(".*"))
