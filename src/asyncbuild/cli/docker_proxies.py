"""``proxies`` of docker's config.json: build arguments for commands that need the network.

As in docker's CLI (``cli/config/configfile``, ParseProxyConfig): the member ``default``, each name in
capitals and in small letters. Damage in the file is told by whoever looks for logins in it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

_NAMES = {
    "httpProxy": "HTTP_PROXY",
    "httpsProxy": "HTTPS_PROXY",
    "ftpProxy": "FTP_PROXY",
    "noProxy": "NO_PROXY",
    "allProxy": "ALL_PROXY",
}


def proxy_arguments(environ: Mapping[str, str], home: str) -> dict[str, str]:
    """The arguments that the file asks for; none without it."""
    directory = environ.get("DOCKER_CONFIG") or os.path.join(home, ".docker")
    try:
        with open(os.path.join(directory, "config.json"), "rb") as file:
            default = json.load(file)["proxies"]["default"]
        given = {_NAMES[key]: default[key] for key in _NAMES if key in default}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    plain = {name: value for name, value in given.items() if value and isinstance(value, str)}
    return {**plain, **{name.lower(): value for name, value in plain.items()}}
