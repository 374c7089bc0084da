"""Parser cases as directories: ``cases/NAME/Dockerfile`` and what the parser makes of it, ``expected.txt``.

After a deliberate change, ``ASYNCBUILD_REFRESH=1 pytest tests/dockerfile/test_cases.py`` writes the
expected files anew; the difference is then reviewed like any other change.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from asyncbuild.dockerfile.parser import parse_dockerfile
from asyncbuild.errors import DockerfileError
from support.dockerfiles import dump

CASES = sorted((Path(__file__).parent / "cases").iterdir())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Path) -> None:
    """The Dockerfile parses to the instructions, or fails with the error, that the case expects."""
    try:
        actual = dump(parse_dockerfile((case / "Dockerfile").read_bytes()))
    except DockerfileError as error:
        actual = error.render() + "\n"
    expected = case / "expected.txt"
    if os.environ.get("ASYNCBUILD_REFRESH"):
        expected.write_text(actual)
    assert actual == expected.read_text()


def test_there_are_cases() -> None:
    """The directory is found, and holds what it should."""
    assert len(CASES) >= 40
