"""The routes."""

import json
import os
from http import HTTPStatus
from pathlib import Path

import _words
from smallweb import App, Environ, Response

LONGEST_TEXT = 1_000_000

PAGE = """<!doctype html>
<title>tally</title>
<link rel="stylesheet" href="/static/main.css">
<form method="post" action="/count">
  <textarea name="text" placeholder="Some words"></textarea>
  <button>Count</button>
  <p>tally {version}</p>
</form>
"""

app = App()


@app.route("GET", "/")
def page(environ: Environ) -> Response:
    """The page with the form."""
    text = PAGE.format(version=os.environ.get("TALLY_VERSION", "dev"))
    return Response(text.encode(), "text/html; charset=utf-8")


@app.route("GET", "/healthz")
def health(environ: Environ) -> Response:
    """Whether the service works."""
    return Response(b"ok\n")


@app.route("GET", "/static/main.css")
def styles(environ: Environ) -> Response:
    """The styles, compressed if the browser takes that."""
    zipped = "gzip" in environ.get("HTTP_ACCEPT_ENCODING", "")
    name = "main.css.gz" if zipped else "main.css"
    headers = {"Content-Encoding": "gzip"} if zipped else {}
    content = Path(os.environ.get("TALLY_STATIC", "static"), name).read_bytes()
    return Response(content, "text/css", headers=headers)


@app.route("POST", "/count")
def count(environ: Environ) -> Response:
    """How often each word of the body occurs, most frequent first."""
    length = int(environ.get("CONTENT_LENGTH") or 0)
    if length > LONGEST_TEXT:
        return Response(b"too long\n", status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    text = environ["wsgi.input"].read(length).decode(errors="replace").lower()
    counts = sorted(_words.count(text).items(), key=lambda pair: (-pair[1], pair[0]))
    return Response(json.dumps(dict(counts)).encode(), "application/json")
