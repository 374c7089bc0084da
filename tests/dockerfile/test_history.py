"""The history's texts, word for word as BuildKit writes them."""

from __future__ import annotations

import pytest

from asyncbuild.dockerfile.expansion import expand
from asyncbuild.dockerfile.history import HistoryContext, go_quote, history_text
from support.dockerfiles import parse_one


def text(line: str, context: HistoryContext | None = None) -> str | None:
    """The history text of one line, expanded with A=1."""
    return history_text(expand(parse_one(line), {"A": "1"}, "\\").instruction, context)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ENV X=$A Y='a b'", "ENV X=1 Y=a b"),
        ('LABEL k="v w"', "LABEL k=v w"),
        ("ARG X", "ARG X"),
        ("WORKDIR sub", "WORKDIR /w/sub"),
        ("WORKDIR /abs/", "WORKDIR /abs/"),
        ("USER $A:2", "USER 1:2"),
        ("VOLUME /a /b", "VOLUME [/a /b]"),
        ("EXPOSE 80 1-2/udp", "EXPOSE [1/udp 2/udp 80/tcp]"),
        ("STOPSIGNAL SIGINT", "STOPSIGNAL SIGINT"),
        ('SHELL ["/bin/bash", "-c"]', "SHELL [/bin/bash -c]"),
        ("MAINTAINER me", "MAINTAINER me"),
        ('CMD echo "$A"', 'CMD ["/bin/sh" "-c" "echo \\"$A\\""]'),
        ('CMD ["a", "b\\n"]', 'CMD ["a" "b\\n"]'),
        ("ENTRYPOINT []", "ENTRYPOINT []"),
        ("ONBUILD RUN x", None),
        ("COPY a b /c/", "COPY a b /c/ # buildkit"),
        (
            "COPY --from=x --chown=$A --chmod=755 --link a b",
            "COPY --chown=1 --chmod=755 a b # buildkit",
        ),
        ("COPY --parents a b", "COPY --parents a b # buildkit"),
        ("COPY x <<E /d/\n$A\nE", "COPY x <<E /d/ # buildkit"),
        ("ADD --checksum=sha256:1 https://x/y /z", "ADD https://x/y /z # buildkit"),
        ("RUN echo  $A", "RUN /bin/sh -c echo  $A # buildkit"),
        ('RUN ["a", "b c"]', "RUN a b c # buildkit"),
        ("RUN <<E\nhi\nE", "RUN /bin/sh -c hi\n # buildkit"),
        (
            "HEALTHCHECK NONE",
            "HEALTHCHECK {Test:[NONE] Interval:0s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}",
        ),
        (
            "HEALTHCHECK --interval=90s --retries=3 CMD curl x",
            "HEALTHCHECK {Test:[CMD-SHELL curl x] Interval:1m30s Timeout:0s StartPeriod:0s StartInterval:0s Retries:3}",
        ),
    ],
)
def test_texts(line: str, expected: str | None) -> None:
    """Each instruction has its form."""
    assert text(line, HistoryContext(working_dir="/w")) == expected


def test_run_shows_its_arguments_and_shell() -> None:
    """ARGs stand before a RUN's command with their number."""
    context = HistoryContext(shell=("/bin/bash", "-c"), arguments=("A=1", "B="))
    assert text("RUN x", context) == "RUN |2 A=1 B= /bin/bash -c x # buildkit"


def test_go_quote() -> None:
    """Strings are quoted as Go's %q quotes them."""
    assert go_quote('a"\\\t\x01é\u200b\U0001f680\U000e0001') == (
        '"a\\"\\\\\\t\\x01é\\u200b\U0001f680\\U000e0001"'
    )
