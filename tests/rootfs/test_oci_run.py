"""RUN by an OCI runtime: what is different from our own sandbox, and what is left. The rest, which is the same, is
in the tests of the sandbox, its mounts and furniture.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from asyncbuild.errors import IsolationError
from asyncbuild.rootfs import sandbox
from support.roots import Roots, assert_all_end, descendants

pytestmark = pytest.mark.integration

CONTAINER = "asyncbuild-run"
"""What the runtimes call it."""
SOURCE = Path(sandbox.__file__).parents[2]


@pytest.mark.parametrize("roots", ["runc", "crun"], indirect=True)
def test_what_is_no_utf8_is_refused(roots: Roots) -> None:
    """A bundle is JSON: a variable that it cannot hold is named."""
    environment = {"PATH": "/bin", "RAW": os.fsdecode(b"\xff"), "FINE": "\u00dc a\n"}
    with pytest.raises(IsolationError, match=r"config\.json failed: .*RAW"):
        roots.run("env", environment=environment)
    del environment["RAW"]
    assert "FINE=\u00dc a\n" in roots.run("env", environment=environment).stdout


@pytest.mark.parametrize("roots", ["runc", "crun"], indirect=True)
def test_nothing_is_left(roots: Roots) -> None:
    """Neither in the runtimes' usual places, nor a control group, nor a file beside the layer, nor a process:
    after a RUN, and after one that was cancelled.
    """
    assert roots.shell("(setsid sleep 1000 &); true").code == 0
    spec = roots.spec("sh", "-c", "echo; sleep 1000")

    async def cancelled() -> None:
        with trio.CancelScope() as scope:
            await roots.execute(spec, lambda *_: scope.cancel())

    trio.run(cancelled)
    places = [Path("/run/runc"), Path("/run/crun"), Path("/sys/fs/cgroup")]
    assert [path for place in places for path in place.glob(f"**/{CONTAINER}")] == []
    assert roots.left() == set()
    assert sorted(os.listdir(spec.work)) == ["overlay", "stage", "stub"]
    assert os.listdir(spec.work / "stage") == []


BUILDER = """
import os, sys, trio
from pathlib import Path
from asyncbuild.rootfs.runspec import RunSpec
from asyncbuild.rootfs.sandbox import RuntimePlace, run_sandboxed
base, *command = sys.argv[1:]
run = Path(base, "killed")
for name in ("upper", "work"):
    (run / name).mkdir(parents=True)
script = "sleep 1000 & trap '' TERM HUP INT; echo started; sleep 1000"
spec = RunSpec(("sh", "-c", script), run / "upper", run / "work", (Path(base, "layers/busybox"),),
               {"PATH": "/bin"})
place = RuntimePlace(tuple(map(os.fsencode, command)))
show = lambda _, data: print(data.decode(), flush=True)
trio.run(lambda: run_sandboxed(spec, show, place=place))
"""


@pytest.mark.parametrize("victim", ["builder", "builder and helper"])
@pytest.mark.parametrize("roots", ["runc", "crun"], indirect=True)
def test_killed_builder(roots: Roots, victim: str) -> None:
    """SIGKILL of the builder, and of its helper with it: no process, no mount, no state is left."""
    assert roots.place is not None
    builder = subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(roots.path), *map(os.fsdecode, roots.place.command)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )
    with builder:
        assert builder.stdout is not None
        try:
            line = builder.stdout.readline()
            family = descendants(builder.pid)
            own = os.readlink("/proc/self/ns/pid")
            helpers = [pid for pid in family if pid_namespace(pid) == own]
            if victim != "builder":
                os.kill(helpers[0], signal.SIGKILL)
        finally:
            builder.kill()
    assert line == b"started\n"
    assert len(helpers) == 1
    assert len(family) >= 4  # helper, init, shell and a sleep at least
    assert_all_end(family)
    assert str(roots.path / "killed") not in Path("/proc/self/mountinfo").read_text()
    assert os.listdir(roots.path / "killed/work/stage") == []


def pid_namespace(pid: int) -> str:
    """Of a process; nothing for one that has ended."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except FileNotFoundError:
        return ""


WITHOUT_PTRACE = """
import os, platform, struct, sys, trio
from pathlib import Path
from asyncbuild.rootfs import syscalls
from asyncbuild.rootfs.sandbox import RuntimePlace
from support.roots import Roots
number = {"x86_64": 101, "aarch64": 117}[platform.machine()]
lines = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (6, 0, 0, 0x50001), (6, 0, 0, 0x7FFF0000)]
syscalls.filter_system_calls(b"".join(struct.pack("=HBBI", *line) for line in lines))
roots = Roots(Path(sys.argv[1]), RuntimePlace(tuple(map(os.fsencode, sys.argv[2:]))))
ran = roots.shell("pwd; exit 7", working_directory="/made/here", uid=5)
print(ran.code, ran.stdout.strip(), os.stat(ran.upper / "made/here").st_uid, flush=True)
roots.run("nothing")
"""


@pytest.mark.parametrize("roots", ["runc", "crun"], indirect=True)
def test_where_ptrace_is_forbidden(roots: Roots, shm_path: Path) -> None:
    """Everything works but one thing: a program that is not there is told in the runtime's words."""
    assert roots.place is not None
    (shm_path / "other").mkdir()
    words = [str(shm_path / "other"), *map(os.fsdecode, roots.place.command)]
    paths = os.pathsep.join([str(SOURCE), str(Path(__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PTRACE, *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.stdout == "7 /made/here 5\n"
    assert "IsolationError: RUN's sandbox: OCI runtime " in done.stderr
    assert "executable file" in done.stderr
