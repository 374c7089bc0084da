"""Serve, or with --check ask the running service whether it works."""

import os
import sys
import urllib.request
from wsgiref.simple_server import make_server

from tally.app import app

port = int(os.environ.get("PORT", "8000"))
if "--check" in sys.argv:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2) as answer:
        sys.exit(answer.read() != b"ok\n")
with make_server(os.environ.get("HOST", "127.0.0.1"), port, app) as server:
    print(f"tally listens on port {port}", flush=True)
    server.serve_forever()
