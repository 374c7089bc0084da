"""The cache in GitHub's cache service: machines that have nothing, entries that stay, faults, the token."""

from __future__ import annotations

import json
import math
import ssl
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from asyncbuild.build import workers as workers_module
from asyncbuild.build.request import CachePlace
from asyncbuild.cache import github_service
from asyncbuild.cache.github import GithubObjects, GithubPlace
from asyncbuild.cache.github_service import VERSION
from asyncbuild.cache.objects import ObjectsFailed
from asyncbuild.image.manifest import Manifest
from asyncbuild.registry.hosts import HostSettings
from asyncbuild.registry.registries import Registries, RegistrySettings
from asyncbuild.report.events import Outcome, StepFinished, TransferFinished, WarningRaised
from asyncbuild.testing.faults import Action, Corrupt, Drop, Faults, Hang, Respond, Rule, Shorten
from asyncbuild.testing.registry_server import serving
from asyncbuild.testing.registry_transport import DoubleTransport
from support.builds import Recorder, World, store_faults
from support.github import SERVICE, SIGNATURE, TOKEN, TWIRP, GithubDouble, Held
from support.proxy import ForwardProxy, forwarding
from support.registry import make_tls

DOCKERFILE = """\
FROM scratch AS made
COPY tool /bin/
FROM scratch
COPY first /
COPY --from=made /bin /usr/bin/
COPY second /
"""
FILES = {"tool": "tool\n" * 90, "first": "one\n", "second": "two\n"}
PLACE = GithubPlace(f"https://{SERVICE}/", TOKEN)
FROM = {"cache_from": (CachePlace(objects=PLACE),)}
TO = {"cache_to": (CachePlace(objects=PLACE, everything=True),)}


@pytest.fixture(autouse=True)
def _patient_with_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes know no mock clock."""
    monkeypatch.setattr(workers_module, "_CLOSING_SECONDS", math.inf)


class Machine:
    """Builds, each of them with a store of its own unless told."""

    def __init__(self, directory: Path, double: GithubDouble | None = None) -> None:
        self.double = double or GithubDouble()
        self.directory = directory
        self.count = 0
        self.recorder = Recorder()
        self.hastens = False  # waiting takes no time; slow processes and threads may be late then
        World.below(directory, self.double).write(FILES)

    def build(self, **more: Any) -> str:
        """Build; the image's digest."""
        self.count += 1
        self.recorder = Recorder()
        world = World(
            self.double, self.directory / f"store{self.count}", self.directory / "context"
        )
        request = world.request(DOCKERFILE, "app:1", **more)
        clock = trio.testing.MockClock(autojump_threshold=0.05) if self.hastens else None
        result = trio.run(partial(world.build, request, recorder=self.recorder), clock=clock)
        assert store_faults(world.store) == []
        return str(result.manifest.digest)

    @property
    def executed(self) -> list[str]:
        """The COPYs that were executed."""
        return [
            item.step.text
            for item in self.recorder.of(StepFinished)
            if item.outcome is Outcome.EXECUTED and item.step.text.startswith("COPY")
        ]

    @property
    def warnings(self) -> list[str]:
        """What people were warned of."""
        return [event.text for event in self.recorder.of(WarningRaised)]

    def forget_images(self) -> None:
        """A registry that has nothing."""
        for kept in (self.double.blobs, self.double.manifests, self.double.tags):
            kept.clear()


@pytest.fixture
def machine(shm_path: Path) -> Machine:
    """Machines beside one service; the image was never built."""
    return Machine(shm_path)


def test_another_machine_executes_nothing(machine: Machine) -> None:
    """Nor does it fetch a layer that its registry has; where the registry has none, they come from there."""
    right = machine.build(**TO)
    assert (len(machine.executed), machine.warnings) == (4, [])
    assert machine.build(**FROM, **TO) == right
    assert (machine.executed, machine.warnings) == ([], [])
    fetched = [item.transfer.registry for item in machine.recorder.of(TransferFinished)]
    assert "gha buildkit" not in fetched
    created = [call for call in machine.double.calls if call.startswith("Create")]
    assert len(created) == len(machine.double.held) > 0  # the second build made none
    machine.forget_images()
    assert machine.build(**FROM) == right
    assert (machine.executed, machine.warnings) == ([], [])
    assert len(machine.double.blobs["app"]) == 4  # three layers and the configuration


def test_what_changed_is_executed(machine: Machine) -> None:
    """And nothing before it; then it is kept as well."""
    machine.build(**TO)
    (machine.directory / "context/second").write_text("three\n")
    for executed in (["COPY second /"], []):
        machine.build(**FROM, **TO)
        assert machine.executed == executed


def test_scopes_are_apart(machine: Machine) -> None:
    """Results are; a layer of equal bytes is one entry of all."""
    others = [replace(PLACE, scope=scope) for scope in ("a", "a,b/ü", "a/results")]
    for place in others:
        machine.build(cache_to=(CachePlace(objects=place, everything=True),))
        assert machine.double.keys(f"asyncbuild/{place.names.entries[0]}")
    machine.build(**FROM)
    assert len(machine.executed) == 4
    blobs = machine.double.keys("/blobs/")
    assert len(blobs) == len(set(blobs))
    for place in others:
        machine.build(cache_from=(CachePlace(objects=place),))
        assert machine.executed == []


def test_min_has_the_layers_of_the_image(machine: Machine) -> None:
    """mode=min: those of the other stage are left out."""
    machine.build(cache_to=(CachePlace(objects=PLACE),))
    least = len(machine.double.keys("/blobs/"))
    machine.build(**TO)
    assert (least, len(machine.double.keys("/blobs/"))) == (3, 4)


def test_a_layer_that_is_gone_comes_back(machine: Machine) -> None:
    """The service forgets layers: the build is right, and what it exports brings it back."""
    right = machine.build(**TO, now=1_799_999_999)
    machine.double.drop("/blobs/")
    machine.forget_images()
    later = {
        "now": 1_800_000_000
    }  # results that are as old as those which are there are not written
    assert machine.build(**FROM, **TO, **later) == right
    assert machine.executed
    machine.forget_images()
    assert machine.build(**FROM, **later) == right
    assert machine.executed == []


def test_old_entries_are_replaced_by_newer_ones(machine: Machine) -> None:
    """An entry cannot be changed: the newest counts."""
    machine.build(**TO, now=1_700_000_000)
    later = {"now": 1_700_000_000 + 15 * 86400}
    machine.build(**FROM, **TO, **later)
    assert len(machine.executed) == 4
    assert {name.rpartition("#")[2] for name in machine.double.keys("/results/")} == {"1", "2"}
    machine.build(**FROM, **later)
    assert (machine.executed, machine.warnings) == ([], [])


@pytest.mark.parametrize("begun", ["/blobs/", "/results/"])
def test_entries_that_somebody_else_makes_are_no_fault(machine: Machine, begun: str) -> None:
    """Announced by a build that was killed: never whole, and never free again."""
    right = machine.build(**TO)
    for item in machine.double.held:
        if begun in item.key:
            item.whole = False
    machine.forget_images()
    assert machine.build(**FROM, **TO) == right
    assert not [text for text in machine.warnings if "export" in text]
    if begun == "/blobs/":
        machine.forget_images()
        assert machine.build(**FROM) == right
        assert machine.executed == []


FAULTS: dict[str, Action] = {
    "401": Respond(401, json.dumps({"code": "unauthenticated", "msg": f"not {TOKEN}"}).encode()),
    "403": Respond(403),
    "404 of no service": Respond(404, b"<html>nothing</html>"),
    "429": Respond(429, b"", {"retry-after": "3600"}),
    "500": Respond(500),
    "no JSON": Respond(200, b"<html>hello</html>"),
    "an array": Respond(200, b"[]"),
    "a place inside": Respond(
        200,
        b'{"ok": true, "signed_upload_url": "http://169.254.169.254/x", "matched_key": "",'
        b' "signed_download_url": "http://169.254.169.254/x"}',
    ),
    "hang": Hang(),
    "hang in the middle": Hang(after=3),
    "drop": Drop(),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("where", [TWIRP, "/storage/", "Finalize"])
def test_whatever_fails_the_image_is_right(machine: Machine, fault: str, where: str) -> None:
    """From the first request to the last: a warning, without the token, and the image."""
    right = machine.build(**TO)
    machine.hastens = True
    rule = Rule(FAULTS[fault], "*", where, times=None)
    for more in (FROM, TO, {**FROM, **TO}):
        machine.forget_images()
        machine.double.faults.add(rule)
        if more is TO:
            machine.double.held.clear()
        before = len(machine.double.log)
        assert machine.build(**more) == right
        struck = [item for item in machine.double.log[before:] if where in item.path]
        if fault in ("401", "403", "429", "500", "hang") and struck:
            assert machine.warnings
        if fault == "429" and where == TWIRP:
            assert len(struck) <= 32  # what was under way at once, and nothing afterwards
        assert not [text for text in machine.warnings if TOKEN in text or SIGNATURE in text]
        machine.double.faults = Faults()
        machine.double.held.clear()
        machine.build(**TO)


@pytest.mark.parametrize("action", [Corrupt(30), Shorten(40)], ids=["corrupt", "short"])
@pytest.mark.parametrize("part", ["/blobs/", "/results/"])
def test_damaged_content_is_a_miss(machine: Machine, action: Action, part: str) -> None:
    """Whatever comes instead of a layer or of a result is found out; the next export mends it."""
    right = machine.build(**TO)
    manifest = machine.double.manifest("app", "1")
    assert isinstance(manifest, Manifest)
    wanted = manifest.layers[0].digest.hex if part == "/blobs/" else part
    held = [item for item in machine.double.held if wanted in item.key]
    assert held
    for item in held:
        assert item.data is not None
        data = bytearray(item.data)
        if isinstance(action, Shorten):
            del data[action.length :]
        else:
            data[30] ^= 255
        item.data = bytes(data)
    machine.forget_images()
    assert machine.build(**FROM, **TO) == right
    assert machine.executed
    machine.forget_images()
    assert machine.build(**FROM) == right
    assert machine.executed == []


@pytest.mark.parametrize(
    ("place", "why"),
    [
        (GithubPlace(), "ACTIONS_RESULTS_URL is not set"),
        (GithubPlace("https://results.example"), "ACTIONS_RUNTIME_TOKEN is not set"),
        (GithubPlace("ftp://results.example", "t"), "no http"),
        (GithubPlace("https://results.example", "secret\r\ntoken"), "its token is none"),
    ],
)
def test_outside_of_a_job_there_is_no_cache(machine: Machine, place: GithubPlace, why: str) -> None:
    """A warning says what is missing; nothing is asked."""
    kept = CachePlace(objects=place)
    machine.build(cache_from=(kept,), cache_to=(kept,))
    assert machine.double.calls == []
    assert any(why in text for text in machine.warnings)
    assert "secret" not in "".join(machine.warnings) + repr(kept)


def with_objects(double: GithubDouble, use: Callable[[GithubObjects], Any]) -> None:
    """Use the store of a place."""

    async def main() -> None:
        settings = RegistrySettings(transport=DoubleTransport(double))
        async with Registries(settings) as registries:
            await use(PLACE.open(registries))

    trio.run(main)


def test_a_large_layer_goes_in_blocks(shm_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several at a time, put together in their order."""
    monkeypatch.setattr(github_service, "BLOCK", 1000)
    data = bytes(range(256)) * 41
    (shm_path / "layer").write_bytes(data)
    double = GithubDouble()

    async def use(objects: GithubObjects) -> None:
        await objects.put("blobs/x", shm_path / "layer")
        async with objects.read("blobs/x") as pieces:
            assert b"".join([piece async for piece in pieces]) == data

    with_objects(double, use)
    assert len(double.held[0].blocks) == 11
    assert double.keys() == ["asyncbuild/blobs/x#1"]


def test_a_block_that_fails_is_a_failure(shm_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no entry."""
    monkeypatch.setattr(github_service, "BLOCK", 1000)
    (shm_path / "layer").write_bytes(bytes(9000))
    double = GithubDouble()
    double.faults.add(Rule(Respond(403), "PUT", "/storage/", nth=4))

    async def use(objects: GithubObjects) -> None:
        with pytest.raises(ObjectsFailed, match="does not take the token"):
            await objects.put("blobs/x", shm_path / "layer")

    with_objects(double, use)
    assert double.keys() == []


def test_numbers_that_were_begun_and_never_ended(shm_path: Path) -> None:
    """They are passed over, but not for ever."""
    double = GithubDouble()
    double.held = [Held(f"asyncbuild/blobs/x#{number}", VERSION) for number in (1, 2, 3)]

    async def use(objects: GithubObjects) -> None:
        await objects.put("blobs/x", shm_path / "layer")
        assert await objects.exists("blobs/x")
        await objects.put("blobs/x", shm_path / "layer")
        assert double.keys() == ["asyncbuild/blobs/x#4", "asyncbuild/blobs/x#5"]
        double.held += [Held(f"asyncbuild/blobs/x#{number}", VERSION) for number in range(6, 20)]
        with pytest.raises(ObjectsFailed, match="keep the numbers"):
            await objects.put("blobs/x", shm_path / "layer")

    (shm_path / "layer").write_bytes(b"layer")
    with_objects(double, use)


def test_an_entry_that_another_build_has_just_made_is_as_good() -> None:
    """Between the question and the answer: one entry, and no fault."""
    double = GithubDouble()

    async def use(objects: GithubObjects) -> None:
        assert not await objects.exists("results/x")
        double.held.append(Held("asyncbuild/results/x#1", VERSION, b"theirs", whole=True))
        await objects.put("results/x", b"ours")
        assert await objects.get("results/x") == b"theirs"

    with_objects(double, use)
    assert double.keys() == ["asyncbuild/results/x#1"]


def test_a_failure_that_passes_is_none() -> None:
    """Server errors are asked again."""
    double = GithubDouble()
    for path in (TWIRP, "/storage/"):
        double.faults.add(Rule(Respond(503), "*", path))

    async def use(objects: GithubObjects) -> None:
        await objects.put("results/x", b"data")
        assert await objects.get("results/x") == b"data"

    with_objects(double, use)


@pytest.mark.parametrize("trusted", [True, False])
def test_proxies_and_authorities_are_those_of_registries(shm_path: Path, *, trusted: bool) -> None:
    """Through a tunnel of HTTPS_PROXY, and only to a service whose certificate is trusted."""
    tls = make_tls(shm_path, names=("results.invalid",))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate, tls.key)
    double, proxy = GithubDouble(storage=""), ForwardProxy()

    async def main() -> None:
        async with serving(double, tls=context) as place, forwarding(proxy):
            host = f"results.invalid:{place.rpartition(':')[2]}"
            files = (str(tls.ca_file),) if trusted else ()
            settings = RegistrySettings(
                hosts={host: HostSettings(ca_files=files)}, environ={"HTTPS_PROXY": proxy.url}
            )
            async with Registries(settings) as registries:
                objects = GithubPlace(f"https://{host}", TOKEN).open(registries)
                if trusted:
                    await objects.put("results/x", b"data")
                    assert await objects.get("results/x") == b"data"
                else:
                    with pytest.raises(ObjectsFailed, match="not trusted"):
                        await objects.exists("results/x")
                    assert double.log == []

    trio.run(main)
    assert {line.partition(":")[0] for line in proxy.asked} == {"CONNECT results.invalid"}


@pytest.mark.parametrize("fault", [None, FAULTS["401"], FAULTS["500"]], ids=["none", "401", "500"])
def test_the_token_is_nowhere(shm_path: Path, fault: Action | None) -> None:
    """The whole program over sockets: in nothing that it writes, prints, sends or keeps; nor is a signature."""
    context, left = shm_path / "context", shm_path / "left"
    for path in (context, left):
        path.mkdir()
    for name, text in {**FILES, "Dockerfile": DOCKERFILE}.items():
        (context / name).write_text(text)
    double = GithubDouble(storage="")

    async def main() -> list[str]:
        texts = []
        async with serving(double) as host:
            if fault is not None:
                double.faults.add(Rule(fault, "POST", TWIRP, times=None))
            for number, how in enumerate(("plain", "rawjson")):
                command = [sys.executable, "-m", "asyncbuild", "build", "--progress", how]
                command += ["--store", f"{left}/store{number}", "--trace", f"{left}/trace{number}"]
                command += ["--metadata-file", f"{left}/metadata{number}", "-t", f"{host}/app:1"]
                command += ["--cache-from", f"type=gha,url=http://{host}/,token={TOKEN}"]
                command += ["--cache-to", "type=gha,mode=max,ignore-error=true,timeout=2m"]
                environ = {"ACTIONS_RESULTS_URL": f"http://{host}/", "ACTIONS_RUNTIME_TOKEN": TOKEN}
                environ |= {"PATH": "/usr/bin:/bin", "HOME": str(shm_path)}
                done = await trio.run_process(
                    [*command, str(context)],
                    capture_stdout=True,
                    capture_stderr=True,
                    check=False,
                    env={**environ, "PYTHONPATH": ":".join(sys.path)},
                )
                assert done.returncode == 0, done.stderr.decode()
                texts.append(done.stderr.decode())
                (left / f"output{number}").write_bytes(done.stdout + done.stderr)
        return texts

    texts = trio.run(main)
    assert bool(double.keys()) == (fault is None)
    assert all(("gha buildkit" in text) == (fault is not None) for text in texts[:1])
    for word in (TOKEN, SIGNATURE):
        found = subprocess.run(["grep", "-rlF", word, str(left)], capture_output=True, check=False)
        assert found.stdout.decode() == ""
    assert not [item for item in double.held if item.data and TOKEN.encode() in item.data]
    shown = [item for item in double.log if TOKEN in repr((item.path, item.query, item.headers))]
    assert {item.path.startswith(TWIRP) for item in shown} == {True}
