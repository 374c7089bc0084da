"""Properties of the parser: what is rendered parses back, and no text makes it fail in a way of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hypothesis import example, given
from hypothesis import strategies as st

from asyncbuild.dockerfile import instructions as i
from asyncbuild.dockerfile.lines import Directives, Heredoc
from asyncbuild.dockerfile.mounts import Device, MountFlag
from asyncbuild.dockerfile.parser import parse_dockerfile, parse_trigger
from asyncbuild.errors import DockerfileError, SourceLocation
from support.dockerfiles import render, render_file

YES, NO = st.sampled_from([True]), st.sampled_from([False])
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
NAME = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.]{0,8}", fullmatch=True)
PLAIN = st.from_regex(r"[A-Za-z0-9/._$@:+-]{1,12}", fullmatch=True).filter(
    lambda word: not word.startswith("--")
)
FLAG_VALUE = st.from_regex(r"[A-Za-z0-9/._$*-]{1,10}", fullmatch=True)
VALUE = st.lists(
    st.one_of(
        st.from_regex(r"[A-Za-z0-9/$={}:-]{1,6}", fullmatch=True),
        st.text('abc $"=é\t', max_size=6).map(lambda text: f"'{text}'"),
        st.from_regex(r'"[A-Za-z0-9 $\']{0,6}"', fullmatch=True),
        st.sampled_from(["\\ ", '\\"', "\\'", "\\x"]),
    ),
    max_size=4,
).map(lambda pieces: "".join([*pieces, "."]) if pieces else "")
SHELL_TEXT = st.from_regex(r"[a-z][A-Za-z0-9 $&|;'\"=/.-]{0,20}[a-z]", fullmatch=True)
WORDS = st.lists(ANY_TEXT, min_size=1, max_size=4).map(tuple)
BODY = st.lists(st.text("ab $'\"\\#é\t<", max_size=8), max_size=3).map(
    lambda lines: "".join(f"{line}\n" for line in lines)
)
HEREDOC = st.builds(
    Heredoc, st.sampled_from(["EOF", "END", "EOT1"]), BODY, st.booleans(), st.booleans()
)
PAIRS = st.lists(st.builds(i.Pair, NAME, VALUE), min_size=1, max_size=3).map(tuple)
LEGACY = st.builds(i.Pair, NAME, SHELL_TEXT).map(lambda pair: (pair,))
MOUNT = st.builds(
    lambda key, value: MountFlag((("type", "cache"), ("target", value), (key, None))),
    st.sampled_from(["ro", "rw", "readonly"]),
    FLAG_VALUE,
)
DURATION = st.one_of(st.just(0), st.integers(10**6, 10**15))
FILES = {
    "destination": ANY_TEXT,
    "chown": st.one_of(st.just(""), FLAG_VALUE),
    "chmod": st.one_of(st.just(""), FLAG_VALUE),
    "link": st.booleans(),
    "excludes": st.lists(FLAG_VALUE, max_size=2).map(tuple),
}
WITH_HEREDOCS = FILES | {
    "destination": PLAIN,
    "heredocs": st.lists(HEREDOC, min_size=1, max_size=2).map(tuple),
}
COPY_FLAGS = {"from_": st.one_of(st.just(""), FLAG_VALUE), "parents": st.booleans()}
ADD_FLAGS = {
    "keep_git_dir": st.sampled_from([None, True, False]),
    "unpack": st.sampled_from([None, True, False]),
    "checksum": st.one_of(st.just(""), FLAG_VALUE),
}
RUN_FLAGS = {
    "mounts": st.lists(MOUNT, max_size=2).map(tuple),
    "network": st.sampled_from(["default", "none", "host"]),
    "security": st.sampled_from(["sandbox", "insecure"]),
    "devices": st.lists(st.builds(Device, FLAG_VALUE, st.booleans()), max_size=1).map(tuple),
}
SIMPLE: st.SearchStrategy[i.Instruction] = st.one_of(
    st.builds(
        i.Arg,
        st.lists(st.builds(i.ArgDefinition, NAME, st.none() | VALUE), min_size=1, max_size=3).map(
            tuple
        ),
    ),
    st.builds(i.Env, PAIRS),
    st.builds(i.Env, LEGACY, YES),
    st.builds(i.Label, PAIRS),
    st.builds(i.Label, LEGACY, YES),
    st.builds(i.Run, SHELL_TEXT.map(lambda text: (text,)), YES, **RUN_FLAGS),
    st.builds(i.Run, WORDS, NO, **RUN_FLAGS),
    st.builds(i.Copy, WORDS, **FILES, **COPY_FLAGS),
    st.builds(i.Add, WORDS, **FILES, **ADD_FLAGS),
    st.builds(i.Workdir, SHELL_TEXT),
    st.builds(i.User, PLAIN),
    st.builds(i.Stopsignal, PLAIN),
    st.builds(i.Cmd, WORDS, NO),
    st.builds(i.Cmd, SHELL_TEXT.map(lambda text: (text,))),
    st.builds(i.Entrypoint, st.one_of(st.just(()), WORDS), NO),
    st.builds(i.Shell, WORDS),
    st.builds(
        i.Volume,
        st.lists(ANY_TEXT.map(str.strip).filter(bool), min_size=1, max_size=3).map(tuple),
    ),
    st.builds(
        i.Expose, st.lists(PLAIN, min_size=1, max_size=3).map(lambda ports: tuple(sorted(ports)))
    ),
    st.just(i.Healthcheck(("NONE",))),
    st.builds(
        i.Healthcheck,
        st.one_of(
            SHELL_TEXT.map(lambda text: ("CMD-SHELL", text)),
            WORDS.map(lambda words: ("CMD", *words)),
        ),
        DURATION,
        DURATION,
        DURATION,
        DURATION,
        st.integers(0, 2**31 - 1),
    ),
)
HERE: st.SearchStrategy[i.Instruction] = st.one_of(
    st.builds(i.Copy, st.just(()), **WITH_HEREDOCS, **COPY_FLAGS),
    st.builds(i.Add, st.just(()), **WITH_HEREDOCS, **ADD_FLAGS),
    st.builds(
        lambda heredoc: i.Run(
            (f"cat {'<<-' if heredoc.strip_tabs else '<<'}{heredoc.name} > x",), heredocs=(heredoc,)
        ),
        st.builds(Heredoc, st.just("EOF"), BODY, YES, st.booleans()),
    ),
)
TRIGGERED = (SIMPLE | HERE).map(lambda item: i.Onbuild(render(item), item))
INSTRUCTION = SIMPLE | HERE | TRIGGERED
STAGE = st.builds(
    i.Stage,
    st.builds(
        i.From,
        PLAIN,
        st.none() | st.from_regex(r"[a-z][a-z0-9-_.]{0,6}", fullmatch=True),
        st.one_of(st.just(""), FLAG_VALUE),
    ),
    st.lists(INSTRUCTION, max_size=6).map(tuple),
)
TOKENS = st.lists(
    st.sampled_from(
        [
            *(
                "FROM a\n",
                "RUN ",
                "COPY ",
                "ADD ",
                "ENV ",
                "LABEL ",
                "ARG ",
                "ONBUILD ",
                "HEALTHCHECK ",
            ),
            *(
                "EXPOSE ",
                "VOLUME ",
                "SHELL ",
                "CMD ",
                "USER ",
                "# escape=`\n",
                "#",
                "\n",
                "\r\n",
                "\\\n",
            ),
            *(
                "`\n",
                "\\",
                '"',
                "'",
                "<<EOF",
                "<<-",
                "EOF\n",
                "--mount=type=",
                "--x",
                "=",
                ",",
                "$",
                "{",
            ),
            *(
                "}",
                "[",
                "]",
                '["a"]',
                "AS ",
                "a",
                " ",
                "\t",
                "\0",
                "\ud800",
                "é",
                "--from=",
                "CMD ",
                "1s",
            ),
        ]
    ),
    max_size=25,
).map("".join)


Result = TypeVar("Result")


def outcome(parse: Callable[[], Result]) -> Result | DockerfileError:
    """What ``parse`` returns, or the DockerfileError that it raises."""
    try:
        return parse()
    except DockerfileError as error:
        return error


@given(st.lists(STAGE, min_size=1, max_size=2))
def test_what_is_rendered_parses_back(stages: list[i.Stage]) -> None:
    """Rendering a Dockerfile and parsing the text gives the same instructions."""
    expected = i.Dockerfile("Dockerfile", Directives(), (), tuple(stages))
    parsed = parse_dockerfile(render_file(expected))
    assert parsed.stages == expected.stages


@given(st.lists(STAGE, min_size=1, max_size=1))
def test_line_endings_and_comments_do_not_matter(stages: list[i.Stage]) -> None:
    """With CRLF, a byte order mark and a comment in front, the instructions are the same."""
    simple = [
        i.Stage(stage.from_, tuple(s for s in stage.instructions if "\n" not in render(s)))
        for stage in stages
    ]
    text = render_file(i.Dockerfile("Dockerfile", Directives(), (), tuple(simple)))
    changed = "\ufeff# a comment\r\n\r\n" + text.replace("\n", "\r\n")
    assert parse_dockerfile(changed.encode()).stages == tuple(simple)


@given(st.one_of(st.text(), st.binary(), TOKENS, TOKENS.map("FROM a\n".__add__)))
@example("\\")
@example("RUN <<EOF")
@example("FROM a\nONBUILD")
@example("FROM a\nHEALTHCHECK --interval=99999999999999999999h CMD x")
@example("FROM a\nHEALTHCHECK --interval=" + "9" * 5000 + "h CMD x")
@example("FROM a\nRUN --mount=type=tmpfs,size=" + "9" * 5000 + " x")
@example("FROM a\nCMD " + "[" * 100_000)
@example("FROM a\nCMD [NaN]")
@example("FROM a\nCMD [" + "9" * 5000 + "]")
@example('FROM a\nCMD ["\\ud800"]')
@example(b"FROM a\nRUN \xff")
def test_any_text_is_a_dockerfile_or_an_error_with_a_place(text: str | bytes) -> None:
    """The parser answers every input; an error names the file, a line of it, and can be printed."""
    result = outcome(lambda: parse_dockerfile(text, "Some.Dockerfile"))
    if isinstance(result, i.Dockerfile):
        assert result.stages
        return
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    assert result.location is not None
    assert result.location.file == "Some.Dockerfile"
    assert 1 <= result.location.line <= result.location.end_line <= raw.count(b"\n") + 1
    assert result.location.column >= 1
    assert result.render().encode()


@given(st.one_of(st.text(), TOKENS))
def test_any_trigger_is_an_instruction_or_an_error_at_its_from(text: str) -> None:
    """What an image of a registry says for ONBUILD is never trusted to be well formed."""
    place = SourceLocation("Dockerfile", 7, 7, 1, ("FROM x",))
    result = outcome(lambda: parse_trigger(text, place))
    assert result.location == place
    if isinstance(result, DockerfileError):
        assert result.render().encode()
