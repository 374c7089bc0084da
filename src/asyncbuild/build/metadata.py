"""What each metadata instruction does to the image configuration. Pure.

Instructions come expanded. The results are BuildKit's, field by field
(``frontend/dockerfile/dockerfile2llb/convert.go``, the ``dispatch…`` functions).
"""

from __future__ import annotations

from asyncbuild.dockerfile import instructions as ins
from asyncbuild.dockerfile.paths import absolute_workdir
from asyncbuild.dockerfile.shellform import command_line
from asyncbuild.image.config import Healthcheck, HistoryEntry, ImageConfig, RuntimeConfig
from asyncbuild.image.platform import Platform
from asyncbuild.plan.scope import DEFAULT_PATH
from asyncbuild.records import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class ImageState:
    """The configuration of an image under construction: everything but its layers."""

    platform: Platform
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    history: tuple[HistoryEntry, ...] = ()
    author: str = ""
    command_is_ours: bool = False

    @classmethod
    def scratch(cls, platform: Platform) -> ImageState:
        """What FROM scratch starts with (BuildKit's ``emptyImage``)."""
        return cls(platform, RuntimeConfig(working_dir="/")).with_path()

    @classmethod
    def of_base(cls, config: ImageConfig) -> ImageState:
        """What a base image hands on; its ONBUILD triggers have been taken out by the caller."""
        runtime = replace(config.runtime, on_build=())
        return cls(config.platform, runtime, config.history, config.author).with_path()

    def with_path(self) -> ImageState:
        """The same state with a PATH, which every image that is built here has."""
        if "PATH" in self.runtime.environment:
            return self
        return replace(self, runtime=self.runtime.with_env("PATH", DEFAULT_PATH))

    @property
    def working_dir(self) -> str:
        """The absolute working directory."""
        return absolute_workdir("/", self.runtime.working_dir or "/")

    def inherited(self) -> ImageState:
        """What a stage hands on to one that is FROM it: no ONBUILD triggers, and a CMD not its own."""
        return replace(self, runtime=replace(self.runtime, on_build=()), command_is_ours=False)

    def with_runtime(self, runtime: RuntimeConfig) -> ImageState:
        """The same state with another runtime configuration."""
        return replace(self, runtime=runtime)

    def with_history(self, *entries: HistoryEntry) -> ImageState:
        """More lines of history."""
        return replace(self, history=(*self.history, *entries))


def apply(state: ImageState, instruction: ins.Instruction) -> ImageState:
    """The state after a metadata instruction. Instructions about files change nothing here."""
    runtime = state.runtime
    match instruction:
        case ins.Env(pairs=pairs):
            for pair in pairs:
                runtime = runtime.with_env(pair.name, pair.value)
        case ins.Label(pairs=pairs):
            labels = {**runtime.labels, **{pair.name: pair.value for pair in pairs}}
            runtime = replace(runtime, labels=labels)
        case ins.Workdir(path=path):
            runtime = replace(runtime, working_dir=absolute_workdir(state.working_dir, path))
        case ins.User(user=user):
            runtime = replace(runtime, user=user)
        case ins.Expose(ports=ports):
            runtime = replace(runtime, exposed_ports=runtime.exposed_ports.union(ports))
        case ins.Volume(paths=paths):
            runtime = replace(runtime, volumes=runtime.volumes.union(paths))
        case ins.Shell(command=command):
            runtime = replace(runtime, shell=command)
        case ins.Stopsignal(signal=signal):
            runtime = replace(runtime, stop_signal=signal)
        case ins.Onbuild(trigger=trigger):
            runtime = replace(runtime, on_build=(*runtime.on_build, trigger))
        case ins.Healthcheck():
            runtime = replace(runtime, healthcheck=_healthcheck(instruction))
        case ins.Maintainer(author=author):
            return replace(state, author=author)
        case ins.Cmd():
            return _set_command(state, command_line(instruction, runtime.shell))
        case ins.Entrypoint():
            return _set_entrypoint(state, command_line(instruction, runtime.shell))
        case _:
            pass
    return replace(state, runtime=runtime)


def _healthcheck(said: ins.Healthcheck) -> Healthcheck:
    return Healthcheck(
        said.test,
        said.interval,
        said.timeout,
        said.start_period,
        said.start_interval,
        said.retries,
    )


def _set_command(state: ImageState, words: tuple[str, ...]) -> ImageState:
    # BuildKit marks every CMD so, for engines that read Docker's deprecated field
    extra = {**state.runtime.extra, "ArgsEscaped": True}
    runtime = replace(state.runtime, cmd=words, extra=extra)
    return replace(state, runtime=runtime, command_is_ours=True)


def _set_entrypoint(state: ImageState, words: tuple[str, ...]) -> ImageState:
    """An ENTRYPOINT resets a CMD that came with the base, and keeps one of this stage."""
    command = state.runtime.cmd if state.command_is_ours else None
    return replace(state, runtime=replace(state.runtime, entrypoint=words, cmd=command))
