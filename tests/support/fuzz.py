"""One input of a fuzzer: it gives a Dockerfile, or an error with a position, and nothing else."""

from __future__ import annotations

from asyncbuild.dockerfile.parser import parse_dockerfile
from asyncbuild.errors import DockerfileError
from asyncbuild.image.platform import Platform
from asyncbuild.plan.checks import Surroundings, check_plan
from asyncbuild.plan.pinning import find_mentions, rewrite
from asyncbuild.plan.planner import PlanRequest, make_plan
from asyncbuild.plan.render import render

_PLATFORM = Platform("linux", "amd64")


def read(text: bytes) -> None:
    """Parse, plan, check and pin ``text``; raises AssertionError for what must not be."""
    lines = text.count(b"\n") + 1
    problem: DockerfileError | None = None
    try:
        _read(text, lines)
    except DockerfileError as error:
        problem = error
    if problem is not None:
        place = problem.location
        assert place is not None, problem
        assert 1 <= place.line <= lines, problem
        assert place.line <= place.end_line <= lines, problem
        problem.render().encode()


def _read(text: bytes, lines: int) -> None:
    dockerfile = parse_dockerfile(text)
    assert dockerfile.stages
    for stage in dockerfile.stages:
        for item in (stage.from_, *stage.instructions):
            assert 1 <= item.location.line <= item.location.end_line <= lines
    mentions = find_mentions(dockerfile)
    assert rewrite(text, {mention: mention.text for mention in mentions})[0] == text
    plan = make_plan(dockerfile, PlanRequest(_PLATFORM, _PLATFORM))
    render(plan).encode()
    check_plan(dockerfile, plan, Surroundings(plain=True, every_stage=True))
