"""What the key of each step is made of. Pure but for the fingerprints, which are given.

A step's key is over the key of what it is executed upon and everything about the step that can change
its result. Two kinds of inputs are known only late: the files of another stage, and what a URL gives.
COPY --from has its source stage's key in its place; once the files exist, `content_recipe` keys the same
step by what they are.

The layer of a linked step (``--link``) depends on nothing below it. So it has a second key, in which that
does not appear: by it the layer alone is found when its base has changed.
"""

from __future__ import annotations

from asyncbuild.build.outline import OutlinedStep
from asyncbuild.build.request import BuildRequest
from asyncbuild.build.resolving import BaseImage
from asyncbuild.build.run_options import RunOptions
from asyncbuild.cache.keys import Key, Recipe, Value
from asyncbuild.dockerfile import instructions as ins
from asyncbuild.dockerfile.paths import absolute_destination, absolute_workdir
from asyncbuild.dockerfile.shellform import run_command_line
from asyncbuild.image.platform import Platform
from asyncbuild.layers.paths import clean
from asyncbuild.records import dataclass


@dataclass(frozen=True, slots=True)
class StepKey:
    """The key of one step that makes a layer; no recipe if its inputs cannot be known ahead.

    ``late`` says that some inputs stand in for content: then that gives a second key, once it is there (of
    COPY by `content_recipe`, of RUN by what its mounts show). ``linked`` is what the layer alone is made
    of, for steps that look at nothing below them. ``asked`` False: no cache is asked for it.
    """

    recipe: Recipe | None
    late: bool = False
    linked: Recipe | None = None
    asked: bool = True

    @property
    def key(self) -> Key | None:
        """The key, if there is one."""
        return None if self.recipe is None else self.recipe.key

    @property
    def linked_key(self) -> Key | None:
        """The key of the layer alone, if there is one."""
        return None if self.linked is None else self.linked.key


@dataclass(frozen=True, slots=True)
class StageKeys:
    """One key for each step of a stage that makes a layer; None from the first that has none on.

    ``base`` is the key of what the stage is FROM.
    """

    base: Key | None
    steps: tuple[StepKey, ...]

    @property
    def final(self) -> Key | None:
        """The key of all files of the stage."""
        return self.steps[-1].key if self.steps else self.base


def image_recipe(image: BaseImage) -> Recipe:
    """The files of a base image, and its platform. Its configuration counts where a step sees it."""
    diff_ids = tuple(str(diff_id) for diff_id in image.config.diff_ids)
    return Recipe("image", (("layers", diff_ids), ("platform", str(image.config.platform))))


def scratch_recipe(platform: Platform) -> Recipe:
    """Nothing, for a platform."""
    return Recipe("scratch", (("platform", str(platform)),))


def trimmed(recipe: Recipe, request: BuildRequest) -> Recipe:
    """``recipe``, for a build whose layers leave files out, or have no times later than the build's."""
    ignored = tuple(sorted({clean(path) for path in request.ignored_paths} - {""}))
    if not ignored and not request.clamp_times:
        return recipe
    return Recipe(
        f"trimmed {recipe.kind}",
        (
            *recipe.parts,
            ("--ignore-path", ignored),
            ("no later times", int(request.clamp_times)),
        ),
    )


def without_volumes(recipe: Recipe, step: OutlinedStep, request: BuildRequest) -> Recipe:
    """``recipe``, for a build whose layers have nothing of what is in the volumes above the step."""
    if not request.volumes_are_lost or not step.volumes:
        return recipe
    parts = (*recipe.parts, ("VOLUME", tuple(sorted(step.volumes))))
    return Recipe(f"{recipe.kind} without volumes", parts)


def run_recipe(
    step: OutlinedStep, upon: Key, request: BuildRequest, mounts: tuple[Value, ...]
) -> Recipe:
    """RUN: the command as it will be executed, with everything that it can see.

    Proxy settings are not among them unless an ARG declares them; secrets never are.
    """
    assert isinstance(step.instruction, ins.Run)
    line = run_command_line(step.instruction, step.image.runtime.shell)
    script = None if line.script is None else line.script.content
    network = step.instruction.network
    environment = sorted(step.scope.environment.items())
    parts: list[tuple[str, Value]] = [
        ("the steps before it", upon.hex),
        ("the command", line.argv),
        ("its heredoc", script),
        ("WORKDIR", step.image.working_dir),
        ("USER", step.image.runtime.user),
        ("--network", request.network if network == "default" else network),
        ("--security", step.instruction.security),
        ("--add-host", request.add_hosts),
        ("--mount", mounts),
    ]
    parts += [(f"variable {name}", value) for name, value in environment]
    if step.instruction.devices:
        parts.append(("--device", tuple(device.name for device in step.instruction.devices)))
    parts += _options(request.run)
    return Recipe("run", tuple(parts))


def _options(options: RunOptions) -> list[tuple[str, Value]]:
    """What of a build's options a command can tell, if it is given: limits on memory and processors, and
    what secrets hold, are not in keys.
    """
    limits = tuple((item.name, item.soft, item.hard) for item in options.ulimits)
    devices = tuple(item.name for item in options.devices)
    parts: list[tuple[str, Value]] = []
    if options.shm_size is not None:
        parts.append(("--shm-size", options.shm_size))
    if limits:
        parts.append(("--ulimit", limits))
    if devices:
        parts.append(("--device of the build", devices))
    return parts


def copy_recipe(step: OutlinedStep, upon: Key, sources: Value) -> Recipe:
    """COPY and ADD: where things go and how, and what they are (``sources``)."""
    assert isinstance(step.instruction, ins.Copy | ins.Add)
    parts = _copy_parts(step, step.instruction, sources)
    # with --link too: a result is everything above the base, and keys that follow name this one
    return Recipe(step.instruction.NAME.lower(), (("the steps before it", upon.hex), *parts))


def linked_recipe(step: OutlinedStep, sources: Value) -> Recipe | None:
    """The layer of a linked COPY or ADD, whatever is below it; None for a step that is not linked.

    The destination is in it as a path from the root: a relative one means another layer where WORKDIR is
    another one. Owners are numbers there: names are looked up in the root, so ``--link`` refuses them.
    """
    instruction = step.instruction
    assert isinstance(instruction, ins.Copy | ins.Add)
    if not instruction.is_linked:
        return None
    parts = tuple(_copy_parts(step, instruction, sources))
    return Recipe(f"linked {instruction.NAME.lower()}", parts)


def _copy_parts(
    step: OutlinedStep, instruction: ins.Copy | ins.Add, sources: Value
) -> list[tuple[str, Value]]:
    destination = absolute_destination(step.image.working_dir, instruction.destination)
    heredocs = tuple((item.name, item.content) for item in instruction.heredocs)
    parts: list[tuple[str, Value]] = [
        ("the destination", destination),
        ("--chown", instruction.chown),
        ("--chmod", instruction.chmod),
        ("--link", int(instruction.link)),
        ("--exclude", instruction.excludes),
        ("heredocs", heredocs),
        ("the files", sources),
    ]
    if isinstance(instruction, ins.Copy):
        parts.append(("--parents", int(instruction.parents)))
    else:
        parts.append(("--checksum", instruction.checksum))
        parts.append(("--unpack", _flag(instruction.unpack)))
        parts.append(("--keep-git-dir", _flag(instruction.keep_git_dir)))
    return parts


def workdir_recipe(step: OutlinedStep, upon: Key) -> Recipe:
    """WORKDIR: the directory and whose it is."""
    assert isinstance(step.instruction, ins.Workdir)
    path = absolute_workdir(step.image.working_dir, step.instruction.path)
    return Recipe(
        "workdir",
        (
            ("the steps before it", upon.hex),
            ("the path", path),
            ("USER", step.image.runtime.user),
        ),
    )


def content_recipe(upon: Key, made: Value) -> Recipe:
    """A step by what it made: a change set's fingerprint, upon what it was made."""
    return Recipe("content", (("the steps before it", upon.hex), ("the files", made)))


def _flag(value: bool | None) -> int | None:  # noqa: FBT001 - it is the value itself
    return None if value is None else int(value)
