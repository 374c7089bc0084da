"""Fetching files over HTTP: a real server on this machine, and a real store."""

from __future__ import annotations

import gzip
import hashlib
import random
import ssl
import threading
from collections.abc import Callable
from contextlib import aclosing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trio

from asyncbuild.build.fetch import FetchedFile, FetchTools, WebFetcher
from asyncbuild.dockerfile.remote import WebFile
from asyncbuild.errors import AsyncbuildError, FetchFailed, InputError
from asyncbuild.image.digest import Digest
from asyncbuild.registry.retry import RetryPolicy
from asyncbuild.report.events import TransferFinished
from asyncbuild.store.store import Store
from support.builds import Recorder
from support.registry import make_tls
from support.sources import Page, WebServer, running_web_server

IMPATIENT = RetryPolicy(attempts=3, base=0.001, longest=0.001)


def fetch(path: Path, url: str, checksum: Digest | None = None, **tools: object) -> FetchedFile:
    """Fetch one file into a new store."""
    recorder = tools.pop("recorder", Recorder())
    with Store.open(path / "store") as store:
        made = FetchTools(
            store,
            recorder,  # type: ignore[arg-type]
            **{"policy": IMPATIENT, "chance": random.Random(1), **tools},  # type: ignore[arg-type]
        )

        async def run() -> FetchedFile:
            async with aclosing(WebFetcher(made)) as web:
                return await web.fetch(WebFile(url), checksum)

        fetched = trio.run(run)
        assert list((path / "store/tmp").glob("*/blob-*")) == []
        return fetched


def digest(data: bytes) -> Digest:
    """Of some bytes."""
    return Digest("sha256", hashlib.sha256(data).hexdigest())


def test_a_file_becomes_a_blob(web: WebServer, shm_path: Path) -> None:
    """Its bytes, digest, size, and the time that the server says; progress is told."""
    data = random.Random(3).randbytes(3 << 20)
    web.pages["/fetch/large"] = Page(
        data, headers={"Last-Modified": "Thu, 01 Jan 1970 00:01:00 GMT"}
    )
    recorder = Recorder()
    found = fetch(shm_path, f"{web.base}/fetch/large", digest(data), recorder=recorder)
    assert found.path.read_bytes() == data
    assert (found.digest, found.size, found.modified_ns) == (digest(data), len(data), 60 * 10**9)
    (finished,) = recorder.of(TransferFinished)
    assert finished.moved == len(data)
    assert finished.transfer.label == "pull file large"


@pytest.mark.parametrize("stated", ["", "nonsense", "Thu, 01 Jan 1960 00:00:00 GMT"])
def test_no_time_is_the_epoch(web: WebServer, shm_path: Path, stated: str) -> None:
    """A missing, wrong or impossible Last-Modified."""
    web.pages["/fetch/f"] = Page(b"f", headers={"Last-Modified": stated} if stated else {})
    assert fetch(shm_path, f"{web.base}/fetch/f").modified_ns == 0


def test_gzip_for_the_way_is_taken_off(web: WebServer, shm_path: Path) -> None:
    """Content-Encoding is not part of the file."""
    zipped = gzip.compress(b"words" * 1000)
    web.pages["/fetch/f"] = Page(zipped, headers={"Content-Encoding": "gzip"})
    assert fetch(shm_path, f"{web.base}/fetch/f").path.read_bytes() == b"words" * 1000


@pytest.mark.parametrize(
    ("page", "kind", "what"),
    [
        (Page(statuses=(404,)), InputError, "404 Not Found"),
        (Page(statuses=(403,)), InputError, "403 Forbidden"),
        (Page(statuses=(500,)), FetchFailed, "500"),
        (Page(statuses=(599,)), InputError, "599"),
        (Page(b"x" * 9, (200, 200, 200, 200, 200), cut=3), FetchFailed, "cannot fetch"),
        (Page(b"no gzip", headers={"Content-Encoding": "gzip"}), FetchFailed, "decompress"),
        (Page(statuses=(302,), headers={"Location": "ftp://x/y"}), FetchFailed, "redirects to"),
        (Page(statuses=(302,), headers={"Location": "/fetch/bad"}), FetchFailed, "10 redirects"),
    ],
)
def test_failures(
    web: WebServer, shm_path: Path, page: Page, kind: type[AsyncbuildError], what: str
) -> None:
    """What cannot be had is one error that names the URL; nothing is left in the store."""
    page.asked = 0
    web.pages["/fetch/bad"] = page
    with pytest.raises(kind, match=what) as caught:
        fetch(shm_path, f"{web.base}/fetch/bad")
    assert "/fetch/bad" in caught.value.message


def test_temporary_failures_are_tried_again(web: WebServer, shm_path: Path) -> None:
    """Three tries: an error, a body cut off, the file."""
    page = web.pages["/fetch/f"] = Page(b"at last", (503, 200, 200), cut=2)
    assert fetch(shm_path, f"{web.base}/fetch/f").path.read_bytes() == b"at last"
    assert page.asked == 3


def test_another_content_than_promised(web: WebServer, shm_path: Path) -> None:
    """Both digests are named, and asking again is not tried."""
    page = web.pages["/fetch/f"] = Page(b"f")
    with pytest.raises(FetchFailed) as caught:
        fetch(shm_path, f"{web.base}/fetch/f", digest(b"other"))
    assert str(digest(b"f")) in caught.value.message
    assert str(digest(b"other")) in caught.value.message
    assert page.asked == 1


def test_credentials_stay_with_their_host(web: WebServer, shm_path: Path) -> None:
    """A secret is sent to the host it is for; not to where that redirects."""
    with running_web_server(shm_path / "other") as other:
        other.pages["/f"] = Page(b"f")
        web.pages["/fetch/f"] = Page(statuses=(307,), headers={"Location": f"{other.base}/f"})
        secrets = {"HTTP_AUTH_TOKEN_127.0.0.1": b"tok\n"}
        fetch(shm_path, f"{web.base}/fetch/f", secrets=secrets.get)
        ours = [headers for _, path, headers in web.requests if path == "/fetch/f"]
        assert ours[-1]["Authorization"] == "Bearer tok"
        assert "Authorization" not in other.requests[-1][2]


def test_a_login_in_the_url(web: WebServer, shm_path: Path) -> None:
    """``user:password@`` is sent, and not shown."""
    web.pages["/fetch/f"] = Page(b"f", needs={"Authorization": "Basic bWU6c2VjcmV0"})
    login = web.base.replace("://", "://me:secret@")
    assert fetch(shm_path, f"{login}/fetch/f").size == 1
    with pytest.raises(InputError) as caught:
        fetch(shm_path, f"{login}/fetch/none")
    assert "secret" not in str(caught.value)


def test_through_a_proxy(web: WebServer, shm_path: Path) -> None:
    """A host that only the proxy knows: it is asked for the whole URL."""
    web.pages["/f"] = Page(b"by proxy")
    environ = {"HTTP_PROXY": web.base}
    found = fetch(shm_path, "http://nowhere.invalid/f", environ=environ)
    assert found.path.read_bytes() == b"by proxy"
    assert web.requests[-1][1] == "http://nowhere.invalid/f"
    with pytest.raises(FetchFailed):
        fetch(shm_path, "http://nowhere.invalid/f", environ={**environ, "NO_PROXY": ".invalid"})


def test_tls_is_verified(shm_path: Path) -> None:
    """An authority that SSL_CERT_FILE names is trusted, any other certificate is not."""
    tls = make_tls(shm_path / "tls")
    with _tls_server(str(tls.certificate), str(tls.key)) as base:
        found = fetch(shm_path, f"{base}/f", environ={"SSL_CERT_FILE": str(tls.ca_file)})
        assert found.path.read_bytes() == b"over tls"
        with pytest.raises(FetchFailed, match="certificate"):
            fetch(shm_path, f"{base}/f")


def test_cancelling_leaves_nothing(web: WebServer, shm_path: Path) -> None:
    """A fetch that is cancelled at any of its steps closes what it opened."""
    web.pages["/fetch/f"] = Page(b"x" * 100_000)
    with Store.open(shm_path / "store") as store:
        tools = FetchTools(store, Recorder(), chance=random.Random(1))

        async def run(steps: int) -> bool:
            with trio.CancelScope() as scope:
                trio.lowlevel.spawn_system_task(_cancel_after, scope, steps)
                async with aclosing(WebFetcher(tools)) as fetcher:
                    await fetcher.fetch(WebFile(f"{web.base}/fetch/f"))
                return True
            return False

        steps = 0
        while not trio.run(run, steps):
            steps += 1
        assert steps > 5


async def _cancel_after(scope: trio.CancelScope, steps: int) -> None:
    for _ in range(steps):
        await trio.lowlevel.checkpoint()
    scope.cancel()


class _tls_server:  # noqa: N801 - it is used like a function
    """A server with TLS that answers everything."""

    def __init__(self, certificate: str, key: str) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", "8")
                self.end_headers()
                self.wfile.write(b"over tls")

            log_message: Callable[..., None] = lambda *_: None

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )

    def __enter__(self) -> str:
        self._thread.start()
        return f"https://127.0.0.1:{self._server.server_address[1]}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
