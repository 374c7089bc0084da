"""Builds with one isolation, in a process that may have fewer rights: a program, and what starts it.

It reads JSON from stdin: the isolation, and by their names Dockerfiles, each with the files of its context. It
writes JSON: for each the manifest's digest, or the error's text, and everything that RUN printed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from asyncbuild.build.run_options import RunOptions, Secret
from asyncbuild.errors import AsyncbuildError
from asyncbuild.rootfs.isolation import Isolation

WITHOUT_ADMIN = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--")
"""What a pod's root has: docker's capabilities are fewer still, but this one is what mounts need."""
DOCKER_SET = (
    "chown,dac_override,fowner,fsetid,kill,setgid,setuid,setpcap,net_bind_service,net_raw,sys_chroot"
    ",mknod,audit_write,setfcap"
)
POD = (
    "setpriv",
    "--bounding-set=-all," + ",".join(f"+{name}" for name in DOCKER_SET.split(",")),
    "--inh-caps=-all",
    "--",
)
"""Exactly docker's capabilities."""


class Recipe(NamedTuple):
    """One build."""

    dockerfile: str
    files: Mapping[str, str]


class Outcome(NamedTuple):
    """What came of it."""

    digest: str
    error: str
    output: str


def build_isolated(
    isolation: Isolation, recipes: Mapping[str, Recipe], before: tuple[str, ...] = ()
) -> dict[str, Outcome]:
    """Build everything in one process with the rights that the words ``before`` leave it."""
    order = json.dumps([isolation, {name: tuple(recipe) for name, recipe in recipes.items()}])
    root = Path(__file__).parents[2]
    paths = f"import sys; sys.path[:0] = [{str(root / 'src')!r}, {str(root / 'tests')!r}];"
    program = f"{paths} from support.isolated import main; main()"
    done = subprocess.run(
        [*before, sys.executable, "-c", program],
        input=order,
        text=True,
        check=False,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    return {name: Outcome(*item) for name, item in json.loads(done.stdout).items()}


def main() -> None:
    """The program."""
    isolation, recipes = json.load(sys.stdin)
    json.dump({name: _build(isolation, *recipe) for name, recipe in recipes.items()}, sys.stdout)


def _build(isolation: str, dockerfile: str, files: Mapping[str, str]) -> Outcome:
    import trio  # noqa: PLC0415 - the test's own process needs none of these

    from support.builds import Recorder, World, add_busybox  # noqa: PLC0415
    from support.scratch import scratch  # noqa: PLC0415

    with scratch() as directory:
        world = World.below(directory)
        add_busybox(world.double)
        world.write(files)
        recorder = Recorder()
        options = RunOptions(
            isolation=Isolation(isolation), secrets=dict.fromkeys(("token", "t"), Secret(b"secret"))
        )
        request = world.request(
            dockerfile, "app", run=options, created_is_fixed=True, clamp_times=True, created=1000
        )
        digest = error = ""
        try:
            result = trio.run(lambda: world.build(request, recorder=recorder))
            digest = str(result.manifest.digest)
        except AsyncbuildError as caught:
            error = caught.message
        assert world.wrong() == []
        return Outcome(digest, error, recorder.output())
