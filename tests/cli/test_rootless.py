"""Builds by an ordinary user, in a user namespace: the same images as root's, and nothing left over."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.builds import descendants
from support.cases import Case, load_case, make_context, push_images, serve_pages
from support.commands import asyncbuild_here, context, environment, told
from support.registry import DockerRegistry
from support.scratch import scratch
from support.sources import WebServer
from support.users import FIRST, UID, User, give_to_user

pytestmark = pytest.mark.integration

EPOCH = "1700000000"
CASES = Path(__file__).parents[1] / "cases"
NAMES = [
    "add-archive-chown",
    "add-archive-capability",
    "base-device-copied",
    "base-whiteouts",
    "base-implicit-parents",
    "copy-from-stage-links",
    "copy-link",
    "copy-modes-and-owners",
    "run-delete",
    "run-hardlink-of-base",
    "run-heredoc-with-mount",
    "run-replace-kinds",
    "run-touch-only-metadata",
    "user-group",
    "workdir-owner",
]


@dataclass(frozen=True, slots=True)
class Pair:
    """A user, and a directory for root's builds of the same things."""

    user: User
    directory: Path


@pytest.fixture(scope="module")
def pair(small_bases: Mapping[str, str]) -> Iterator[Pair]:
    """Both, with stores that the module's builds share."""
    assert small_bases
    with scratch() as directory:
        user_directory = directory / "user"
        user_directory.mkdir()
        directory.chmod(0o755)
        yield Pair(User.below(user_directory), directory)


@pytest.fixture
def user(shm_path: Path) -> User:
    """A user with subordinate ids, and nothing in the store."""
    return User.below(shm_path)


@pytest.fixture
def lone_user(shm_path: Path) -> User:
    """A user without subordinate ids."""
    return User.below(shm_path, subordinate=False)


def kaniko(place: Path, reference: str, digest: Path) -> list[str]:
    """The words of a build whose image depends on nothing but its inputs, times included."""
    words = ["kaniko", f"--context=dir://{place}", f"--dockerfile={place / 'Dockerfile'}"]
    return [*words, f"--destination={reference}", "--reproducible", f"--digest-file={digest}"]


@pytest.mark.parametrize("name", NAMES)
def test_the_image_is_the_one_that_root_makes(
    name: str, pair: Pair, registry: DockerRegistry, web: WebServer, shm_path: Path
) -> None:
    """One Dockerfile, one digest: RUN, COPY, ADD, owners, links, whiteouts, capabilities."""
    case: Case = load_case(CASES / name)
    push_images(case, registry)
    serve_pages(case, registry, web)
    shm_path.chmod(0o755)
    place = make_context(case, registry, web, shm_path)
    give_to_user(place)
    digests = [shm_path / "root", pair.user.home / "digest"]
    references = [f"{registry.host}/{who}/{name}:latest" for who in ("root", "user")]
    cache = str(pair.directory / "cache")
    env = environment(SOURCE_DATE_EPOCH=EPOCH, XDG_CACHE_HOME=cache, **case.environ)
    done = asyncbuild_here(*kaniko(place, references[0], digests[0]), env=env)
    assert done.returncode == 0, told(done)
    given = {"SOURCE_DATE_EPOCH": EPOCH, **case.environ}
    done = pair.user.asyncbuild(*kaniko(place, references[1], digests[1]), environ=given)
    assert done.returncode == 0, told(done)
    assert digests[0].read_text() == digests[1].read_text()


@pytest.mark.usefixtures("small_bases")
@pytest.mark.parametrize(
    "way",
    [
        *((name, "none") for name in ("add-archive-chown", "add-archive-device", "copy-xattrs")),
        *(
            (name, "auto")
            for name in ("run-hardlink-of-base", "run-replace-kinds", "base-device-copied")
        ),
    ],
)
def test_owners_are_recorded_where_they_cannot_be_set(
    way: tuple[str, str], lone_user: User, registry: DockerRegistry, web: WebServer, tmp_path: Path
) -> None:
    """One digest again: without any namespace, and in one with a single id."""
    name, isolation = way
    case = load_case(CASES / name)
    push_images(case, registry)
    place = make_context(case, registry, web, lone_user.directory)
    give_to_user(place)
    digests = [tmp_path / "root", lone_user.home / "digest"]
    references = [f"{registry.host}/{who}/{name}:{isolation}" for who in ("root", "lone")]
    env = environment(SOURCE_DATE_EPOCH=EPOCH, XDG_CACHE_HOME=str(lone_user.directory / "cache"))
    done = asyncbuild_here(*kaniko(place, references[0], digests[0]), env=env)
    assert done.returncode == 0, told(done)
    given = {"SOURCE_DATE_EPOCH": EPOCH, "ASYNCBUILD_ISOLATION": isolation}
    done = lone_user.asyncbuild(*kaniko(place, references[1], digests[1]), environ=given)
    assert done.returncode == 0, told(done)
    assert digests[0].read_text() == digests[1].read_text()


def test_a_single_id_runs_as_root_alone(
    lone_user: User, registry: DockerRegistry, busybox_base: str
) -> None:
    """Another user's RUN says what is missing."""
    place = context(lone_user.directory, f"FROM {busybox_base}\nUSER app\nRUN true\n")
    done = lone_user.asyncbuild("build", "-t", f"{registry.host}/rootless/one:latest", place)
    assert done.returncode != 0
    assert "RUN as another user than root needs subordinate ids" in done.stderr.decode()


def test_what_a_run_finds(user: User, registry: DockerRegistry, busybox_base: str) -> None:
    """It is root of some 65,000 users; devices work, nothing of this machine can be mounted or read."""
    script = (
        "id -u; wc -l < /proc/self/uid_map; head -c 2 /dev/zero | wc -c; echo x > /dev/null;"
        " touch /f; chown 65000:65000 /f; stat -c %u:%g /f; mknod /n c 1 3 || echo no device;"
        " ls /sys/fs/cgroup | wc -l; echo a > /proc/sys/kernel/hostname || echo no sysctl"
    )
    place = context(
        user.directory, f"FROM {busybox_base}\nRUN {script}\nUSER app\nRUN id -u; id -G\n"
    )
    reference = f"{registry.host}/rootless/found:latest"
    done = user.asyncbuild("build", "-t", reference, "--progress", "plain", place)
    assert done.returncode == 0, told(done)
    said = [line.split("| ")[1] for line in done.stderr.decode().splitlines() if "| " in line]
    assert [line for line in said if ":" not in line or line == "65000:65000"] == [
        "0", "2", "2", "65000:65000", "no device", "0", "no sysctl", "1000", "1000 50 60"
    ]  # fmt: skip


def test_the_store_is_the_users(user: User, registry: DockerRegistry, busybox_base: str) -> None:
    """Files belong to the user and their subordinate ids; du and prune reach them."""
    place = context(
        user.directory, f"FROM {busybox_base}\nRUN touch /f && chown 7:8 /f && chmod 0 /f\n"
    )
    done = user.asyncbuild("build", "-t", f"{registry.host}/rootless/store:latest", place)
    assert done.returncode == 0, told(done)
    owners = {path.lstat().st_uid for path in user.store.rglob("*")}
    assert UID in owners
    assert FIRST + 6 in owners
    assert {uid for uid in owners if uid != UID and not FIRST <= uid < FIRST + 65_536} == set()
    done = user.asyncbuild("prune", "--all")
    assert done.returncode == 0, told(done)
    assert user.asyncbuild("du").stdout.split() == [b"0", b"B", b"total"]
    assert [path for kind in ("layers", "trees") for path in user.store.glob(f"{kind}*/*/*")] == []


def start_build(
    user: User, registry: DockerRegistry, base: str
) -> tuple[subprocess.Popen[bytes], dict[str, int]]:
    """Start a build whose RUN sleeps; its process, and those below it once the RUN says so."""
    place = context(
        user.directory,
        f"FROM {base}\nRUN --mount=type=cache,target=/c (setsid sleep 1000 &); touch /c/started; sleep 1000\n",
    )
    process = user.start("build", "-t", f"{registry.host}/rootless/stop:latest", place)
    deadline = time.monotonic() + 60
    while not list(user.store.glob("cache-mounts/*/*/fs/started")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process, descendants(process.pid)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)],
    ids=["SIGTERM", "SIGINT", "SIGKILL"],
)
def test_signals_leave_nothing(
    user: User, registry: DockerRegistry, busybox_base: str, number: int, code: int
) -> None:
    """Whatever ends the build ends all of its processes, and with them its mounts; the store is good."""
    process, processes = start_build(user, registry, busybox_base)
    handles = [os.pidfd_open(each) for each in processes.values()]
    assert len(handles) >= 3
    process.send_signal(number)
    process.communicate()
    assert process.returncode == code
    for handle in handles:
        assert select.select([handle], [], [], 20)[0], "a process of the build goes on"
        os.close(handle)
    assert str(user.directory) not in Path("/proc/self/mountinfo").read_text()
    (user.directory / "context/Dockerfile").write_text(f"FROM {busybox_base}\nRUN echo again\n")
    reference = f"{registry.host}/rootless/stop:latest"
    done = user.asyncbuild("build", "-t", reference, user.directory / "context")
    assert done.returncode == 0, told(done)


def test_limits_have_no_effect_and_that_is_said(
    user: User, registry: DockerRegistry, busybox_base: str
) -> None:
    """No control group is the user's: a warning, and the RUN goes on."""
    place = context(user.directory, f"FROM {busybox_base}\nRUN true\n")
    reference = f"{registry.host}/rootless/limits:latest"
    done = user.asyncbuild("build", "-t", reference, "--memory", "1g", "--progress", "plain", place)
    assert done.returncode == 0, told(done)
    assert "--memory and --cpus have no effect here" in done.stderr.decode()


def test_isolation_rootless_is_not_for_root(
    shm_path: Path, registry: DockerRegistry, busybox_base: str
) -> None:
    """Root is told so."""
    place = context(shm_path, f"FROM {busybox_base}\nRUN true\n")
    words = ["build", "--store", str(shm_path / "store"), "--isolation", "rootless", str(place)]
    done = asyncbuild_here(*words, "-t", f"{registry.host}/rootless/root:latest")
    assert done.returncode != 0
    assert "for ordinary users, and this is root" in done.stderr.decode()


def test_run_with_isolation_none_fails_before_anything_is_fetched(
    lone_user: User, registry: DockerRegistry, busybox_base: str
) -> None:
    """The Dockerfile's line, what to do, and no request."""
    mark = registry.mark()
    place = context(lone_user.directory, f"FROM {busybox_base}\nCOPY Dockerfile /\nRUN true\n")
    words = ["build", "--isolation", "none", "-t", f"{registry.host}/rootless/none:latest"]
    done = lone_user.asyncbuild(*words, place)
    assert done.returncode != 0
    text = done.stderr.decode()
    assert "Dockerfile:3" in text
    assert "--isolation auto takes what is possible" in text
    assert registry.requests(mark) == []
