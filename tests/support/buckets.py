"""Buckets on this machine: a server that speaks as much of S3, GCS's XML and Azure's blobs as a cache needs.

Objects are called by the whole path of their URL. One that is put in parts appears when these are put together.
"""

from __future__ import annotations

import base64
import http.server
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Buckets:
    """What is held, what was asked (method, path, Host, Authorization), and which requests fail."""

    url: str = ""
    held: dict[str, bytes] = field(default_factory=dict)
    parts: dict[tuple[str, str], bytes] = field(default_factory=dict)
    asked: list[tuple[str, str, str, str]] = field(default_factory=list)
    fails: Callable[[str, str], int] = lambda method, path: 0

    def requests(self, method: str, path: str = "") -> list[str]:
        """The paths of the requests so far whose method and (part of the) path these are."""
        return [item[1] for item in self.asked if item[0] == method and path in item[1]]


@contextmanager
def running_buckets() -> Iterator[Buckets]:
    """The server, as long as the block lasts."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads = True
        buckets = Buckets(f"http://127.0.0.1:{server.server_port}")
        server.buckets = buckets  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield buckets
        finally:
            server.shutdown()
            thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        buckets: Buckets = self.server.buckets  # type: ignore[attr-defined]
        url = urlsplit(self.path)
        path = unquote(url.path).lstrip("/")
        query = {
            name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()
        }
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        host, secret = self.headers.get("Host", ""), self.headers.get("Authorization", "")
        buckets.asked.append((self.command, path, host, secret))
        status = buckets.fails(self.command, path)
        if status:
            self._answer(status, b"<Error><Code>Refused</Code></Error>")
        elif self.command in ("GET", "HEAD"):
            found = buckets.held.get(path)
            self._answer(404 if found is None else 200, found or b"")
        else:
            self._write(buckets, path, query, body)

    do_GET = do_HEAD = do_PUT = do_POST = _serve  # noqa: N815

    def _write(self, buckets: Buckets, path: str, query: dict[str, str], body: bytes) -> None:
        if "uploads" in query:  # S3 and GCS: a multipart upload begins
            text = f"<R><Bucket>b</Bucket><Key>{path}</Key><UploadId>{path}</UploadId></R>"
            self._answer(200, text.encode())
        elif "partNumber" in query or query.get("comp") == "block":
            buckets.parts[path, query.get("partNumber") or query["blockid"]] = body
            self._answer(201 if "comp" in query else 200)
        elif "uploadId" in query or query.get("comp") == "blocklist":
            names = re.findall(rb"<(?:PartNumber|Uncommitted|Latest)>([^<]+)<", body)
            pieces = [buckets.parts.pop((path, name.decode())) for name in names]
            buckets.held[path] = b"".join(pieces)
            done = b'<R><Location>l</Location><Bucket>b</Bucket><Key>k</Key><ETag>"e"</ETag></R>'
            self._answer(201 if "comp" in query else 200, done)
        else:
            buckets.held[path] = body
            self._answer(201 if "x-ms-blob-type" in self.headers else 200)

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", "Mon, 12 Oct 2009 17:50:00 GMT")
        self.send_header("ETag", '"e"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


AZURE_KEY = base64.b64encode(b"a key of Azure's").decode()
