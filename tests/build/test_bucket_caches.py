"""Caches in buckets: what one machine leaves there, another does not execute; and what goes wrong with them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import trio

from asyncbuild.build.request import CachePlace
from asyncbuild.cli.cache_options import read_cache_options
from asyncbuild.image.digest import Digest
from asyncbuild.report.events import Outcome, StepFinished, WarningRaised
from asyncbuild.testing.registry import RegistryDouble
from support.buckets import AZURE_KEY, Buckets, running_buckets
from support.builds import Recorder, World, add_busybox
from support.cache_arguments import given
from support.objects import MemoryObjects

DOCKERFILE = """\
FROM registry.example/base/busybox AS tools
RUN echo tool > /tool
FROM registry.example/base/busybox
COPY large /large
COPY --from=tools /tool /tool
RUN cat /tool > /two
"""
SECRET = "the/secret+of+aws"


@pytest.fixture
def buckets(monkeypatch: pytest.MonkeyPatch) -> Iterator[Buckets]:
    """A server, and the environment's credentials for it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "user")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AZURE_STORAGE_ACCESS_KEY", AZURE_KEY)
    with running_buckets() as running:
        account = {"gcs_base_url": running.url, "disable_oauth": True}
        account |= {"client_email": "", "private_key": "", "private_key_id": ""}
        monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps(account))
        yield running


def place(buckets: Buckets, kind: str = "s3", mode: str = "max") -> CachePlace:
    """The cache in one kind of bucket, as the command line has it."""
    where = {
        "s3": f"bucket=ours,region=eu-central-1,endpoint_url={buckets.url},use_path_style=true",
        "azblob": f"account_url={buckets.url}/acc,container=ours",
        "gcs": "bucket=ours",
    }[kind]
    text = f"type={kind},{where},prefix=team/x,name=main,mode={mode}"
    (found,) = read_cache_options(given(cache_to=[text]), {}).targets
    return found


class Machine:
    """A machine with a store of its own, and what its build did."""

    def __init__(self, directory: Path, double: RegistryDouble | None = None) -> None:
        directory.mkdir()
        self.world = World.below(directory, double)
        if double is None:
            add_busybox(self.world.double)
        data = random.Random(1).randbytes(18 << 20)
        (self.world.context / "large").write_bytes(data)

    def build(self, name: str = "out:1", **more: object) -> str:
        """Build: a letter for each step that makes files, cached or executed, in order of the Dockerfile."""
        recorder = Recorder()
        request = self.world.request(DOCKERFILE, name, **more)
        result = trio.run(partial(self.world.build, request, recorder=recorder))
        self.digest: Digest = result.manifest.digest
        self.warnings = [event.text for event in recorder.of(WarningRaised)]
        done = [
            event
            for event in recorder.of(StepFinished)
            if event.step.text.split()[0] in ("RUN", "COPY")
        ]
        return "".join(sorted("c" if item.outcome is Outcome.CACHED else "x" for item in done))


@pytest.mark.parametrize("kind", ["s3", "azblob", "gcs"])
def test_another_machine_executes_nothing(shm_path: Path, buckets: Buckets, kind: str) -> None:
    """A layer larger than one part, too; and what is there is not written again."""
    cache = place(buckets, kind)
    one = Machine(shm_path / "one")
    assert one.build(cache_from=(cache,), cache_to=(cache,)) == "xxxx"
    assert one.warnings == []
    root = "acc/ours/team/x/" if kind == "azblob" else "ours/team/x/"
    assert {name[: len(root)] for name in buckets.held} == {root}
    assert len([name for name in buckets.held if "/manifests/main/" in name]) >= 4
    for name, data in buckets.held.items():
        if "/blobs/sha256/" in name:
            assert Digest.of(data).hex == name.rpartition("/")[2]
    assert any(len(data) > 18 << 20 for data in buckets.held.values())
    written = len(buckets.requests("PUT"))
    # Another registry, too: what the first one got must come out of the bucket.
    two = Machine(shm_path / "two")
    assert two.build(cache_from=(cache,), cache_to=(cache,)) == "ccc"
    assert (two.digest, two.warnings) == (one.digest, [])
    assert len(buckets.requests("PUT")) == written
    assert all(host in buckets.url and secret for _, _, host, secret in buckets.asked) is (
        kind != "gcs"
    )


def test_only_what_the_image_needs_is_fetched(shm_path: Path, buckets: Buckets) -> None:
    """A registry that has the layers gets nothing, and no layer is fetched: one wave of small requests."""
    cache = place(buckets, mode="min")
    one = Machine(shm_path / "one")
    one.build(cache_to=(cache,))
    two = Machine(shm_path / "two", one.world.double)
    buckets.asked.clear()
    assert "x" not in two.build(cache_from=(cache,))
    assert two.digest == one.digest
    assert buckets.requests("GET", "/blobs/") == []
    keys = buckets.requests("GET", "/manifests/")
    assert len(keys) == len(set(keys)) > 0


def test_a_bucket_of_virtual_hosts(
    shm_path: Path, buckets: Buckets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without use_path_style the bucket is the first label of the host, as for BuildKit; the server, which
    no name leads to here, is reached as a proxy.
    """
    monkeypatch.setenv("http_proxy", buckets.url)
    text = "type=s3,bucket=ours,endpoint_url=http://s3.test,region=eu-north-9"
    (cache,) = read_cache_options(given(cache_to=[text]), {}).targets
    one = Machine(shm_path / "one")
    one.build(cache_to=(cache,))
    assert one.warnings == []
    assert {name.partition("/")[0] for name in buckets.held} == {"blobs", "listings", "manifests"}
    assert {host for _, _, host, _ in buckets.asked} == {"ours.s3.test"}
    assert all("/eu-north-9/s3/aws4_request" in secret for _, _, _, secret in buckets.asked)


def cut(data: bytes) -> bytes:
    """Without its last byte."""
    return data[:-1]


def changed(data: bytes) -> bytes:
    """With another byte in the middle."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def longer(data: bytes) -> bytes:
    """With more at its end."""
    return data + b"more"


def test_damaged_objects_are_misses(shm_path: Path, buckets: Buckets) -> None:
    """Layers and entries cut, changed, lost: the image is right, and the next machine finds it all again."""
    cache = place(buckets)
    one = Machine(shm_path / "one")
    one.build(cache_to=(cache,))
    whole = dict(buckets.held)
    for number, damage in enumerate((cut, changed, longer)):
        for part in ("/blobs/", "/manifests/"):
            buckets.held = {
                name: damage(data) if part in name else data for name, data in whole.items()
            }
            two = Machine(shm_path / f"two{number}{part.strip('/')}")
            assert "x" in two.build(cache_from=(cache,), cache_to=(cache,))
            assert sorted(two.world.double.tags["out"]) == ["1"]
            assert two.warnings != []
            three = Machine(shm_path / f"three{number}{part.strip('/')}")
            assert "x" not in three.build(cache_from=(cache,))
            assert three.digest == two.digest
    buckets.held = {name: data for name, data in whole.items() if "/blobs/" not in name}
    assert "x" in Machine(shm_path / "four").build(cache_from=(cache,))


@pytest.mark.parametrize("status", [500, 403])
def test_faults_are_warnings(shm_path: Path, buckets: Buckets, status: int) -> None:
    """Whatever a bucket refuses, the image is made; a warning says which bucket and why, and no secret."""
    cache = place(buckets)
    buckets.fails = lambda method, path: status
    one = Machine(shm_path / "one")
    assert one.build(cache_from=(cache,), cache_to=(cache,), cache_patience=30.0) == "xxxx"
    told = "\n".join(one.warnings)
    assert "s3://ours/team/x does not answer" in told
    assert "could not be exported" in told
    assert (": Refused" in told, "<" in told) == (True, False)
    assert SECRET not in told
    assert "AWS4" not in told
    buckets.fails = lambda method, path: status if "/blobs/" in path and method == "GET" else 0
    one.build(cache_to=(cache,), use_cache=False)
    assert "x" in Machine(shm_path / "two").build(cache_from=(cache,))


def test_age_is_that_of_the_entry(shm_path: Path) -> None:
    """A bucket's own times do not matter, nor the image's."""
    cache = CachePlace(objects=MemoryObjects(), everything=True)
    one = Machine(shm_path / "one")
    one.build(cache_to=(cache,), now=1_700_000_000, cache_ttl=3600.0)
    for number, (now, executed) in enumerate([(1_700_003_600, False), (1_700_003_601, True)]):
        other = Machine(shm_path / f"other{number}")
        did = other.build(cache_from=(cache,), now=now, cache_ttl=3600.0)
        assert ("x" in did) is executed
