"""Running a program from an unpacked image, as its configuration says: user, environment, directory, command."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from support.builds import descendants


def command_line(
    root: Path, config: Mapping[str, Any], environment: Mapping[str, str]
) -> list[str]:
    """The arguments that run the image's entry point below ``root``, in a pid namespace of its own that ends
    with its parent. ``environment`` is added to the configuration's.
    """
    variables = [
        *config.get("Env", []),
        *(f"{name}={value}" for name, value in environment.items()),
    ]
    uid, gid = _ids(root, config.get("User", "") or "0:0")
    isolated = ["unshare", "--pid", "--mount", "--fork", "--kill-child", "--"]
    if (root / "proc").is_dir():  # some programs find their libraries by /proc/self/exe
        mounted = 'mount -t proc proc "$0" && exec "$@"'
        isolated += ["/bin/sh", "-c", mounted, str(root / "proc")]
    directory = config.get("WorkingDir") or "/"
    # env of this machine runs inside the root only if the image has one: so the variables are set outside.
    changed = ["env", "--ignore-environment", *variables]
    entered = ["/usr/sbin/chroot", f"--userspec={uid}:{gid}", f"--groups={gid}", str(root)]
    program = [*(config.get("Entrypoint") or []), *(config.get("Cmd") or [])]
    if directory == "/":
        return [*isolated, *changed, *entered, *program]
    inside = ["/bin/sh", "-c", 'cd "$0" && exec "$@"', directory, *program]
    return [*isolated, *changed, *entered, *inside]


def _ids(root: Path, user: str) -> tuple[str, str]:
    """Numeric user and group of a configuration's User."""
    name, _, group = user.partition(":")
    uid, gid = _look_up(root / "etc/passwd", name, (2, 3))
    if group:
        (gid,) = _look_up(root / "etc/group", group, (2,))
    return uid, gid


def _look_up(table: Path, name: str, columns: Sequence[int]) -> list[str]:
    if name.isdecimal():
        return [name for _ in columns]
    rows = (line.split(":") for line in table.read_text().splitlines())
    return next([row[column] for column in columns] for row in rows if row[0] == name)


def run_image(root: Path, config: Mapping[str, Any]) -> str:
    """What the image's command prints; it has to exit with 0."""
    done = subprocess.run(
        command_line(root, config, {}), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextlib.contextmanager
def running_image(
    root: Path, config: Mapping[str, Any], environment: Mapping[str, str]
) -> Iterator[str]:
    """Run a service until the block ends; gives the first line that it prints."""
    child = subprocess.Popen(
        command_line(root, config, environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert child.stdout is not None
    try:
        yield child.stdout.readline()
    finally:
        # Whoever changes its user loses the signal of its parent's death, so --kill-child is not enough.
        for pid in descendants(child.pid).values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        child.kill()
        child.wait()
        child.stdout.close()
