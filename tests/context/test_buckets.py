"""Objects in buckets, from a server on this machine that speaks as little of S3 and GCS as a GET needs."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncbuild.context.buckets import BucketObject, azure_object, fetch_object
from asyncbuild.errors import InputError

CONTENT = b"an archive" * 1000


class Bucket(http.server.BaseHTTPRequestHandler):
    """Has one object, whatever it is called, unless it is called missing or forbidden."""

    def do_GET(self) -> None:
        """Answer, and remember what was asked."""
        asked: list[tuple[str, str]] = self.server.asked  # type: ignore[attr-defined]
        asked.append((self.path, self.headers.get("Authorization", "")))
        status = 404 if "missing" in self.path else 403 if "forbidden" in self.path else 200
        body = CONTENT if status == 200 else b"<Error/>"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", "Mon, 12 Oct 2009 17:50:00 GMT")
        self.send_header("ETag", '"1"')
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[http.server.ThreadingHTTPServer]:
    """A bucket on this machine, and the credentials that obstore reads."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "user")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Bucket) as running:
        running.asked = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def endpoint(server: http.server.ThreadingHTTPServer) -> str:
    """The server's URL."""
    return f"http://127.0.0.1:{server.server_port}"


def test_s3_of_ones_own(server: http.server.ThreadingHTTPServer, shm_path: Path) -> None:
    """The variables that kaniko reads name the server; the request is signed."""
    environ = {"S3_ENDPOINT": endpoint(server), "S3_FORCE_PATH_STYLE": "true"}
    fetch_object(BucketObject("s3", "builds", "a/b.tar.gz"), shm_path / "got", environ)
    assert (shm_path / "got").read_bytes() == CONTENT
    ((path, authorization),) = server.asked  # type: ignore[attr-defined]
    assert path == "/builds/a/b.tar.gz"
    assert authorization.startswith("AWS4-HMAC-SHA256 Credential=user/")


@pytest.mark.parametrize(
    ("key", "reason"), [("missing", "does not exist"), ("forbidden", "cannot be read")]
)
def test_what_cannot_be_had_is_said(
    server: http.server.ThreadingHTTPServer, shm_path: Path, key: str, reason: str
) -> None:
    """The object's name and the reason, in one line."""
    environ = {"S3_ENDPOINT": endpoint(server), "S3_FORCE_PATH_STYLE": "true"}
    with pytest.raises(InputError, match=f"s3://builds/{key} {reason}") as caught:
        fetch_object(BucketObject("s3", "builds", key), shm_path / "got", environ)
    assert "\n" not in caught.value.message


def test_google(
    server: http.server.ThreadingHTTPServer, shm_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service account's file may name another server (obstore), as emulators do."""
    account = {"gcs_base_url": endpoint(server), "disable_oauth": True}
    account |= {"client_email": "", "private_key": "", "private_key_id": ""}
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps(account))
    fetch_object(BucketObject("gs", "builds", "context.tar.gz"), shm_path / "got", {})
    assert (shm_path / "got").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("url", "found"),
    [
        (
            "https://acc.blob.core.windows.net/ctx/a/b.tgz",
            BucketObject("az", "ctx", "a/b.tgz", "acc"),
        ),
        ("https://acc.blob.core.chinacloudapi.cn/c/x", BucketObject("az", "c", "x", "acc")),
        ("https://acc.blob.core.windows.net/ctx", None),
        ("https://files.test/ctx/a.tgz", None),
    ],
)
def test_azures_urls(url: str, found: BucketObject | None) -> None:
    """Account, container and blob; other URLs are not Azure's."""
    assert azure_object(url) == found
