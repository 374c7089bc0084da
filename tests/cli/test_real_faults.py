"""Every operation against docker-registry with TLS and tokens, through a proxy that makes faults.

The library is asked with little patience, so that a connection that hangs costs a second and not a minute;
then the commands, whose exit codes people see. skopeo reads every result. `just real-faults` plays all
cases, of which the first test plays every eighth.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from asyncbuild.image.digest import Digest
from asyncbuild.testing.fault_scripts import parse_script
from asyncbuild.testing.faults import Respond, Rule
from support.builds import Belongings, store_faults
from support.commands import asyncbuild_here, environment, told
from support.front import CountedFaults
from support.real_faults import (
    OPERATIONS,
    Case,
    SiteBeside,
    copy_across,
    kind_of,
    play,
    read_by_skopeo,
    script,
    site,
)
from support.real_matrix import played
from support.tokens import PASSWORD

pytestmark = pytest.mark.integration


def test_operations_under_faults(shm_path: Path) -> None:
    """The right image, read by skopeo, or the right error; no file, task, process or descriptor is left."""
    before = Belongings.now()
    matrix, wrong = trio.run(played, shm_path, 8)
    assert wrong == []
    tried = Counter(cell.operation for cell in matrix.outcomes)
    assert set(tried) == set(OPERATIONS)
    assert {cell.kind for cell in matrix.cells} == {cell.kind for cell in matrix.outcomes}
    assert {cell.fault for cell in matrix.cells} == {cell.fault for cell in matrix.outcomes}
    assert sum(tried.values()) > 100
    assert Belongings.now().more_than(before) == []


def test_a_stalled_range_is_asked_for_again(shm_path: Path) -> None:
    """A download breaks off, its rest hangs: each goes on at the byte where the one before it ended."""

    async def main() -> list[str]:
        async with site(shm_path) as made:
            outcome = await play(made, copy_across, script("stalled-range", "blob GET"))
            assert outcome.error is None
            assert outcome.digest is not None
            assert await read_by_skopeo(made, {outcome.place: outcome.digest}) == []
            asked = [entry for entry in outcome.requests if kind_of(entry) == "blob GET"]
            return sorted(entry.headers.get("range", "") for entry in asked)

    ranges = trio.run(main)
    assert ranges[:3] == ["", "", ""]
    starts = [re.fullmatch(r"bytes=(\d+)-\d+", text) for text in ranges[3:]]
    assert [match[1] for match in starts if match] in (["10", "10"], ["10", "20"])


# --- the commands --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def case(session_path: Path) -> Iterator[Case]:
    """Registries, a token service and proxies, in a thread of their own."""
    directory = session_path / "real-faults"
    directory.mkdir()
    with SiteBeside(directory) as found:
        yield found


@pytest.fixture
def home(case: Case, shm_path: Path) -> Mapping[str, str]:
    """An environment whose user is logged in at both registries."""
    under(case)
    words = environment(HOME=str(shm_path), DOCKER_CONFIG=str(shm_path / "docker"))
    for host in (case.one.host, case.two.host):
        login = ["login", host, "-u", case.user, "--password-stdin", *trust(case)]
        done = asyncbuild_here(*login, stdin=PASSWORD, env=words)
        assert done.returncode == 0, told(done)
    return words


def trust(case: Case) -> list[str]:
    """Whom to trust: the authority is named for the registries; their token service has it, too."""
    file = case.site.tls.ca_file
    hosts = (case.one.host, case.two.host)
    return [word for host in hosts for word in ("--registry-ca", f"{host}={file}")]


def under(case: Case, *rules: Rule) -> list[CountedFaults]:
    """Let these strike from now on."""
    made = [CountedFaults(*rules) for _ in range(3)]
    case.one.faults, case.two.faults, case.site.tokens.faults[case.user] = made
    return made


def at(kind: str, fault: str, *, times: int | None = 1) -> Rule:
    """A fault at the first requests of a kind."""
    (rule,) = parse_script(script(fault, kind))
    return replace(rule, times=times)


def seen(case: Case, name: str, printed: str) -> None:
    """Skopeo finds under a name of the first or second proxy what a command printed."""
    host, _, rest = name.partition("/")
    registry = case.site.one if host == case.one.host else case.site.two
    place = f"{registry.host}/{rest}"
    digest = Digest.parse(printed.strip().splitlines()[-1].rpartition(" ")[2])
    assert trio.run(read_by_skopeo, case.site, {place: digest}) == []


_NUMBERS = itertools.count()


def command(case: Case, name: str, place: Path) -> tuple[list[str], str]:
    """A command by its name, and where its result is ("" if nothing is pushed): always somewhere else."""
    user = f"{case.user}/{next(_NUMBERS)}"
    one, two = case.one.host, case.two.host
    context = ["--store", str(place / "store"), str(case.site.directory / "context")]
    dockerfile = place / "Dockerfile"
    dockerfile.write_text(f"FROM {one}/base/tiny\nCOPY hello.txt /h\n")
    pushed = f"{one}/{user}/built:1"
    multi = json.loads((case.site.directory / "multi.json").read_text())["manifests"]
    parts = [f"{one}/base/multi@{entry['digest']}" for entry in multi[:2]]
    layout = str(case.site.directory / "layout")
    commands: dict[str, tuple[list[str], str]] = {
        "build": (["build", "-f", str(dockerfile), "-t", pushed, *context], pushed),
        "push": (["push", layout, "-t", f"{two}/{user}/pushed:1"], f"{two}/{user}/pushed:1"),
        "copy": (["copy", f"{one}/base/tiny", f"{two}/{user}/c:1"], f"{two}/{user}/c:1"),
        "mount": (["copy", f"{one}/base/tiny", f"{one}/{user}/c:1"], f"{one}/{user}/c:1"),
        "index": (["index", "create", "-t", f"{one}/{user}/i:1", *parts], f"{one}/{user}/i:1"),
        "inspect": (["inspect", "--raw", f"{one}/base/tiny"], ""),
        "warm": (["warm", "--image", f"{one}/base/tiny", str(place / "warm")], ""),
    }
    words, where = commands[name]
    return [*words, *trust(case)], where


SURVIVED = [
    ("build", "token GET", "reset-before"),
    ("build", "upload PUT", "reset-in-the-middle"),
    ("push", "upload POST", "500"),
    ("copy", "blob GET", "truncated"),
    ("copy", "manifest PUT", "401-once"),
    ("mount", "upload POST", "refused"),
    ("index", "manifest PUT", "reset-after"),
    ("inspect", "manifest GET", "502"),
    ("warm", "blob GET", "wrong-digest"),
]


@pytest.mark.parametrize("cell", SURVIVED, ids=" ".join)
def test_commands_survive(
    cell: tuple[str, str, str], case: Case, home: Mapping[str, str], shm_path: Path
) -> None:
    """Exit code 0, and what skopeo finds is what the command printed."""
    name, kind, fault = cell
    words, where = command(case, name, shm_path)
    struck = under(case, at(kind, fault))
    done = asyncbuild_here(*words, env=home)
    assert done.returncode == 0, told(done)
    assert sum(item.struck for item in struck) >= 1
    under(case)
    if where:
        seen(case, where, done.stdout.decode())
    elif name == "inspect":
        assert Digest.of(done.stdout) == Digest.of(asyncbuild_here(*words, env=home).stdout)
    else:
        source = f"oci:{shm_path / 'warm'}:{case.one.host}/base/tiny:latest"
        inspected = subprocess.run(["skopeo", "inspect", source], check=True, capture_output=True)
        assert json.loads(inspected.stdout)["Digest"] in done.stdout.decode()
    assert store_faults(shm_path / "store") == []


LATER = Rule(Respond(429, headers={"retry-after": "3600"}), "GET", "/manifests/")
REFUSED = [
    ("copy", at("manifest GET", "404", times=None), 66, "not found"),
    ("copy", at("manifest GET", "wrong-digest", times=None), 69, "is not sha256:"),
    ("copy", at("upload POST", "403"), 77, "not allowed: push a blob"),
    ("push", at("token GET", "401-always", times=None), 77, "refuses user"),
    ("mount", at("token GET", "404", times=None), 69, "a token service that is not there"),
    ("build", at("manifest GET", "404", times=None), 66, "there is no image"),
    ("inspect", LATER, 75, "the registry asks to come back later"),
]


@pytest.mark.parametrize("expected", REFUSED)
def test_commands_fail_well(
    expected: tuple[str, Rule, int, str],
    case: Case,
    home: Mapping[str, str],
    shm_path: Path,
) -> None:
    """The exit code that the table promises, and words that say why."""
    name, rule, code, said = expected
    words, _ = command(case, name, shm_path)
    under(case, rule)
    done = asyncbuild_here(*words, env=home)
    assert done.returncode == code, told(done)
    assert said in done.stderr.decode()
    assert store_faults(shm_path / "store") == []


def test_a_push_that_fails_is_finished(case: Case, home: Mapping[str, str], shm_path: Path) -> None:
    """The tag is forbidden: exit code 73, and the command that it names brings the image there."""
    words, where = command(case, "build", shm_path)
    under(case, at("manifest PUT", "403"))
    done = asyncbuild_here(*words, env=home)
    assert done.returncode == 73, told(done)
    named = re.search(r"`asyncbuild (push [^`]+)`", done.stderr.decode())
    assert named is not None, told(done)
    under(case)
    done = asyncbuild_here(*named[1].split(), *trust(case), env=home)
    assert done.returncode == 0, told(done)
    seen(case, where, done.stdout.decode())


def test_login(case: Case, home: Mapping[str, str]) -> None:
    """A wrong password is refused and not kept; a token service that fails for a moment is asked again."""
    file = Path(home["DOCKER_CONFIG"]) / "config.json"
    kept = file.read_text()
    words = ["login", case.one.host, "-u", case.user, "--password-stdin", *trust(case)]
    under(case)
    done = asyncbuild_here(*words, stdin="wrong", env=home)
    assert done.returncode == 77, told(done)
    assert file.read_text() == kept
    struck = under(case, at("token GET", "503"))
    done = asyncbuild_here(*words, stdin=PASSWORD, env=home)
    assert done.returncode == 0, told(done)
    assert struck[2].struck == 1
    under(case)
