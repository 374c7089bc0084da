"""Every instruction of a Dockerfile, typed. Words are as written until `expansion.expand` resolves them.

Two instructions are equal when they say the same; where they stand does not count.
"""

from __future__ import annotations

from typing import ClassVar, TypeAlias

from asyncbuild.dockerfile.lines import DEFAULT_ESCAPE, Directives, Heredoc
from asyncbuild.dockerfile.lint_options import CheckOptions
from asyncbuild.dockerfile.mounts import Device, MountFlag
from asyncbuild.dockerfile.source import Notice
from asyncbuild.errors import SourceLocation
from asyncbuild.records import dataclass, field

_NOWHERE = SourceLocation("", 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """What all instructions have: their name, their place, their text with continuation joined, and the
    comments above it.
    """

    NAME: ClassVar[str] = ""

    location: SourceLocation = field(default=_NOWHERE, compare=False, repr=False)
    original: str = field(default="", compare=False, repr=False)
    comments: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @property
    def keyword(self) -> str:
        """The instruction's name as it is written."""
        return self.original[: len(self.NAME)]


@dataclass(frozen=True, slots=True)
class From(Located):
    """FROM: an image, ``scratch`` or a stage. ``name`` is in lower case, as all comparisons are."""

    NAME: ClassVar[str] = "FROM"

    image: str
    name: str | None = None
    platform: str = ""


@dataclass(frozen=True, slots=True)
class ArgDefinition:
    """One name of an ARG, with its default if it has one."""

    name: str
    default: str | None = None


@dataclass(frozen=True, slots=True)
class Arg(Located):
    """ARG: names that ``--build-arg`` may set."""

    NAME: ClassVar[str] = "ARG"

    arguments: tuple[ArgDefinition, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """A name and a value, of ENV or LABEL."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Env(Located):
    """ENV. ``legacy`` is the form ``ENV name value``."""

    NAME: ClassVar[str] = "ENV"

    pairs: tuple[Pair, ...]
    legacy: bool = False


@dataclass(frozen=True, slots=True)
class Label(Located):
    """LABEL. ``legacy`` is the form ``LABEL name value``."""

    NAME: ClassVar[str] = "LABEL"

    pairs: tuple[Pair, ...]
    legacy: bool = False


@dataclass(frozen=True, slots=True)
class Run(Located):
    """RUN: ``command`` is one text in shell form, else the words of the JSON array."""

    NAME: ClassVar[str] = "RUN"

    command: tuple[str, ...]
    shell_form: bool = True
    heredocs: tuple[Heredoc, ...] = ()
    mounts: tuple[MountFlag, ...] = ()
    network: str = "default"
    security: str = "sandbox"
    devices: tuple[Device, ...] = ()


@dataclass(frozen=True, slots=True)
class Copy(Located):
    """COPY: ``sources`` are paths, ``heredocs`` are files that the Dockerfile itself holds."""

    NAME: ClassVar[str] = "COPY"

    sources: tuple[str, ...]
    destination: str
    heredocs: tuple[Heredoc, ...] = ()
    from_: str = ""
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    excludes: tuple[str, ...] = ()

    @property
    def is_linked(self) -> bool:
        """Whether the layer is made without the root below it: ``--link`` counts only without ``--chmod``
        (dockerfile2llb ``dispatchCopy``).
        """
        return self.link and not self.chmod


@dataclass(frozen=True, slots=True)
class Add(Located):
    """ADD: as COPY, and sources may be URLs, git repositories, or archives to unpack."""

    NAME: ClassVar[str] = "ADD"

    sources: tuple[str, ...]
    destination: str
    heredocs: tuple[Heredoc, ...] = ()
    chown: str = ""
    chmod: str = ""
    link: bool = False
    excludes: tuple[str, ...] = ()
    keep_git_dir: bool | None = None
    checksum: str = ""
    unpack: bool | None = None

    @property
    def is_linked(self) -> bool:
        """Whether the layer is made without the root below it: ``--link`` counts only without ``--chmod``
        (dockerfile2llb ``dispatchCopy``).
        """
        return self.link and not self.chmod


@dataclass(frozen=True, slots=True)
class Workdir(Located):
    """WORKDIR."""

    NAME: ClassVar[str] = "WORKDIR"

    path: str


@dataclass(frozen=True, slots=True)
class User(Located):
    """USER: ``user[:group]``, names or numbers."""

    NAME: ClassVar[str] = "USER"

    user: str


@dataclass(frozen=True, slots=True)
class Cmd(Located):
    """CMD, in shell form (one text) or exec form."""

    NAME: ClassVar[str] = "CMD"

    command: tuple[str, ...]
    shell_form: bool = True


@dataclass(frozen=True, slots=True)
class Entrypoint(Located):
    """ENTRYPOINT, in shell form (one text) or exec form; it resets an inherited CMD."""

    NAME: ClassVar[str] = "ENTRYPOINT"

    command: tuple[str, ...]
    shell_form: bool = True


@dataclass(frozen=True, slots=True)
class Expose(Located):
    """EXPOSE: sorted as written; once expanded, each is ``port/protocol``."""

    NAME: ClassVar[str] = "EXPOSE"

    ports: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Volume(Located):
    """VOLUME."""

    NAME: ClassVar[str] = "VOLUME"

    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Shell(Located):
    """SHELL: the words in front of every shell form that follows."""

    NAME: ClassVar[str] = "SHELL"

    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stopsignal(Located):
    """STOPSIGNAL."""

    NAME: ClassVar[str] = "STOPSIGNAL"

    signal: str


@dataclass(frozen=True, slots=True)
class Healthcheck(Located):
    """HEALTHCHECK: ``test`` as the image configuration has it, times in nanoseconds (0: not given)."""

    NAME: ClassVar[str] = "HEALTHCHECK"

    test: tuple[str, ...]
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True)
class Maintainer(Located):
    """MAINTAINER (deprecated): the image's author."""

    NAME: ClassVar[str] = "MAINTAINER"

    author: str


@dataclass(frozen=True, slots=True)
class Onbuild(Located):
    """ONBUILD: ``trigger`` is the text that the image keeps, ``instruction`` what it says."""

    NAME: ClassVar[str] = "ONBUILD"

    trigger: str
    instruction: Instruction


Instruction: TypeAlias = (
    Arg
    | Env
    | Label
    | Run
    | Copy
    | Add
    | Workdir
    | User
    | Cmd
    | Entrypoint
    | Expose
    | Volume
    | Shell
    | Stopsignal
    | Healthcheck
    | Maintainer
    | Onbuild
)
"""Everything that may stand inside a stage."""

NAMES: tuple[str, ...] = tuple(
    kind.NAME
    for kind in (
        *(From, Arg, Env, Label, Run, Copy, Add, Workdir, User, Cmd, Entrypoint, Expose),
        *(Volume, Shell, Stopsignal, Healthcheck, Maintainer, Onbuild),
    )
)
"""The keyword of every instruction."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A FROM and the instructions up to the next one."""

    from_: From
    instructions: tuple[Instruction, ...]


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """A whole Dockerfile: the ARGs before the first FROM, and the stages in order (at least one).

    ``notices`` are what only the parser can notice; ``checks`` is what the check directive says.
    """

    file: str
    directives: Directives
    global_arguments: tuple[Arg, ...]
    stages: tuple[Stage, ...]
    notices: tuple[Notice, ...] = ()
    checks: CheckOptions = field(default_factory=CheckOptions)

    @property
    def escape(self) -> str:
        """The escape character of its words."""
        return self.directives.escape or DEFAULT_ESCAPE
