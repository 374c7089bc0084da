"""Other builders on our cases: what comes out, compared with what each case expects.

Our own results are compared with the same expectations by tests/test_cases.py, so what is listed here is
where another builder differs from us. buildah (Debian's) is used if it is installed, BuildKit if
PERF_BUILDKITD and PERF_BUILDCTL name its programs. Needs root, works in memory, asks no network.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from buildctl_words import buildctl_words, is_translatable

from support import bases
from support.cases import (
    Case,
    config_differences,
    image_reference,
    load_case,
    make_context,
    make_repositories,
    push_images,
    real_names,
    serve_pages,
    tree_differences,
)
from support.images import push_index
from support.pulled import Tree, inspect_config, pull, read_tree, unpack
from support.registry import DockerRegistry, remove_tree, running_registry
from support.sources import WebServer, running_web_server

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "compatibility.md"
SECONDS = 120
GENERAL = {
    "buildah": re.compile(
        r"/etc/(hosts|hostname|resolv\.conf): not expected: None became file 0755 0:0 b''|"
        r"/run/secrets: not expected: None became dir 0755 0:0"
    ),
}
"""What is so in every image of a tool: docs/compatibility.md has a row for it, and it is counted apart."""


ENTITLEMENTS = ("security.insecure", "network.host", "device")
"""What buildkitd lets a build ask for; without, it refuses whatever the build is allowed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a build by another tool ended."""

    code: int
    log: str


class Tool(Protocol):
    """Another builder."""

    @property
    def name(self) -> str:
        """What it is called."""

    def knows(self, case: Case) -> bool:
        """Whether it has the options that the case gives."""

    def build(self, case: Case, context: Path, reference: str) -> Outcome:
        """Build ``context`` and push it as ``reference``."""


def is_plain(case: Case) -> bool:
    """Whether the case's context is a directory; other contexts are spelled differently by each tool."""
    return case.main is None and case.stdin is None


def run(command: list[str], directory: Path, environ: dict[str, str] | None = None) -> Outcome:
    """Run one command; one that takes too long counts as failed."""
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            env={**os.environ, **(environ or {})},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return Outcome(-1, f"did not end within {SECONDS} s")
    return Outcome(done.returncode, done.stdout + done.stderr)


@dataclass(frozen=True, slots=True)
class Buildah:
    """buildah with its own store in memory; Docker's image format, which has every field of a Dockerfile."""

    state: Path
    name: str = "buildah"
    options: frozenset[str] = frozenset(
        [
            *(
                "--target",
                "--build-arg",
                "--secret",
                "--ssh",
                "--ulimit",
                "--shm-size",
                "--add-host",
            ),
            *("--label", "--network", "--platform", "--annotation"),
        ]
    )

    def knows(self, case: Case) -> bool:
        return (
            is_plain(case)
            and {word.split("=")[0] for word in case.args if word.startswith("-")} <= self.options
        )

    def build(self, case: Case, context: Path, reference: str) -> Outcome:
        stores = ["--root", str(self.state / "root"), "--runroot", str(self.state / "run")]
        buildah = ["buildah", *stores, "--storage-driver", "overlay"]
        flags = ["--layers", "--format=docker", "--isolation=chroot", "--tls-verify=false"]
        command = [*buildah, "bud", *flags, "-t", reference, *case.args, "-f"]
        made = run([*command, str(context / "Dockerfile"), str(context)], context.parent)
        if made.code != 0:
            return made
        return run([*buildah, "push", "--tls-verify=false", reference], context.parent)


@dataclass(frozen=True, slots=True)
class BuildKit:
    """buildctl, with a buildkitd that is running already."""

    client: str
    address: str
    name: str = "buildkit"

    def knows(self, case: Case) -> bool:
        return is_translatable(case)

    def build(self, case: Case, context: Path, reference: str) -> Outcome:
        output = f"--output=type=image,name={reference},push=true,registry.insecure=true"
        command = [self.client, f"--addr={self.address}", "build", "--frontend=dockerfile.v0"]
        words = buildctl_words(list(case.args), case.main, context)
        line = [*command, "--progress=plain", output, *words]
        return run(line, context.parent, dict(case.environ))


@contextlib.contextmanager
def buildkit(state: Path, registry: DockerRegistry) -> Iterator[BuildKit]:
    """A buildkitd of its own, for as long as it is needed."""
    daemon, client = os.environ["PERF_BUILDKITD"], os.environ["PERF_BUILDCTL"]
    address = f"unix://{state}/buildkitd.sock"
    config = state / "buildkitd.toml"
    config.write_text(f'[registry."{registry.host}"]\n  http = true\n')
    places = ["--config", str(config), "--root", str(state / "root"), "--addr", address]
    worker = ["--oci-worker=true", "--containerd-worker=false"]
    worker += [f"--allow-insecure-entitlement={each}" for each in ENTITLEMENTS]
    with (state / "log").open("wb") as log:
        child = subprocess.Popen([daemon, *places, *worker], stdout=log, stderr=log)
    try:
        ask = [client, f"--addr={address}", "debug", "workers"]
        for _ in range(300):
            if subprocess.run(ask, capture_output=True, check=False).returncode == 0:
                break
            time.sleep(0.1)
        else:
            raise SystemExit(f"buildkitd does not answer: {(state / 'log').read_text()[-2000:]}")
        yield BuildKit(client, address)
    finally:
        child.terminate()
        child.wait()


class Bases:
    """The images that cases are built from, each read once."""

    def __init__(self, registry: DockerRegistry, web: WebServer, state: Path) -> None:
        self.registry = registry
        self.web = web
        self.state = state
        self._trees: dict[str, Tree] = {}
        bases.busybox_image().push(registry, "base/busybox")
        bases.busybox_image("docker").push(registry, "base/busybox-docker")
        bases.many_layer_image().push(registry, "base/many")
        push_index(registry, bases.multi_platform_images(), "base/multi")

    def tree(self, case: Case) -> Tree:
        """What is in the base that the case's result is compared with."""
        if case.base is None:
            return {}
        reference = image_reference(case, self.registry, case.base)
        if reference not in self._trees:
            self._trees[reference] = read_image(reference, self.state)
        return self._trees[reference]


def read_image(reference: str, state: Path) -> Tree:
    """Pull and unpack an image, and read its files."""
    with tempfile.TemporaryDirectory(dir=state, ignore_cleanup_errors=True) as place:
        tree = read_tree(unpack(pull(reference, Path(place)), Path(place)))
        remove_tree(Path(place) / "rootfs")
    return tree


def with_real_names(case: Case, known: Bases) -> Case:
    """The case with the names of this run's servers in its arguments and its context."""

    def real(word: str) -> str:
        return real_names(case, known.registry, known.web, word.encode()).decode()

    main = real(case.main) if case.main else None
    return replace(case, args=tuple(map(real, case.args)), main=main)


def differences(tool: Tool, case: Case, known: Bases, state: Path) -> list[str]:
    """What ``tool`` does on ``case`` that the case does not expect."""
    with tempfile.TemporaryDirectory(dir=state, ignore_cleanup_errors=True) as place:
        make_repositories(case, known.registry, known.web)
        serve_pages(case, known.registry, known.web)
        context = make_context(case, known.registry, known.web, Path(place))
        reference = f"{known.registry.host}/{tool.name}/{case.name}:latest"
        outcome = tool.build(with_real_names(case, known), context, reference)
    if outcome.code != 0:
        last = next((x for x in reversed(outcome.log.splitlines()) if x.strip()), "")
        last = re.sub(
            r"/dev/shm/\S*?/context", "CONTEXT", last.replace(known.registry.host, "HOST")
        )
        return [f"does not build it: {last[:300]}"] if 0 in case.exit else []
    if 0 not in case.exit:
        return ["builds what is refused"]
    tree = read_image(reference, state)
    wrong = tree_differences(case, tree, known.tree(case))
    return [*wrong, *config_differences(case, inspect_config(reference))]


def explanations(tool: str) -> str:
    """The part of docs/compatibility.md about one tool: from its heading to the next."""
    parts = re.split(r"^(?=##)", PAGE.read_text(), flags=re.MULTILINE)
    return "".join(part for part in parts if part.lower().startswith(f"### {tool}"))


def survey(tool: Tool, cases: list[Case], known: Bases, state: Path) -> int:
    """Build every case, print what differs, and count what docs/compatibility.md does not explain."""
    page = explanations(tool.name)
    skipped = [case.name for case in cases if not tool.knows(case)]
    todo = [case for case in cases if tool.knows(case)]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda case: differences(tool, case, known, state), todo))
    unexplained = equal = 0
    general = GENERAL.get(tool.name)
    for case, everything in zip(todo, found, strict=True):
        wrong = [text for text in everything if not (general and general.match(text))]
        equal += not everything
        if wrong:
            mark = "" if f"`{case.name}`" in page else "  (not explained)"
            unexplained += bool(mark)
            print(f"{case.name}{mark}")
            for text in wrong:
                print(f"    {text[:400]}")
    differ = sum(any(not (general and general.match(x)) for x in wrong) for wrong in found)
    only = len(todo) - equal - differ
    print(
        f"\n{tool.name}: {len(todo)} cases: {equal} are equal, {only} differ only as every image does,"
    )
    print(f"{differ} differ, {unexplained} of them not explained")
    print(f"not comparable, for their options or contexts: {', '.join(skipped) or 'none'}")
    return unexplained


def main() -> int:
    """Survey the tools that are asked for."""
    parser = argparse.ArgumentParser(description="build our cases with other builders")
    parser.add_argument("--tool", choices=("buildah", "buildkit"), help="default: all there are")
    parser.add_argument("cases", nargs="*", help="names of cases; default: all")
    options = parser.parse_args()
    paths = sorted((ROOT / "tests" / "cases").glob("*/case.json"))
    cases = [load_case(path.parent) for path in paths]
    cases = [case for case in cases if not options.cases or case.name in options.cases]
    state = Path(tempfile.mkdtemp(prefix="asyncbuild-differential-", dir="/dev/shm"))
    unexplained = 0
    try:
        with (
            running_registry(state / "registry") as registry,
            running_web_server(state / "web") as web,
            contextlib.ExitStack() as stack,
        ):
            known = Bases(registry, web, state)
            for case in cases:
                push_images(case, registry)
            tools: list[Tool] = []
            if options.tool in (None, "buildah") and shutil.which("buildah"):
                tools.append(Buildah(state / "buildah"))
            if options.tool in (None, "buildkit") and os.environ.get("PERF_BUILDKITD"):
                (state / "buildkit").mkdir()
                tools.append(stack.enter_context(buildkit(state / "buildkit", registry)))
            for tool in tools:
                unexplained += survey(tool, cases, known, state)
    finally:
        subprocess.run(
            ["umount", "--lazy", str(state / "buildah/root/overlay")],
            check=False,
            stderr=subprocess.DEVNULL,
        )
        remove_tree(state)
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
