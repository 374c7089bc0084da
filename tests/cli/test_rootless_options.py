"""What a RUN may be given, given by an ordinary user: it does what it does for root, or says what it lacks."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.commands import COMMAND, context, told
from support.registry import DockerRegistry
from support.users import UID, User

pytestmark = pytest.mark.integration


@pytest.fixture(params=[True, False], ids=["subordinate", "single"])
def anyone(shm_path: Path, request: pytest.FixtureRequest) -> User:
    """A user with subordinate ids, and one without."""
    return User.below(shm_path, subordinate=request.param)


@pytest.fixture
def user(shm_path: Path) -> User:
    """A user with subordinate ids."""
    return User.below(shm_path)


@pytest.fixture
def lone_user(shm_path: Path) -> User:
    """A user without."""
    return User.below(shm_path, subordinate=False)


def build(
    user: User, registry: DockerRegistry, dockerfile: str, *words: str, **environ: str
) -> tuple[int, list[str], str]:
    """Build it; the exit code, the lines that RUN printed, everything that was said."""
    place = user.directory / "context"
    if place.exists():
        (place / "Dockerfile").write_text(dockerfile)
    else:
        context(user.directory, dockerfile)
    name = f"{registry.host}/rootless/options:1"
    line = ["build", "-t", name, "--progress", "plain", "--no-cache", *words, str(place)]
    done = user.asyncbuild(*line, environ=environ)
    text = done.stderr.decode()
    return done.returncode, re.findall(r"^ *[0-9.]+s \[[^]]*\] +\| (.*)$", text, re.MULTILINE), text


def test_ulimits(anyone: User, registry: DockerRegistry, busybox_base: str) -> None:
    """Lower ones hold; one above what the user has is refused, with what it would take."""
    script = f"FROM {busybox_base}\nRUN ulimit -n; ulimit -c; ulimit -Hu\n"
    words = ["--ulimit", "nofile=99:100", "--ulimit", "core=0", "--ulimit", "nproc=500:600"]
    code, lines, text = build(anyone, registry, script, *words)
    assert code == 0, text
    assert lines == ["99", "0", "600"]
    code, _, text = build(anyone, registry, script, "--ulimit", "nofile=2000000000")
    assert code == 77, text
    assert "Dockerfile:2" in text
    assert "limits above the builder's own need CAP_SYS_RESOURCE" in text


def describe_devices(directory: Path, *devices: Mapping[str, Any]) -> list[str]:
    """A CDI file, and the words that let a build use it."""
    place = directory / "cdi"
    place.mkdir()
    document = {"cdiVersion": "0.6.0", "kind": "v.com/d", "devices": devices}
    (place / "d.json").write_text(json.dumps(document))
    return ["--cdi-spec-dir", str(place), "--allow", "device"]


def test_devices(anyone: User, registry: DockerRegistry, busybox_base: str) -> None:
    """A device of a CDI file can be opened where the user may open it; one that is not there is refused."""
    nodes = [{"path": "/dev/naught", "hostPath": "/dev/zero"}]
    words = describe_devices(
        anyone.directory,
        {"name": "zero", "containerEdits": {"deviceNodes": nodes, "env": ["NAUGHT=yes"]}},
        {"name": "gone", "containerEdits": {"deviceNodes": [{"path": "/dev/never"}]}},
    )
    script = 'head -c 3 /dev/naught | wc -c; echo "$NAUGHT"; echo x > /dev/naught && echo written'
    dockerfile = f"FROM {busybox_base}\nRUN --device=v.com/d=zero {script}\n"
    code, lines, text = build(anyone, registry, dockerfile, *words)
    assert code == 0, text
    assert lines == ["3", "yes", "written"]
    dockerfile = f"FROM {busybox_base}\nRUN --device=v.com/d=gone,required true\n"
    code, _, text = build(anyone, registry, dockerfile, *words)
    assert code == 66, text
    assert "the device v.com/d=gone needs /dev/never" in text


def test_secrets(user: User, registry: DockerRegistry, busybox_base: str) -> None:
    """Mode and owner are the mount's; others cannot read it."""
    mount = "--mount=type=secret,id=word,target=/w,mode=0440,uid=1000,gid=60"
    script = (
        f"RUN {mount} stat -c '%a %u %g' /w; stat -c %a%u%g /run/secrets/word\n".replace(
            mount, f"{mount} --mount=type=secret,id=word"
        )
        + f'USER 1000\nRUN {mount} test "$(cat /w)" = hidden && echo read\n'
        f"USER 1002\nRUN {mount} cat /w || echo refused\n"
    )
    words = ["--secret", "id=word,env=WORD"]
    code, lines, text = build(
        user, registry, f"FROM {busybox_base}\n{script}", *words, WORD="hidden"
    )
    assert code == 0, text
    assert [line for line in lines if not line.startswith("cat:")] == [
        "440 1000 60", "40000", "read", "refused"
    ]  # fmt: skip


def test_secrets_of_a_single_id(
    lone_user: User, registry: DockerRegistry, busybox_base: str
) -> None:
    """Root's works; another's is refused by name."""
    script = f"FROM {busybox_base}\nRUN --mount=type=secret,id=word,mode=0440%s cat /run/secrets/word | wc -c\n"
    words = ["--secret", "id=word,env=WORD"]
    code, lines, text = build(lone_user, registry, script % "", *words, WORD="hidden")
    assert code == 0, text
    assert lines == ["6"]
    code, _, text = build(lone_user, registry, script % ",uid=1000", *words, WORD="hidden")
    assert code == 77, text
    assert "Dockerfile:2" in text
    assert "subordinate ids" in text


@pytest.fixture
def key(user: User) -> Path:
    """A private key of the user's."""
    path = user.home / "key"
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "for tests", "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    os.chown(path, UID, UID)
    return path


PEER = "RUN --device=v.com/d=host --mount=type=ssh,required{} stat -c '%a %u %g' $SSH_AUTH_SOCK; ssh-add -l\n"


PROGRAMS = ("/usr", "/lib", "/lib64", "/etc/passwd")
"""Of this machine, for a RUN that wants more than busybox."""


def test_ssh(user: User, key: Path, registry: DockerRegistry, busybox_base: str) -> None:
    """An agent for a key file of the user's answers, behind a socket that belongs to whom the mount says."""
    mounts = [{"hostPath": path, "containerPath": path, "options": ["ro"]} for path in PROGRAMS]
    host = {"name": "host", "containerEdits": {"mounts": mounts}}
    words = [*describe_devices(user.directory, host), "--ssh", f"default={key}"]
    dockerfile = f"FROM {busybox_base}\n{PEER.format('')}USER 1000\n"
    dockerfile += PEER.format(",uid=1000,gid=50,mode=0640")
    code, lines, text = build(user, registry, dockerfile, *words)
    assert code == 0, text
    assert [line.split(" SHA256:")[0] for line in lines] == ["600 0 0", "256", "640 1000 50", "256"]
    assert all("for tests" in line for line in lines[1::2])


def test_an_agent_of_ones_own(lone_user: User, registry: DockerRegistry, busybox_base: str) -> None:
    """A socket for another than root is what a single id has not got."""
    dockerfile = f"FROM {busybox_base}\nRUN --mount=type=ssh,uid=1000 true\n"
    agent = lone_user.home / "agent"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(agent))
        code, _, text = build(lone_user, registry, dockerfile, "--ssh", f"default={agent}")
    assert code == 77, text
    assert "Dockerfile:2" in text
    assert "subordinate ids" in text


NETWORK = "RUN{} wget -q -O - http://{} > /dev/null 2>&1 && echo reached || echo alone; cat /etc/hosts | tail -n 1"


def test_network_and_hosts(anyone: User, registry: DockerRegistry, busybox_base: str) -> None:
    """The machine's network, or none but the loopback; names that the command line adds."""
    address = f"registry.test:{registry.host.rpartition(':')[2]}/v2/"
    words = ["--add-host", "registry.test:127.0.0.1"]
    dockerfile = f"FROM {busybox_base}\n{NETWORK.format('', address)}\n"
    dockerfile += f"{NETWORK.format(' --network=none', address)}\n"
    dockerfile += (
        "RUN --network=none ip -o link | wc -l; ip -o -4 addr show lo | grep -c 127.0.0.1\n"
    )
    code, lines, text = build(anyone, registry, dockerfile, *words)
    assert code == 0, text
    known = "127.0.0.1\tregistry.test"
    assert lines == ["reached", known, "alone", known, "1", "1"]
    code, lines, text = build(
        anyone, registry, dockerfile.partition("RUN --network")[0], *words, "--network", "none"
    )
    assert code == 0, text
    assert lines == ["alone", known]


def test_shared_memory(anyone: User, registry: DockerRegistry, busybox_base: str) -> None:
    """/dev/shm has the size that was asked for, 64 MiB if none."""
    script = "RUN df -k /dev/shm | awk 'NR == 2 { print $2 }'; dd if=/dev/zero of=/dev/shm/x bs=1M 2> /dev/null; stat -c %s /dev/shm/x\n"
    code, lines, text = build(
        anyone, registry, f"FROM {busybox_base}\n{script}", "--shm-size", "2m"
    )
    assert code == 0, text
    assert lines[0] == "2048"
    assert lines[1:] == ["2097152"]


def test_limits_have_no_effect_and_that_is_said(
    anyone: User, registry: DockerRegistry, busybox_base: str
) -> None:
    """No control group is the user's: one warning that says so, and RUN goes on."""
    words = ["--memory", "64m", "--cpus", "0.5"]
    code, lines, text = build(
        anyone, registry, f"FROM {busybox_base}\nRUN echo one\nRUN echo two\n", *words
    )
    assert code == 0, text
    assert lines == ["one", "two"]
    assert (
        text.count("--memory and --cpus have no effect here: no control group can be made here")
        == 1
    )


EATER = "awk 'BEGIN { s = \"x\"; while (1) s = s s }'"


@contextmanager
def delegated_group(uid: int) -> Iterator[Path]:
    """A control group for memory that belongs to a user (version 1)."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    (place,) = (line.split(":", 2)[2] for line in lines if ":memory:" in line)
    group = Path(f"/sys/fs/cgroup/memory{place}/asyncbuild-tests-{os.getpid()}")
    group.mkdir()
    try:
        for path in (group, *group.iterdir()):
            os.chown(path, uid, uid)
        yield group
    finally:
        group.rmdir()


def test_limits_in_a_group_of_the_users(
    user: User, registry: DockerRegistry, busybox_base: str
) -> None:
    """Where a control group was given to the user, as systemd gives one, memory ends where it should."""
    with delegated_group(UID) as group:
        context(user.directory, f"FROM {busybox_base}\nRUN {EATER}\n")
        line = ["build", "-t", f"{registry.host}/rootless/options:1", "--memory", "48m"]
        script = f'echo $$ > {group}/cgroup.procs && exec "$@"'
        done = subprocess.run(
            ["sh", "-c", script, "sh", *user.words(*COMMAND, *line, user.directory / "context")],
            env=user.environment(),
            cwd=user.home,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 137, told(done)
        assert "it wanted more memory than --memory gives it" in done.stderr.decode()


@pytest.mark.parametrize("mount", ["type=cache,target=/c,uid=1000,gid=50", "type=tmpfs,target=/c"])
def test_other_mounts(
    anyone: User, registry: DockerRegistry, busybox_base: str, mount: str
) -> None:
    """A cache for another user, where there is one; a tmpfs."""
    dockerfile = f"FROM {busybox_base}\nRUN --mount={mount} touch /c/x && stat -c %u:%g /c\n"
    code, lines, text = build(anyone, registry, dockerfile)
    if "uid" in mount and not anyone.subordinate:
        assert code == 77, text
        assert "Dockerfile:2" in text
        assert "subordinate ids" in text
    else:
        assert code == 0, text
        assert lines == ["1000:50" if "uid" in mount else "0:0"]


def test_warm(anyone: User, registry: DockerRegistry, busybox_base: str) -> None:
    """An ordinary user's warm directory, from which a build with RUN takes the base."""
    place = context(anyone.directory, f"FROM {busybox_base}\nRUN echo warm > /w\n")
    directory = anyone.home / "warm"
    done = anyone.asyncbuild("warm", "--image", busybox_base, str(directory))
    assert done.returncode == 0, told(done)
    assert {path.lstat().st_uid for path in directory.rglob("*")} == {UID}
    mark = registry.mark()
    name = f"{registry.host}/rootless/warm:1"
    done = anyone.asyncbuild("build", "-t", name, "--cache-dir", str(directory), place)
    assert done.returncode == 0, told(done)
    fetched = [item.path for item in registry.requests(mark) if item.method == "GET"]
    assert [path for path in fetched if "/base/busybox/blobs/" in path] == []
