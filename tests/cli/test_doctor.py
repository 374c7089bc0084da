"""asyncbuild doctor: what a place permits, as text and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from asyncbuild.cli.doctor import findings
from asyncbuild.rootfs.isolation import Ability, Place
from support.commands import asyncbuild, asyncbuild_here
from support.isolated import POD


def test_root_is_told_overlay(shm_path: Path) -> None:
    """These tests run as root with every capability."""
    done = asyncbuild_here("doctor", "--store", shm_path / "store")
    assert done.returncode == 0
    assert done.stdout.startswith(b"RUN is executed with: overlay\n")
    assert b"chroot    possible" in done.stdout


def test_a_pod_is_told_what_it_lacks(shm_path: Path) -> None:
    """With docker's capabilities alone there are no mounts; the answer says what refused them."""
    words = ("doctor", "--format", "json", "--store", shm_path / "store")
    done = asyncbuild(*words, before=POD)
    found = json.loads(done.stdout)
    assert done.returncode == 0
    assert found["sys_admin"] is False
    assert found["backends"]["chroot"]["possible"] is True
    assert found["backends"]["overlay"]["possible"] is False
    assert "not permitted" in found["backends"]["overlay"]["missing"]["overlay"]
    assert any("CAP_SYS_ADMIN" in text for text in found["backends"]["overlay"]["better"])
    assert found["auto"] != "overlay"


def test_where_nothing_is_possible_the_exit_code_says_so(shm_path: Path) -> None:
    """A place that refuses everything."""
    place = Place(1000, refused=dict.fromkeys(Ability, "Operation not permitted"))
    found = findings(place, "no control groups")
    assert found["auto"] == "none"
    assert not any(item["possible"] for item in found["backends"].values())
