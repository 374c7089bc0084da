"""Every fuzzer, for a moment: its seeds, what once was too much, and inputs by chance that are always the same.

`scripts/fuzz TARGET SECONDS` runs one for as long as one likes, led by coverage.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from support.fuzz_targets import TARGETS, mutations, seeds

COUNTS = {"tar": 600, "dockerfile": 300}
"""Inputs made by chance; of the other targets 1,500."""


@pytest.mark.parametrize("target", TARGETS)
def test_target(target: str) -> None:
    """No input raises what its reader does not promise."""
    assert len(seeds(target)) >= 2
    tried = 0
    for data in mutations(target, COUNTS.get(target, 1500), seed=1):
        TARGETS[target](data)
        tried += 1
    assert tried > COUNTS.get(target, 1500)


def test_every_target_has_a_dictionary() -> None:
    """`scripts/fuzz` finds one for each."""
    found = {path.stem for path in (Path(__file__).parent / "fuzz").glob("*.dict")}
    assert found == set(TARGETS)
