"""The parts of ``support`` that read what others wrote: apt's configuration, Go's durations, trees."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from support.builds import descendants
from support.cases import describe
from support.images import Layer, directory, symlink, text
from support.machine_apt import AptSource, parse_deb822, parse_one_line, read_machine_apt
from support.pulled import Found
from support.registry import DockerRegistry, make_tls, running_registry
from support.running import running_image


def test_one_line_sources() -> None:
    """Options, comments and source packages of the one-line format are understood."""
    found = parse_one_line(
        "# deb http://mirror.invalid/old old main\n"
        "deb [arch=amd64 signed-by=/k.gpg] http://mirror.invalid/d stable main contrib # why\n"
        "deb-src http://mirror.invalid/d stable main\n"
    )
    assert found == [
        AptSource(("http://mirror.invalid/d",), ("stable",), ("main", "contrib"), "/k.gpg")
    ]


def test_deb822_sources() -> None:
    """Several suites, folded lines, comments and disabled stanzas of the stanza format."""
    found = parse_deb822(
        "Types: deb deb-src\n# a comment\nURIs: http://mirror.invalid/d\nSuites: a\n b\n"
        "Components: main\nSigned-By: /k.gpg\n\n"
        "Types: deb\nURIs: http://mirror.invalid/e\nSuites: c\nComponents: main\nEnabled: no\n"
    )
    assert found == [AptSource(("http://mirror.invalid/d",), ("a", "b"), ("main",), "/k.gpg")]


def test_this_machine_has_a_mirror() -> None:
    """What debootstrap needs is found in this machine's own configuration."""
    apt = read_machine_apt()
    assert apt.mirror.startswith("http")
    assert Path(apt.keyring).is_file()


def test_layers_are_deterministic() -> None:
    """The same nodes give the same bytes."""
    nodes = (directory("d"), text("d/f", "x"), symlink("d/l", "f"))
    assert Layer.of(*nodes) == Layer.of(*nodes)


def test_describe_tells_every_difference() -> None:
    """An expectation that differs in mode, owner and content is told in three lines."""
    found = Found("file", 0o600, 1, 2, content=b"is")
    told = describe("should be", found, {})
    assert [line.split()[0] for line in told] == ["mode", "owner", "content"]


@pytest.mark.integration
def test_registry_log(registry: DockerRegistry, auth_registry: DockerRegistry) -> None:
    """Requests of others are seen with their status and times, refused ones too."""
    for running, status in ((registry, 200), (auth_registry, 401)):
        mark = running.mark()
        connection = running.connect()
        connection.request("GET", "/v2/")
        assert connection.getresponse().status == status
        connection.close()
        (request,) = running.requests(mark)
        assert (request.method, request.path, request.status) == ("GET", "/v2/", status)
        assert request.started <= request.ended


@pytest.mark.integration
def test_registry_with_tls(shm_path: Path) -> None:
    """A client that trusts the registry's authority is answered."""
    with running_registry(shm_path / "registry", tls=make_tls(shm_path / "tls")) as running:
        assert running.call("GET", "/v2/")[0] == 200


def test_a_service_ends_with_its_test(shm_path: Path) -> None:
    """Also one that has another user, to whom nobody tells that its parent is gone."""
    (shm_path / "bin").mkdir()
    shutil.copy(shutil.which("busybox") or "/bin/busybox", shm_path / "bin/busybox")
    script = ["/bin/busybox", "sh", "-c", "echo up; exec /bin/busybox sleep 1000"]
    shm_path.chmod(0o755)
    others = set(descendants(os.getpid()).values())
    with running_image(shm_path, {"User": "900:900", "Cmd": script}, {}) as line:
        assert line == "up\n"
        begun = set(descendants(os.getpid()).values()) - others
        assert begun
    assert not {pid for pid in begun if _lives(pid)}


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
