"""Places in a Dockerfile as errors show them: the stage, the line, the column."""

from __future__ import annotations

import pytest

from asyncbuild.dockerfile.parser import parse_dockerfile
from asyncbuild.errors import DockerfileError, SourceLocation

PLACE = SourceLocation("Dockerfile", 4, 5, 1, ("RUN a \\", "  b $C"), "build")


def test_the_excerpt_says_the_stage() -> None:
    """Above the lines stands the stage's name, or its number."""
    assert PLACE.render() == "  stage build\n  >>>    4 | RUN a \\\n  >>>    5 |   b $C"
    numbered = SourceLocation("Dockerfile", 1, 1, 1, ("x",), "stage-2")
    assert numbered.render() == "  stage-2\n  >>>    1 | x"


def test_a_text_is_found_in_its_line() -> None:
    """A place narrows to the line and column of what is meant, and stays if that is not there."""
    narrow = PLACE.at_text("${C", "$C")
    assert (narrow.line, narrow.end_line, narrow.column) == (5, 5, 5)
    assert narrow.render() == "  stage build\n  >>>    5 |   b $C\n           |     ^"
    assert PLACE.at_text("gone", "") == PLACE


def test_tabs_keep_the_mark_in_its_column() -> None:
    """The line below repeats tabs, so that ^ stands right whatever a tab is wide."""
    place = SourceLocation("Dockerfile", 1, 1, 6, ("RUN\t\tx",))
    assert place.render().splitlines()[1] == "           |    \t\t^"


@pytest.mark.parametrize(
    ("text", "stage"),
    [
        ("FROM a\nNONSENSE x", ""),
        ("FROM a AS one\nNONSENSE x", "one"),
        ("FROM a AS one\nRUN x\nFROM b\nNONSENSE x", "stage-1"),
        ("FROM a\nFROM b AS two words", "stage-0"),
        ("NONSENSE x\nFROM a", ""),
    ],
)
def test_errors_know_their_stage(text: str, stage: str) -> None:
    """The stage is that of the line; the only stage of a file needs no name."""
    with pytest.raises(DockerfileError) as caught:
        parse_dockerfile(text)
    assert caught.value.location is not None
    assert caught.value.location.stage == stage


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("FROM a\nCOYP x y", "did you mean COPY?"),
        ("FROM a\nRUN make\n&& make install", "that one must end in \\"),
        ("# escape=`\nFROM a\nRUN make\n&& make install", "that one must end in `"),
        ("FROM a build", "write FROM a AS build to name the stage"),
        ("FROM a\nCOPY --form=b x y", "did you mean --from?"),
        ("FROM a\nRUN --mount=typ=cache x", "did you mean type?"),
        ("FROM a\nRUN --network=hots x", "did you mean host?"),
    ],
)
def test_hints(text: str, hint: str) -> None:
    """An error that a person is likely to make says what was likely meant."""
    with pytest.raises(DockerfileError) as caught:
        parse_dockerfile(text)
    assert hint in (caught.value.hint or "")
