"""What a Dockerfile offers: its targets, and the arguments, secrets and agents that a target takes.

The shapes are those of BuildKit's ``frontend.targets`` and ``frontend.outline``.
"""

from __future__ import annotations

import posixpath

from asyncbuild.dockerfile import instructions as i
from asyncbuild.dockerfile.expansion import Expander
from asyncbuild.dockerfile.lint import description
from asyncbuild.dockerfile.mounts import MountType
from asyncbuild.dockerfile.source import Problem
from asyncbuild.errors import DockerfileError, SourceLocation
from asyncbuild.plan.nouns import Plan, StageRef
from asyncbuild.plan.scope import StageScope
from asyncbuild.records import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """A stage that can be built; ``name`` is None for one that only its number names."""

    name: str | None
    description: str
    base: str
    platform: str
    default: bool
    location: SourceLocation


@dataclass(frozen=True, slots=True)
class Parameter:
    """Something that the command line may give: an argument's ``value`` is what holds now."""

    name: str
    location: SourceLocation
    value: str = ""
    description: str = ""
    required: bool = False


@dataclass(frozen=True, slots=True)
class Outline:
    """What the plan's target takes, each by the place where it is first named."""

    name: str | None
    description: str
    arguments: tuple[Parameter, ...]
    secrets: tuple[Parameter, ...]
    ssh: tuple[Parameter, ...]
    caches: tuple[Parameter, ...]


def list_targets(dockerfile: i.Dockerfile) -> tuple[Target, ...]:
    """Every stage, in order; the last one is the default."""
    last = len(dockerfile.stages) - 1
    lines = [stage.from_ for stage in dockerfile.stages]
    return tuple(
        Target(
            line.name,
            description(line, line.name),
            line.image,
            line.platform,
            index == last,
            line.location,
        )
        for index, line in enumerate(lines)
    )


def outline_of(dockerfile: i.Dockerfile, plan: Plan) -> Outline:
    """What the stages that ``plan`` needs take from outside."""
    reader = _Reader(dockerfile, plan)
    for stage in plan.stages:
        reader.read(stage.index)
    line = dockerfile.stages[plan.target].from_
    found = {kind: tuple(sorted(items.values(), key=_line)) for kind, items in reader.found.items()}
    return Outline(
        line.name,
        description(line, line.name),
        found["arg"],
        found[MountType.SECRET.value],
        found[MountType.SSH.value],
        found[MountType.CACHE.value],
    )


def _line(parameter: Parameter) -> int:
    return parameter.location.line


class _Reader:
    """Walks through stages, each with the variables that it would see without a base's own."""

    def __init__(self, dockerfile: i.Dockerfile, plan: Plan) -> None:
        self.dockerfile = dockerfile
        self.plan = plan
        kinds = (
            "arg",
            *(kind.value for kind in (MountType.SECRET, MountType.SSH, MountType.CACHE)),
        )
        self.found: dict[str, dict[str, Parameter]] = {kind: {} for kind in kinds}
        self._scopes: dict[int, StageScope] = {}
        self._globals = {
            argument.name: (line, argument)
            for line in dockerfile.global_arguments
            for argument in line.arguments
        }

    def read(self, index: int) -> None:
        """Note what stage ``index`` takes; the stage that it is built from was read before."""
        stage = self.plan.all_stages[index]
        self._read_from(self.dockerfile.stages[index].from_)
        scope = (
            self._scopes[stage.base.index]
            if isinstance(stage.base, StageRef)
            else StageScope.start(self.plan.arguments, {})
        )
        for step in stage.steps:
            try:
                resolved = scope.resolve(step.instruction).instruction
            except DockerfileError:
                continue
            scope = scope.after(resolved)
            if isinstance(step.instruction, i.Arg) and isinstance(resolved, i.Arg):
                self._read_arg(step.instruction, resolved)
            elif isinstance(resolved, i.Run):
                self._read_mounts(resolved)
        self._scopes[index] = scope

    def _read_from(self, line: i.From) -> None:
        """The arguments that a FROM uses, and those that their defaults use."""
        expander = Expander(self.plan.arguments.globals, self.plan.arguments.escape)
        expander.word(line.image)
        expander.word(line.platform)
        waiting = [*expander.used, *expander.unmatched]
        while waiting:
            name = waiting.pop()
            if name in self._globals and name not in self.found["arg"]:
                where, argument = self._globals[name]
                value = self.plan.arguments.globals.get(name, "")
                self._add("arg", Parameter(name, where.location, value, description(where, name)))
                inner = Expander(self.plan.arguments.globals, self.plan.arguments.escape)
                inner.word(argument.default or "")
                waiting += inner.used

    def _read_arg(self, written: i.Arg, resolved: i.Arg) -> None:
        for argument, now in zip(written.arguments, resolved.arguments, strict=True):
            given = argument.name in self.plan.arguments.given
            inherited = argument.default is None and not given and now.default is not None
            if inherited and argument.name in self._globals:
                where, name = self._globals[argument.name][0], argument.name
                self._add(
                    "arg",
                    Parameter(name, where.location, now.default or "", description(where, name)),
                )
            elif not inherited:
                text = description(written, argument.name)
                value = now.default or ""
                self._add("arg", Parameter(argument.name, written.location, value, text))

    def _read_mounts(self, run: i.Run) -> None:
        for flag in run.mounts:
            try:
                mount = flag.mount()
            except Problem:
                continue
            kind = mount.type.value
            if kind in self.found:
                fallback = {
                    MountType.SSH: "default",
                    MountType.CACHE: mount.target,
                }.get(mount.type, mount.source or posixpath.basename(mount.target))
                name = mount.id or fallback
                self._add(kind, Parameter(name, run.location, required=mount.required))

    def _add(self, kind: str, parameter: Parameter) -> None:
        self.found[kind].setdefault(parameter.name, parameter)
