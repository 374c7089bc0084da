"""What RUN, CMD and ENTRYPOINT start."""

from __future__ import annotations

import pytest

from asyncbuild.dockerfile import instructions as i
from asyncbuild.dockerfile.shellform import CommandLine, Script, command_line, run_command_line
from support.dockerfiles import parse_one

SH = ("/bin/sh", "-c")
BASH = ("/bin/bash", "-ec")


def run(text: str, shell: tuple[str, ...] | None = None) -> CommandLine:
    """The command line of a RUN."""
    instruction = parse_one(text)
    assert isinstance(instruction, i.Run)
    return run_command_line(instruction, shell)


@pytest.mark.parametrize(
    ("text", "argv"),
    [
        ("RUN a  b $c", (*SH, "a  b $c")),
        ('RUN ["a", "b c"]', ("a", "b c")),
        ("RUN", (*SH, "")),
        ("RUN <<E\none\n two\nE", (*SH, "one\n two\n")),
        ("RUN <<-'E'\n\tone\n\t\ttwo\n\tE", (*SH, "one\ntwo\n")),
        ("RUN cat <<E > x\none\nE", (*SH, "cat <<E > x\none\nE")),
        ("RUN cat <<-E\n\tone\n\tE", (*SH, "cat <<-E\n\tone\nE")),
        ("RUN <<A <<B\na\nA\nb\nB", (*SH, "<<A <<B\na\nA\nb\nB")),
        ("RUN python3 <<E\nprint(1)\nE", (*SH, "python3 <<E\nprint(1)\nE")),
    ],
)
def test_run(text: str, argv: tuple[str, ...]) -> None:
    """A lone heredoc is the script; others are put back for the shell."""
    line = run(text)
    assert line.script is None
    assert line.argv == argv


def test_shebang() -> None:
    """A lone heredoc that begins with #! becomes a file for as long as it runs."""
    line = run("RUN <<-E\n\t#!/usr/bin/python3\n\tprint(1)\nE")
    assert line.script == Script("/dev/pipes/E", "#!/usr/bin/python3\nprint(1)\n")
    assert line.argv == (*SH, "/dev/pipes/E")


def test_shell_of_the_image() -> None:
    """SHELL replaces /bin/sh -c; an empty one does not count."""
    assert run("RUN x", BASH).argv == (*BASH, "x")
    assert run("RUN x", ()).argv == (*SH, "x")
    assert run('RUN ["x"]', BASH).argv == ("x",)


def test_cmd_and_entrypoint() -> None:
    """The configuration keeps the shell form with its shell, the exec form as it is."""
    assert command_line(i.Cmd(("a b",)), None) == (*SH, "a b")
    assert command_line(i.Cmd(("a", "b"), shell_form=False), BASH) == ("a", "b")
    assert command_line(i.Entrypoint(("x",)), BASH) == (*BASH, "x")
    assert command_line(i.Entrypoint((), shell_form=False), None) == ()
