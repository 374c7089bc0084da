"""Contexts from the network: a web server and git repositories on this machine."""

from __future__ import annotations

import functools
import http.server
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from asyncbuild.cli.kaniko_fetch import fetch_file, fetch_git
from asyncbuild.cli.kaniko_flags import EXECUTOR, read_flags
from asyncbuild.cli.kaniko_options import GitOptions
from asyncbuild.cli.kaniko_source import open_source
from asyncbuild.dockerfile.remote import GitReference, WebFile
from asyncbuild.errors import InputError


def git(directory: Path, *arguments: str) -> str:
    """Run git as somebody."""
    who = ["-c", "user.name=a", "-c", "user.email=a@b.test", "-c", "protocol.file.allow=always"]
    command = ["git", *who, *arguments]
    done = subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(shm_path: Path) -> Path:
    """A repository with two branches, a tag, and a commit that no branch has."""
    root = shm_path / "served" / "app.git"
    root.mkdir(parents=True)
    git(root, "init", "-q", "-b", "main")
    for number, branch in ((1, "main"), (2, "main"), (3, "release")):
        git(root, "checkout", "-q", "-B", branch)
        (root / "Dockerfile").write_text(f"FROM scratch\nLABEL version={number}\n")
        git(root, "add", ".")
        git(root, "commit", "-q", "-m", str(number))
        git(root, "tag", f"v{number}")
    git(root, "checkout", "-q", "main")
    git(root, "update-server-info")
    return root


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Files of a directory; asks for a login below /private."""

    def do_GET(self) -> None:
        """Serve a file."""
        if self.path.startswith("/private") and not self.headers.get("Authorization"):
            self.send_response(401)
            self.send_header("WWW-Authenticate", "Basic")
            self.end_headers()
            return
        self.path = self.path.removeprefix("/private")
        super().do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(shm_path: Path) -> Iterator[str]:
    """The directory ``served`` over http: its host and port. For git it is a dumb server."""
    (shm_path / "served").mkdir(exist_ok=True)
    handler = functools.partial(Quiet, directory=str(shm_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("ref", "version"),
    [("", 2), ("main", 2), ("refs/heads/release", 3), ("v1", 1), ("refs/tags/v3", 3)],
)
def test_a_ref_is_checked_out(repository: Path, shm_path: Path, ref: str, version: int) -> None:
    """Branches, tags and full refs, by one commit and without ``.git``."""
    place = shm_path / "context"
    place.mkdir()
    fetch_git(GitReference(f"file://{repository}", ref), GitOptions(), place)
    assert f"version={version}\n" in (place / "Dockerfile").read_text()
    assert [path.name for path in place.iterdir()] == ["Dockerfile"]


def test_a_commit_is_checked_out(repository: Path, shm_path: Path) -> None:
    """A server that gives no single commits gives everything."""
    commit = git(repository, "rev-parse", "v1")
    git(repository, "config", "uploadpack.allowAnySHA1InWant", "false")
    place = shm_path / "context"
    place.mkdir()
    fetch_git(GitReference(f"file://{repository}", commit, commit=commit), GitOptions(), place)
    assert "version=1\n" in (place / "Dockerfile").read_text()


def test_a_depth_keeps_the_history(repository: Path, shm_path: Path) -> None:
    """``--git depth=2`` is two commits, which the context holds."""
    place = shm_path / "context"
    place.mkdir()
    fetch_git(GitReference(f"file://{repository}", "release"), GitOptions(depth=2), place)
    assert git(place, "rev-list", "--count", "HEAD") == "2"


def test_what_is_not_there_is_said(repository: Path, shm_path: Path) -> None:
    """A repository or a ref that does not exist, in one line without the login."""
    place = shm_path / "context"
    place.mkdir()
    with pytest.raises(InputError, match="has no nothing") as caught:
        fetch_git(GitReference(f"file://{repository}", "nothing"), GitOptions(), place)
    other = shm_path / "other"
    other.mkdir()
    wanted = GitReference(f"file://me:secret@{shm_path}/none")
    with pytest.raises(InputError, match="git fetch failed") as caught:
        fetch_git(wanted, GitOptions(), other)
    assert "secret" not in caught.value.message


def test_submodules_come_along(repository: Path, shm_path: Path, server: str) -> None:
    """``--git recurse-submodules=true`` fetches them too."""
    outer = shm_path / "served" / "outer.git"
    outer.mkdir()
    git(outer, "init", "-q", "-b", "main")
    git(outer, "submodule", "--quiet", "add", str(repository), "inner")
    git(
        outer, "config", "-f", ".gitmodules", "submodule.inner.url", f"http://{server}/app.git/.git"
    )
    git(outer, "add", ".")
    git(outer, "commit", "-q", "-m", "with a submodule")
    for options, there in ((GitOptions(), False), (GitOptions(recurse_submodules=True), True)):
        place = shm_path / f"context-{there}"
        place.mkdir()
        fetch_git(GitReference(f"file://{outer}", "main"), options, place)
        assert (place / "inner/Dockerfile").exists() is there
        assert not list(place.rglob(".git"))


def test_a_repository_over_http_with_a_login(repository: Path, server: str, shm_path: Path) -> None:
    """The whole of kaniko's form: the host, the ref, the token of the environment."""
    words = ["-c", f"git://{server}/private/app.git/.git#refs/heads/release"]
    environ = {"GIT_PULL_METHOD": "http", "GIT_TOKEN": "t0ken"}
    with ExitStack() as stack:
        source = open_source(read_flags(EXECUTOR, words), environ, stack)
        assert b"version=3\n" in source.dockerfile


def test_files_of_the_web(server: str, shm_path: Path) -> None:
    """A file is fetched; what the server refuses is said without what signs the URL."""
    (shm_path / "served/a").write_bytes(b"bytes")
    fetch_file(WebFile(f"http://{server}/a?sig=x"), shm_path / "got")
    assert (shm_path / "got").read_bytes() == b"bytes"
    with pytest.raises(InputError, match="404") as caught:
        fetch_file(WebFile(f"http://{server}/b?sig=secret"), shm_path / "none")
    assert "secret" not in caught.value.message


def test_a_dockerfile_of_the_web(server: str, shm_path: Path) -> None:
    """``--dockerfile`` may be a URL; the context is what it is."""
    (shm_path / "served/Dockerfile").write_bytes(b"FROM scratch AS far\n")
    with ExitStack() as stack:
        words = ["-c", str(shm_path), "-f", f"http://{server}/Dockerfile"]
        source = open_source(read_flags(EXECUTOR, words), {}, stack)
        assert source.dockerfile == b"FROM scratch AS far\n"
