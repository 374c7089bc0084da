"""Word expansion, rule by rule; what is expected was taken from BuildKit's lexer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbuild.dockerfile.words import SPACES, WordError, WordRules, expand_word

ENV = {"HOME": "/root", "SH": "bash", "NULL": "", "UMLAUT": "grün", "P": "a.b.c", "PATTERN": "a*"}


def text(word: str, **environment: str) -> str:
    """The expansion of ``word`` in ENV and ``environment``."""
    return expand_word(word, ENV | environment).text


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("plain", "plain"),
        ("one two", "one two"),
        ("in'ner quo'tes", "inner quotes"),
        ("it\\'s", "it's"),
        ("a\\tb", "atb"),
        ('"a\\tb"', "a\\tb"),
        ('"a\\\\tb"', "a\\tb"),
        ("'a\\tb'", "a\\tb"),
        ("end\\", "end"),
        ("end\\\\", "end\\"),
        ("'end\\'", "end\\"),
        ('"it\'s"', "it's"),
        ("'\"x\"'", '"x"'),
        ('""', ""),
        ("\"''\"", "''"),
        ("안'녕'하세요", "안녕하세요"),
        ("안\\t녕", "안t녕"),
    ],
)
def test_quotes_and_escapes(word: str, expected: str) -> None:
    """Quotes vanish, single quotes protect everything, the escape character what follows it."""
    assert text(word) == expected


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("$HOME", "/root"),
        ("${HOME}", "/root"),
        ("a$HOME.b", "a/root.b"),
        ("a${HOME}b", "a/rootb"),
        ("$UMLAUT", "grün"),
        ("$unset.", "."),
        ("${unset}x", "x"),
        ("\\$HOME", "$HOME"),
        ("\\\\$HOME", "\\/root"),
        ("'$HOME'", "$HOME"),
        ('"$HOME"', "/root"),
        ('"\\$HOME"', "$HOME"),
        ("\"'$HOME'\"", "'/root'"),
        ("\\${HOME}", "${HOME}"),
        ("$.", "$."),
        ("cost: 5$", "cost: 5$"),
        ("$ x", "$ x"),
        ("${HOME}}", "/root}"),
        ("$1x", "x"),
        ("$999x", "x"),
        ("$@@", "@"),
        ("$$", ""),
        ("$!", ""),
        ("${1:-one}", "one"),
        ("${@:-all}", "all"),
        ("${0:+x}", ""),
        ("$안녕", ""),
    ],
)
def test_variables(word: str, expected: str) -> None:
    """Names, braces, special parameters that are never set, and dollars that are none."""
    assert text(word) == expected


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("${unset:-d}", "d"),
        ("${unset-d}", "d"),
        ("${NULL:-d}", "d"),
        ("${NULL-d}", ""),
        ("${HOME:-d}", "/root"),
        ("${unset:-}", ""),
        ("${unset:+d}", ""),
        ("${NULL:+d}", ""),
        ("${NULL+d}", "d"),
        ("${HOME:+d}", "d"),
        ("${unset:-$HOME}", "/root"),
        ("${unset:-${other:-deep}}", "deep"),
        ("${unset:-'a b'}", "a b"),
        ('${unset:-"}"}', "}"),
        ("${unset:-\\}}", "}"),
        ("${unset:-a {b}", "a {b"),
        ("${HOME:+${HOME}:}x", "/root:x"),
        ("${HOME:?gone}", "/root"),
        ("${NULL?gone}", ""),
        ("x${unset:-\\$HOME}", "x$HOME"),
    ],
)
def test_defaults_and_alternatives(word: str, expected: str) -> None:
    """``-`` and ``+`` look whether a variable is set, ``:-`` and ``:+`` whether it is more than empty."""
    assert text(word) == expected


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("${P#a.}", "b.c"),
        ("${P#*.}", "b.c"),
        ("${P##*.}", "c"),
        ("${P%.*}", "a.b"),
        ("${P%%.*}", "a"),
        ("${P#x}", "a.b.c"),
        ("${P%}", "a.b.c"),
        ("${P##}", "a.b.c"),
        ("${P#?}", ".b.c"),
        ("${P%%$SH}", "a.b.c"),
        ("${STARS#\\*}", "*?"),
        ("${STARS%\\?}", "**"),
        ("${BACK#a\\\\}", "b"),
        ("${BRACE#\\}}", "x"),
        ("${unset#x}", ""),
        ("${BRACKETS#[ab]}", "c"),
    ],
)
def test_prefixes_and_suffixes(word: str, expected: str) -> None:
    """``#`` and ``%`` cut the shortest match, doubled the longest; brackets mean themselves."""
    values = {"STARS": "**?", "BACK": "a\\b", "BRACE": "}x", "BRACKETS": "[ab]c"}
    assert text(word, **values) == expected


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("${P/./-}", "a-b.c"),
        ("${P//./-}", "a-b-c"),
        ("${P/b/}", "a..c"),
        ("${P/x/y}", "a.b.c"),
        ("${P/*/all}", "all"),
        ("${P//*/all}", "all"),
        ("${P//?/x}", "xxxxx"),
        ("${P/$PATTERN/x}", "x"),
        ("${PATH//\\//:}", ":usr:bin"),
        ("${PATH//$SLASH/:}", ":usr:bin"),
        ("${PATH/usr/$SH}", "/bash/bin"),
        ("${P//$NULL/-}", "-a-.-b-.-c-"),
        ("${unset/a/b}", ""),
        ("${P/./\\1}", "a\\1b.c"),
    ],
)
def test_replacement(word: str, expected: str) -> None:
    """``/`` replaces the first match, ``//`` every match; the new text is taken literally."""
    assert text(word, PATH="/usr/bin", SLASH="/") == expected


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("it's", "single quote"),
        ('say "hi', "double quote"),
        ('"end\\"', "double quote"),
        ("${", "missing '}'"),
        ("${HOME", "missing '}'"),
        ("${HOME:", "missing '}'"),
        ("${HOME:-x", "missing '}'"),
        ("${unset:-b ${x}", "missing '}'"),
        ("${}", "bad substitution"),
        ("${{x}", "bad substitution"),
        ("${:-x}", "bad substitution"),
        ("${.}", r"unsupported modifier \(\.\)"),
        ("${HOME:x}", r"unsupported modifier \(:x\)"),
        ("${HOME=x}", r"unsupported modifier \(=\)"),
        ("${HOME:#x}", r"unsupported modifier \(:#\)"),
        ("${HOME:%x}", r"unsupported modifier \(:%\)"),
        ("${HOME/x}", "missing '/'"),
        ("${HOME/x/", "missing '}'"),
        ("${HOME#\\x}", "invalid pattern"),
        ("${unset?}", "unset: is not allowed to be unset"),
        ("${NULL:?}", "NULL: is not allowed to be empty"),
        ("${unset:?ask $SH}", "unset: ask bash"),
    ],
)
def test_errors(word: str, message: str) -> None:
    """What is not closed, not known, or required and missing is an error that says what."""
    with pytest.raises(WordError, match=message):
        text(word)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("a b\tc", ["a", "b", "c"]),
        ("  a  ", ["a"]),
        ("", []),
        ('""', []),
        ('a"b c"d e', ["ab cd", "e"]),
        ("a\\ b c", ["a b", "c"]),
        ("$LIST", ["x", "y"]),
        ("a${P}b", ["a1", "2b"]),
        ('"$LIST"', [" x  y "]),
        ("a${LIST}b", ["a", "x", "y", "b"]),
        ("8${unset:-0}80", ["8080"]),
        ("a\u00a0b", ["a", "b"]),
        ("<< EOF", ["<< EOF"]),
        ("cat <<EOF>x", ["cat", "<<EOF>x"]),
    ],
)
def test_splitting(word: str, expected: list[str]) -> None:
    """Words end at white space that is neither quoted nor escaped, also inside a variable's value."""
    assert list(expand_word(word, {"LIST": " x  y ", "P": "1 2"}).words) == expected


def test_used_and_unmatched_are_reported() -> None:
    """Both kinds of names are reported, those in operands included."""
    expansion = expand_word("$HOME ${a:-${b}} ${HOME#$SH}", ENV)
    assert expansion.used == {"HOME", "SH"}
    assert expansion.unmatched == {"a", "b"}


def test_another_escape_character() -> None:
    """With the escape directive the backslash is an ordinary character."""
    rules = WordRules(escape="`")
    assert expand_word("C:\\dir`$HOME `` $HOME", ENV, rules).text == "C:\\dir$HOME ` /root"
    assert expand_word('"`"x`""', ENV, rules).text == '"x"'


def test_quotes_as_text() -> None:
    """In a heredoc's body quotes are characters, and variables inside them are replaced."""
    rules = WordRules(quotes_are_text=True)
    body = "it's \"$HOME\" '\\$HOME'\n"
    assert expand_word(body, ENV, rules).text == "it's \"/root\" '$HOME'\n"


def test_raw_words_keep_their_marks() -> None:
    """With everything kept, an unset variable, quotes and escapes come out as they went in."""
    rules = WordRules(keep_quotes=True, keep_escapes=True, keep_unset=True)
    word = "a\\b \"c\\d\" 'e' $f ${g} ${h:-i} ${j#k} ${l/m/n} ${o//p/q}"
    assert expand_word(word, {}, rules).text == word


def test_deep_nesting_is_an_error() -> None:
    """A thousand nested substitutions are refused, not a crash."""
    with pytest.raises(WordError, match="too deeply"):
        text("${a:-" * 5000 + "}" * 5000)


@given(st.text(), st.dictionaries(st.text(min_size=1, max_size=3), st.text(max_size=5)))
def test_any_word_expands_or_is_an_error(word: str, environment: dict[str, str]) -> None:
    """No text makes the lexer fail in a way of its own."""
    try:
        result = expand_word(word, environment).text
    except WordError as error:
        result = str(error)
    assert isinstance(result, str)


@given(st.text())
def test_single_quotes_protect_everything(word: str) -> None:
    """What has no single quote in it survives between single quotes."""
    literal = word.replace("'", "")
    assert expand_word(f"'{literal}'", ENV).text == literal


@given(st.text(alphabet=st.characters(exclude_characters="$<\\\"'")))
def test_plain_text_is_split_like_anywhere(word: str) -> None:
    """Without any mark, splitting is splitting at white space."""
    table = str.maketrans(dict.fromkeys(SPACES, " "))
    expected = [piece for piece in word.translate(table).split(" ") if piece]
    assert list(expand_word(word, {}).words) == expected
