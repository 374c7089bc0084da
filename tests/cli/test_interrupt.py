"""Signals: a build that is interrupted, terminated or killed leaves nothing that runs, and a store to go on with."""

from __future__ import annotations

import os
import signal
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from asyncbuild.testing.faults import Hang, Rule
from asyncbuild.testing.registry_server import serving
from support.builds import Belongings, GatedDouble, add_busybox, ended, store_faults, watching
from support.commands import COMMAND, asyncbuild, context, environment, told
from support.isolated import POD
from support.registry import DockerRegistry

pytestmark = pytest.mark.integration

PATIENCE = 60.0
"""Seconds after which a build that does not end fails its test."""


@contextmanager
def building(
    directory: Path, *words: str, before: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """A build in a process group of its own, as a shell starts one; killed in the end if it still runs.

    ``before`` are words that run it.
    """
    command = [
        *before,
        *COMMAND,
        "build",
        "--store",
        "store",
        "--progress",
        "plain",
        *words,
        "context",
    ]
    child = subprocess.Popen(
        command,
        cwd=directory,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,
    )
    with child:
        try:
            yield child
        finally:
            child.kill()


def wait_for_line(child: subprocess.Popen[bytes], text: bytes) -> None:
    """Read what a build says until ``text`` is in a line."""
    assert child.stderr is not None
    said = []
    for line in child.stderr:
        said.append(line)
        if text in line:
            return
    raise AssertionError(b"".join(said).decode())


SLEEPS = """\
FROM {base}
RUN echo made > /made
RUN (setsid sleep 1000 &); (trap '' TERM INT; sleep 1000) & echo rea''dy; sleep 1000
"""
"""The word that the test waits for is not in the instruction itself."""


RIGHTS = pytest.mark.parametrize("before", [(), POD], ids=["overlay", "chroot"])
"""As root, and with the capabilities of a pod: then RUN is executed by chroot."""


WAYS = {(): (), POD: ("--isolation", "chroot")}


@RIGHTS
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
def test_interrupted_in_the_middle_of_a_command(
    *,
    number: signal.Signals,
    code: int,
    before: tuple[str, ...],
    shm_path: Path,
    registry: DockerRegistry,
    busybox_base: str,
) -> None:
    """The command and all that it started are gone, nothing is pushed, and the text is one line."""
    mine = Belongings.now()
    context(shm_path, SLEEPS.format(base=busybox_base))
    words = ("-t", f"{registry.host}/interrupted/app:{code}", *WAYS[before])
    with building(shm_path, *words, before=before) as child:
        wait_for_line(child, b"ready")
        with watching(child.pid) as handles:
            assert len(handles) > 3
            os.killpg(child.pid, number)  # as a terminal does: to the builder's whole group
            _, said = child.communicate(timeout=PATIENCE)
            assert ended(handles)
    assert child.returncode == code
    assert said.decode().rstrip().endswith(f"asyncbuild: interrupted by {number.name}")
    assert b"Traceback" not in said
    assert Belongings.now().more_than(mine) == []
    assert store_faults(shm_path / "store") == []
    assert registry.call("GET", "/v2/interrupted/app/tags/list")[0] == 404


def test_the_terminal_is_as_it_was(shm_path: Path, busybox_base: str) -> None:
    """Ctrl-C in the live view: the cursor is shown, and no setting is another."""
    context(shm_path, SLEEPS.format(base=busybox_base))
    controller, terminal = os.openpty()
    before = termios.tcgetattr(terminal)
    command = [*COMMAND, "build", "--store", "store", "--progress", "tty", "context"]
    with subprocess.Popen(
        command,
        cwd=shm_path,
        env=environment(TERM="xterm"),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        process_group=0,
    ) as child:
        shown = b""
        while b"ready" not in shown:
            shown += os.read(controller, 65536)
        os.killpg(child.pid, signal.SIGINT)
        while b"interrupted by SIGINT" not in shown:
            shown += os.read(controller, 65536)
        assert child.wait(PATIENCE) == 130
    assert termios.tcgetattr(terminal) == before
    assert shown.rfind(b"\x1b[?25h") > shown.rfind(b"\x1b[?25l") > 0
    os.close(controller)
    os.close(terminal)


def test_what_was_executed_before_an_interruption_is_kept(
    shm_path: Path, busybox_base: str
) -> None:
    """The next build begins behind it."""
    path = context(shm_path, SLEEPS.format(base=busybox_base))
    with building(shm_path) as child:
        wait_for_line(child, b"ready")
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=PATIENCE)
    (path / "Dockerfile").write_text(f"FROM {busybox_base}\nRUN echo made > /made\nRUN cat /made\n")
    done = asyncbuild("build", "--store", shm_path / "store", "--progress", "plain", path)
    assert done.returncode == 0, told(done)
    assert b"RUN echo made > /made (cached)" in done.stderr, told(done)


@RIGHTS
def test_killed_in_the_middle_of_a_command(
    before: tuple[str, ...], shm_path: Path, busybox_base: str
) -> None:
    """SIGKILL: the rest ends too, no mount is left, and the next build clears up."""
    mine = Belongings.now()
    path = context(shm_path, SLEEPS.format(base=busybox_base))
    with building(shm_path, *WAYS[before], before=before) as child:
        wait_for_line(child, b"ready")
        with watching(child.pid) as handles:
            child.kill()
            child.wait()
            assert ended(handles, PATIENCE)
    assert Belongings.now().more_than(mine) == []
    (path / "Dockerfile").write_text(f"FROM {busybox_base}\nRUN echo made > /made\nRUN cat /made\n")
    done = asyncbuild("build", "--store", shm_path / "store", path)
    assert done.returncode == 0, told(done)
    assert store_faults(shm_path / "store") == []
    assert list((shm_path / "store/tmp").iterdir()) == []


async def _stop_in_the_middle(
    directory: Path, number: signal.Signals, rule: Rule, held: str
) -> int:
    """Build against a double that hangs by ``rule``, stop it there, build again; the first one's code."""
    double = GatedDouble()
    add_busybox(double)
    double.faults.add(rule)
    async with serving(double) as host:
        path = context(directory, f"FROM {host}/base/busybox\nRUN echo hi > /hi\n")
        words = ("build", "--store", str(directory / "store"), "-t", f"{host}/app:1", str(path))
        with trio.fail_after(PATIENCE):
            child = await trio.lowlevel.open_process(
                [*COMMAND, *words], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            )
            await double.wait(lambda: any(entry.status for entry in double.asked(*held.split())))
            with watching(child.pid) as handles:
                child.send_signal(number)
                code = await child.wait()
                assert await trio.to_thread.run_sync(ended, handles, PATIENCE)
            assert "app" not in double.tags
            wrong = store_faults(directory / "store")
            assert [text for text in wrong if "work place" not in text] == []
            again = await trio.run_process(
                [*COMMAND, *words], capture_stderr=True, capture_stdout=True, check=False
            )
        assert again.returncode == 0, again.stderr.decode()
        assert "1" in double.tags["app"]
    assert store_faults(directory / "store") == []
    return code


IN_A_PULL = (Rule(Hang(100_000), "GET", "/blobs/sha256:ed"), "GET /blobs/sha256:ed")
IN_A_PUSH = (Rule(Hang(), "PUT", "/v2/app/manifests/"), "PUT /v2/app/manifests/")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["SIGINT", "SIGKILL"])
@pytest.mark.parametrize("place", [IN_A_PULL, IN_A_PUSH], ids=["pull", "push"])
def test_stopped_in_the_middle_of_a_transfer(
    number: signal.Signals, place: tuple[Rule, str], shm_path: Path
) -> None:
    """A registry that hangs holds no one up, half a blob is nowhere, and the next build does it all."""
    before = Belongings.now()
    code = trio.run(_stop_in_the_middle, shm_path, number, *place)
    assert code == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    assert Belongings.now().more_than(before) == []
