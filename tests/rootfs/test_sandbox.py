"""RUN in real namespaces: what a command is given, and that nothing survives it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from asyncbuild.errors import IsolationError
from asyncbuild.rootfs import sandbox
from asyncbuild.rootfs.runspec import BindMount, Ulimit
from asyncbuild.rootfs.sandbox import run_sandboxed, start_helper
from support.roots import Roots, assert_all_end, descendants, run_to_end

pytestmark = pytest.mark.integration

SOURCE = Path(sandbox.__file__).parents[2]
OWN = pytest.mark.parametrize("roots", ["own"], indirect=True)
"""What is true of our own sandbox alone."""
STRAYS = "(setsid sleep 1000 &) ; sleep 1000 & trap '' TERM HUP INT; echo started; "


# --- what the command is given -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "code"),
    [("true", 0), ("exit 3", 3), ("exit 255", 255), ("kill -9 $$", 137), ("kill -TERM $$", 143)],
)
def test_exit_codes(roots: Roots, script: str, code: int) -> None:
    """The command's own code, and 128 + n for signal n."""
    assert roots.shell(script).code == code


def test_streams_are_apart(roots: Roots) -> None:
    """Output and errors come separately; there is nothing to read."""
    ran = roots.shell("echo out; echo err >&2; echo more; cat")
    assert (ran.stdout, ran.stderr) == ("out\nmore\n", "err\n")


@OWN
def test_environment_is_exact(roots: Roots) -> None:
    """The command gets what it is given and nothing of the builder's, odd bytes included."""
    environment = {"A": "1", "EMPTY": "", "Ü": "a b\n=c", "RAW": os.fsdecode(b"\xff")}
    output = bytearray()
    spec = roots.spec("/bin/cat", "/proc/self/environ", environment=environment)
    trio.run(roots.execute, spec, lambda _, data: output.extend(data))
    assert bytes(output) == "A=1\0EMPTY=\0Ü=a b\n=c\0RAW=".encode() + b"\xff\0"


def test_arguments_are_exact(roots: Roots) -> None:
    """Arguments come as they are: empty, with blanks, newlines and quotes."""
    ran = roots.run("sh", "-c", 'for word; do echo "<$word>"; done', "sh", "", "a b", "'\"$x\n")
    assert ran.stdout == "<>\n<a b>\n<'\"$x\n>\n"


def test_working_directory(roots: Roots) -> None:
    """The command starts where it is told; links on the way are the image's."""
    base = roots.layer("base")
    (base / "real/deep").mkdir(parents=True)
    (base / "link").symlink_to("/real")
    ran = roots.shell("pwd -P", above=(base,), working_directory="/link/deep/")
    assert (ran.stdout, ran.changes) == ("/real/deep\n", {})


def test_missing_working_directory_is_made(roots: Roots) -> None:
    """An earlier RUN may have removed it: then it is made again, for the user (as in BuildKit)."""
    ran = roots.shell("pwd", working_directory="/a/b", uid=7, gid=8)
    assert (ran.stdout, ran.changes) == ("/a/b\n", {"a": "dir", "a/b": "dir"})
    status = (ran.upper / "a/b").stat()
    assert (status.st_mode & 0o777, status.st_uid, status.st_gid) == (0o755, 7, 8)


def test_working_directory_that_is_none(roots: Roots) -> None:
    """A file cannot be worked in: an error that says so."""
    with pytest.raises(
        IsolationError, match="entering the working directory failed: Not a directory"
    ):
        roots.shell("pwd", working_directory="/bin/busybox")


@OWN
@pytest.mark.parametrize("fields", [{"working_directory": "a"}, {"argv": ()}, {"argv": ("",)}])
def test_impossible_specs(roots: Roots, fields: dict[str, object]) -> None:
    """A spec without a program, or with a relative directory, cannot be made."""
    argv = fields.pop("argv", ("true",))
    assert isinstance(argv, tuple)
    with pytest.raises(ValueError, match=r"needs a program|not absolute"):
        roots.spec(*argv, **fields)


def test_user_and_groups(roots: Roots) -> None:
    """User, group and exactly the supplementary groups given; such a user has no capabilities."""
    ran = roots.shell("id -u; id -g; id -G; grep CapEff /proc/self/status; touch /x",
                      uid=1000, gid=100, groups=(100, 29))  # fmt: skip
    assert ran.stdout == "1000\n100\n100 29\nCapEff:\t0000000000000000\n"
    assert "Permission denied" in ran.stderr


def test_capabilities_are_dockers(roots: Roots) -> None:
    """Root has docker's default set, bounded, and nothing to inherit."""
    ran = roots.shell("grep Cap /proc/self/status")
    caps = dict(line.split(":\t") for line in ran.stdout.splitlines())
    nothing, default = "0" * 16, "00000000a80425fb"
    assert caps == {"CapInh": nothing, "CapPrm": default, "CapEff": default, "CapBnd": default,
                    "CapAmb": nothing}  # fmt: skip


@pytest.mark.parametrize("uid", [0, 1000])
def test_a_privileged_run_has_every_capability(roots: Roots, uid: int) -> None:
    """--security=insecure, as BuildKit's: all that the builder has, ambient too, whoever the user is."""
    mine = Path("/proc/self/status").read_text()
    permitted = next(line for line in mine.splitlines() if line.startswith("CapPrm"))
    ran = roots.shell("grep Cap /proc/self/status", uid=uid, privileged=True)
    assert {line.split(":\t")[1] for line in ran.stdout.splitlines()} == {permitted.split(":\t")[1]}


def test_a_privileged_run_has_devices_and_nothing_masked(roots: Roots) -> None:
    """Loop devices can be opened, /proc and /sys written, cgroups seen."""
    script = """
        head -c 0 /dev/loop-control; ls -d /dev/fuse /dev/kvm /dev/net/tun /dev/loop0
        mknod /null c 1 3; echo > /null; grep -c ' /proc/[a-z]' /proc/mounts; ls -d /sys/fs/cgroup/*
        grep ' /sys ' /proc/mounts | cut -d ' ' -f 4 | cut -c 1-2
    """
    ran = roots.shell(script, privileged=True)
    assert ran.stdout.startswith(
        "/dev/fuse\n/dev/kvm\n/dev/loop0\n/dev/net/tun\n0\n/sys/fs/cgroup/"
    )
    assert ran.stdout.endswith("\nrw\n")
    assert "/null" not in ran.stderr


def test_limits(roots: Roots) -> None:
    """Resource limits, soft and hard, and the size of /dev/shm."""
    limits = (Ulimit("nofile", 77, 99), Ulimit("core", 0, 0), Ulimit("rttime", -1, -1))
    script = "ulimit -Sn; ulimit -Hn; ulimit -c; grep /dev/shm /proc/mounts"
    ran = roots.shell(script, ulimits=limits, shm_size=1 << 20)
    words = ran.stdout.split()
    assert words[:3] == ["77", "99", "0"]
    assert "size=1024k" in ran.stdout


def test_what_package_managers_do(roots: Roots) -> None:
    """Owners, setuid bits, device nodes, fifos and chroot: root may, and the upper directory shows it."""
    ran = roots.shell("""
        set -e
        echo x > /file; chown 5:6 /file; chmod 4755 /file
        mknod /device c 1 3; mkfifo /fifo; ln /file /hard; chroot / true
    """)
    assert (ran.code, ran.stderr) == (0, "")
    status = (ran.upper / "hard").stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o4755, 5, 6)
    assert (ran.upper / "device").stat().st_rdev == os.makedev(1, 3)


def test_process_state_is_clean(roots: Roots) -> None:
    """A umask of 022, a session without a terminal, default signals, no stray descriptors."""
    ran = roots.shell(
        "umask; ls /proc/self/fd | wc -l; grep Sig[BI] /proc/self/status; readlink /proc/self/fd/0;"
        "set -- $(cut -d ' ' -f 6,7 /proc/$$/stat); test $1 = $$ && echo session $2"
    )
    # ls has the directory open beside its three streams
    assert ran.stdout == (
        "0022\n4\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n/dev/null\nsession 0\n"
    )


def test_the_init_is_out_of_reach(roots: Roots) -> None:
    """Pid 1 is ours: the command sees neither its descriptors nor its environment, and cannot end it."""
    ran = roots.shell(
        "kill -9 1; kill 1; echo $$; cat /proc/1/environ; cat /proc/1/fd/0; ls /proc/1/root/; readlink /proc/1/exe"
    )
    assert (ran.code, ran.stdout.count("\n")) == (1, 1)
    assert ran.stderr.count("Permission denied") == 3


@pytest.mark.parametrize("forbidden", [False, True])
def test_new_privileges(roots: Roots, *, forbidden: bool) -> None:
    """They are possible unless they are forbidden."""
    ran = roots.shell("grep NoNewPrivs /proc/self/status", no_new_privileges=forbidden)
    assert ran.stdout == f"NoNewPrivs:\t{int(forbidden)}\n"


# --- what it is apart from ---------------------------------------------------------------------------


def test_namespaces(roots: Roots) -> None:
    """Mounts, processes, ipc and host name are its own, the network is the machine's."""
    names = ("mnt", "pid", "ipc", "uts", "net")
    ran = roots.shell("for n in " + " ".join(names) + "; do readlink /proc/self/ns/$n; done")
    machine = [os.readlink(f"/proc/self/ns/{name}") for name in names]
    own = [a != b for a, b in zip(ran.stdout.split(), machine, strict=True)]
    assert own == [True, True, True, True, False]


def test_network_none(roots: Roots) -> None:
    """Without network there is the loopback interface alone, and it works."""
    ran = roots.shell("ls /sys/class/net; ifconfig lo", network="none")
    assert ran.stdout.startswith("lo\n")
    assert "inet addr:127.0.0.1" in ran.stdout
    assert "UP LOOPBACK RUNNING" in ran.stdout


def test_network_host(roots: Roots) -> None:
    """With the machine's network its interfaces are there."""
    ran = roots.shell("ls /sys/class/net")
    assert sorted(ran.stdout.split()) == sorted(os.listdir("/sys/class/net"))


def test_hostname(roots: Roots) -> None:
    """The host name is the spec's, cannot be changed, and the machine's stays."""
    before = socket.gethostname()
    ran = roots.shell("hostname; hostname other", hostname="box")
    assert (ran.stdout, ran.code) == ("box\n", 1)
    assert socket.gethostname() == before
    assert roots.shell("hostname").stdout == "buildkitsandbox\n"


@OWN
def test_only_its_own_processes(roots: Roots) -> None:
    """The command sees the init, itself and what it starts."""
    assert roots.shell("echo /proc/[0-9]*").stdout == "/proc/1 /proc/2\n"


def test_the_machine_is_out_of_reach(roots: Roots) -> None:
    """No path of this machine is in the mount table, and the root's parent is the root."""
    ran = roots.shell("cat /proc/self/mountinfo; ls -a /..")
    assert str(roots.path) not in ran.stdout
    assert ran.stdout.split()[-6:] == ["..", "bin", "dev", "etc", "proc", "sys"]


def test_nothing_is_imported_from_an_image(roots: Roots) -> None:
    """Python modules of the image, where the builder's Python looks for its own, are never run."""
    base = roots.layer("base")
    for place in {path for path in sys.path if path.startswith("/")}:
        directory = base / place.strip("/")
        directory.mkdir(parents=True, exist_ok=True)
        for module in ("errno", "encodings", "traceback", "warnings", "contextlib"):
            (directory / f"{module}.py").write_text("import os; os.system('echo taken')")
    ran = roots.shell("exec nothing", above=(base,))
    assert (ran.code, ran.stdout) == (127, "")


def test_mounts_are_invisible_outside(roots: Roots) -> None:
    """While the command runs, this process sees none of its mounts."""
    seen = []

    def look(_: str, __: bytes) -> None:
        seen.append(Path("/proc/self/mountinfo").read_text())

    trio.run(roots.execute, roots.spec("sh", "-c", "echo"), look)
    assert [str(roots.path) in text for text in seen] == [False]


# --- programs that do not start ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "code", "message"),
    [
        ("nothing", 127, "cannot run nothing: not found in PATH"),
        ("/bin/nothing", 127, "cannot run /bin/nothing: not found"),
        ("/bin/sh/nothing", 127, "cannot run /bin/sh/nothing: not found"),
        ("plain", 126, "cannot run plain: Permission denied"),
        ("/opt", 126, "cannot run /opt: Permission denied"),
        ("text", 126, "cannot run text: Exec format error"),
        ("interpreted", 127, "cannot run interpreted: not found in PATH"),
    ],
)
def test_programs_that_do_not_start(roots: Roots, program: str, code: int, message: str) -> None:
    """127 for a program that is not there, 126 for one that cannot be executed, and why."""
    base = roots.layer("base")
    (base / "opt").mkdir()
    for name, mode, text in (
        ("plain", 0o644, "#!/bin/sh\n"),
        ("text", 0o755, "echo\n"),
        ("interpreted", 0o755, "#!/nowhere\n"),
    ):
        (base / "opt" / name).write_text(text)
        (base / "opt" / name).chmod(mode)
    ran = roots.run(program, above=(base,), environment={"PATH": "/nowhere:/opt"})
    assert (ran.code, ran.stderr) == (code, f"asyncbuild: {message}\n")


def test_a_later_path_entry_may_have_it(roots: Roots) -> None:
    """A file of that name that cannot be executed does not end the search."""
    base = roots.layer("base")
    (base / "opt").mkdir()
    (base / "opt/true").write_text("")
    ran = roots.run("true", above=(base,), environment={"PATH": "/opt:/bin"})
    assert ran.code == 0


# --- output ------------------------------------------------------------------------------------------


def test_large_output_is_complete(roots: Roots) -> None:
    """Ten megabytes on each stream at once, not a byte lost."""
    sizes = {"stdout": 0, "stderr": 0}

    def count(stream: str, data: bytes) -> None:
        sizes[stream] += len(data)

    script = "head -c 10000000 /dev/zero >&2 & head -c 10000000 /dev/zero; wait"
    assert trio.run(roots.execute, roots.spec("sh", "-c", script), count) == 0
    assert sizes == {"stdout": 10_000_000, "stderr": 10_000_000}


def test_output_comes_while_the_command_runs(roots: Roots) -> None:
    """What is written is seen at once: the command waits here for an answer to its line."""
    (roots.path / "answers").mkdir()
    seen = []

    def answer(_: str, data: bytes) -> None:
        seen.append(data)
        (roots.path / "answers/go").write_text("")

    mounts = (BindMount(roots.path / "answers", "/answers"),)
    script = "echo first; until test -e /answers/go; do sleep 0.01; done; echo second"
    trio.run(roots.execute, roots.spec("sh", "-c", script, mounts=mounts), answer)
    assert seen == [b"first\n", b"second\n"]


def test_an_error_in_the_receiver_ends_the_run(roots: Roots) -> None:
    """What ``on_output`` raises comes out, and the command is gone."""

    def fail(_: str, __: bytes) -> None:
        raise RuntimeError("receiver")

    with pytest.raises(BaseExceptionGroup) as caught:
        trio.run(roots.execute, roots.spec("sh", "-c", "echo; sleep 1000"), fail)
    assert caught.group_contains(RuntimeError, match="receiver")
    assert roots.left() == set()


# --- the end -----------------------------------------------------------------------------------------


def test_strays_end_with_the_command(roots: Roots) -> None:
    """Processes left behind, in sessions of their own and deaf to signals, die with the command."""
    ran = roots.shell(STRAYS + "exit 5")
    assert (ran.code, ran.stdout) == (5, "started\n")
    assert roots.left() == set()


def test_orphans_are_reaped(roots: Roots) -> None:
    """The init reaps what the command orphans: no zombie is left while the command runs."""
    script = """
        (true & true &) ; (sh -c 'exit 3' &)
        while :; do set -- /proc/[0-9]*; test $# -gt 2 || break; sleep 0.01; done
    """
    assert roots.shell(script).code == 0


def test_cancellation(roots: Roots) -> None:
    """Cancelled, a RUN returns when the command and all that it started are gone."""

    async def main() -> bool:
        with trio.CancelScope() as scope:
            spec = roots.spec("sh", "-c", STRAYS + "sleep 1000")
            await roots.execute(spec, lambda *_: scope.cancel())
        assert roots.left() == set()
        return scope.cancelled_caught

    assert trio.run(main)


class CancelAt(trio.abc.Instrument):
    """Cancels a scope at the n-th scheduling step of any task since it was made."""

    def __init__(self, scope: trio.CancelScope, step: int) -> None:
        self._scope = scope
        self._left = step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count."""
        self._left -= 1
        if self._left == 0:
            self._scope.cancel()

    @property
    def reached(self) -> bool:
        """Whether there was an n-th step."""
        return self._left <= 0


@pytest.mark.parametrize("roots", ["own", "runc"], indirect=True)
def test_cancellation_at_every_step(roots: Roots) -> None:
    """Wherever a RUN is cancelled, no process is left, and no file open."""

    async def attempt(step: int) -> bool:
        with trio.CancelScope() as scope:
            instrument = CancelAt(scope, step)
            trio.lowlevel.add_instrument(instrument)
            try:
                await run_to_end(
                    roots.spec("sh", "-c", "echo out; echo err >&2; sleep 1000 & true"), roots.place
                )
            finally:
                trio.lowlevel.remove_instrument(instrument)
        return instrument.reached

    files = set(os.listdir("/proc/self/fd"))
    step = 1
    while trio.run(attempt, step):
        assert roots.left() == set(), step
        assert set(os.listdir("/proc/self/fd")) == files, step
        step += 1
    assert step > 8


BUILDER = """
import sys, trio
from pathlib import Path
from asyncbuild.rootfs.runspec import RunSpec
from asyncbuild.rootfs.sandbox import run_sandboxed
base, script = sys.argv[1:]
run = Path(base, "killed")
for name in ("upper", "work"):
    (run / name).mkdir(parents=True)
spec = RunSpec(("sh", "-c", script), run / "upper", run / "work", (Path(base, "layers/busybox"),),
               {"PATH": "/bin"})
trio.run(run_sandboxed, spec, lambda _, data: print(data.decode(), flush=True))
"""


@OWN
@pytest.mark.parametrize("victim", ["builder", "builder and helper", "group"])
def test_killed_builder(roots: Roots, victim: str) -> None:
    """SIGKILL of the builder, with its helper or its process group: no process, no mount is left."""
    builder = subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(roots.path), STRAYS + "sleep 1000"],
        stdout=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )
    with builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == b"started\n"
        family = descendants(builder.pid)
        assert len(family) >= 5  # helper, init, shell and two sleeps at least
        namespaces = {os.readlink(f"/proc/{pid}/ns/mnt") for pid in family}
        own = os.readlink("/proc/self/ns/pid")
        helpers = [pid for pid in family if os.readlink(f"/proc/{pid}/ns/pid") == own]
        assert len(helpers) == 1
        if victim == "builder and helper":
            os.kill(helpers[0], signal.SIGKILL)
        if victim == "group":
            os.killpg(builder.pid, signal.SIGKILL)
        builder.kill()
    assert_all_end(family)
    assert len(namespaces) == 2
    assert str(roots.path / "killed") not in Path("/proc/self/mountinfo").read_text()
    assert sorted(path.name for path in (roots.path / "killed").iterdir()) == ["upper", "work"]


def test_killed_helper(roots: Roots) -> None:
    """If something kills the sandbox's process, the RUN fails in words and nothing is left."""

    def kill_helper(_: str, __: bytes) -> None:
        helper = next(pid for pid in roots.left() if b"asyncbuild" in cmdline(pid))
        os.kill(helper, signal.SIGKILL)

    with pytest.raises(IsolationError, match="the sandbox process was killed"):
        trio.run(roots.execute, roots.spec("sh", "-c", STRAYS + "sleep 1000"), kill_helper)


def cmdline(pid: int) -> bytes:
    """The command line of a process in this pid namespace; nothing for one in another."""
    same = os.readlink(f"/proc/{pid}/ns/pid") == os.readlink("/proc/self/ns/pid")
    return Path(f"/proc/{pid}/cmdline").read_bytes() if same else b""


# --- processes started before --------------------------------------------------------------------------


@OWN
def test_a_helper_started_before(roots: Roots) -> None:
    """A helper that waits for its orders does the same as one that is started with them."""

    async def main() -> tuple[int, set[int]]:
        helper = await start_helper()
        idle = await start_helper()
        code = await run_sandboxed(roots.spec("sh", "-c", "exit 4"), lambda *_: None, helper=helper)
        await idle.aclose()
        return code, roots.left()

    assert trio.run(main) == (4, set())


def test_concurrent_runs(roots: Roots) -> None:
    """Eight RUNs at once do not meet."""
    specs = [roots.spec("sh", "-c", f"echo {n} > /n; cat /n; exit {n}") for n in range(8)]
    codes: dict[int, tuple[int, str]] = {}

    async def one(number: int) -> None:
        ran = await run_to_end(specs[number], roots.place)
        codes[number] = (ran.code, ran.stdout)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(one, number)

    trio.run(main)
    assert codes == {number: (number, f"{number}\n") for number in range(8)}


@OWN
def test_rights_that_are_missing(roots: Roots) -> None:
    """Without the right to make namespaces the error says what failed and what RUN needs."""
    drop = (
        "import ctypes, os\n"
        "libc = ctypes.CDLL(None)\n"
        "assert libc.prctl(24, 21, 0, 0, 0) == 0\n"  # CAP_SYS_ADMIN leaves the bounding set
        "import sys\n"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", drop, "-c", BUILDER, str(roots.path), "true"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        check=False,
    )
    assert "RUN's sandbox: making a pid namespace failed: Operation not permitted" in done.stderr
