"""``--isolation inplace``: when it is asked for, and what of a container a command line keeps.

It is carried out in containers only: tests/test_in_place.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from asyncbuild.cli.arguments import parser
from asyncbuild.cli.build import read_request
from asyncbuild.cli.commands import is_in_place
from asyncbuild.cli.inplace import with_own_root
from asyncbuild.errors import UsageError
from asyncbuild.registry.hosts import HostSettings
from asyncbuild.registry.places import Files
from asyncbuild.registry.registries import RegistrySettings
from asyncbuild.rootfs.ownroot import OwnRoot
from asyncbuild.rootfs.reserved import Reserved

ASKED = {"ASYNCBUILD_ISOLATION": "inplace"}


@pytest.mark.parametrize(
    ("words", "environ", "asked"),
    [
        (["build", "--isolation", "inplace", "."], {}, True),
        (["build", "--isolation=inplace", "."], {}, True),
        (["kaniko", "--isolation=inplace"], {}, True),
        (["build", "."], ASKED, True),
        (["build", "--isolation", "chroot", "."], ASKED, False),
        (["build", "--isolation=inplace", "--isolation=auto", "."], {}, False),
        (["build", "-t", "inplace", "."], {}, False),
        (["build", "--isolation=inplace", "--help"], {}, False),
        (["doctor"], ASKED, False),
        (["kaniko", "push", "x"], ASKED, False),
        (["kaniko", "warmer"], ASKED, False),
        ([], ASKED, False),
    ],
)
def test_when_it_is_asked_for(words: list[str], environ: Mapping[str, str], *, asked: bool) -> None:
    """By builds alone; the last option counts, before the variable."""
    assert is_in_place(words, environ) is asked


@pytest.fixture
def place(shm_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory to be in, with a context behind a link."""
    top = Path(os.path.realpath(shm_path))
    (top / "real/context").mkdir(parents=True)
    (top / "real/context/Dockerfile").write_text("FROM scratch\n")
    (top / "link").symlink_to("real")
    (top / "here").mkdir()
    for name in ("DOCKER_CONFIG", "TMPDIR", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(top / "home"))
    monkeypatch.chdir(top / "here")
    return top


def own_root(settings: RegistrySettings, *words: str) -> tuple[OwnRoot, RegistrySettings]:
    """What a build with these words keeps."""
    options = parser().parse_args(["build", "--isolation=inplace", *words])
    request, kept = with_own_root(read_request(options), settings, [options.iidfile or "-"])
    assert request.run.own_root is not None
    return request.run.own_root, kept


def test_what_a_command_line_names_is_kept(place: Path) -> None:
    """Where it is, with the links that lead there; what will be written has its directory."""
    (place / "home/.docker").mkdir(parents=True)
    (place / "cdi").mkdir()
    words = ["--store", str(place / "store"), "--iidfile", f"{place}/out/id", "--cdi-spec-dir"]
    words += [str(place / "cdi"), "-o", f"type=oci,dest={place}/out/image.tar"]
    (place / "out").mkdir()
    found, _ = own_root(RegistrySettings(), *words, "../link/context")
    assert {"proc", "sys", "dev", ".asyncbuild"} <= found.names.names
    names = Reserved.of((path for path in found.reserved if path != "/dev"), found.standing)
    kept = ("link", "real/context", "store", "out/id", "out/image.tar", "home/.docker", "cdi")
    assert [name for name in kept if not names.holds(f"{place}/{name}"[1:])] == []
    for name in ("here", "out", "real"):
        assert f"{place}/{name}"[1:] in names.leading
        assert not names.holds(f"{place}/{name}"[1:])


def test_registries_are_as_they_are_here(place: Path) -> None:
    """Files of certificates are kept; a directory of settings that is not here is not looked at later."""
    (place / "certs").mkdir()
    (place / "ca.pem").write_text("")
    files = Files((str(place / "certs"), str(place / "missing")))
    hosts = {"registry.example": HostSettings(ca_files=(str(place / "ca.pem"),))}
    words = ["--store", str(place / "store"), str(place / "real/context")]
    found, kept = own_root(RegistrySettings(files=files, hosts=hosts), *words)
    assert kept.files.directories == (str(place / "certs"),)
    assert found.names.holds(f"{place}/ca.pem"[1:])
    assert found.names.holds(f"{place}/certs"[1:])


def test_the_root_is_no_context(place: Path) -> None:
    """It would be replaced."""
    words = ["--store", str(place / "store"), "-f", str(place / "real/context/Dockerfile"), "/"]
    with pytest.raises(UsageError, match="the context is /"):
        own_root(RegistrySettings(), *words)
