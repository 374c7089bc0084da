"""Progress for programs."""

import base64
import io
import json

from hypothesis import given
from hypothesis import strategies as st

from asyncbuild.report.events import RunOutput, Step, Stream
from asyncbuild.report.rawjson import RawJsonReporter, encode_event
from support.progress_cases import Case


def test_cases(case: Case) -> None:
    """Each event is one line of JSON with its time, kind and fields."""
    stream = io.StringIO()
    case.play(lambda clock: RawJsonReporter(stream, clock))
    case.compare("raw.jsonl", stream.getvalue())
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["time"] for line in lines] == [time for time, _ in case.events]


@given(st.binary(), st.text())
def test_output_is_kept_byte_for_byte(data: bytes, text: str) -> None:
    """Bytes and texts come back as they were, and every event is one line."""
    line = encode_event(RunOutput(Step(text, 1, 1, text), Stream.STDERR, data), 1.0)
    assert line.isascii()
    assert line.isprintable()
    value = json.loads(line)
    assert base64.b64decode(value["data"]) == data
    assert value["step"]["stage"] == text
    assert (value["event"], value["stream"]) == ("run_output", "stderr")
