"""Dockerfiles by grammar, for hypothesis: mostly sensible, with everything that parsers trip over mixed in."""

from __future__ import annotations

from hypothesis import strategies as st

_BLANKS = st.sampled_from([" ", " ", " ", "  ", "\t", " \\\n  ", " \\\n# remark\n ", " \\\n\n "])
_WORDS = st.sampled_from(
    [
        *(
            "a",
            "/x",
            "a=b",
            "$A",
            "${A:-b}",
            "${A%%/*}",
            "'q r'",
            '"q $B"',
            "a\\ b",
            "é",
            "<<E",
            "<<-'E'",
        ),
        *(
            "[",
            '["a",',
            '"b"]',
            "--",
            "--x=y",
            "#",
            "\\",
            "`",
            "$",
            "${",
            '"',
            "'",
            "<",
            "80/tcp",
            "as",
        ),
        *(
            ".",
            "..",
            "*",
            "x:y@z",
            "\x85",
            "\xa0",
            "\ufeff",
            "{}",
            "1",
            "none",
            "CMD",
            "all",
            ",",
            ";",
        ),
    ]
)
_NAMES = st.sampled_from(
    [
        *(
            "FROM",
            "ARG",
            "ENV",
            "LABEL",
            "RUN",
            "COPY",
            "ADD",
            "WORKDIR",
            "USER",
            "CMD",
            "ENTRYPOINT",
        ),
        *("EXPOSE", "VOLUME", "SHELL", "STOPSIGNAL", "HEALTHCHECK", "MAINTAINER", "ONBUILD RUN"),
        *("ONBUILD", "ONBUILD COPY", "from", "Run", "COPPY", "ONBUILD ONBUILD"),
    ]
)
_FLAGS = st.sampled_from(
    [
        *("--from=a", "--chown=1:2", "--chmod=u+x", "--link", "--parents=true", "--exclude=*.md"),
        *(
            "--platform=$P",
            "--mount=type=cache,target=/c",
            "--mount=type=secret,id=a",
            "--network=none",
        ),
        *(
            "--interval=5s",
            "--retries=x",
            "--checksum=sha256:0",
            "--a='b c'",
            '--b="',
            "--from",
            "--",
        ),
    ]
)
_JSON = st.sampled_from(
    [
        '["a"]',
        '["a", "b c"]',
        "[]",
        '["a", 1]',
        '["\\u00e9"]',
        '["a"',
        '[ "a" ]',
        '["a"] x',
        "[true]",
    ]
)
_HEREDOCS = st.sampled_from(
    [
        "<<E\nbody $A\nE",
        "<<-E\n\tbody\n\tE",
        "<<'E'\n$A\nE",
        "<<A <<B\na\nA\nb\nB",
        "3<<E\nx\nE",
        "<<E\nnever closed",
        "<<E /x\nFROM in the body\nE",
    ]
)
_DIRECTIVES = st.sampled_from(
    [
        "# escape=`",
        "# escape=\\",
        "# syntax=docker/dockerfile:1",
        "# check=skip=all",
        "#escape = x",
        "#!/x",
    ]
)
_OTHER = st.sampled_from(["", "# remark", "  # indented", "   ", "#", "\f"])


@st.composite
def instructions(draw: st.DrawFn) -> str:
    """One instruction, perhaps over several lines."""
    name = draw(_NAMES)
    flags = draw(st.lists(_FLAGS, max_size=2))
    kind = draw(st.integers(0, 4))
    if kind == 0:
        rest = [draw(_JSON)]
    elif kind == 1:
        rest = [*draw(st.lists(_WORDS, max_size=2)), draw(_HEREDOCS)]
    else:
        rest = draw(st.lists(_WORDS, max_size=4))
    text = name
    for word in [*flags, *rest]:
        text += draw(_BLANKS) + word
    return text + draw(st.sampled_from(["", "", "", " ", "\\", " \\"]))


@st.composite
def dockerfiles(draw: st.DrawFn) -> str:
    """A whole file."""
    lines = draw(st.lists(_DIRECTIVES, max_size=2))
    lines += ["FROM base AS one"] if draw(st.booleans()) else []
    lines += draw(
        st.lists(st.one_of(instructions(), instructions(), _OTHER), min_size=1, max_size=6)
    )
    return draw(st.sampled_from(["\n", "\n", "\n", "\r\n"])).join(lines) + draw(
        st.sampled_from(["", "\n"])
    )
