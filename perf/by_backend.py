"""What each backend costs: the same jobs by asyncbuild alone, with each way to execute RUN.

``overlay`` and ``chroot`` are root's on this machine, ``rootless`` and ``rootless-single`` an ordinary user's with
subordinate ids and without, ``pod-chroot`` and ``pod-inplace`` the tool's own image in a container of runc with what a
cluster gives by default (the container runtime's own process counts in memory, about 15 MB).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from perf.bench import Case, run_case, standing
from perf.farsite import Link
from perf.jobs import JOBS
from perf.measure import Cell
from perf.results import Median, Run, medians
from perf.tools import Asyncbuild, Build

from support.bases import debian_image
from support.own_image import OwnImage, own_image
from support.pod import Pod
from support.registry import running_registry
from support.users import User, give_to_user

WAYS = ("overlay", "rootless", "rootless-single", "chroot", "pod-chroot", "pod-inplace")
_ENVIRONMENT = ("HOME", "USER_ID", "USER_ETC", "CLOSED", "PREFIX", "FUSE")


@dataclass(slots=True)
class AsUser(Asyncbuild):
    """An ordinary user's, at home in the build's state."""

    subordinate: bool = True
    user: User | None = None

    def command(self, build: Build) -> list[str]:
        assert self.user is not None
        words = Asyncbuild.command(self, build)
        words[words.index("--store") + 1] = str(self.user.store)
        environment = self.user.environment()
        given = [f"{name}={environment[name]}" for name in _ENVIRONMENT]
        return ["env", *given, f"TMPDIR={self.user.home}", *self.user.words(*words)]

    @contextlib.contextmanager
    def running(self, build: Build, cell: Cell) -> Iterator[None]:
        del cell
        place = build.state / "user"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        build.state.parent.chmod(0o755)
        build.state.chmod(0o755)
        self.user = User.below(place, subordinate=self.subordinate)
        give_to_user(self.user.home)
        yield


@dataclass(slots=True)
class InPod(Asyncbuild):
    """In a container of the tool's own image, its store on tmpfs."""

    image: OwnImage | None = None
    words: list[str] = field(default_factory=list)

    def command(self, build: Build) -> list[str]:
        del build
        return self.words

    @contextlib.contextmanager
    def running(self, build: Build, cell: Cell) -> Iterator[None]:
        cell.close()  # runc gives the container a group of its own: its processes are found by their parents
        cell.path = None
        assert self.image is not None
        scratch = build.state / "pod"
        store = scratch / "store"
        store.mkdir(parents=True)
        volumes = {"/workspace": build.context, "/var/lib/asyncbuild": store}
        pod = Pod(self.image, scratch, volumes, read_only_volumes=frozenset({"/workspace"}))
        words = Asyncbuild.command(self, build)
        words = [*words[words.index("build") :][:-1], "/workspace"]
        words[words.index("--store") + 1] = "/var/lib/asyncbuild"
        with pod.prepared(*self.image.config["Entrypoint"], *words) as command:
            self.words = command
            yield


def tools(names: list[str], image: OwnImage | None) -> dict[str, Asyncbuild]:
    """Asyncbuild by each way."""
    known: dict[str, Asyncbuild] = {
        "overlay": Asyncbuild("overlay", ("--isolation", "overlay")),
        "rootless": AsUser("rootless", ("--isolation", "rootless")),
        "rootless-single": AsUser(
            "rootless-single", ("--isolation", "rootless"), subordinate=False
        ),
        "chroot": Asyncbuild("chroot", ("--isolation", "chroot")),
        "pod-chroot": InPod("pod-chroot", ("--isolation", "chroot"), image),
        "pod-inplace": InPod("pod-inplace", ("--isolation", "inplace"), image),
    }
    return {name: known[name] for name in names}


@contextlib.contextmanager
def pod_image(names: list[str], scratch: Path) -> Iterator[OwnImage | None]:
    """The tool's own image with the program as it stands, where a way needs it."""
    if not any(name.startswith("pod-") for name in names):
        yield None
        return
    with running_registry(scratch / "own-registry") as registry:
        debian_image().push(registry, "base/debian")
        place = scratch / "own-image"
        place.mkdir()
        image = own_image(registry, f"{registry.host}/base/debian:latest", place)
    yield image


def table(found: list[Median]) -> str:
    """The medians as Markdown."""
    head = "| job | RTT ms | backend | wall s (range) | CPU s | peak RSS MB | peak PSS MB | requests | runs |"
    rows = [head, "|" + " --- |" * 9]
    rows += [
        f"| {item.job} | {item.rtt * 1000:.0f} | {item.tool} "
        f"| {item.wall:.2f} ({item.wall_range[0]:.2f}-{item.wall_range[1]:.2f}) | {item.cpu:.2f} "
        f"| {item.peak_rss / 1e6:.0f} | {item.peak_pss / 1e6:.0f} | {item.requests:.0f} | {item.runs} |"
        for item in found
    ]
    return "\n".join(rows) + "\n"


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """What to run."""
    parser = argparse.ArgumentParser(prog="perf/backends", description=__doc__)
    parser.add_argument("--jobs", default="J2,J3", help=f"of {','.join(JOBS)}")
    parser.add_argument("--ways", default=",".join(WAYS), help=f"of {','.join(WAYS)}")
    parser.add_argument("--rtts", default="0,100", help="round trips in milliseconds")
    parser.add_argument("--repeats", type=int, default=3)
    name = time.strftime("backends-%Y-%m-%dT%H%M")
    parser.add_argument("--name", default=name, help="folder in perf/results")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run the jobs, interleaved; 1 when a run failed."""
    options = parse_arguments(arguments)
    names = options.ways.split(",")
    runs: list[Run] = []
    with standing(options.name) as stand, pod_image(names, stand.scratch) as image:
        for rtt in options.rtts.split(","):
            for job in options.jobs.split(","):
                for repeat in range(1, options.repeats + 1):
                    for tool in tools(names, image).values():
                        case = Case(JOBS[job], tool, Link(float(rtt) / 1000), "cold")
                        runs.append(run_case(case, stand, repeat))
                        print(runs[-1].line(), file=sys.stderr, flush=True)
    results = stand.results
    (results / "results.json").write_text(json.dumps([asdict(run) for run in runs], indent=1))
    (results / "table.md").write_text(table(medians(runs)))
    print((results / "table.md").read_text(), end="")
    return 0 if all(run.succeeded for run in runs) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
