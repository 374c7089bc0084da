"""What an image's history says about each instruction: BuildKit's ``created_by`` texts, word for word."""

from __future__ import annotations

from collections.abc import Iterable

from asyncbuild.dockerfile import instructions as i
from asyncbuild.dockerfile.paths import absolute_workdir
from asyncbuild.dockerfile.quantities import format_duration
from asyncbuild.dockerfile.shellform import command_line, run_command_line
from asyncbuild.records import dataclass

HISTORY_COMMENT = "buildkit.dockerfile.v0"
"""The ``comment`` of every history entry: tools tell by it how to read ``created_by``."""

_MARK = " # buildkit"
_ESCAPES = {
    "\a": r"\a",
    "\b": r"\b",
    "\f": r"\f",
    "\n": r"\n",
    "\r": r"\r",
    "\t": r"\t",
    "\v": r"\v",
}


@dataclass(frozen=True, slots=True)
class HistoryContext:
    """What the text of an instruction depends on beside the instruction itself, before it takes effect.

    ``arguments`` are the ARGs that a RUN sees (`StageScope.history_args`), as ``NAME=value``.
    """

    shell: tuple[str, ...] | None = None
    working_dir: str = "/"
    arguments: tuple[str, ...] = ()


def history_text(instruction: i.Instruction, context: HistoryContext | None = None) -> str | None:
    """``created_by`` for a resolved instruction, or None if it leaves no history (ONBUILD)."""
    about = context or HistoryContext()
    match instruction:
        case i.Run():
            argv = run_command_line(instruction, about.shell).argv
            counted = (f"|{len(about.arguments)}", *about.arguments) if about.arguments else ()
            return " ".join(["RUN", *counted, *argv]) + _MARK
        case i.Copy() | i.Add():
            return _files(instruction) + _MARK
        case i.Env() | i.Label():
            pairs = (f" {pair.name}={pair.value}" for pair in instruction.pairs)
            return instruction.NAME + "".join(pairs)
        case i.Arg():
            return "ARG " + " ".join(map(_argument, instruction.arguments))
        case i.Workdir():
            return f"WORKDIR {absolute_workdir(about.working_dir, instruction.path)}"
        case i.Cmd() | i.Entrypoint():
            words = command_line(instruction, about.shell)
            return f"{instruction.NAME} [{' '.join(map(go_quote, words))}]"
        case i.Healthcheck():
            return f"HEALTHCHECK {_healthcheck(instruction)}"
        case i.Expose() | i.Volume() | i.Shell():
            return f"{instruction.NAME} {_list(_words(instruction))}"
        case i.User():
            return f"USER {instruction.user}"
        case i.Stopsignal():
            return f"STOPSIGNAL {instruction.signal}"
        case i.Maintainer():
            return f"MAINTAINER {instruction.author}"
        case i.Onbuild():
            return None


def _files(instruction: i.Copy | i.Add) -> str:
    words: list[str] = [instruction.NAME]
    if isinstance(instruction, i.Copy) and instruction.parents:
        words.append("--parents")
    if instruction.chown:
        words.append(f"--chown={instruction.chown}")
    if instruction.chmod:
        words.append(f"--chmod={instruction.chmod}")
    words += instruction.sources
    words += [f"<<{heredoc.name}" for heredoc in instruction.heredocs]
    return " ".join([*words, instruction.destination])


def _argument(argument: i.ArgDefinition) -> str:
    return argument.name if argument.default is None else f"{argument.name}={argument.default}"


def _words(instruction: i.Expose | i.Volume | i.Shell) -> tuple[str, ...]:
    if isinstance(instruction, i.Expose):
        return instruction.ports
    return instruction.paths if isinstance(instruction, i.Volume) else instruction.command


def _healthcheck(check: i.Healthcheck) -> str:
    times = (
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
    )
    durations = "".join(f" {name}:{format_duration(value)}" for name, value in times)
    return f"{{Test:{_list(check.test)}{durations} Retries:{check.retries}}}"


def _list(words: Iterable[str]) -> str:
    return f"[{' '.join(words)}]"


def go_quote(text: str) -> str:
    """``text`` as a string literal of Go (``%q``)."""
    return f'"{"".join(map(_quoted, text))}"'


def _quoted(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    code = ord(character)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
