"""Text from outside cannot drive the terminal."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbuild.report.escape import cells, clip, one_line, printable, stripped

_TEXT = st.text(st.one_of(st.characters(), st.sampled_from("\x1b[]\x9b\x9d;3mA\n\r")))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 漢", "plain é 漢"),
        ("a\nb\r\t", "a\\nb\\r\\t"),
        ("\x1b[31m", "\\x1b[31m"),
        ("\u202edrow", "\\u202edrow"),
        ("\udc80", "\\udc80"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    """What cannot be seen is written as an escape."""
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("\x1b[1;31mred\x1b[m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b(Bx\x1b7y\x1bcz", "xyz"),
        ("\x9b2Jx", "x"),
        ("\x1bPdata\x1b\\x", "x"),
        ("a\x08\x7fb\tc", "ab\tc"),
        ("unfinished \x1b[31", "unfinished 31"),
    ],
)
def test_stripped(text: str, left: str) -> None:
    """Whole sequences go; of a broken one at least the ESC."""
    assert stripped(text) == left


@given(_TEXT)
def test_nothing_is_left_that_a_terminal_obeys(text: str) -> None:
    """Neither way lets a control character through, and both can be written as UTF-8."""
    assert printable(text).isprintable()
    assert one_line(text).isprintable()
    left = stripped(text)
    assert not [
        letter for letter in left if unicodedata.category(letter) == "Cc" and letter != "\t"
    ]
    left.encode()


@given(_TEXT)
def test_printable_hides_nothing(text: str) -> None:
    """Different letters look different: no letter is lost."""
    assert len(printable(text)) >= len(text)


def test_one_line() -> None:
    """White space is folded and long text cut."""
    assert one_line("RUN a \\\n   && b") == "RUN a && b"
    assert one_line("x" * 500) == "x" * 397 + "..."


@given(st.text(), st.integers(0, 30))
def test_clip(text: str, width: int) -> None:
    """What is left fits, is a beginning, and could not be longer."""
    left = clip(text, width)
    assert text.startswith(left)
    assert cells(left) <= width
    assert left == text or cells(text[: len(left) + 1]) > width


def test_cells() -> None:
    """Wide letters count two, combining marks nothing."""
    assert cells("ab") == 2
    assert cells("漢字") == 4
    assert cells("e\u0301") == 1
