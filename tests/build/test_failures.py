"""Builds that fail: what a person reads, the exit code, and that nothing half done is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio

from asyncbuild.build.futures import Ledger
from asyncbuild.errors import AsyncbuildError, NotAuthorized
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import Descriptor, Manifest, parse_manifest
from asyncbuild.image.platform import Platform
from asyncbuild.registry.registries import RegistrySettings
from asyncbuild.registry.retry import RetryPolicy
from asyncbuild.report.events import Outcome, StepFinished
from asyncbuild.testing.exchanges import Answered, Asked, LoggedRequest
from asyncbuild.testing.faults import Corrupt, Drop, DropUpload, Respond, Rule, Shorten
from asyncbuild.testing.registry import RegistryDouble
from asyncbuild.testing.registry_auth import BasicAccess, OpenAccess, TokenAccess
from support.bases import busybox_image, busybox_layer
from support.builds import HOST, Belongings, Recorder, World, add_busybox, add_image
from support.images import Image, Layer, sha256, text

FROM = f"FROM {HOST}/base/busybox\n"
BAD = f"FROM {HOST}/bad\n"
FILES = {"a": "a\n", "hello.txt": "hello\n", "ignored.log": "", ".dockerignore": "*.log\n"}
LAYER = busybox_layer()


@dataclass(frozen=True, slots=True)
class Failure:
    """A Dockerfile, what goes wrong, the exit code, the texts that a person reads, the line they name."""

    dockerfile: str
    code: int
    texts: tuple[str, ...]
    line: int | None = None
    faults: tuple[Rule, ...] = ()
    bad: Callable[[RegistryDouble], object] | None = None


def bad_layer(data: bytes, diff_id: str = LAYER.diff_id) -> Callable[[RegistryDouble], object]:
    """Puts the image ``bad`` with one layer of these bytes into a double."""
    return lambda double: add_image(double, "bad", Image([Layer(data, sha256(data), diff_id)]))


def bad_config(raw: bytes) -> Callable[[RegistryDouble], object]:
    """Puts the image ``bad`` with this configuration into a double."""

    def put(double: RegistryDouble) -> None:
        image = busybox_image()
        add_image(double, "bad", image)
        manifest = parse_manifest(image.manifest(), "")
        assert isinstance(manifest, Manifest)
        double.add_blob("bad", raw)
        config = Descriptor(manifest.config.media_type, Digest.of(raw), len(raw))
        double.add_manifest("bad", "latest", Manifest.make(config, manifest.layers))

    return put


def _twice(diff_id: str) -> bytes:
    one = f'"{diff_id}"'
    return busybox_image().configuration().replace(one.encode(), f"{one},{one}".encode())


def _with_index(double: RegistryDouble) -> None:
    image = double.manifest("base/busybox", "latest")
    assert isinstance(image, Manifest)
    double.add_index("base/busybox", "latest", {Platform("linux", "s390x"): image})


def _always(action: object, method: str, path: str) -> tuple[Rule, ...]:
    return (Rule(action, method, path, times=None),)  # type: ignore[arg-type]


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _hole(data: bytes) -> bytes:
    return data[:5000] + bytes(100) + data[5100:]


BLOB = f"/blobs/{LAYER.digest}"
RUNS = FROM + "RUN true\n"
COPIES = FROM + "COPY a /a\n"

FAILURES = {
    "unknown image": Failure(
        f"FROM {HOST}/none/such:3\nRUN true\n",
        66,
        (f"there is no image {HOST}/none/such:3", "404 NAME_UNKNOWN", "hint: check its name"),
        1,
    ),
    "unknown tag": Failure(
        f"FROM {HOST}/base/busybox:none\nRUN true\n", 66, ("there is no image", "busybox:none"), 1
    ),
    "unknown image to copy from": Failure(
        FROM + f"COPY --from={HOST}/none/such /a /a\n", 66, ("there is no image",), 2
    ),
    "not for this platform": Failure(
        RUNS, 66, ("has no image for linux/amd64", "it has: linux/s390x"), 1, bad=_with_index
    ),
    "layer of other bytes": Failure(
        RUNS,
        69,
        (f"layer {LAYER.digest} is damaged", "its bytes are sha256:"),
        1,
        _always(Corrupt(1000), "GET", BLOB),
    ),
    "layer cut short": Failure(
        RUNS, 69, ("1000 bytes where its manifest says",), 1, _always(Shorten(1000), "GET", BLOB)
    ),
    "layer that always breaks off": Failure(
        RUNS, 69, ("the connection broke", f"GET https://{HOST}/v2/base/busybox/blobs/"), 1,
        _always(Drop(1000), "GET", BLOB),
    ),
    "layer with another content": Failure(
        BAD + "RUN true\n",
        69,
        ("the image's configuration says",),
        1,
        bad=bad_layer(LAYER.data, sha256(b"another")),
    ),
    "damaged gzip": Failure(
        BAD + "COPY a /\n", 65, ("the gzip stream is damaged",), 1, bad=bad_layer(_hole(LAYER.data))
    ),
    "truncated gzip": Failure(
        BAD + "COPY a /\n",
        65,
        ("the gzip stream is truncated",),
        1,
        bad=bad_layer(_cut(LAYER.data)),
    ),
    "hostile layer": Failure(
        BAD + "RUN true\n",
        65,
        ("leaves the root",),
        1,
        bad=bad_layer(Layer.of(text("../../x", "x")).data, Layer.of(text("../../x", "x")).diff_id),
    ),
    "manifest of other bytes": Failure(
        RUNS, 69, ("the manifest of base/busybox is not sha256:",), 1,
        _always(Corrupt(100), "GET", "/manifests/"),
    ),
    "no manifest at all": Failure(
        RUNS,
        69,
        ("is no image manifest or index",),
        1,
        _always(Respond(200, b"<html>", {"content-type": "text/html"}), "GET", "/manifests/"),
    ),
    "configuration of other bytes": Failure(
        BAD + "RUN true\n",
        69,
        ("has another digest",),
        1,
        _always(Corrupt(20), "GET", "/v2/bad/blobs/"),
        bad_config(busybox_image().configuration()),
    ),
    "configuration that is none": Failure(
        BAD + "RUN true\n", 69, ("its configuration:",), 1, bad=bad_config(b"not JSON")
    ),
    "configuration of more layers": Failure(
        BAD + "RUN true\n", 69, ("1 layers and 2 diff ids",), 1, bad=bad_config(_twice(LAYER.diff_id))
    ),
    "registry out of order": Failure(
        RUNS, 69, ("503", f"GET https://{HOST}/v2/base/busybox/manifests/latest"), 1,
        _always(Respond(503), "GET", "/manifests/"),
    ),
    "registry asks to come back later": Failure(
        RUNS,
        75,
        ("asks to come back later", "429"),
        1,
        _always(Respond(429, b"", {"retry-after": "1000"}), "GET", "/manifests/"),
    ),
    "failing command": Failure(
        FROM + "RUN echo a && \\\n  exit 7\n", 7, ("RUN failed with exit code 7", ">>>    3 |"), 2
    ),
    "killed command": Failure(FROM + "RUN kill -9 $$\n", 137, ("SIGKILL",), 2),
    "terminated command": Failure(FROM + "RUN kill -TERM $$\n", 143, ("exit code 143",), 2),
    "unknown program": Failure(FROM + 'RUN ["none"]\n', 127, ("hint: is the program in this",), 2),
    "no shell": Failure("FROM scratch\nRUN true\n", 127, ("exit code 127",), 2),
    "not a program": Failure(COPIES + 'RUN ["/a"]\n', 126, ("cannot be executed",), 3),
    "failing heredoc": Failure(FROM + "RUN <<EOF\nexit 3\nEOF\n", 3, (">>>    3 | exit 3",), 2),
    "missing source": Failure(
        FROM + "COPY hallo.txt /\n", 66, ("/hallo.txt does not exist", "did you mean /hello.txt?"), 2
    ),
    "ignored source": Failure(
        FROM + "COPY ignored.log /\n", 66, (".dockerignore excludes it (line 1: *.log)",), 2
    ),
    "missing source in a stage": Failure(
        FROM.replace("\n", " AS b\n") + "FROM scratch\nCOPY --from=b /bin/buzybox /\n",
        66,
        ("/bin/buzybox does not exist", "did you mean /bin/busybox?"),
        3,
    ),
    "unknown user": Failure(FROM + "USER none\nRUN true\n", 65, ("find user none",), 3),
    "unknown owner": Failure(FROM + "COPY --chown=none a /\n", 65, ("find user none",), 2),
    "upload refused": Failure(
        COPIES, 73, (f"cannot push to {HOST}/app", "413 too large"),
        faults=_always(Respond(413, b"too large"), "PUT", "/blobs/"),
    ),
    "upload that always fails": Failure(
        COPIES, 73, (f"cannot push to {HOST}/app", "500"),
        faults=_always(Respond(500), "PUT", "/blobs/"),
    ),
    "upload that always breaks off": Failure(
        COPIES, 73, (f"cannot push to {HOST}/app", "the connection broke"),
        faults=_always(DropUpload(0), "PUT", "/blobs/"),
    ),
    "no upload session": Failure(
        COPIES, 73, (f"cannot push to {HOST}/app", "405 UNSUPPORTED: read only"),
        faults=_always(
            Respond(405, b'{"errors":[{"code":"UNSUPPORTED","message":"read only"}]}'), "POST", ""
        ),
    ),
    "no such repository": Failure(
        COPIES, 73, (f"cannot push to {HOST}/app", "hint: is the name right?"),
        faults=_always(
            Respond(404, b'{"errors":[{"code":"NAME_UNKNOWN","message":"none"}]}'), "POST", "app"
        ),
    ),
    "manifest refused": Failure(
        COPIES, 73, (f"cannot push to {HOST}/app", "PUT", "/manifests/1: 500"),
        faults=_always(Respond(500), "PUT", "/manifests/"),
    ),
    "tag not permitted": Failure(
        COPIES, 73, ("not allowed: push app:1", "DENIED: protected"),
        faults=_always(
            Respond(403, b'{"errors":[{"code":"DENIED","message":"protected"}]}'), "PUT", "/manifests/"
        ),
    ),
}  # fmt: skip


def quick() -> RegistrySettings:
    """Settings of a client that gives up soon."""
    return RegistrySettings(policy=RetryPolicy(attempts=2, base=0.001))


def make_world(directory: Path, double: RegistryDouble | None = None) -> World:
    """A double with the busybox base, and a context."""
    world = World.below(directory, double)
    add_busybox(world.double)
    world.write(FILES)
    return world


def fail(world: World, dockerfile: str, recorder: Recorder | None = None) -> AsyncbuildError:
    """Build, see that it fails and that nothing is left, and return the error."""
    before, ledger = Belongings.now(), Ledger()
    request = world.request(dockerfile, "app:1", dockerfile_path=Path("Dockerfile"))

    async def main() -> None:
        await world.build(request, recorder=recorder, settings=quick(), ledger=ledger)

    with pytest.raises(AsyncbuildError) as caught:
        trio.run(main)
    assert Belongings.now().more_than(before) == []
    assert world.wrong() == []
    assert ledger.unsettled == []
    return caught.value


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_failure(failure: Failure, shm_path: Path) -> None:
    """Each failure has its exit code, names its place, and leaves nothing but what is complete."""
    world = make_world(shm_path)
    if failure.bad is not None:
        failure.bad(world.double)
    world.double.faults.add(*failure.faults)
    error = fail(world, failure.dockerfile)
    shown = error.render()
    assert [words for words in failure.texts if words not in shown] == [], shown
    assert error.exit_code == failure.code, shown
    if failure.line is None:
        assert error.location is None, shown
    else:
        assert shown.startswith(f"Dockerfile:{failure.line}:"), shown
    assert "app" not in world.double.manifests


@pytest.mark.parametrize("access", [BasicAccess({"u": "p"}), TokenAccess({"u": "p"}, ())])
def test_registry_that_wants_a_login(access: BasicAccess | TokenAccess, shm_path: Path) -> None:
    """Without a login: exit code 77, and how to log in."""
    error = fail(make_world(shm_path, RegistryDouble(access)), RUNS)
    assert isinstance(error, NotAuthorized)
    assert f"asyncbuild login {HOST}" in error.render()


class HoldBase(RegistryDouble):
    """A double that answers for the base's layer only after it has refused an upload."""

    def __init__(self) -> None:
        super().__init__(TokenAccess({"u": "p"}))
        self.refused = trio.Event()

    async def handle(self, asked: Asked, entry: LoggedRequest) -> Answered:
        """Answer one request."""
        if asked.path.endswith(BLOB):
            await self.refused.wait()
        answered = await super().handle(asked, entry)
        if asked.method == "POST" and answered.status == 401 and entry.authorization:
            self.refused.set()
        return answered


def test_no_right_to_push_ends_the_build_before_a_command_runs(shm_path: Path) -> None:
    """Who may pull and not push learns it while the base is on its way, whatever the base is."""
    recorder = Recorder()
    world = make_world(shm_path, HoldBase())
    error = fail(world, RUNS, recorder)
    assert error.exit_code == 77
    assert "does not let an anonymous user push" in error.render()
    assert [event for event in recorder.of(StepFinished) if event.outcome is Outcome.EXECUTED] == []
    assert recorder.output() == ""


def test_after_a_failed_push_the_same_command_only_pushes(shm_path: Path) -> None:
    """The hint of a `PushFailed` is true: what was executed is not executed again."""
    world = make_world(shm_path)
    world.double.faults.add(Rule(Respond(500), "PUT", "/manifests/", times=2))
    assert fail(world, FROM + "RUN echo hi > /hi\n").exit_code == 73
    result = world.run(FROM + "RUN echo hi > /hi\n", "app:1")
    assert result.statistics.steps_executed == 0
    assert result.statistics.steps_cached == 1
    assert "1" in world.double.tags["app"]


def test_a_layer_that_broke_off_once_is_taken_up_again(shm_path: Path) -> None:
    """What can be mended by asking again is: the rest of the blob is asked for."""
    world = make_world(shm_path)
    world.double.faults.add(Rule(Drop(1000), "GET", BLOB))
    request = world.request(RUNS, "app:1")

    async def main() -> None:
        await world.build(request, settings=quick())

    trio.run(main)
    asked = world.double.asked("GET", BLOB)
    assert [entry.headers.get("range") for entry in asked] == [
        None,
        f"bytes=1000-{len(LAYER.data) - 1}",
    ]


def test_a_stage_that_nobody_needs_does_not_fail(shm_path: Path) -> None:
    """Its base does not exist, and nobody asks for it."""
    world = make_world(shm_path)
    result = world.run(f"FROM {HOST}/none AS unused\nRUN false\n" + COPIES, "app:1")
    assert len(result.manifest.layers) == 2


def test_the_first_error_is_the_one_that_is_told(shm_path: Path) -> None:
    """Of two stages the one that fails first ends the other; its end is not told as a failure."""
    world = make_world(shm_path)
    dockerfile = (
        f"FROM {HOST}/base/busybox AS slow\nRUN sleep 1000\n"
        f"FROM {HOST}/base/busybox AS wrong\nRUN exit 9\n"
        "FROM scratch\nCOPY --from=slow /etc/passwd /a\nCOPY --from=wrong /etc/passwd /b\n"
    )
    error = fail(world, dockerfile)
    assert error.exit_code == 9
    assert error.location is not None
    assert error.location.line == 4


def test_what_is_remembered_of_a_registry_may_be_out_of_date(shm_path: Path) -> None:
    """Settings that outlive a build know that the host wanted a token; it no longer does."""
    settings = quick()
    world = make_world(shm_path, RegistryDouble(TokenAccess({"u": "p"}, ())))
    request = world.request(FROM + f"COPY --from={HOST}/base/busybox /bin/sh /x\n", "app:1")

    async def main() -> None:
        await world.build(request, settings=settings)

    with pytest.raises(NotAuthorized):
        trio.run(main)
    world.double.doorkeeper.access = OpenAccess()
    trio.run(main)
    assert "1" in world.double.tags["app"]


def test_settings_of_a_request_do_not_change(shm_path: Path) -> None:
    """A request is a value: a failed build can be asked for again with one field replaced."""
    world = make_world(shm_path)
    request = world.request(FROM + "ARG CODE=5\nRUN exit $CODE\n")
    with pytest.raises(AsyncbuildError):
        trio.run(world.build, request)
    trio.run(world.build, replace(request, build_args={"CODE": "0"}))
