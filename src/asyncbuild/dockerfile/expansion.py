"""Which words of which instruction are expanded: all rules in one place.

::

    ENV, LABEL            names and values, all with the environment before the instruction
    COPY, ADD             sources, destination, --chown, --chmod, --checksum; not --from, not --exclude
                          bodies of heredocs whose word is not quoted; there quotes are plain text
    RUN                   the values of --mount (not from); never the command, never its heredocs
    EXPOSE                each port, and the result is split at white space
    WORKDIR USER VOLUME STOPSIGNAL
    FROM                  image and --platform, with the ARGs before the first FROM (by the plan)
    ARG                   defaults, one after the other (by the plan's StageScope)
    CMD ENTRYPOINT HEALTHCHECK SHELL MAINTAINER ONBUILD    nothing

These are BuildKit's rules.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from asyncbuild.dockerfile import instructions as i
from asyncbuild.dockerfile.lines import Heredoc
from asyncbuild.dockerfile.modes import ModeChange
from asyncbuild.dockerfile.ports import exposed_ports
from asyncbuild.dockerfile.source import Problem, printable
from asyncbuild.dockerfile.suggest import did_you_mean
from asyncbuild.dockerfile.words import WordError, WordRules, expand_word
from asyncbuild.errors import DockerfileError, SourceLocation
from asyncbuild.records import dataclass, replace

_SIGNALS = frozenset(
    [
        *("ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT"),
        *("KILL", "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM"),
        *("TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ"),
        *("RTMIN", "RTMAX"),
        *(f"RTMIN+{n}" for n in range(1, 16)),
        *(f"RTMAX-{n}" for n in range(1, 15)),
    ]
)


@dataclass(frozen=True, slots=True)
class Expanded:
    """An instruction with its words resolved, and the variables that they named."""

    instruction: i.Instruction
    used: frozenset[str] = frozenset()
    unmatched: frozenset[str] = frozenset()


class Expander:
    """Expands words against one environment, and remembers which variables they named."""

    def __init__(self, environment: Mapping[str, str], escape: str) -> None:
        self._environment = environment
        self._rules = WordRules(escape=escape)
        self.used: set[str] = set()
        self.unmatched: set[str] = set()

    def word(self, text: str) -> str:
        """One word, its blanks kept."""
        return self._expand(text, self._rules)[0]

    def words(self, text: str) -> tuple[str, ...]:
        """The words that one word becomes when it is split at its blanks."""
        return self._expand(text, self._rules)[1]

    def body(self, heredoc: Heredoc) -> Heredoc:
        r"""A heredoc of COPY or ADD with its content final; the escape character there is ``\``."""
        content = heredoc.content
        if heredoc.expand:
            content = self._expand(content, WordRules(quotes_are_text=True))[0]
        return replace(heredoc, body=content, expand=False, strip_tabs=False)

    def _expand(self, text: str, rules: WordRules) -> tuple[str, tuple[str, ...]]:
        try:
            expansion = expand_word(text, self._environment, rules)
        except WordError as error:
            raise Problem(str(error), near=text) from None
        self.used |= expansion.used
        self.unmatched |= expansion.unmatched
        return expansion.text, expansion.words


def expand(instruction: i.Instruction, environment: Mapping[str, str], escape: str) -> Expanded:
    """Resolve every word of ``instruction`` that the rules of this module name.

    Raises DockerfileError at the instruction's place. An instruction that is already expanded must not
    be expanded again.
    """
    rule = _RULES.get(type(instruction))
    if rule is None:
        return Expanded(instruction)
    expander = Expander(environment, escape)
    try:
        result = rule(instruction, expander)
    except ValueError as problem:
        raise located(problem, instruction.location) from None
    return Expanded(result, frozenset(expander.used), frozenset(expander.unmatched))


def located(problem: ValueError, location: SourceLocation) -> DockerfileError:
    """``problem`` as a DockerfileError at ``location``, or where in it its text stands."""
    hint = getattr(problem, "hint", None)
    place = location.at_text(getattr(problem, "near", ""))
    return DockerfileError(printable(str(problem)), hint=hint, location=place)


def _pairs(instruction: i.Env | i.Label, e: Expander) -> i.Env | i.Label:
    pairs = tuple(i.Pair(e.word(pair.name), e.word(pair.value)) for pair in instruction.pairs)
    if not all(pair.name for pair in pairs):
        raise Problem(f"a name of {instruction.NAME} is empty once its variables are replaced")
    return replace(instruction, pairs=pairs)


def _files(instruction: i.Copy | i.Add, e: Expander) -> i.Copy | i.Add:
    chmod = e.word(instruction.chmod)
    if chmod:
        ModeChange.parse(chmod)
    result = replace(
        instruction,
        chown=e.word(instruction.chown),
        chmod=chmod,
        sources=tuple(map(e.word, instruction.sources)),
        destination=e.word(instruction.destination),
        heredocs=tuple(map(e.body, instruction.heredocs)),
    )
    if isinstance(result, i.Add):
        return replace(result, checksum=e.word(result.checksum))
    return result


def _run(instruction: i.Run, e: Expander) -> i.Run:
    mounts = tuple(mount.expand(e.word) for mount in instruction.mounts)
    for mount in mounts:
        mount.mount()
    return replace(instruction, mounts=mounts)


def _expose(instruction: i.Expose, e: Expander) -> i.Expose:
    words = [word for port in instruction.ports for word in e.words(port)]
    return replace(instruction, ports=tuple(port for word in words for port in exposed_ports(word)))


def _volume(instruction: i.Volume, e: Expander) -> i.Volume:
    paths = tuple(map(e.word, instruction.paths))
    if not all(paths):
        raise Problem("a volume's path is empty once its variables are replaced")
    return replace(instruction, paths=paths)


def _stopsignal(instruction: i.Stopsignal, e: Expander) -> i.Stopsignal:
    signal = e.word(instruction.signal)
    name = signal.upper().removeprefix("SIG")
    if name not in _SIGNALS and (not re.fullmatch(r"[+-]?[0-9]{1,9}", signal) or int(signal) == 0):
        hint = did_you_mean(name, sorted(_SIGNALS))
        raise Problem(f"{signal!r} is not a signal", hint=hint, near=instruction.signal)
    return replace(instruction, signal=signal)


_RULES: Mapping[type, Callable[..., i.Instruction]] = {
    i.Env: _pairs,
    i.Label: _pairs,
    i.Copy: _files,
    i.Add: _files,
    i.Run: _run,
    i.Expose: _expose,
    i.Volume: _volume,
    i.Stopsignal: _stopsignal,
    i.Workdir: lambda workdir, e: replace(workdir, path=e.word(workdir.path)),
    i.User: lambda user, e: replace(user, user=e.word(user.user)),
}
