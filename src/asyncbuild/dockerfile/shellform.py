"""Shell form and exec form: what RUN, CMD and ENTRYPOINT start in the end."""

from __future__ import annotations

from asyncbuild.dockerfile.instructions import Cmd, Entrypoint, Run
from asyncbuild.dockerfile.lines import parse_heredoc
from asyncbuild.records import dataclass

DEFAULT_SHELL = ("/bin/sh", "-c")
SCRIPT_DIRECTORY = "/dev/pipes"
"""Where a heredoc that begins with ``#!`` is mounted while it runs (BuildKit's path)."""


@dataclass(frozen=True, slots=True)
class Script:
    """A file that exists only while a RUN runs: its absolute path and content; mode 0755, read-only."""

    path: str
    content: str


@dataclass(frozen=True, slots=True)
class CommandLine:
    """The argument vector of a RUN, and the script that it needs, if any."""

    argv: tuple[str, ...]
    script: Script | None = None


def command_line(instruction: Cmd | Entrypoint, shell: tuple[str, ...] | None) -> tuple[str, ...]:
    """The words that the image configuration keeps: the shell form behind ``shell``."""
    if not instruction.shell_form:
        return instruction.command
    return (*(shell or DEFAULT_SHELL), " ".join(instruction.command))


def run_command_line(run: Run, shell: tuple[str, ...] | None) -> CommandLine:
    """What a RUN starts; ``shell`` is the image's, None or empty for the default.

    A command that is nothing but one heredoc is the script itself: started by its ``#!`` line, else
    handed to the shell. Any other heredoc is left to the shell, put back as it was written.
    """
    if not run.shell_form:
        return CommandLine(run.command)
    prefix = shell or DEFAULT_SHELL
    text = " ".join(run.command)
    if not run.heredocs:
        return CommandLine((*prefix, text))
    first = run.heredocs[0]
    if parse_heredoc(text) is None:
        bodies = "".join(f"\n{heredoc.body}{heredoc.name}" for heredoc in run.heredocs)
        return CommandLine((*prefix, text + bodies))
    if first.content.startswith("#!"):
        script = Script(f"{SCRIPT_DIRECTORY}/{first.name}", first.content)
        return CommandLine((*prefix, script.path), script)
    return CommandLine((*prefix, first.content))
