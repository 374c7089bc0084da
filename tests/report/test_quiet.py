"""Silence, unless something fails."""

import io

from asyncbuild.report.quiet import QuietReporter
from support.progress_cases import Case


def test_cases(case: Case) -> None:
    """Only a failing step's last lines are shown."""
    stream = io.StringIO()
    case.play(lambda _: QuietReporter(stream))
    case.compare("quiet.txt", stream.getvalue())
