"""How much is said at once."""

from __future__ import annotations

import pytest

from asyncbuild.dockerfile.parser import parse_dockerfile
from asyncbuild.image.platform import Platform
from asyncbuild.plan.extent import wave_of
from asyncbuild.plan.planner import PlanRequest, make_plan

HERE = Platform("linux", "amd64")


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("FROM a\nENV B=c\n", 0),
        ("FROM a\nCOPY b /\nRUN c\nWORKDIR /d\nADD e /\n", 4),
        ("FROM a AS b\nRUN c\nFROM b\nRUN d\n", 2),
        ("FROM a AS b\nRUN c\nFROM d\nCOPY --from=b / /\n", 1),
        ("FROM a\n" + "RUN b\n" * 99, 24),
    ],
)
def test_layers_of_the_image_count(text: str, layers: int) -> None:
    """Those that its own stages make, beside those of the base; up to a bound."""
    plan = make_plan(parse_dockerfile(text.encode(), "Dockerfile"), PlanRequest(HERE, HERE))
    assert wave_of(plan) == 16 + layers
