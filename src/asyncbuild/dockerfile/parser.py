"""From logical lines to typed instructions.

`parse_dockerfile` reads a whole file, `parse_trigger` one instruction that an image keeps for ONBUILD.
Whatever is wrong becomes a DockerfileError with its place; nothing else is ever raised.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from asyncbuild.dockerfile import instructions as i
from asyncbuild.dockerfile.arguments import (
    json_words,
    split_blanks,
    split_command,
    split_once,
    split_space,
    split_words,
)
from asyncbuild.dockerfile.flags import FlagValues, read_flags
from asyncbuild.dockerfile.lines import (
    DEFAULT_ESCAPE,
    Directives,
    Heredoc,
    LogicalLine,
    parse_heredoc,
    read_lines,
)
from asyncbuild.dockerfile.lint_options import CheckOptions
from asyncbuild.dockerfile.mounts import MountFlag, parse_device
from asyncbuild.dockerfile.quantities import parse_duration
from asyncbuild.dockerfile.source import Notice, Problem, SourceText, printable
from asyncbuild.dockerfile.suggest import did_you_mean
from asyncbuild.dockerfile.words import SPACES, WordError
from asyncbuild.errors import DockerfileError, SourceLocation
from asyncbuild.records import dataclass, replace

_STAGE_NAME = re.compile(r"[a-z][a-z0-9-_.]*")
_ONBUILD = re.compile(r"\s*ONBUILD[\t\v\f\r ]*", re.IGNORECASE)
_NETWORKS = ("default", "none", "host")
_SECURITIES = ("sandbox", "insecure")
_WORDS = 200
"""The most characters that an error repeats of a trigger, which a registry has sent."""


@dataclass(frozen=True, slots=True)
class _Request:
    """One instruction's line, taken apart, for the function that reads its kind."""

    name: str
    flags: FlagValues
    rest: str
    heredocs: tuple[Heredoc, ...]
    escape: str
    original: str

    @property
    def json(self) -> tuple[str, ...] | None:
        return json_words(self.rest)


def parse_dockerfile(text: bytes | str, file: str = "Dockerfile") -> i.Dockerfile:
    """Parse a whole Dockerfile; ``file`` is the name that errors show. Raises DockerfileError."""
    source = SourceText.read(text, file)
    logical = read_lines(source)
    if not logical.lines:
        place = source.location(1, 1) if source.lines else SourceLocation(file, 1, 1)
        message = "the Dockerfile has no instructions"
        raise DockerfileError(message, hint="it begins with FROM", location=place)
    syntax = _syntax_notices(source, logical.directives)
    checks = _check_options(source, logical.directives)
    arguments: list[i.Arg] = []
    stages: list[i.Stage] = []
    several = sum(line.text[:4].upper() == i.From.NAME for line in logical.lines) > 1
    for line in logical.lines:
        instruction = _parse_line(source, line, logical.directives.escape)
        if isinstance(instruction, i.From):
            label = instruction.name or (f"stage-{len(stages)}" if several else "")
            source = replace(source, stage=label)
            place = replace(instruction.location, stage=source.stage)
            stages.append(i.Stage(replace(instruction, location=place), ()))
        elif stages:
            stages[-1] = replace(stages[-1], instructions=(*stages[-1].instructions, instruction))
        elif isinstance(instruction, i.Arg):
            arguments.append(instruction)
        else:
            hint = "begin with FROM; only ARG may stand before it"
            message = f"{instruction.NAME} stands before the first FROM"
            raise DockerfileError(message, hint=hint, location=instruction.location)
    if not stages:
        place = arguments[-1].location
        message = "the Dockerfile has no FROM: there is nothing to build"
        hint = "the first stage begins with FROM image, or with FROM scratch"
        raise DockerfileError(message, hint=hint, location=place)
    return i.Dockerfile(
        file,
        logical.directives,
        tuple(arguments),
        tuple(stages),
        (*syntax, *logical.notices),
        checks,
    )


def parse_trigger(text: str, location: SourceLocation) -> i.Instruction:
    """Parse the text of one ONBUILD trigger, of an image that is used at ``location`` (its FROM).

    The text is read with the default escape character: an image does not say another.
    """
    source = SourceText.read(text, "ONBUILD")
    problem: DockerfileError
    try:
        lines = read_lines(source, Directives()).lines
        instruction = _parse_line(source, lines[0], DEFAULT_ESCAPE) if len(lines) == 1 else None
    except DockerfileError as error:
        problem = error
    else:
        if instruction is not None and not isinstance(instruction, i.From | i.Onbuild):
            return replace(instruction, location=location)
        what = "not one instruction" if instruction is None else f"{instruction.NAME}, no trigger"
        problem = DockerfileError(f"it is {what}")
    message = f"the ONBUILD trigger {_short(printable(text))!r}: {_short(problem.message)}"
    raise DockerfileError(message, hint=problem.hint, location=location)


def _short(text: str) -> str:
    """The beginning of ``text``."""
    return text if len(text) <= _WORDS else f"{text[:_WORDS]}…"


def _parse_line(source: SourceText, line: LogicalLine, escape: str) -> i.From | i.Instruction:
    command = split_command(line.text, escape)
    name = command.keyword.upper()
    try:
        reader = _READERS.get(name)
        if reader is None:
            hint = did_you_mean(name, i.NAMES) or (
                f"if it belongs to the line above, that one must end in {escape}"
            )
            raise Problem(
                f"unknown instruction {command.keyword!r}", hint=hint, near=command.keyword
            )
        original = line.text.strip(SPACES)
        flags = read_flags(name, command.flags)
        request = _Request(name, flags, command.rest, line.heredocs, escape, original)
        instruction = reader(request)
    except ValueError as problem:
        raise source.error(problem, line.first, line.last) from None
    place = source.find(command.keyword, line.first, line.last)
    place = source.location(line.first, line.last, place.column)
    if isinstance(instruction, i.Onbuild):
        inner = replace(instruction.instruction, location=place)
        instruction = replace(instruction, instruction=inner)
    return replace(instruction, location=place, original=original, comments=line.comments)


def _one(request: _Request) -> str:
    """The whole rest of the line, which must not be empty."""
    if not request.rest:
        raise Problem(f"{request.name} needs exactly one argument")
    return request.rest


def _from(request: _Request) -> i.From:
    words = split_blanks(request.rest)
    if len(words) not in (1, 3) or (len(words) == 3 and words[1].lower() != "as"):
        hint = "write FROM [--platform=…] image [AS name]"
        if len(words) == 2:
            hint = f"write FROM {words[0]} AS {words[1]} to name the stage"
        raise Problem("FROM takes an image, or an image, AS and a name", hint=hint)
    name = words[2].lower() if len(words) == 3 else None
    if name is not None and not _STAGE_NAME.fullmatch(name):
        hint = "a name begins with a letter and goes on with letters, digits, - _ and ."
        raise Problem(f"{words[2]!r} is not a name for a stage", hint=hint, near=words[2])
    return i.From(words[0], name, request.flags.text("platform"))


def _arg(request: _Request) -> i.Arg:
    words = split_words(request.rest, request.escape)
    if not words:
        raise Problem("ARG needs at least one argument")
    definitions = []
    for word in words:
        name, equals, default = word.partition("=")
        if not name:
            raise Problem("an ARG has no name", near=word)
        definitions.append(i.ArgDefinition(name, default if equals else None))
    return i.Arg(tuple(definitions))


def _pairs(request: _Request) -> tuple[tuple[i.Pair, ...], bool]:
    """The pairs of ENV or LABEL, and whether they are in the legacy form ``name value``."""
    words = split_words(request.rest, request.escape)
    if not words:
        raise Problem(f"{request.name} needs at least one argument")
    if "=" not in words[0]:
        name, value = split_once(request.rest)
        if value is None:
            hint = f"write {request.name} {name}=value"
            raise Problem(f"{request.name} {name} has no value", hint=hint, near=name)
        return (i.Pair(name, value),), True
    pairs = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            hint = f"every pair is name=value; quote a value with blanks: {request.name} a='b c'"
            raise Problem(f"{word!r} has no =", hint=hint, near=word)
        if not name:
            raise Problem(f"a pair of {request.name} has no name", near=word)
        pairs.append(i.Pair(name, value))
    return tuple(pairs), False


def _env(request: _Request) -> i.Env:
    return i.Env(*_pairs(request))


def _label(request: _Request) -> i.Label:
    return i.Label(*_pairs(request))


def _command(request: _Request) -> tuple[tuple[str, ...], bool]:
    """The words of the exec form, or the one text of the shell form (none if there is no text)."""
    words = request.json
    if words is not None:
        return words, False
    return (request.rest,) if request.rest else (), True


def _run(request: _Request) -> i.Run:
    command, shell_form = _command(request)
    if not command and not shell_form:
        raise Problem("RUN [] names no command")
    mounts = tuple(MountFlag.parse(text) for text in request.flags.every("mount"))
    for mount in mounts:
        if mount.is_constant:
            mount.mount()
    network = _choice(request, "network", _NETWORKS)
    security = _choice(request, "security", _SECURITIES)
    devices = tuple(parse_device(text) for text in request.flags.every("device"))
    return i.Run(command, shell_form, request.heredocs, mounts, network, security, devices)


def _choice(request: _Request, flag: str, choices: tuple[str, ...]) -> str:
    value = request.flags.text(flag, choices[0])
    if value not in choices:
        hint = did_you_mean(value, choices) or f"it is one of {', '.join(choices)}"
        raise Problem(f"--{flag} cannot be {value!r}", hint=hint, near=f"--{flag}")
    return value


def _files(request: _Request) -> tuple[tuple[str, ...], str, tuple[Heredoc, ...]]:
    """Sources, destination and heredocs of COPY and ADD."""
    json = request.json
    words = split_blanks(request.rest) if json is None else json
    if len(words) < 2:
        only = ", but only one word is given" if words else ""
        hint = f"write {request.name} source… destination"
        raise Problem(f"{request.name} needs a source and a destination{only}", hint=hint)
    if json is not None:
        return words[:-1], words[-1], ()
    if _opens_heredoc(words[-1]):
        raise Problem("a heredoc cannot be the destination", near=words[-1])
    sources = tuple(word for word in words[:-1] if not _opens_heredoc(word))
    if len(words) - 1 - len(sources) != len(request.heredocs):
        hint = "write <<EOF as one word, without a blank in it"
        raise Problem(
            f"{request.name} cannot tell its heredocs from its sources", hint=hint, near="<<"
        )
    return sources, words[-1], request.heredocs


def _opens_heredoc(word: str) -> bool:
    try:
        return parse_heredoc(word) is not None
    except WordError:
        return False


def _copy(request: _Request) -> i.Copy:
    flags = request.flags
    return i.Copy(
        *_files(request),
        from_=flags.text("from"),
        chown=flags.text("chown"),
        chmod=flags.text("chmod"),
        link=flags.boolean("link") or False,
        parents=flags.boolean("parents") or False,
        excludes=flags.every("exclude"),
    )


def _add(request: _Request) -> i.Add:
    flags = request.flags
    return i.Add(
        *_files(request),
        chown=flags.text("chown"),
        chmod=flags.text("chmod"),
        link=flags.boolean("link") or False,
        excludes=flags.every("exclude"),
        keep_git_dir=flags.boolean("keep-git-dir"),
        checksum=flags.text("checksum"),
        unpack=flags.boolean("unpack"),
    )


def _expose(request: _Request) -> i.Expose:
    if not request.rest:
        raise Problem("EXPOSE needs at least one argument")
    return i.Expose(tuple(sorted(split_blanks(request.rest))))


def _volume(request: _Request) -> i.Volume:
    json = request.json
    words = split_blanks(request.rest) if json is None else json
    if not words:
        raise Problem("VOLUME needs at least one argument")
    paths = tuple(word.strip(SPACES) for word in words)
    if not all(paths):
        raise Problem("a volume's path cannot be empty")
    return i.Volume(paths)


def _shell(request: _Request) -> i.Shell:
    words = request.json
    if not request.rest or words == ():
        raise Problem("SHELL needs at least one argument")
    if words is None:
        hint = 'write it as JSON: SHELL ["/bin/bash", "-c"]'
        raise Problem("SHELL is a JSON array", hint=hint, near=request.rest)
    return i.Shell(words)


def _healthcheck(request: _Request) -> i.Healthcheck:
    words = split_space(request.rest)
    if not words:
        raise Problem("HEALTHCHECK needs CMD or NONE")
    kind, rest = words[0].upper(), words[1] if len(words) == 2 else ""
    if kind == "NONE":
        if rest:
            raise Problem("HEALTHCHECK NONE takes no arguments", near=rest)
        return i.Healthcheck(("NONE",))
    if kind != "CMD":
        hint = "write HEALTHCHECK [flags] CMD command, or HEALTHCHECK NONE"
        raise Problem(f"HEALTHCHECK knows no {words[0]!r}", hint=hint, near=words[0])
    exec_words = json_words(rest)
    test = ("CMD-SHELL", rest) if exec_words is None else ("CMD", *exec_words)
    if not rest or len(test) == 1:
        raise Problem("HEALTHCHECK CMD needs a command", near=words[0])
    return i.Healthcheck(
        test,
        interval=_interval(request, "interval"),
        timeout=_interval(request, "timeout"),
        start_period=_interval(request, "start-period"),
        start_interval=_interval(request, "start-interval"),
        retries=_retries(request.flags.text("retries")),
    )


def _interval(request: _Request, flag: str) -> int:
    text = request.flags.text(flag)
    duration = parse_duration(text) if text else 0
    if duration != 0 and duration < 1_000_000:
        raise Problem(f"--{flag} cannot be less than 1ms", near=f"--{flag}")
    return duration


def _retries(text: str) -> int:
    if not text:
        return 0
    if not re.fullmatch(r"\+?[0-9]{1,10}", text) or int(text) >= 2**31:
        raise Problem(f"--retries is a number, not {text!r}", near="--retries")
    return int(text)


def _onbuild(request: _Request) -> i.Onbuild:
    if not request.rest:
        raise Problem("ONBUILD needs an instruction")
    inner = split_command(request.rest, request.escape).keyword.upper()
    if inner == "ONBUILD":
        raise Problem("ONBUILD cannot trigger another ONBUILD", near=request.rest)
    if inner in ("FROM", "MAINTAINER"):
        raise Problem(f"ONBUILD cannot trigger {inner}", near=request.rest)
    trigger = _ONBUILD.sub("", request.original, count=1)
    for heredoc in request.heredocs:
        trigger += f"\n{heredoc.body}{heredoc.name}"
    try:
        instruction = parse_trigger(trigger, SourceLocation("", 0, 0))
    except DockerfileError as error:
        raise Problem(error.message, hint=error.hint) from None
    return i.Onbuild(trigger, instruction)


_READERS: Mapping[str, Callable[[_Request], i.From | i.Instruction]] = {
    "FROM": _from,
    "ARG": _arg,
    "ENV": _env,
    "LABEL": _label,
    "RUN": _run,
    "COPY": _copy,
    "ADD": _add,
    "WORKDIR": lambda request: i.Workdir(_one(request)),
    "USER": lambda request: i.User(_one(request)),
    "CMD": lambda request: i.Cmd(*_command(request)),
    "ENTRYPOINT": lambda request: i.Entrypoint(*_command(request)),
    "EXPOSE": _expose,
    "VOLUME": _volume,
    "SHELL": _shell,
    "STOPSIGNAL": lambda request: i.Stopsignal(_one(request)),
    "HEALTHCHECK": _healthcheck,
    "MAINTAINER": lambda request: i.Maintainer(_one(request)),
    "ONBUILD": _onbuild,
}


def _check_options(source: SourceText, directives: Directives) -> CheckOptions:
    try:
        return CheckOptions.parse(directives.check or "")
    except ValueError as problem:
        raise source.error(problem, 1, min(4, len(source.lines))) from None


def _syntax_notices(source: SourceText, directives: Directives) -> list[Notice]:
    """A frontend other than docker/dockerfile is named, but we read the file ourselves."""
    if directives.syntax is None:
        return []
    name = directives.syntax.removeprefix("docker.io/")
    if name.startswith(("docker/dockerfile:", "docker/dockerfile@")) or name == "docker/dockerfile":
        return []
    message = f"the frontend {directives.syntax} is not run: the file is read as a Dockerfile"
    return [
        Notice(
            "SyntaxDirective", message, source.find(directives.syntax, 1, min(3, len(source.lines)))
        )
    ]
