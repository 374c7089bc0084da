"""Streams of any encoding, and streams that nobody reads."""

import io

from asyncbuild.report.stream import Output


def test_an_encoding_that_lacks_letters() -> None:
    """What ASCII lacks is escaped instead of ending the build."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    Output(stream).write("café \udc80\n")
    assert raw.getvalue() == b"caf\\xe9 \\udc80\n"


def test_surrogates_in_utf_8() -> None:
    """File names that are not UTF-8 can be shown."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="utf-8")
    Output(stream).write("é\udc80\n")
    assert raw.getvalue() == "é\\udc80\n".encode()


class Broken(io.StringIO):
    """A stream whose reader has gone."""

    def write(self, text: str) -> int:
        """Fail as a closed pipe does."""
        raise BrokenPipeError


def test_a_reader_that_has_gone() -> None:
    """A closed pipe or stream makes the output silent, for good."""
    output = Output(Broken())
    output.write("lost\n")
    output.write("lost\n")
    closed = io.StringIO()
    closed.close()
    Output(closed).write("lost")
