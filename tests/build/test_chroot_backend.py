"""RUN by chroot: what survives a cancellation, what is refused, what a failing command is told."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

import pytest
import trio

from asyncbuild.build.run_options import RunOptions
from asyncbuild.errors import IsolationError, RunFailed
from asyncbuild.report.events import Event, RunOutput
from asyncbuild.rootfs.isolation import Isolation
from support.builds import Recorder, World, add_busybox, descendants
from support.isolated import POD, Recipe, build_isolated

FROM = "FROM registry.example/base/busybox\n"
CHROOT = RunOptions(isolation=Isolation.CHROOT)


@pytest.fixture
def world(shm_path: Path) -> World:
    """A world with a base."""
    world = World.below(shm_path)
    add_busybox(world.double)
    return world


class Cancelling(Recorder):
    """Cancels a scope when a RUN prints something."""

    def __init__(self, scope: trio.CancelScope) -> None:
        super().__init__()
        self._scope = scope

    def emit(self, event: Event) -> None:
        """Keep it."""
        super().emit(event)
        if isinstance(event, RunOutput):
            self._scope.cancel()


async def cancelled(world: World, dockerfile: str) -> None:
    """Build until the command says something."""
    with trio.CancelScope() as scope:
        await world.build(world.request(dockerfile, "app", run=CHROOT), recorder=Cancelling(scope))
    assert scope.cancelled_caught


def test_a_cancelled_run_gives_its_cache_back(world: World) -> None:
    """It was moved into the root; nothing is left running, and the next build finds it."""
    mount = "RUN --mount=type=cache,id=c,target=/c"
    before = descendants(1)
    script = "(setsid sleep 1000 &); echo kept > /c/x; echo started; sleep 1000"
    trio.run(cancelled, world, f"{FROM}{mount} {script}\n")
    assert [name for name in descendants(1) if "sleep 1000" in name and name not in before] == []
    recorder = Recorder()
    request = world.request(f"{FROM}{mount} cat /c/x\n", "app", run=CHROOT)
    trio.run(partial(world.build, request, recorder=recorder))
    assert recorder.output() == "kept\n"
    assert world.wrong() == []


def test_a_cache_that_was_lost_is_new(world: World) -> None:
    """A RUN that was killed with SIGKILL took it along."""
    dockerfile = FROM + "RUN --mount=type=cache,id=c,target=/c ls -la /c | wc -l; echo x > /c/x\n"
    world.run(dockerfile, "app", run=CHROOT)
    (kept,) = world.store.glob("cache-mounts/*/*/fs")
    (kept / "x").unlink()
    kept.rmdir()
    world.run(dockerfile, "app", run=CHROOT, use_cache=False)
    assert (kept / "x").read_text() == "x\n"


def test_stages_that_share_a_cache_wait_for_each_other(world: World) -> None:
    """It can be in one place at a time."""
    run = "RUN --mount=type=cache,id=c,target=/c echo {0} >> /c/all && cp /c/all /{0}\n"
    both = "COPY --from=a /a /\nCOPY --from=b /b /\n"
    text = f"{FROM[:-1]} AS a\n{run.format('a')}{FROM[:-1]} AS b\n{run.format('b')}FROM scratch\n{both}"
    world.run(text, "app", run=CHROOT)
    (kept,) = world.store.glob("cache-mounts/*/*/fs")
    assert sorted((kept / "all").read_text().split()) == ["a", "b"]


@pytest.mark.parametrize(
    ("dockerfile", "allow", "words"),
    [
        ("RUN --security=insecure true\n", frozenset({"security.insecure"}), "CAP_SYS_ADMIN"),
    ],
)
def test_what_cannot_be_had_is_refused(
    dockerfile: str, allow: frozenset[str], words: str, world: World
) -> None:
    """By name and line."""
    options = RunOptions(isolation=Isolation.CHROOT, allow=allow)
    with pytest.raises(IsolationError, match=words) as caught:
        world.run(FROM + dockerfile, "app", run=options)
    assert caught.value.location is not None
    assert caught.value.location.line == 2


def test_no_network_needs_a_namespace() -> None:
    """With a pod's capabilities there is none."""
    found = build_isolated(
        Isolation.CHROOT, {"none": Recipe(f"{FROM}RUN --network=none true\n", {})}, POD
    )
    assert "--network=none" in found["none"].error
    assert "not permitted" in found["none"].error


def test_a_failing_command_is_told_what_it_lacks(world: World) -> None:
    """There is no /proc."""
    with pytest.raises(RunFailed) as caught:
        world.run(f"{FROM}RUN cat /proc/self/status\n", "app", run=CHROOT)
    assert "no /proc" in (caught.value.hint or "")


def test_capabilities_are_dockers(world: World) -> None:
    """However much more the builder has: a RUN may change roots, owners and users, and mount nothing."""
    may = "chroot / true && chown 5:6 /made && mknod /n c 1 3"
    must_not = "mount -t tmpfs x /tmp || hostname other || ip link set lo down || date -s 0"
    recorder = Recorder()
    script = f"RUN touch /made; {may} && echo may; {must_not} || echo must not\n"
    request = world.request(f"{FROM}{script}", "app", run=CHROOT)
    trio.run(partial(world.build, request, recorder=recorder))
    assert [line for line in recorder.output().splitlines() if line.endswith(("may", "not"))] == [
        "may", "must not"
    ]  # fmt: skip


OVERRIDE = bytes.fromhex("0100000202000000000000000000000000000000")
"""An effective CAP_DAC_OVERRIDE, as struct vfs_cap_data."""


@pytest.mark.parametrize("isolation", [Isolation.OVERLAY, Isolation.CHROOT])
def test_new_privileges_can_be_forbidden(isolation: Isolation, world: World) -> None:
    """A program with a capability of its own reads what its caller may not, unless that is forbidden."""
    shutil.copyfile(shutil.which("busybox") or "/bin/busybox", world.context / "cat")
    (world.context / "cat").chmod(0o755)
    os.setxattr(world.context / "cat", "security.capability", OVERRIDE)
    secret = "RUN echo hidden > /secret && chmod 600 /secret\n"
    text = f"{FROM}COPY cat /cat\n{secret}USER 1000\nRUN /cat /secret 2>/dev/null || echo refused\n"
    for forbidden, said in ((False, "hidden\n"), (True, "refused\n")):
        options = RunOptions(isolation=isolation, no_new_privileges=forbidden)
        recorder = Recorder()
        request = world.request(text, "app", run=options, use_cache=False)
        trio.run(partial(world.build, request, recorder=recorder))
        assert recorder.output().endswith(said)
        assert ("hidden" in recorder.output()) is not forbidden
