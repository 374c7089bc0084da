"""Golden plans: ``golden/NAME/Dockerfile`` and ``args.json`` give the text ``expected.txt``.

``args.json`` (optional) has any of ``build_args``, ``target``, ``platform`` and ``build_platform``; both
platforms are linux/amd64 by default. An error is rendered as the command line would print it.

After a deliberate change, ``ASYNCBUILD_REFRESH=1 pytest tests/plan/test_golden.py`` writes the expected
files anew; the difference is then reviewed like any other change.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from asyncbuild.dockerfile.parser import parse_dockerfile
from asyncbuild.errors import AsyncbuildError
from asyncbuild.image.platform import Platform
from asyncbuild.plan.planner import PlanRequest, make_plan
from asyncbuild.plan.remotes import check_plan_remotes
from asyncbuild.plan.render import render

CASES = sorted((Path(__file__).parent / "golden").iterdir())


def planned(case: Path) -> str:
    """The rendered plan of a case; what is refused is named at its end."""
    arguments = case / "args.json"
    given: dict[str, Any] = json.loads(arguments.read_text()) if arguments.exists() else {}
    request = PlanRequest(
        Platform.parse(given.get("platform", "linux/amd64")),
        Platform.parse(given.get("build_platform", "linux/amd64")),
        given.get("build_args", {}),
        given.get("target"),
    )
    text = ""
    try:
        plan = make_plan(parse_dockerfile((case / "Dockerfile").read_bytes()), request)
        text = render(plan)
        check_plan_remotes(plan)
    except AsyncbuildError as error:
        text += ("\n" if text else "") + error.render() + "\n"
    return text


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Path) -> None:
    """The plan is the expected one, letter by letter."""
    actual = planned(case)
    expected = case / "expected.txt"
    if os.environ.get("ASYNCBUILD_REFRESH"):
        expected.write_text(actual)
    assert actual == expected.read_text()


def test_there_are_cases() -> None:
    """The directory is found, and holds what it should."""
    assert len(CASES) >= 25
