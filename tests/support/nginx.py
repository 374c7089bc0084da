"""nginx as a child process in front of a registry: the limits and redirects that proxies in the field have."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from support.registry import _free_port

_SECONDS = 20.0


@contextlib.contextmanager
def proxied(directory: Path, upstream: str, rules: str = "") -> Iterator[str]:
    """Run nginx in front of ``upstream`` (``host:port``, plain HTTP); gives its own ``host:port``.

    ``rules`` are directives of its server block, which come before that which passes everything on.
    """
    directory.mkdir(parents=True, exist_ok=True)
    host = f"127.0.0.1:{_free_port()}"
    temporary = "\n".join(
        f"{name}_temp_path {directory}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (directory / "nginx.conf").write_text(
        f"""
        daemon off;
        master_process off;
        pid {directory}/pid;
        error_log {directory}/error.log;
        events {{ worker_connections 256; }}
        http {{
            access_log off;
            {temporary}
            server {{
                listen {host};
                proxy_set_header Host $http_host;
                proxy_http_version 1.1;
                proxy_request_buffering off;
                {rules}
                location / {{ proxy_pass http://{upstream}; }}
            }}
        }}
        """
    )
    command = ["setpriv", "--pdeathsig", "KILL", "--", "nginx", "-c", f"{directory}/nginx.conf"]
    command += ["-e", f"{directory}/error.log"]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _wait_until_up(child, host)
        yield host
    finally:
        child.terminate()
        child.communicate()


def _wait_until_up(child: subprocess.Popen[bytes], host: str) -> None:

    deadline = time.monotonic() + _SECONDS
    name, _, port = host.partition(":")
    while True:
        with contextlib.suppress(OSError), socket.create_connection((name, int(port)), 1):
            return
        if child.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("nginx does not start")
        time.sleep(0.01)
