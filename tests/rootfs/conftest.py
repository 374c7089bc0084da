"""The sandboxes that RUNs of these tests happen in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from asyncbuild.rootfs.oci_runtimes import find_runtime
from asyncbuild.rootfs.sandbox import RuntimePlace
from support.roots import Roots


@pytest.fixture(params=["own", "runc", "crun"])
def roots(shm_path: Path, request: pytest.FixtureRequest) -> Roots:
    """A place for layers and RUNs: in our own sandbox, or by a runtime, as ``request.param`` says."""
    runtime = request.param
    place = RuntimePlace(find_runtime(runtime, os.environ).command) if runtime != "own" else None
    return Roots(shm_path, place)
