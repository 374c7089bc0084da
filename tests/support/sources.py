"""Where sources of ADD and build contexts come from in tests: archives, a web server, git repositories.

The server speaks plain HTTP on this machine. What it has is said file by file; repositories below ``/git/``
are served by ``git http-backend``, as GitHub does it, and those below ``/dumb/`` as plain files.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import zstandard

from support.images import Node, make_tar

COMMIT_DATE = "2021-03-04T05:06:07+0000"
COMMIT_TIME = 1614834367


def archive(nodes: Sequence[Node], compression: str = "") -> bytes:
    """A tar of ``nodes``, compressed by gz, bz2, xz or zst."""
    data = make_tar(nodes)
    match compression:
        case "gz":
            return gzip.compress(data, mtime=0)
        case "bz2":
            return bz2.compress(data)
        case "xz":
            return lzma.compress(data)
        case "zst":
            return zstandard.ZstdCompressor().compress(data)
        case _:
            return data


def archive_names(data: bytes) -> list[str]:
    """What is in a tar, for tests that want to see."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return tar.getnames()


@dataclass(slots=True)
class Page:
    """An answer: the last of ``statuses`` is for every request after those before it."""

    body: bytes = b""
    statuses: tuple[int, ...] = (200,)
    headers: Mapping[str, str] = field(default_factory=dict)
    needs: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    """How many bytes come before the connection is closed, for answers that are not the last."""
    asked: int = 0


@dataclass(slots=True)
class WebServer:
    """A running server: ``base`` is its URL without a slash at the end."""

    base: str
    root: Path
    pages: dict[str, Page] = field(default_factory=dict)
    requests: list[tuple[str, str, Mapping[str, str]]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    git_delay: float = 0.0
    """Seconds before each answer to git."""

    @property
    def host(self) -> str:
        """Host and port."""
        return self.base.partition("://")[2]


@contextlib.contextmanager
def running_web_server(root: Path) -> Iterator[WebServer]:
    """Serve until the block ends; repositories are looked for in ``root``."""
    root.mkdir(parents=True, exist_ok=True)
    web = WebServer("", root)

    class Handler(_Handler):
        server_data = web

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    web.base = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server_data: WebServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        web = self.server_data
        # a proxy is asked for the whole URL
        path = unquote(urlsplit(self.path).path)
        with web.lock:
            web.requests.append((self.command, self.path, dict(self.headers)))
            page = web.pages.get(path)
            turn = 0
            if page is not None:
                turn, page.asked = page.asked, page.asked + 1
        if page is not None:
            self._page(page, turn)
        elif path.startswith("/git/"):
            time.sleep(web.git_delay)
            self._git(path.removeprefix("/git"))
        elif path.startswith("/dumb/"):
            self._file(web.root / path.removeprefix("/dumb/"))
        else:
            self._send(404, b"no such page\n", {})

    def _page(self, page: Page, turn: int) -> None:
        status = page.statuses[min(turn, len(page.statuses) - 1)]
        last = turn >= len(page.statuses) - 1
        if any(self.headers.get(name) != value for name, value in page.needs.items()):
            self._send(401, b"who are you?\n", {"WWW-Authenticate": 'Basic realm="tests"'})
        elif page.cut is not None and not last:
            self._head(200, len(page.body), page.headers)
            self.wfile.write(page.body[: page.cut])
            self.close_connection = True
        else:
            self._send(status, page.body if status < 400 else b"an error\n", page.headers)

    def _file(self, path: Path) -> None:
        if path.is_file():
            self._send(200, path.read_bytes(), {})
        else:
            self._send(404, b"no such file\n", {})

    def _git(self, path: str) -> None:
        """One exchange by git's own CGI program."""
        length = int(self.headers.get("Content-Length") or 0)
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.server_data.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_COUNT": "2",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "GIT_CONFIG_KEY_1": "uploadpack.allowAnySHA1InWant",
            "GIT_CONFIG_VALUE_1": "true",
            "PATH_INFO": path,
            "QUERY_STRING": urlsplit(self.path).query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(length),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "REMOTE_ADDR": "127.0.0.1",
        }
        done = subprocess.run(
            ["git", "http-backend"],
            input=self.rfile.read(length),
            capture_output=True,
            check=False,
            env=environment,
        )
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        rows = [line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line]
        headers = {name: value for name, value in rows if name.lower() != "status"}
        status = next((int(value[:3]) for name, value in rows if name.lower() == "status"), 200)
        self._send(status, body, headers)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self._head(status, len(body), headers)
        self.wfile.write(body)

    def _head(self, status: int, length: int, headers: Mapping[str, str]) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit: ``files`` are written (None removes), ``branch`` and ``tags`` point to it afterwards.

    A tag that begins with ``@`` is annotated. ``submodules`` maps paths to URLs.
    """

    files: Mapping[str, str | Mapping[str, Any] | None]
    branch: str = "main"
    tags: Sequence[str] = ()
    submodules: Mapping[str, str] = field(default_factory=dict)


def make_repository(bare: Path, commits: Sequence[Commit]) -> list[str]:
    """A bare repository with ``commits``, in their order, on branch main first; gives their names.

    Everything in it depends on nothing but ``commits``.
    """
    work = bare.with_name(f"{bare.name}.work")
    work.mkdir(parents=True)
    run_git(work, "init", "--quiet", "--initial-branch=main")
    names: list[str] = []
    for number, commit in enumerate(commits, 1):
        if run_git(work, "branch", "--list", commit.branch):
            run_git(work, "checkout", "--quiet", commit.branch)
        elif names:
            run_git(work, "checkout", "--quiet", "-b", commit.branch)
        for path, content in commit.files.items():
            _write(work / path, content)
        for path, url in commit.submodules.items():
            run_git(work, "submodule", "--quiet", "add", url, path)
        run_git(work, "add", "--all")
        run_git(work, "commit", "--quiet", "--allow-empty", "-m", f"commit {number}")
        names.append(run_git(work, "rev-parse", "HEAD"))
        for tag in commit.tags:
            kind = ("-a", "-m", tag) if tag.startswith("@") else ()
            run_git(work, "tag", *kind, tag.removeprefix("@"))
    run_git(work, "checkout", "--quiet", "main")
    run_git(work, "clone", "--quiet", "--bare", str(work), str(bare))
    run_git(bare, "update-server-info")
    return names


def _write(path: Path, content: str | Mapping[str, Any] | None) -> None:
    if content is None:
        path.unlink()
        return
    recipe = {"content": content} if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    if "link" in recipe:
        path.symlink_to(recipe["link"])
    else:
        path.write_text(recipe["content"])
        path.chmod(int(recipe.get("mode", "0644"), 8))


def run_git(directory: Path, *arguments: str) -> str:
    """Run git with an identity and a time of our own; its output."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        **{f"GIT_{who}_NAME": "tests" for who in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{who}_EMAIL": "tests@example.invalid" for who in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{who}_DATE": COMMIT_DATE for who in ("AUTHOR", "COMMITTER")},
    }
    done = subprocess.run(
        ["git", "-c", "protocol.file.allow=always", *arguments],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"git {' '.join(arguments)}: {done.stderr}")
    return done.stdout.strip()
