"""Mounts in whole builds: what is kept between them, who waits for whom, and what is in a key."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from asyncbuild.build.run_options import RunOptions, Secret, SshSource
from asyncbuild.errors import DockerfileError, RunFailed
from asyncbuild.report.events import Event, Outcome, StepFinished, WarningRaised
from asyncbuild.rootfs import mounts as sandbox_mounts
from asyncbuild.store.cachemounts import CacheKey
from asyncbuild.store.store import Store
from support.builds import HOST, Recorder, World, add_busybox

pytestmark = pytest.mark.integration

BASE = f"FROM {HOST}/base/busybox\n"


@pytest.fixture
def world(shm_path: Path) -> World:
    """A world with the busybox base."""
    made = World.below(shm_path)
    add_busybox(made.double)
    return made


def build(world: World, dockerfile: str, **more: Any) -> Recorder:
    """Build and tell what happened."""
    recorder = Recorder()

    async def main() -> None:
        await world.build(world.request(dockerfile, "out:1", **more), recorder=recorder)

    trio.run(main)
    return recorder


def marks(recorder: Recorder) -> str:
    """``c`` for each cached RUN, ``x`` for each that was executed."""
    finished = [item for item in recorder.of(StepFinished) if item.step.text.startswith("RUN")]
    return "".join("c" if item.outcome is Outcome.CACHED else "x" for item in finished)


# --- caches -----------------------------------------------------------------------------------------


def test_a_cache_outlives_its_build(world: World) -> None:
    """The next build finds what the last one left; --no-cache is about results, not about caches."""
    line = "RUN --mount=type=cache,target=/c echo x >> /c/log; wc -l < /c/log\n"
    outputs = [build(world, BASE + line, use_cache=False).output() for _ in range(3)]
    assert outputs == ["1\n", "2\n", "3\n"]
    with Store.open(world.store) as store:
        (instance,) = store.cache_mounts.instances()
        assert (instance.id, instance.in_use) == ("//c", False)


def test_what_a_cache_holds_is_not_in_the_key(world: World) -> None:
    """A RUN with a cache that was executed is cached, whatever became of its cache."""
    dockerfile = BASE + "RUN --mount=type=cache,target=/c echo x >> /c/log; wc -l < /c/log > /out\n"
    assert marks(build(world, dockerfile)) == "x"
    build(world, BASE + "RUN --mount=type=cache,target=/c echo y >> /c/log\n")
    assert marks(build(world, dockerfile)) == "c"
    other = dockerfile.replace("type=cache", "type=cache,sharing=locked")
    assert marks(build(world, other)) == "x"


def test_a_namespace_keeps_caches_apart(world: World) -> None:
    """The build argument BUILDKIT_CACHE_MOUNT_NS, as BuildKit's frontend has it."""
    line = BASE + "RUN --mount=type=cache,target=/c ls -A /c; touch /c/x\n"
    build(world, line, use_cache=False)
    more: dict[str, Any] = {"build_args": {"BUILDKIT_CACHE_MOUNT_NS": "team"}, "use_cache": False}
    assert build(world, line, **more).output() == ""
    assert build(world, line, **more).output() == "x\n"


def test_a_seed_with_other_content_is_another_cache(world: World) -> None:
    """A cache from a stage follows what the stage was built to, not how or when."""

    def seeded(content: str, comment: str) -> str:
        dockerfile = (
            f"{BASE}RUN mkdir /s && echo {content} > /s/f # {comment}\n"
            f"{BASE}COPY --from=0 /etc/passwd /\n"
            "RUN --mount=type=cache,from=0,source=/s,target=/c cat /c/*; touch /c/mine\n"
        )
        return build(world, dockerfile, use_cache=False).output()

    assert seeded("one", "first") == "one\n"
    assert seeded("one", "second") == "one\n"
    assert seeded("two", "third") == "two\n"
    with Store.open(world.store) as store:
        assert len(list(store.cache_mounts.instances())) == 2


def test_a_locked_cache_is_waited_for(world: World) -> None:
    """Someone else has it: the build says so, waits, and goes on."""
    dockerfile = BASE + "RUN --mount=type=cache,id=l,target=/c,sharing=locked echo mine\n"
    with Store.open(world.store) as store:
        taken = store.cache_mounts.take_nowait(CacheKey("/l"), "locked")
        assert taken is not None
        give_back = taken.give_back

        class Patient(Recorder):
            def emit(self, event: Event) -> None:
                super().emit(event)
                if isinstance(event, WarningRaised):
                    assert self.output() == ""
                    give_back()

        recorder = Patient()
        trio.run(partial(world.build, world.request(dockerfile, "out:1"), recorder=recorder))
    assert [event.text for event in recorder.of(WarningRaised)] == [
        "waiting for the cache mount l, which another RUN uses"
    ]
    assert recorder.output() == "mine\n"


def test_caches_are_taken_in_one_order(world: World) -> None:
    """Two stages that name the same two caches the other way round do not wait in a ring."""
    one, two = (f"--mount=type=cache,id={name},target=/{name},sharing=locked" for name in "ab")
    stages = "".join(
        f"{BASE}RUN {first} {second} sleep 0.05 && touch /done\n"
        for first, second in [(one, two), (two, one)] * 3
    )
    copies = "".join(f"COPY --from={number} /done /{number}\n" for number in range(6))
    assert marks(build(world, f"{stages}FROM scratch\n{copies}")) == "xxxxxx"


def test_a_cache_survives_a_kill(world: World) -> None:
    """The builder dies by SIGKILL in the middle of a RUN: the lock is gone, what was written is there."""
    (world.context / "Dockerfile").write_text(
        "FROM scratch\nCOPY busybox /bin/sh\nCOPY busybox /bin/cat\n"
        "RUN --mount=type=cache,id=k,target=/c,sharing=locked echo kept > /c/f; echo ready; cat /c/fifo\n"
    )
    (world.context / "busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (world.context / "busybox").chmod(0o755)
    with Store.open(world.store) as store:
        taken = store.cache_mounts.take_nowait(CacheKey("/k"), "locked")
        assert taken is not None
        os.mkfifo(taken.path / "fifo")
        taken.give_back()
        command = [sys.executable, "-m", "asyncbuild", "build", "--progress", "plain"]
        command += ["--store", str(world.store), "-o", "type=image", str(world.context)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as builder:
            assert builder.stderr is not None
            assert any("| ready" in line for line in builder.stderr)
            assert store.cache_mounts.take_nowait(CacheKey("/k"), "locked") is None
            builder.send_signal(signal.SIGKILL)
            builder.wait()
        again = store.cache_mounts.take_nowait(CacheKey("/k"), "locked")
        assert again is not None
        assert (again.path / "f").read_text() == "kept\n"
        again.give_back()


# --- binds --------------------------------------------------------------------------------------------


def test_what_a_bind_shows_is_in_the_key(world: World) -> None:
    """A change of a file that is mounted, and of no other, executes the RUN anew."""
    world.write({"in/a": "1", "out": "1", ".dockerignore": "in/ignored\n", "in/ignored": "1"})
    dockerfile = BASE + "RUN --mount=source=in,target=/x cat /x/a\n"
    assert marks(build(world, dockerfile)) == "x"
    world.write({"out": "2", "in/ignored": "2"})
    assert marks(build(world, dockerfile)) == "c"
    world.write({"in/a": "2"})
    assert marks(build(world, dockerfile)) == "x"
    (world.context / "in/a").chmod(0o600)
    assert marks(build(world, dockerfile)) == "x"


def test_what_a_bind_of_a_stage_shows_is_in_the_key(world: World) -> None:
    """The stage's key stands for its files."""

    def dockerfile(text: str) -> str:
        return f"{BASE}RUN echo {text} > /f\n{BASE}RUN --mount=from=0,target=/x cat /x/f\n"

    assert marks(build(world, dockerfile("one"))) == "xx"
    assert "x" not in marks(build(world, dockerfile("one")))
    assert marks(build(world, dockerfile("two"))) == "xx"


def test_a_context_is_not_copied(world: World, shm_path: Path) -> None:
    """What is shown as it stands on disk takes no space, whoever owns it; a part of it does."""
    big = world.context / "big"
    big.mkdir()
    (big / "data").write_bytes(bytes(8 << 20))
    line = BASE + "RUN --mount=source=big,target=/x du -sk /x | cut -f 1\n"
    script = "find {} -name data -size +1M"

    def copies(dockerfile: str, **files: str) -> list[str]:
        world.write(files)
        seen: list[str] = []

        class Watching(Recorder):
            def emit(self, event: object) -> None:
                found = subprocess.run(
                    script.format(shm_path / "store"), shell=True, capture_output=True, check=False
                )
                seen.extend(found.stdout.decode().split())

        async def main() -> None:
            request = world.request(dockerfile, "out:1", use_cache=False)
            await world.build(request, recorder=Watching())

        trio.run(main)
        return seen

    assert copies(line) == []
    for path in (big, big / "data"):
        os.chown(path, 1000, 1000)
    assert copies(line) == []
    assert copies(line, **{".dockerignore": "big/other\n", "big/other": ""}) != []


def test_where_owners_cannot_be_mapped_a_copy_is_made(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel or file system without idmapped mounts: the result is the same."""
    world.write({"sub/a": "a\n"})
    for path in (world.context / "sub", world.context / "sub/a"):
        os.chown(path, 1000, 1000)
    source = Path(sandbox_mounts.__file__)
    broken = world.context.parent / "broken"
    # the sandbox is a process of its own: it gets a package in which the mapping fails
    package = broken / "asyncbuild"
    package.mkdir(parents=True)
    for name in source.parent.parent.iterdir():
        if name.name != "rootfs":
            (package / name.name).symlink_to(name)
    (package / "rootfs").mkdir()
    for name in source.parent.glob("*.py"):
        text = name.read_text()
        if name == source:
            text = text.replace(
                "        namespace = os.open(",
                "        raise OSError(22, 'no')\n        namespace = os.open(",
            )
        (package / "rootfs" / name.name).write_text(text)
    monkeypatch.setattr("asyncbuild.rootfs.init.__file__", str(package / "rootfs/init.py"))
    line = (
        BASE
        + "RUN --mount=source=sub,target=/x stat -c %u:%g /x /x/a && cat /x/a && ! touch /x/b\n"
    )
    assert build(world, line).output().startswith("0:0\n0:0\na\n")


# --- secrets and agents --------------------------------------------------------------------------------


def options(**secrets: str) -> Mapping[str, Any]:
    """A build's secrets."""
    return {"run": RunOptions({name: Secret(text.encode()) for name, text in secrets.items()})}


def test_the_value_of_a_secret_is_not_in_the_key(world: World) -> None:
    """Another value, or none, does not execute a RUN anew; another id does."""
    dockerfile = BASE + "RUN --mount=type=secret,id=a,env=A echo ${#A} > /out\n"
    assert marks(build(world, dockerfile, **options(a="one"))) == "x"
    assert marks(build(world, dockerfile, **options(a="another"))) == "c"
    assert marks(build(world, dockerfile)) == "c"
    assert marks(build(world, dockerfile.replace("id=a", "id=b"), **options(b="one"))) == "x"


def test_a_secret_that_no_variable_can_hold(world: World) -> None:
    """A zero byte ends a variable: refused by name, and the value is not shown."""
    dockerfile = BASE + "RUN --mount=type=secret,id=a,env=A true\n"
    with pytest.raises(Exception, match="the secret a has a zero byte"):
        build(world, dockerfile, **options(a="x\0y"))


def test_an_agent_is_forwarded(world: World, shm_path: Path) -> None:
    """A RUN lists and uses the keys of --ssh, as the user to whom the mount gives the socket."""
    key = shm_path / "key"
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "for tests", "-f", str(key)]
    subprocess.run(command, check=True)
    copy_program(Path("/usr/bin/ssh-add"), world.context)
    dockerfile = (
        f"{BASE}COPY / /\nUSER app\n"
        "RUN --mount=type=ssh,mode=0600,uid=1000 stat -c '%u %a' $SSH_AUTH_SOCK; ssh-add -l;"
        " ssh-add -T /key.pub && echo signed; ssh-add -D 2>&1; ssh-add -l | wc -l\n"
        "RUN ssh-add -l 2>&1; ls /run/buildkit 2>&1 || true\n"
    )
    (world.context / "key.pub").write_text(key.with_suffix(".pub").read_text())
    run = RunOptions(ssh={"default": SshSource(keys=(key,))})
    lines = build(world, dockerfile, run=run).output().splitlines()
    assert lines[0] == "1000 600"
    assert "for tests" in lines[1]
    assert lines[2:5] == ["signed", "Failed to remove all identities.", "1"]
    assert lines[5].startswith("Could not open a connection")
    assert "No such file" in lines[6]


def copy_program(program: Path, directory: Path) -> None:
    """A program of this machine, with its libraries, at the same places below ``directory``."""
    listing = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    for name in [str(program), *re.findall(r"/\S+", listing)]:
        target = directory / name.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(name, target)


# --- limits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", ["", "runc", "crun"])
def test_memory(world: World, runtime: str) -> None:
    """A RUN that wants more than it may have is killed, and the error says why."""
    run = RunOptions(memory=96 << 20, oci_runtime=runtime)
    line = BASE + "RUN dd if=/dev/zero of=/dev/null bs=300M count=1\n"
    with pytest.raises(RunFailed) as caught:
        build(world, line, run=run)
    assert caught.value.exit_code == 137
    assert "--memory" in str(caught.value.hint)


@pytest.mark.parametrize("runtime", ["", "runc", "crun"])
def test_cpus(world: World, runtime: str) -> None:
    """A RUN sees its share in its own control group."""
    run = RunOptions(cpus=0.5, oci_runtime=runtime)
    recorder = build(world, BASE + "RUN cat /proc/self/cgroup\n", run=run)
    assert "/asyncbuild-" in recorder.output()
    assert recorder.of(WarningRaised) == []


def test_a_place_without_control_groups(
    world: World, shm_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limits have no effect, and that is said once, whatever the number of RUNs."""
    for name in ("mountinfo", "cgroup"):
        (shm_path / name).write_text("")
    monkeypatch.setattr("asyncbuild.rootfs.cgroups.PROC", shm_path)
    run = RunOptions(memory=24 << 20, cpus=1)
    recorder = build(world, BASE + "RUN echo one\nRUN echo two\n", run=run)
    assert recorder.output() == "one\ntwo\n"
    (warning,) = recorder.of(WarningRaised)
    assert warning.text.startswith("--memory and --cpus have no effect here: no control group")


def test_nothing_is_left_when_a_mount_is_refused(world: World) -> None:
    """A mount that cannot be made ends the build with the Dockerfile's line, and frees what was taken."""
    dockerfile = (
        f"{BASE}RUN --mount=type=cache,id=a,target=/c,sharing=locked"
        " --mount=type=cache,id=b,source=no,target=/d true\n"
    )
    with pytest.raises(DockerfileError) as caught:
        build(world, dockerfile)
    assert caught.value.location is not None
    assert caught.value.location.line == 2
    with Store.open(world.store) as store:
        assert [item.in_use for item in store.cache_mounts.instances()] == [False, False]
    assert world.wrong() == []
