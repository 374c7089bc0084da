"""Which variables an instruction sees: ENV, ARG, --build-arg, and their precedence.

The rules are BuildKit's:

1. An instruction sees the environment as it was before it: one ENV line cannot use what it sets itself.
   ARG is the exception: its definitions take effect one after the other.
2. ARG and ENV set the same variables; the later one wins, an ENV of the base image included.
3. An ARG takes its value from --build-arg, else from its default, else from the ARG of the same name
   before the first FROM or the platform's predefined one; else it stays unset. It is visible from its
   declaration on, and in the stages that are built FROM this stage.
4. The proxy variables reach every RUN when --build-arg gives them, in both spellings, declared or not.
   Only a declared one is a variable for words, and appears in the history.
"""

from __future__ import annotations

from collections.abc import Mapping

from asyncbuild.dockerfile.expansion import Expanded, Expander, expand, located
from asyncbuild.dockerfile.instructions import Arg, ArgDefinition, Env, Instruction
from asyncbuild.records import dataclass, field, replace

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""PATH of an image that sets none (BuildKit writes it into the configuration too)."""

ENVIRONMENT_LIMIT = 8 << 20
"""Characters of all variables of a stage: no process starts with as many."""

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
NOT_VARIABLES = frozenset(["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"])


@dataclass(frozen=True, slots=True)
class BuildArguments:
    """What is the same for all stages: --build-arg, the resolved ARGs before FROM, the escape character."""

    given: Mapping[str, str] = field(default_factory=dict)
    globals: Mapping[str, str] = field(default_factory=dict)
    escape: str = "\\"

    @property
    def proxies(self) -> dict[str, str]:
        """The proxy variables for a RUN, in both spellings (rule 4)."""
        values = {name.upper(): self.given[name] for name in sorted(self.given)}
        found = {name: values[name] for name in PROXIES if values.get(name)}
        return found | {name.lower(): value for name, value in found.items()}


@dataclass(frozen=True, slots=True)
class StageScope:
    """The variables at one point of a stage.

    ``environment`` is what words are expanded with. ``declared`` names the ARGs so far, in order, each
    with its value (None: unset). A stage that is built FROM another one starts with that one's last scope.
    """

    arguments: BuildArguments
    environment: Mapping[str, str]
    declared: tuple[ArgDefinition, ...] = ()

    @classmethod
    def start(cls, arguments: BuildArguments, environment: Mapping[str, str]) -> StageScope:
        """The scope after FROM an image with ``environment``; PATH gets its default."""
        return cls(arguments, {**environment, "PATH": environment.get("PATH", DEFAULT_PATH)})

    def resolve(self, instruction: Instruction) -> Expanded:
        """``instruction`` with its words expanded in this scope, ARGs with their final values.

        Raises DockerfileError.
        """
        if isinstance(instruction, Arg):
            return self._resolve_arg(instruction)
        expanded = expand(instruction, self.environment, self.arguments.escape)
        if isinstance(instruction, Env):
            size = sum(map(len, self.environment.values()))
            if size > ENVIRONMENT_LIMIT:
                problem = (
                    f"the variables of this stage are more than {ENVIRONMENT_LIMIT} characters"
                )
                raise located(ValueError(problem), instruction.location)
        return expanded

    def after(self, resolved: Instruction) -> StageScope:
        """The scope that the next instruction sees; ``resolved`` is what `resolve` gave."""
        if isinstance(resolved, Env):
            pairs = {pair.name: pair.value for pair in resolved.pairs}
            return replace(self, environment={**self.environment, **pairs})
        if isinstance(resolved, Arg):
            return replace(
                self,
                environment={**self.environment, **_variables(resolved.arguments)},
                declared=(*self.declared, *resolved.arguments),
            )
        return self

    @property
    def run_environment(self) -> dict[str, str]:
        """The whole environment of a RUN's process, as far as it is known here: HOME is not."""
        return {**self.environment, **self.arguments.proxies}

    @property
    def history_args(self) -> tuple[str, ...]:
        """The ARGs that the history shows before a RUN's command, as ``NAME=value``."""
        values = {
            argument.name: self.environment.get(argument.name, argument.default or "")
            for argument in self.declared
        }
        return tuple(f"{name}={value}" for name, value in values.items())

    def _resolve_arg(self, instruction: Arg) -> Expanded:
        environment = dict(self.environment)
        used: set[str] = set()
        unmatched: set[str] = set()
        resolved: list[ArgDefinition] = []
        for argument in instruction.arguments:
            expander = Expander(environment, self.arguments.escape)
            try:
                value = self._argument_value(argument, expander)
            except ValueError as problem:
                raise located(problem, instruction.location) from None
            used |= expander.used
            unmatched |= expander.unmatched
            resolved.append(ArgDefinition(argument.name, value))
            environment |= _variables(tuple(resolved[-1:]))
        result = replace(instruction, arguments=tuple(resolved))
        return Expanded(result, frozenset(used), frozenset(unmatched))

    def _argument_value(self, argument: ArgDefinition, expander: Expander) -> str | None:
        """Rule 3."""
        if argument.name in self.arguments.given:
            return self.arguments.given[argument.name]
        if argument.default is not None:
            return expander.word(argument.default)
        return self.arguments.globals.get(argument.name)


def _variables(arguments: tuple[ArgDefinition, ...]) -> dict[str, str]:
    """The arguments that have a value and are variables."""
    return {
        argument.name: argument.default
        for argument in arguments
        if argument.default is not None and argument.name not in NOT_VARIABLES
    }
