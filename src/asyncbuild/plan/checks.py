"""Build checks on a plan: those that need values of variables, names of images, or the context.

What is not known yet is not judged: without a base's configuration nothing is said about variables that
it might set. So the checks can run before anything is fetched, and again when more is known; what the
second run finds beyond the first is new.

Triggers that a base has (ONBUILD) count for the scope of variables, and are not judged themselves.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping

from asyncbuild.dockerfile import instructions as i
from asyncbuild.dockerfile.expansion import Expander
from asyncbuild.dockerfile.ignore import IgnorePatterns
from asyncbuild.dockerfile.lint import Findings, check_file, check_stage
from asyncbuild.dockerfile.lint_advice import check_advice, copies_everything
from asyncbuild.dockerfile.lint_options import ARGUMENT, CheckOptions
from asyncbuild.dockerfile.lint_rules import RULES
from asyncbuild.dockerfile.remote import is_remote
from asyncbuild.dockerfile.source import Notice, Problem
from asyncbuild.dockerfile.suggest import nearest
from asyncbuild.errors import DockerfileError, UsageError
from asyncbuild.image.config import ImageConfig
from asyncbuild.image.platform import Platform
from asyncbuild.image.reference import InvalidReference, Reference
from asyncbuild.plan.globals import PLATFORM_ARGUMENTS, is_predefined, resolve_globals
from asyncbuild.plan.nouns import ImageRef, Plan, PlanStage, Scratch, StageRef
from asyncbuild.plan.scope import NOT_VARIABLES, StageScope
from asyncbuild.records import dataclass, field


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """What checks ask of an image: its variables, whether it has a SHELL, and its platform."""

    environment: Mapping[str, str]
    shell: bool
    platform: Platform

    @classmethod
    def of(cls, config: ImageConfig) -> BaseFacts:
        """What an image's configuration says."""
        return cls(config.runtime.environment, bool(config.runtime.shell), config.platform)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is known beside the plan.

    ``bases`` has the images whose configuration is known. ``plain`` takes an unknown image for one
    without a SHELL. ``names`` are the entries of the context's top directory. ``every_stage`` looks at
    stages that the target does not need, too.
    """

    bases: Mapping[ImageRef, BaseFacts] = field(default_factory=dict)
    plain: bool = False
    ignore: IgnorePatterns | None = None
    names: frozenset[str] = frozenset()
    every_stage: bool = False


def check_options(dockerfile: i.Dockerfile, given: Mapping[str, str | None]) -> CheckOptions:
    """Which checks run: the build argument's word, else the directive's. Raises UsageError."""
    text = given.get(ARGUMENT)
    if text is None:
        return dockerfile.checks
    try:
        return CheckOptions.parse(text)
    except Problem as problem:
        raise UsageError(f"--build-arg {ARGUMENT}: {problem}", hint=problem.hint) from None


def check_plan(
    dockerfile: i.Dockerfile,
    plan: Plan,
    known: Surroundings | None = None,
    options: CheckOptions | None = None,
) -> tuple[Notice, ...]:
    """Everything that the checks find, in the order of the file.

    ``options`` replaces what directive and build argument say. Raises UsageError for a build argument
    that cannot be read.
    """
    known = known or Surroundings()
    given = plan.arguments.given
    findings = Findings(check_options(dockerfile, given) if options is None else options)
    check_file(dockerfile, findings)
    _check_unused(dockerfile, given, findings)
    _check_defaults(dockerfile, plan, findings)
    stages = _StageChecks(dockerfile, plan, known, findings)
    for stage in plan.all_stages:
        stages.check_from(stage)
        if known.every_stage or stage.index in plan.needed:
            check_stage(dockerfile.stages[stage.index], findings)
            check_advice(dockerfile.stages[stage.index], findings)
            stages.check(stage)
    return _in_order(findings.notices)


def violation(notices: Iterable[Notice]) -> DockerfileError | None:
    """The error that ``check=error=true`` makes of ``notices``, if a rule of BuildKit is among them."""
    counted = [notice for notice in notices if counts_as_error(notice)]
    if not counted:
        return None
    rules = sorted({notice.rule for notice in counted})
    place = next((notice.location for notice in counted if notice.location), None)
    hint = "error=true of the check directive makes an error of it; skip=… leaves a check out"
    message = f"build checks that must not find anything did: {', '.join(rules)}"
    return DockerfileError(message, hint=hint, location=place)


def counts_as_error(notice: Notice) -> bool:
    """Rules of ours that are on by default stop no build that BuildKit would do."""
    rule = RULES[notice.rule]
    return rule.optional or not rule.ours


def _in_order(notices: Iterable[Notice]) -> tuple[Notice, ...]:
    """Each once, by line; what belongs to no line comes last."""
    unique = dict.fromkeys(notices)
    return tuple(sorted(unique, key=lambda n: n.location.line if n.location else 1 << 30))


def _check_unused(dockerfile: i.Dockerfile, given: Mapping[str, str], findings: Findings) -> None:
    """A --build-arg that no ARG of the file declares is most likely a typing error."""
    lines = [*dockerfile.global_arguments]
    for stage in dockerfile.stages:
        for item in stage.instructions:
            inner = item.instruction if isinstance(item, i.Onbuild) else item
            lines += [inner] if isinstance(inner, i.Arg) else []
    declared = {argument.name: None for line in lines for argument in line.arguments}
    for name in sorted(given):
        if name not in declared and not is_predefined(name):
            meant = nearest(name, declared)
            message = f"no ARG declares --build-arg {name}" + _meant(meant)
            findings.add("UnusedBuildArg", message)


def _check_defaults(dockerfile: i.Dockerfile, plan: Plan, findings: Findings) -> None:
    """Without any --build-arg, every FROM names an image."""
    names = (*PLATFORM_ARGUMENTS, "TARGETSTAGE")
    predefined = {name: plan.arguments.globals.get(name, "") for name in names}
    try:
        defaults = resolve_globals(dockerfile, {}, predefined)
    except DockerfileError:
        return
    for stage in dockerfile.stages:
        expander = Expander(defaults.globals, defaults.escape)
        try:
            name = expander.word(stage.from_.image)
        except ValueError:
            return
        if (expander.used or expander.unmatched) and not _is_reference(name):
            message = f"without --build-arg, {stage.from_.image} is " + (
                f"{name!r}, which is no image" if name else "empty"
            )
            findings.add("InvalidDefaultArgInFrom", message, stage.from_)


def _is_reference(name: str) -> bool:
    try:
        Reference.parse(name)
    except InvalidReference:
        return False
    return True


def _meant(name: str | None, mark: str = "") -> str:
    return f" (meant {mark}{name}?)" if name else ""


@dataclass(frozen=True, slots=True)
class _End:
    """How a stage ends: its variables (None: not known), whether it has a SHELL and a WORKDIR."""

    scope: StageScope | None
    shell: bool | None
    workdir: bool = False


class _StageChecks:
    """Walks through stages in order, each with the variables that it would see."""

    def __init__(
        self, dockerfile: i.Dockerfile, plan: Plan, known: Surroundings, findings: Findings
    ) -> None:
        self.dockerfile = dockerfile
        self.plan = plan
        self.known = known
        self.findings = findings
        self._ends: dict[int, _End] = {}
        declared = [a.name for line in dockerfile.global_arguments for a in line.arguments]
        self._from_names = {*declared, *plan.arguments.globals}

    def check(self, stage: PlanStage) -> None:
        """Judge the steps of one stage."""
        for step in stage.steps:
            for source in step.sources:
                if isinstance(source, ImageRef) and not step.triggered:
                    self._check_pinned(source, step.instruction)
        self._end(stage, quiet=False)

    def _end(self, stage: PlanStage, *, quiet: bool) -> _End:
        if quiet and stage.index in self._ends:
            return self._ends[stage.index]
        end = self._start(stage)
        for step in stage.steps:
            end = _StepCheck(self, end, quiet=quiet or step.triggered).step(step.instruction)
        self._ends[stage.index] = end
        return end

    def _start(self, stage: PlanStage) -> _End:
        arguments = self.plan.arguments
        if isinstance(stage.base, StageRef):
            return self._end(self.plan.all_stages[stage.base.index], quiet=True)
        if isinstance(stage.base, Scratch):
            return _End(StageScope.start(arguments, {}), shell=False)
        facts = self.known.bases.get(stage.base)
        if facts is None:
            return _End(None, shell=False if self.known.plain else None)
        return _End(StageScope.start(arguments, facts.environment), facts.shell)

    def check_from(self, stage: PlanStage) -> None:
        """Judge a FROM, whether the stage is needed or not."""
        line = self.dockerfile.stages[stage.index].from_
        arguments = self.plan.arguments
        image = Expander(arguments.globals, arguments.escape)
        platform = Expander(arguments.globals, arguments.escape)
        image.word(line.image)
        text = platform.word(line.platform)
        for name in sorted((image.unmatched | platform.unmatched) - self._from_names):
            meant = nearest(name, sorted(self._from_names))
            message = f"FROM uses {name}, which no ARG before it declares{_meant(meant)}"
            self.findings.add("UndefinedArgInFrom", message, line)
        if line.platform and not platform.unmatched:
            self._check_platform(line, platform.used, text)
        if isinstance(stage.base, ImageRef):
            self._check_pinned(stage.base, line)
            facts = self.known.bases.get(stage.base)
            wanted = stage.platform
            if facts and (facts.platform.os, facts.platform.architecture) != (
                wanted.os,
                wanted.architecture,
            ):
                message = f"{line.image} is an image for {facts.platform}, not for {wanted}"
                self.findings.add("InvalidBaseImagePlatform", message, line)

    def _check_platform(self, line: i.From, used: set[str], text: str) -> None:
        target = self.plan.arguments.globals.get("TARGETPLATFORM")
        if used == {"TARGETPLATFORM"} and text == target:
            message = f"--platform={line.platform} is what FROM does anyway"
            self.findings.add("RedundantTargetPlatform", message, line)
        elif not used:
            platform = Platform.parse(text)
            name = line.name or ""
            if platform.os not in name and platform.architecture not in name:
                message = f"--platform={text} builds this stage for {text} whatever is asked for"
                self.findings.add("FromPlatformFlagConstDisallowed", message, line)

    def _check_pinned(self, image: ImageRef, at: i.Located) -> None:
        if image.reference.digest is None:
            message = f"{image.reference.familiar} may be another image tomorrow: it has no digest"
            self.findings.add("UnpinnedBase", message, at)


class _StepCheck:
    """One instruction, in the state that the stage has reached."""

    def __init__(self, stages: _StageChecks, before: _End, *, quiet: bool) -> None:
        self.stages = stages
        self.before = before
        self.quiet = quiet

    def step(self, item: i.Instruction) -> _End:
        """Judge ``item``, and tell how the stage stands after it."""
        scope, resolved = self._resolve(item)
        shell = True if isinstance(item, i.Shell) else self.before.shell
        if isinstance(item, i.Cmd | i.Entrypoint) and item.shell_form and shell is False:
            message = f"{item.NAME} starts a shell, and signals do not reach what it starts"
            self._add("JSONArgsRecommended", message, item)
        unknown = resolved is item and "$" in item.original
        if isinstance(resolved, i.Workdir) and not (
            unknown or self.before.workdir or resolved.path.startswith("/")
        ):
            message = f"{resolved.path} lies below whatever directory the base image ends in"
            self._add("WorkdirRelativePath", message, item)
        if isinstance(item, i.Expose):
            self._check_ports(item)
        if isinstance(resolved, i.Copy | i.Add):
            self._check_sources(item, resolved)
        return _End(scope, shell, self.before.workdir or isinstance(item, i.Workdir))

    def _resolve(self, item: i.Instruction) -> tuple[StageScope | None, i.Instruction]:
        scope = self.before.scope
        if scope is None:
            return None, item
        try:
            expanded = scope.resolve(item)
        except DockerfileError:
            return scope, item  # the build says it, if it comes to this step
        declared = {argument.name for argument in scope.declared}
        for name in sorted(expanded.unmatched - declared - NOT_VARIABLES):
            meant = _meant(nearest(name, sorted(scope.environment)), "$")
            message = f"the variable ${name} is not defined here{meant}"
            self._add("UndefinedVar", message, item, f"${name}", f"${{{name}")
        return scope.after(expanded.instruction), expanded.instruction

    def _check_ports(self, item: i.Expose) -> None:
        environment = self.before.scope.environment if self.before.scope else {}
        expander = Expander(environment, self.stages.plan.arguments.escape)
        for port in item.ports:
            try:
                words = expander.words(port)
            except ValueError:
                continue
            for word in words:
                outer, _, inner = word.rpartition(":")
                protocol = inner.partition("/")[2]
                if protocol != protocol.lower():
                    message = f"the protocol of {word} is not in lower case"
                    self._add("ExposeProtoCasing", message, item, word)
                if outer:
                    message = f"{word} names more than a port of the container"
                    self._add("ExposeInvalidFormat", message, item, word)

    def _check_sources(self, item: i.Instruction, resolved: i.Copy | i.Add) -> None:
        """What COPY and ADD take from the context (BuildKit's convert_copy.go, validations.go)."""
        ignore, names = self.stages.known.ignore, self.stages.known.names
        if isinstance(resolved, i.Copy) and resolved.from_:
            return
        history = ".git" in names and not (ignore and ignore.excluded(".git"))
        if history and copies_everything(resolved):
            message = "the whole context is copied, .git included: each commit changes it"
            self._add("UncacheableCopy", message, item)
        if ignore is None or ignore.has_exceptions:
            return
        for source in resolved.sources:
            path = posixpath.normpath(source).strip("/") or "."
            hidden = ignore.excludes_everything if path == "." else ignore.excluded(path)
            if hidden and not is_remote(source):
                message = f"{source} is left out of the context by .dockerignore"
                self._add("CopyIgnoredFile", message, item, source)

    def _add(self, rule: str, message: str, item: i.Instruction, *near: str) -> None:
        if not self.quiet:
            self.stages.findings.add(rule, message, item, *near)
