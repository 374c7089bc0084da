"""Dockerfiles for tests: instructions as text (the parser's other direction), as golden text, by line."""

from __future__ import annotations

import json
from collections.abc import Iterable

from asyncbuild.dockerfile import instructions as i
from asyncbuild.dockerfile.lines import Heredoc
from asyncbuild.dockerfile.parser import parse_dockerfile


def render_file(dockerfile: i.Dockerfile) -> str:
    """The text of a whole Dockerfile."""
    lines = [render(item) for item in dockerfile.global_arguments]
    for stage in dockerfile.stages:
        lines += [render(stage.from_), *map(render, stage.instructions)]
    return "\n".join(lines) + "\n"


def render(item: i.From | i.Instruction) -> str:
    """The text of one instruction, its heredocs included."""
    match item:
        case i.From():
            name = f" AS {item.name}" if item.name else ""
            return f"FROM{_flags(platform=item.platform)} {item.image}{name}"
        case i.Arg():
            return " ".join(["ARG", *map(_argument, item.arguments)])
        case i.Env() | i.Label():
            if item.legacy:
                return f"{item.NAME} {item.pairs[0].name} {item.pairs[0].value}"
            return " ".join([item.NAME, *(f"{pair.name}={pair.value}" for pair in item.pairs)])
        case i.Run():
            return _run(item)
        case i.Copy() | i.Add():
            return _files(item)
        case i.Cmd() | i.Entrypoint():
            return f"{item.NAME} {_command(item.command, shell_form=item.shell_form)}".rstrip()
        case i.Shell():
            return f"SHELL {json.dumps(item.command)}"
        case i.Volume():
            return f"VOLUME {json.dumps(item.paths)}"
        case i.Expose():
            return " ".join(["EXPOSE", *item.ports])
        case i.Workdir():
            return f"WORKDIR {item.path}"
        case i.User():
            return f"USER {item.user}"
        case i.Stopsignal():
            return f"STOPSIGNAL {item.signal}"
        case i.Maintainer():
            return f"MAINTAINER {item.author}"
        case i.Healthcheck():
            return _healthcheck(item)
        case i.Onbuild():
            return f"ONBUILD {item.trigger}"


def _argument(argument: i.ArgDefinition) -> str:
    return argument.name if argument.default is None else f"{argument.name}={argument.default}"


def _flags(**values: str | bool | None) -> str:
    text = ""
    for name, value in values.items():
        flag = name.rstrip("_").replace("_", "-")
        if isinstance(value, bool):
            text += f" --{flag}={str(value).lower()}"
        elif value:
            text += f" --{flag}={value}"
    return text


def _run(run: i.Run) -> str:
    mounts = "".join(f" --mount={_mount(mount.fields)}" for mount in run.mounts)
    devices = "".join(
        f" --device=name={device.name}" + (",required" if device.required else "")
        for device in run.devices
    )
    flags = mounts + devices + _flags(network=run.network, security=run.security)
    command = _command(run.command, shell_form=run.shell_form)
    return f"RUN{flags} {command}{_bodies(run.heredocs)}"


def _mount(fields: Iterable[tuple[str, str | None]]) -> str:
    return ",".join(key if value is None else f"{key}={value}" for key, value in fields)


def _files(item: i.Copy | i.Add) -> str:
    flags = _flags(chown=item.chown, chmod=item.chmod, link=item.link or None)
    if isinstance(item, i.Copy):
        flags += _flags(from_=item.from_, parents=item.parents or None)
    else:
        flags += _flags(keep_git_dir=item.keep_git_dir, checksum=item.checksum, unpack=item.unpack)
    flags += "".join(f" --exclude={pattern}" for pattern in item.excludes)
    if not item.heredocs:
        return f"{item.NAME}{flags} {json.dumps([*item.sources, item.destination])}"
    opened = [_opening(heredoc) for heredoc in item.heredocs]
    words = " ".join([*item.sources, *opened, item.destination])
    return f"{item.NAME}{flags} {words}{_bodies(item.heredocs)}"


def _opening(heredoc: Heredoc) -> str:
    mark = "<<-" if heredoc.strip_tabs else "<<"
    return mark + (heredoc.name if heredoc.expand else f'"{heredoc.name}"')


def _bodies(heredocs: Iterable[Heredoc]) -> str:
    return "".join(f"\n{heredoc.body}{heredoc.name}" for heredoc in heredocs)


def _command(words: tuple[str, ...], *, shell_form: bool) -> str:
    return " ".join(words) if shell_form else json.dumps(words)


def _healthcheck(check: i.Healthcheck) -> str:
    if check.test == ("NONE",):
        return "HEALTHCHECK NONE"
    times = {
        "interval": check.interval,
        "timeout": check.timeout,
        "start_period": check.start_period,
        "start_interval": check.start_interval,
    }
    flags = _flags(**{name: f"{value}ns" if value else None for name, value in times.items()})
    flags += _flags(retries=str(check.retries) if check.retries else None)
    kind, *words = check.test
    return f"HEALTHCHECK{flags} CMD {words[0] if kind == 'CMD-SHELL' else json.dumps(words)}"


def dump(dockerfile: i.Dockerfile) -> str:
    """A parsed Dockerfile as text for golden files: one instruction a line, with its line numbers."""
    lines = [str(dockerfile.directives)]
    lines += map(_dumped, dockerfile.global_arguments)
    for stage in dockerfile.stages:
        lines += ["", _dumped(stage.from_), *map(_dumped, stage.instructions)]
    for notice in dockerfile.notices:
        line = notice.location.line if notice.location else "-"
        lines.append(f"\n{notice.rule} at {line}: {notice.message}")
    return "\n".join(lines) + "\n"


def _dumped(item: i.From | i.Instruction) -> str:
    place = item.location
    return f"{place.line}-{place.end_line}:{place.column} {item}"


def parse_one(text: str) -> i.Instruction:
    """The one instruction of ``text``, parsed behind a FROM."""
    (instruction,) = parse_dockerfile(f"FROM x\n{text}\n").stages[0].instructions
    return instruction
