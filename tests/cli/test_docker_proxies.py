"""Proxies in docker's configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from asyncbuild.cli.docker_proxies import proxy_arguments


def test_both_spellings(shm_path: Path) -> None:
    """Each proxy becomes two build arguments."""
    proxies = {"default": {"httpProxy": "http://p:1", "noProxy": "a,b", "ftpProxy": "", "x": "y"}}
    (shm_path / "config.json").write_text(json.dumps({"proxies": proxies}))
    found = proxy_arguments({"DOCKER_CONFIG": str(shm_path)}, "/nonexistent")
    assert found == {
        "HTTP_PROXY": "http://p:1",
        "http_proxy": "http://p:1",
        "NO_PROXY": "a,b",
        "no_proxy": "a,b",
    }


@pytest.mark.parametrize("text", ["", "{", "[]", '{"proxies": 3}', '{"proxies": {"default": []}}'])
def test_nothing_to_find(text: str, shm_path: Path) -> None:
    """A file without proxies, or a damaged one, asks for none."""
    (shm_path / ".docker").mkdir()
    (shm_path / ".docker" / "config.json").write_text(text)
    assert proxy_arguments({}, str(shm_path)) == {}
    assert proxy_arguments({}, "/nonexistent") == {}
