"""A kaniko build's context and Dockerfile."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from asyncbuild.cli.kaniko_flags import EXECUTOR, read_flags
from asyncbuild.cli.kaniko_source import KanikoSource, open_source
from asyncbuild.errors import InputError, LayerError, UsageError


def source(words: list[str], stack: ExitStack) -> KanikoSource:
    """The source of a command line."""
    return open_source(read_flags(EXECUTOR, words), {}, stack)


@pytest.fixture
def project(shm_path: Path) -> Path:
    """A directory with two Dockerfiles."""
    root = shm_path / "project"
    (root / "web").mkdir(parents=True)
    (root / "Dockerfile").write_text("FROM scratch\n")
    (root / "web/Dockerfile").write_text("FROM scratch AS web\n")
    return root


@pytest.mark.parametrize("mode", ["-c", "-cz", "-cj", "-cJ", "-c --zstd"])
def test_archives_are_unpacked_and_removed(project: Path, mode: str) -> None:
    """A tar of any compression is a context, as long as the build lasts."""
    archive = project.parent / "context"
    command = ["tar", *mode.split(), "-C", str(project), "-f", str(archive), "."]
    subprocess.run(command, check=True)
    with ExitStack() as stack:
        found = source(["-c", f"tar://{archive}"], stack)
        assert found.dockerfile == b"FROM scratch\n"
        assert (found.context / "web").is_dir()
    assert not found.context.exists()


def test_what_is_no_archive_is_said(project: Path) -> None:
    """A Dockerfile is no tar; a file that is not there is not read."""
    with ExitStack() as stack, pytest.raises(LayerError):
        source(["-c", f"tar://{project}/Dockerfile"], stack)
    with ExitStack() as stack, pytest.raises(InputError):
        source(["-c", f"tar://{project}/nothing"], stack)


def test_a_sub_path_is_the_context(project: Path) -> None:
    """The Dockerfile is then looked for in it; it may not lead out."""
    with ExitStack() as stack:
        found = source(["-c", str(project), "--context-sub-path=/web"], stack)
        assert (found.context, found.dockerfile) == (project / "web", b"FROM scratch AS web\n")
    (project / "out").symlink_to("/")
    for path in ("..", "out/etc"):
        with ExitStack() as stack, pytest.raises(UsageError, match="leads out"):
            source(["-c", str(project), f"--context-sub-path={path}"], stack)


def test_a_dockerfile_is_seen_from_here_first(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands where the command runs wins over the context's."""
    here = project.parent / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    words = ["-c", str(project), "-f", "Dockerfile"]
    with ExitStack() as stack:
        assert source(words, stack).dockerfile_path == project / "Dockerfile"
        (here / "Dockerfile").write_text("FROM here\n")
        assert source(words, stack).dockerfile == b"FROM here\n"


def test_a_context_must_be_there(project: Path) -> None:
    """A missing directory, a file, a missing Dockerfile: each is named."""
    for place, what in (
        (project / "no", "does not exist"),
        (project / "Dockerfile", "is not a dir"),
    ):
        with ExitStack() as stack, pytest.raises(InputError, match=what):
            source(["-c", str(place)], stack)
    with ExitStack() as stack, pytest.raises(InputError, match="cannot read the Dockerfile"):
        source(["-c", str(project), "-f", "nowhere"], stack)
