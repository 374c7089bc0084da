"""Output cut into lines."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbuild.report.lines import LONGEST, LineJoiner


def lines_of(*chunks: bytes) -> list[str]:
    """All lines of a stream that comes in these chunks."""
    joiner = LineJoiner()
    found = [line for chunk in chunks for line in joiner.feed(chunk)]
    return [*found, *joiner.finish()]


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"a", ["a"]),
        (b"a\n", ["a"]),
        (b"\n\n", ["", ""]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"10%\r20%\r30%\n", ["30%"]),
        (b"10%\r", ["10%"]),
        (b"a\r\r\n", ["a"]),
        (b"\x1b[31mred\x1b[0m\n", ["red"]),
        (b"\xff\xc3\xa9\n", ["\ufffdé"]),
        (b"a\tb\x07\x00\n", ["a\tb"]),
    ],
)
def test_lines(data: bytes, lines: list[str]) -> None:
    """Newlines end lines, carriage returns start them anew, the rest is cleaned."""
    assert lines_of(data) == lines


_BYTES = st.one_of(
    st.binary(max_size=40),
    st.text(st.sampled_from("ab\r\n\x1b[;3m漢"), max_size=40).map(str.encode),
    st.integers(LONGEST - 2, 2 * LONGEST + 2).map(lambda count: b"x" * count + b"\ry\n"),
)


@given(_BYTES, st.data())
def test_chunking_is_irrelevant(data: bytes, draw: st.DataObject) -> None:
    """However the bytes are cut, the lines are the same."""
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=6)))
    edges = [0, *cuts, len(data)]
    chunks = [data[start:end] for start, end in pairwise(edges)]
    assert lines_of(*chunks) == lines_of(data)


def test_memory_is_bounded() -> None:
    """A line without an end is given out in pieces."""
    joiner = LineJoiner()
    pieces = [line for _ in range(100) for line in joiner.feed(b"x" * 1000)]
    assert {len(piece) for piece in pieces} == {LONGEST}
    assert len("".join([*pieces, *joiner.finish()])) == 100_000


def test_pending() -> None:
    """The unfinished line can be looked at."""
    joiner = LineJoiner()
    joiner.feed(b"done\n10%\r20%")
    assert joiner.pending == "20%"
