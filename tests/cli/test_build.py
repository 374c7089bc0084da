"""``asyncbuild build`` as a person calls it: where the image goes, and what is written beside it."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from support.commands import COMMAND, asyncbuild_here, context, environment, told
from support.pulled import inspect_config, pull, read_layout, read_tree, unpack
from support.registry import DockerRegistry

pytestmark = pytest.mark.integration

PLAIN = "FROM scratch\nCOPY a /\n"


@pytest.fixture
def place(shm_path: Path) -> Path:
    """A directory with a context in it, to run commands in."""
    context(shm_path, PLAIN, {"a": "a\n"})
    return shm_path


def build(place: Path, *words: str, **more: Any) -> subprocess.CompletedProcess[bytes]:
    """A build that must succeed, run in ``place`` with a store there."""
    done = asyncbuild_here("build", "--store", "store", *words, "context", cwd=place, **more)
    assert done.returncode == 0, told(done)
    return done


def digest_of(done: subprocess.CompletedProcess[bytes]) -> str:
    """The digest that a build printed: all of its standard output."""
    text = done.stdout.decode()
    assert re.fullmatch(r"sha256:[0-9a-f]{64}\n", text), told(done)
    return text.strip()


def test_digest_on_stdout_is_the_pushed_one(place: Path, registry: DockerRegistry) -> None:
    """Standard output holds the digest alone, and the registry has it under every tag."""
    name = f"{registry.host}/cli/pushed"
    digest = digest_of(build(place, "-t", f"{name}:1", "--tag", f"{name}:2"))
    for tag in ("1", "2"):
        (place / tag).mkdir()
        assert pull(f"{name}:{tag}", place / tag).digest == digest


def test_one_access_log_line_for_each_request(
    place: Path, registry: DockerRegistry, many_layer_base: str
) -> None:
    """Metadata on a base of 13 layers: a manifest, a config, 13 mounts, one upload, a manifest."""
    (place / "context/Dockerfile").write_text(f"FROM {many_layer_base}\nENV A=b\n")
    mark = registry.mark()
    build(place, "-t", f"{registry.host}/cli/metadata:1")
    log = [f"{request.method} {request.path}" for request in registry.requests(mark)]
    assert len([line for line in log if "mount=" in line]) == 13
    other = [re.sub(r"(sha256:|uploads/).*", r"\1", line) for line in log if "mount=" not in line]
    assert sorted(other) == sorted(
        [
            "GET /v2/base/many/manifests/latest",
            "GET /v2/base/many/blobs/sha256:",
            "POST /v2/cli/metadata/blobs/uploads/",
            "PUT /v2/cli/metadata/blobs/uploads/",
            "PUT /v2/cli/metadata/manifests/1",
        ]
    )


def test_metadata_file_and_iidfile(place: Path, registry: DockerRegistry) -> None:
    """The members of buildx, and ours; the image ID is the configuration's digest."""
    name = f"{registry.host}/cli/files"
    done = build(place, "-t", f"{name}:1", "--metadata-file", "meta.json", "--iidfile", "iid")
    found = json.loads((place / "meta.json").read_text())
    pulled = pull(f"{name}:1", place)
    assert found["containerimage.digest"] == digest_of(done) == pulled.digest
    assert found["image.name"] == f"{name}:1"
    assert found["containerimage.config.digest"] == pulled.manifest["config"]["digest"]
    assert (place / "iid").read_text() == pulled.manifest["config"]["digest"]
    assert found["containerimage.descriptor"]["digest"] == pulled.digest
    assert found["asyncbuild.requests"] == 5
    assert found["asyncbuild.wall_seconds"] > 0
    assert [step["outcome"] for step in found["asyncbuild.steps"]] == ["executed"]


def test_oci_archive(place: Path) -> None:
    """Skopeo reads it under the tag's name, and nothing is pushed."""
    digest = digest_of(build(place, "-t", "x.invalid/app:1", "-o", "type=oci,dest=out.tar"))
    command = ["skopeo", "--insecure-policy", "inspect", "oci-archive:out.tar:1"]
    done = subprocess.run(command, cwd=place, capture_output=True, check=True)
    assert json.loads(done.stdout)["Digest"] == digest


def test_oci_directory(place: Path) -> None:
    """Umoci unpacks it."""
    digest = digest_of(build(place, "-o", "type=oci,dest=layout,tar=false"))
    pulled = read_layout(place / "layout")
    assert pulled.digest == digest
    subprocess.run(
        ["umoci", "raw", "unpack", "--image", "layout:latest", "root"],
        cwd=place,
        check=True,
        capture_output=True,
    )
    assert (place / "root/a").read_text() == "a\n"


def test_docker_archive_on_stdout(place: Path) -> None:
    """The archive alone is on standard output: no digest is mixed in."""
    done = build(place, "-t", "app:1", "-o", "type=docker,dest=-")
    (place / "out.tar").write_bytes(done.stdout)
    with tarfile.open(place / "out.tar") as tar:
        member = tar.extractfile("manifest.json")
        assert member is not None
        assert json.load(member)[0]["RepoTags"] == ["app:1"]
    command = ["skopeo", "--insecure-policy", "inspect", "--raw", "docker-archive:out.tar"]
    subprocess.run(command, cwd=place, capture_output=True, check=True)


def test_output_and_push(place: Path, registry: DockerRegistry) -> None:
    """``--push`` beside an output: both happen, with one digest."""
    name = f"{registry.host}/cli/both:1"
    digest = digest_of(build(place, "-t", name, "--push", "-o", "type=oci,dest=d,tar=false"))
    assert read_layout(place / "d").digest == digest
    assert pull(name, place).digest == digest


def test_output_of_a_base_from_a_registry(place: Path, busybox_base: str) -> None:
    """Layers of the base are fetched as blobs for an output, although no step looks into them."""
    (place / "context/Dockerfile").write_text(f"FROM {busybox_base}\nENV A=b\n")
    build(place, "-o", "type=oci,dest=layout,tar=false")
    assert "/bin/busybox" in read_tree(unpack_layout(place))


def unpack_layout(place: Path) -> Path:
    """The image of ``layout``, unpacked by umoci."""
    root = place / "root"
    command = ["umoci", "raw", "unpack", "--image", f"{place}/layout:latest", str(root)]
    subprocess.run(command, check=True, capture_output=True)
    return root


def test_registry_output_names_the_image(place: Path, registry: DockerRegistry) -> None:
    """``type=registry,name=…`` pushes without a ``-t``."""
    name = f"{registry.host}/cli/named:1"
    digest = digest_of(build(place, "-o", f"type=registry,name={name}"))
    assert pull(name, place).digest == digest


def test_labels_annotations_and_arguments(place: Path, registry: DockerRegistry) -> None:
    """Each ends where it belongs; an argument without a value is taken from the environment."""
    (place / "context/Dockerfile").write_text(
        "FROM scratch\nARG A\nARG B=unset\nARG C=unset\nLABEL a=$A b=$B c=$C own=Dockerfile\n"
    )
    name = f"{registry.host}/cli/labels:1"
    words = ["--label", "own=option", "--label", "more=x=y", "--annotation", "note=a b"]
    arguments = ["--build-arg", "A=1=2", "--build-arg", "B", "--build-arg", "C"]
    build(place, "-t", name, *words, *arguments, env=environment(B="from here"))
    labels = inspect_config(name)["config"]["Labels"]
    assert labels == {
        "a": "1=2",
        "b": "from here",
        "c": "unset",
        "own": "option",
        "more": "x=y",
    }
    assert pull(name, place).manifest["annotations"] == {"note": "a b"}


def test_hosts_and_network_of_run(place: Path, busybox_base: str) -> None:
    """``--add-host`` is in /etc/hosts and in no layer; with ``--network none`` there is only lo."""
    (place / "context/Dockerfile").write_text(
        f"FROM {busybox_base}\nRUN cat /etc/hosts > /seen && ls /sys/class/net > /links\n"
    )
    words = ["--add-host", "db:10.1.2.3", "--add-host", "six=[fd00::1]", "--network", "none"]
    build(place, *words, "-o", "type=oci,dest=layout,tar=false")
    root = unpack_layout(place)
    assert "10.1.2.3\tdb\n" in (root / "seen").read_text()
    assert "fd00::1\tsix\n" in (root / "seen").read_text()
    assert (root / "links").read_text() == "lo\n"
    assert not (root / "etc/hosts").exists()


def test_source_date_epoch_makes_builds_equal(place: Path, busybox_base: str) -> None:
    """Two stores, two contexts whose files have other times: one digest, to the byte of the archive."""
    dockerfile = f"FROM {busybox_base}\nARG SOURCE_DATE_EPOCH\nWORKDIR /w\nCOPY <<EOF /t\n$SOURCE_DATE_EPOCH\nEOF\nENV A=b\n"
    (place / "context/Dockerfile").write_text(dockerfile)
    env = environment(SOURCE_DATE_EPOCH="1700000000")
    one = digest_of(build(place, "-o", "type=oci,dest=1.tar", env=env))
    (place / "store").rename(place / "first-store")
    two = digest_of(build(place, "-o", "type=oci,dest=2.tar", env=env))
    assert one == two
    assert (place / "1.tar").read_bytes() == (place / "2.tar").read_bytes()
    build(place, "-o", "type=oci,dest=layout,tar=false", env=env)
    pulled = read_layout(place / "layout")
    assert pulled.configuration["created"] == "2023-11-14T22:13:20Z"
    assert (unpack_layout(place) / "t").read_text() == "1700000000\n"


def test_dockerfile_from_stdin(place: Path) -> None:
    """``-f -``; the context is still the directory."""
    text = "FROM scratch\nCOPY a /from-stdin\n"
    build(place, "-f", "-", "-o", "type=oci,dest=layout,tar=false", stdin=text)
    assert (unpack_layout(place) / "from-stdin").read_text() == "a\n"


def test_dockerfile_elsewhere_has_its_own_ignore_file(place: Path) -> None:
    """``-f`` is seen from where the command runs."""
    (place / "deploy").mkdir()
    (place / "deploy/Web").write_text("FROM scratch AS x\nCOPY . /\nFROM scratch\nLABEL a=b\n")
    (place / "deploy/Web.dockerignore").write_text("*\n!a\n")
    build(place, "-f", "deploy/Web", "--target", "x", "-o", "type=oci,dest=layout,tar=false")
    assert sorted(read_tree(unpack_layout(place))) == ["/a"]


def test_lower_case_dockerfile(place: Path) -> None:
    """``dockerfile`` is found where there is no ``Dockerfile``."""
    (place / "context/Dockerfile").rename(place / "context/dockerfile")
    build(place)


def test_store_of_the_user(place: Path) -> None:
    """Without ``--store`` it is in the cache directory."""
    env = environment(XDG_CACHE_HOME=str(place / "cache"))
    done = asyncbuild_here("build", "context", cwd=place, env=env)
    assert done.returncode == 0, told(done)
    assert (place / "cache/asyncbuild/oci-layout").is_file()
    assert b"the image will go nowhere" in done.stderr


@pytest.fixture
def talking(place: Path, busybox_base: str) -> Path:
    """As ``place``, with a RUN that says something."""
    (place / "context/Dockerfile").write_text(
        f"FROM {busybox_base} AS base\nRUN echo to stdout && echo to stderr >&2\n"
    )
    return place


def test_plain_progress(talking: Path) -> None:
    """A line for each event, a command's lines behind its step; nothing of it on stdout."""
    done = build(talking, "--progress", "plain")
    lines = [line.split(None, 1)[1] for line in done.stderr.decode().splitlines()]
    assert any(line.startswith("[base 1/1]") and "RUN echo to stdout" in line for line in lines)
    assert any(re.fullmatch(r"\[base 1/1\]\s+\| to stdout", line) for line in lines)
    assert any(re.fullmatch(r"\[base 1/1\]\s+\| to stderr", line) for line in lines)
    assert lines[-1].startswith("done")
    assert digest_of(done) in lines[-1]


def test_quiet_progress(talking: Path) -> None:
    """Only the digest, and nothing on stderr but the warning that the image goes nowhere."""
    done = build(talking, "--progress", "quiet", "-o", "type=oci,dest=out.tar")
    assert done.stderr == b""
    assert digest_of(done)


def test_rawjson_progress(talking: Path) -> None:
    """A JSON object on each line."""
    done = build(talking, "--progress", "rawjson")
    events = [json.loads(line) for line in done.stderr.splitlines()]
    output = [event for event in events if event["event"] == "run_output"]
    assert (
        b"".join(base64.b64decode(event["data"]) for event in output if event["stream"] == "stdout")
        == b"to stdout\n"
    )
    assert events[-1]["event"] == "build_finished"


def test_progress_from_the_environment(talking: Path) -> None:
    """BUILDKIT_PROGRESS is heard where no option says otherwise."""
    done = build(talking, "-o", "type=oci,dest=o.tar", env=environment(BUILDKIT_PROGRESS="quiet"))
    assert done.stderr == b""


def test_trace(talking: Path) -> None:
    """A time line that Chrome's viewer reads."""
    build(talking, "--trace", "trace.json")
    trace = json.loads((talking / "trace.json").read_text())
    spans = trace["traceEvents"] if isinstance(trace, dict) else trace
    assert any("RUN echo" in span.get("name", "") for span in spans)


def test_no_cache(talking: Path) -> None:
    """Every step is executed anew; without the option the store answers."""
    build(talking)
    assert b"(cached)" in build(talking).stderr
    again = build(talking, "--no-cache")
    assert b"(cached)" not in again.stderr
    assert b"to stdout" in again.stderr


def test_platform_of_a_base(place: Path, multiarch_base: str) -> None:
    """``--platform`` chooses from an index, and is what the image says of itself."""
    (place / "context/Dockerfile").write_text(f"FROM {multiarch_base}\nCOPY a /\n")
    build(place, "--platform", "linux/arm64", "-o", "type=oci,dest=layout,tar=false")
    pulled = read_layout(place / "layout")
    assert pulled.configuration["architecture"] == "arm64"
    assert (unpack_layout(place) / "bin/sh").read_text() == "not for this machine\n"


def test_compression_of_new_layers(place: Path) -> None:
    """``compression=zstd`` holds for the layers that the build makes."""
    build(place, "-o", "type=oci,dest=layout,tar=false,compression=zstd")
    layer = read_layout(place / "layout").manifest["layers"][0]
    assert layer["mediaType"].endswith("+zstd")


def test_rewritten_times(place: Path, busybox_base: str) -> None:
    """``rewrite-timestamp``: what RUN wrote now is as old as SOURCE_DATE_EPOCH; a base's layer stays."""
    (place / "context/Dockerfile").write_text(f"FROM {busybox_base}\nRUN echo now > /now\n")
    env = environment(SOURCE_DATE_EPOCH="1600000000")
    build(place, "-o", "type=oci,dest=layout,tar=false,rewrite-timestamp=true", env=env)
    pulled = read_layout(place / "layout")
    digest = pulled.manifest["layers"][-1]["digest"]
    with tarfile.open(pulled.layout / "blobs" / digest.replace(":", "/")) as layer:
        assert {item.name: item.mtime for item in layer}["now"] == 1_600_000_000
    tag = ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{busybox_base}"]
    base = json.loads(subprocess.run(tag, check=True, capture_output=True).stdout)
    assert pulled.manifest["layers"][0]["digest"] == base["layers"][0]["digest"]


def test_two_builds_share_a_store(place: Path, busybox_base: str) -> None:
    """At once, from the same cold store: both end, with one image."""
    (place / "context/Dockerfile").write_text(f"FROM {busybox_base}\nCOPY a /\n")
    command = ["build", "--store", "store", "--progress", "plain", "context"]
    env = environment(SOURCE_DATE_EPOCH="1700000000")
    running = [
        subprocess.Popen([*COMMAND, *command], cwd=place, env=env, stdout=-1, stderr=-1)
        for _ in range(3)
    ]
    said = [child.communicate() for child in running]
    assert [child.returncode for child in running] == [0, 0, 0], said
    assert len({out for out, _ in said}) == 1


def test_image_is_what_skopeo_and_umoci_see(
    place: Path, registry: DockerRegistry, busybox_base: str
) -> None:
    """A small build of everything, pulled and unpacked by tools that are not ours."""
    (place / "context/Dockerfile").write_text(
        f"FROM {busybox_base} AS made\nRUN echo made > /made\n"
        f"FROM {busybox_base}\nWORKDIR /srv\nCOPY --chown=app:app --chmod=0600 a .\n"
        "COPY --from=made /made .\nRUN rm /etc/os-release && ln -s made link\nUSER app\n"
    )
    name = f"{registry.host}/cli/whole:1"
    build(place, "-t", name)
    pulled = pull(name, place)
    tree = read_tree(unpack(pulled, place))
    assert str(tree["/srv/a"]).startswith("file 0600 1000:1000")
    assert tree["/srv/made"].content == b"made\n"
    assert tree["/srv/link"].link == "made"
    assert "/etc/os-release" not in tree
    assert pulled.configuration["config"]["User"] == "app"
