"""RUN by an OCI runtime: what is different from our own sandbox, and what is left. The rest, which is the same, is
in the tests of the sandbox, its mounts and furniture.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from asyncbuild.errors import IsolationError
from support.roots import Roots

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("roots", ["runc", "crun"], indirect=True)
def test_what_is_no_utf8_is_refused(roots: Roots) -> None:
    """A bundle is JSON: a variable that it cannot hold is named."""
    environment = {"PATH": "/bin", "RAW": os.fsdecode(b"\xff"), "FINE": "\u00dc a\n"}
    with pytest.raises(IsolationError, match=r"config\.json failed: .*RAW"):
        roots.run("env", environment=environment)
    del environment["RAW"]
    assert "FINE=\u00dc a\n" in roots.run("env", environment=environment).stdout


@pytest.mark.parametrize("roots", ["runc", "crun"], indirect=True)
def test_nothing_is_left(roots: Roots) -> None:
    """Neither in the runtimes' usual places, nor a control group, nor a file beside the layer, nor a process:
    after a RUN, and after one that was cancelled.
    """
    places = [Path("/run/runc"), Path("/run/crun"), *Path("/sys/fs/cgroup").glob("*")]
    before = {path: sorted(os.listdir(path)) if path.is_dir() else None for path in places}
    assert roots.shell("(setsid sleep 1000 &); true").code == 0
    spec = roots.spec("sh", "-c", "echo; sleep 1000")

    async def cancelled() -> None:
        with trio.CancelScope() as scope:
            await roots.execute(spec, lambda *_: scope.cancel())

    trio.run(cancelled)
    assert {path: sorted(os.listdir(path)) if path.is_dir() else None for path in places} == before
    assert roots.left() == set()
    assert sorted(os.listdir(spec.work)) == ["overlay", "stage", "stub"]
    assert os.listdir(spec.work / "stage") == []
