"""Every request of a build, struck by every fault that a registry double knows.

The result is the right image or the right error, always; and the store is clean, nothing in the registry
is half there, no promise is open and no task is left. Workers are real processes and shared by all builds;
the clock is trio's mock clock, which jumps when nothing happens for a hundredth of a second.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from asyncbuild.build import workers as workers_module
from asyncbuild.testing.fault_scripts import NAMED
from support.builds import HOST
from support.matrix import BASE, Matrix, Outcome, Place, new_double

DOCKERFILE = f"""\
FROM {BASE}/base/tiny AS tools
FROM {HOST}/base/other
COPY hello.txt /
COPY --from=tools /opt/tool /usr/bin/
LABEL a=b
"""
SURVIVED = {
    "refused",
    "reset-before",
    "reset-after",
    "reset-in-the-middle",
    "truncated",
    "wrong-size",
    "401-once",
    "429",
    "500",
    "502",
    "503",
    "hang",
    "hang-in-the-middle",
    "trickle",
    "garbage",
    "page",
}
"""Faults that cost a build nothing but time, at whatever request."""
ERRORS: Mapping[str, set[str]] = {
    "wrong-digest": {"PushFailed", "IntegrityError"},
    "401-always": {"NotAuthorized", "PushFailed"},
    "403": {"NotAuthorized", "PushFailed"},
    # the last: of a token service that is not there
    "404": {"ImageNotFound", "PushFailed", "RemoteProtocolError"},
    "416": {"RegistryError", "PushFailed", "IntegrityError"},
    "503-always": {"RegistryUnavailable", "PushFailed"},
}
"""What else may come of the other faults, than the right image."""


@pytest.fixture
def matrix(shm_path: Path) -> Matrix:
    """The build of `DOCKERFILE`."""
    context = shm_path / "context"
    context.mkdir()
    (context / "hello.txt").write_text("hello\n")
    return Matrix(shm_path, context, new_double, lambda world: world.request(DOCKERFILE, "app:1"))


FINAL_401 = {"GET ^/token$ #1", "GET ^/token$ #2", "GET ^/v2/base/tiny/manifests/latest$ #2"}
"""Where one 401 is final: a token service that refuses, and a token fresh from it that is refused."""


def judged(place: Place, fault: str, outcome: Outcome, right: Outcome) -> list[str]:
    """What is wrong with an outcome."""
    wrong = list(outcome.wrong)
    if outcome.error is None and outcome.digest != right.digest:
        wrong.append("another image")
    refused = fault == "401-once" and str(place) in FINAL_401
    allowed = {"NotAuthorized"} if refused else ERRORS.get(fault, set())
    if outcome.error is not None and outcome.name not in allowed:
        wrong.append(f"{outcome.name}: {outcome.error}")
    return [f"{fault} at {place}: {text}" for text in wrong]


def test_every_fault_at_every_request(matrix: Matrix, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests by faults: the right image or the right error, and nothing half done."""
    monkeypatch.setattr(
        workers_module, "_CLOSING_SECONDS", math.inf
    )  # processes know no mock clock
    right, found = matrix.run()
    assert (right.error, right.wrong) == (None, ())
    # The layers are in both bases: HEAD asks for them where the one of the other host was known first.
    assert {place.method for place in found} | {"HEAD"} == {"GET", "HEAD", "POST", "PUT"}
    assert len(matrix.outcomes) == len(found) * len(NAMED)
    wrong = [
        text
        for (place, fault), outcome in matrix.outcomes.items()
        for text in judged(place, fault, outcome, right)
    ]
    assert wrong == []
    assert set(NAMED) == SURVIVED | set(ERRORS)
    kinds = Counter(outcome.name for outcome in matrix.outcomes.values())
    assert kinds["done"] > 0.7 * len(matrix.outcomes), kinds
