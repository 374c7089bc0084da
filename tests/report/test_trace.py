"""The trace file."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbuild.errors import StoreError
from asyncbuild.report.trace import Span, TraceRecorder, render_trace
from support.progress_cases import Case


def test_cases(case: Case) -> None:
    """The spans of each sequence of events."""
    recorders: list[TraceRecorder] = []

    def make(clock: Any) -> TraceRecorder:
        recorders.append(TraceRecorder(clock))
        return recorders[-1]

    case.play(make)
    document = json.loads(render_trace(recorders[0].spans))
    lines = [json.dumps(event) for event in document["traceEvents"]]
    case.compare("trace.jsonl", "".join(f"{line}\n" for line in lines))


def complete(spans: list[Span]) -> list[dict[str, Any]]:
    """The complete events of a rendered trace."""
    events = json.loads(render_trace(spans))["traceEvents"]
    return [event for event in events if event["ph"] == "X"]


_TIMES = st.integers(0, 50)
_SPANS = st.builds(
    lambda name, start, length: Span(name, "pull", start, start + length),
    st.sampled_from("abc"),
    _TIMES,
    _TIMES,
)


@given(st.lists(_SPANS, max_size=12))
def test_no_two_spans_of_a_lane_overlap(spans: list[Span]) -> None:
    """Spans without a lane get one in which nothing else runs at that time."""
    last: dict[int, int] = {}
    for event in complete(spans):
        assert event["ts"] >= last.get(event["tid"], 0) - 1
        last[event["tid"]] = event["ts"] + event["dur"]


def test_order_of_spans_is_irrelevant() -> None:
    """The file is the same however the spans were recorded."""
    spans = [Span("a", "step", 0, 1, "build"), Span("b", "pull", 0, 2), Span("c", "pull", 1, 3)]
    assert render_trace(spans) == render_trace(spans[::-1])


def test_cause_and_args() -> None:
    """What a span waited for is among its arguments."""
    (event,) = complete([Span("a", "step", 0.5, 1.5, args=(("bytes", 3),), cause="pull of base")])
    assert event["args"] == {"bytes": 3, "cause": "pull of base"}
    assert (event["ts"], event["dur"]) == (500_000, 1_000_000)


def test_file(shm_path: Path) -> None:
    """The file holds what was recorded and added; a disk error is ours."""
    recorder = TraceRecorder(lambda: 0.0)
    recorder.add(Span("a", "step", 0, 1))
    recorder.write(shm_path / "trace.json")
    assert (shm_path / "trace.json").read_bytes() == render_trace(recorder.spans)
    with pytest.raises(StoreError):
        recorder.write(shm_path)
