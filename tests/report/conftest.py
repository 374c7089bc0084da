"""The cases of progress, one after the other."""

from pathlib import Path

import pytest

from support.progress_cases import Case

_CASES = Path(__file__).parent / "cases"


@pytest.fixture(params=sorted(path.parent.name for path in _CASES.glob("*/events.py")))
def case(request: pytest.FixtureRequest) -> Case:
    """Each case in turn."""
    return Case.load(_CASES / str(request.param))
