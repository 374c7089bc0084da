"""What this version does not do yet is refused by name, with its line; nothing is ever ignored.

`check_supported` looks at a plan before anything is started; `check_instruction` looks at one instruction
again once its words are resolved (``ADD $URL``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from asyncbuild.dockerfile.instructions import Add, Copy, Instruction
from asyncbuild.errors import DockerfileError
from asyncbuild.plan.nouns import Plan

_REMOTE = re.compile(r"(?:https?|git|ssh)://|[a-zA-Z0-9_-]+@[a-zA-Z0-9.-]+:", re.IGNORECASE)


def check_supported(plan: Plan) -> None:
    """Raise DockerfileError for the first step of a needed stage that cannot be done yet."""
    for stage in plan.stages:
        for step in stage.steps:
            check_instruction(step.instruction)


def check_instruction(instruction: Instruction) -> None:
    """Raise DockerfileError if ``instruction`` asks for what cannot be done yet."""
    for what in unsupported(instruction):
        raise DockerfileError(
            f"{what} is not supported yet",
            hint="asyncbuild refuses what it would do differently from BuildKit",
            location=instruction.location,
        )
    if isinstance(instruction, Copy):
        for source in filter(is_remote, instruction.sources):
            message = f"COPY does not fetch {source}"
            raise DockerfileError(message, hint="ADD does", location=instruction.location)


def unsupported(instruction: Instruction) -> Iterator[str]:
    """The names of everything in ``instruction`` that cannot be done yet."""
    if isinstance(instruction, Add):
        if instruction.checksum:
            yield "ADD --checksum"
        if instruction.keep_git_dir is not None:
            yield "ADD --keep-git-dir"
        for source in filter(is_remote, instruction.sources):
            yield f"ADD of a URL or git repository ({source})"


def is_remote(source: str) -> bool:
    """Whether a source of ADD is a URL or a git repository, not a path (BuildKit's rule)."""
    return _REMOTE.match(source) is not None
