"""The bench's jail for kaniko executes nothing outside a root that was prepared for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

JAIL = Path(__file__).resolve().parents[2] / "perf" / "jail.py"


def test_nothing_is_executed_at_the_machine_root(tmp_path: Path) -> None:
    """Without a prepared root, the program is not started, and the reasons are told."""
    mark = tmp_path / "executed"
    command = [sys.executable, "-I", "-S", str(JAIL), "/", "token", str(tmp_path)]
    done = subprocess.run(
        [*command, "/usr/bin/touch", str(mark)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 97
    assert "the root is not a jail" in done.stderr
    assert "usr" in done.stderr
    assert not mark.exists()
