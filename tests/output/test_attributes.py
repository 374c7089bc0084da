"""The one line of CSV that ``--output`` and its like take."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbuild.errors import UsageError
from asyncbuild.output.attributes import join_attributes, parse_attributes, split_fields


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("", [""]),
        ("a", ["a"]),
        ("a,b", ["a", "b"]),
        ("a,,b,", ["a", "", "b", ""]),
        ('"a,b",c', ["a,b", "c"]),
        ('"say ""hi""",c', ['say "hi"', "c"]),
        ('"",""', ["", ""]),
        ("type=oci,dest=a b", ["type=oci", "dest=a b"]),
    ],
)
def test_fields(text: str, fields: list[str]) -> None:
    """Fields are split at commas outside quotes, and doubled quotes are one."""
    assert split_fields(text) == fields


@pytest.mark.parametrize("text", ['a"b', '"a', '"a"b', 'x,"a', 'a,b"'])
def test_misplaced_quotes(text: str) -> None:
    """A quote inside a field, one that is not closed, and text after a closing one are refused."""
    with pytest.raises(UsageError):
        split_fields(text)


def test_keys_are_lowered_but_not_those_of_annotations() -> None:
    """Keys are case-insensitive; an annotation's name is not."""
    assert parse_attributes("TYPE=oci,annotation.org.Foo=Bar") == (
        ("type", "oci"),
        ("annotation.org.Foo", "Bar"),
    )


@pytest.mark.parametrize("text", ["type", "type=a,b", "=a", " =a", "a=1,A=2", ""])
def test_fields_that_are_no_pairs(text: str) -> None:
    """A field without an equals sign or a key, and a key given twice, are refused."""
    with pytest.raises(UsageError):
        parse_attributes(text)


_KEYS = st.from_regex(r"[a-z][a-z0-9.-]{0,12}", fullmatch=True)


@given(st.dictionaries(_KEYS, st.text(), min_size=1))
def test_round_trip(pairs: dict[str, str]) -> None:
    """What is joined is parsed back, whatever the values hold."""
    assert dict(parse_attributes(join_attributes(pairs.items()))) == pairs


@given(st.text(alphabet='a,"=b', max_size=12))
def test_any_text_parses_or_is_refused(text: str) -> None:
    """No text makes the parser fail in another way."""
    with contextlib.suppress(UsageError):
        parse_attributes(text)
