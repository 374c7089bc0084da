"""What may stand in COPY and ADD as a source that is no path (dockerfile2llb ``dispatchCopy``)."""

from __future__ import annotations

from asyncbuild.dockerfile.instructions import Add, Copy
from asyncbuild.dockerfile.remote import GitReference, Remote, WebFile, parse_remote
from asyncbuild.dockerfile.source import Problem
from asyncbuild.errors import DockerfileError
from asyncbuild.image.digest import Digest, InvalidDigest
from asyncbuild.plan.nouns import Plan

_HEX = frozenset("0123456789abcdefABCDEF")


def check_plan_remotes(plan: Plan) -> None:
    """`check_remotes` of what the needed stages of ``plan`` say without variables."""
    for stage in plan.stages:
        for step in stage.steps:
            item = step.instruction
            if isinstance(item, Copy | Add):
                checksum = item.checksum if isinstance(item, Add) else ""
                if not any("$" in word for word in (*item.sources, checksum)):
                    check_remotes(item)


def check_remotes(instruction: Copy | Add) -> None:
    """Raise DockerfileError if the URLs and repositories of a resolved ``instruction`` do not fit it."""
    try:
        remotes = [parse_remote(source) for source in instruction.sources]
        if isinstance(instruction, Copy):
            _refuse(remotes)
        else:
            _check_checksum(instruction, remotes)
            for remote in remotes:
                _check_git_dir(instruction, remote)
    except Problem as problem:
        raise DockerfileError(
            str(problem), hint=problem.hint, location=instruction.location
        ) from None


def _refuse(remotes: list[Remote | None]) -> None:
    for remote in [found for found in remotes if found is not None]:
        what = "a git repository" if isinstance(remote, GitReference) else "a URL"
        raise Problem(f"COPY does not fetch {what}: {remote.shown}", hint="ADD does")


def _check_checksum(instruction: Add, remotes: list[Remote | None]) -> None:
    checksum = instruction.checksum
    if not checksum:
        return
    if len(remotes) != 1 or instruction.heredocs:
        raise Problem("--checksum is for one source, and there are several")
    if remotes[0] is None:
        raise Problem("--checksum is for URLs and git repositories, and the source is a path")
    if isinstance(remotes[0], WebFile):
        try:
            algorithm = Digest.parse(checksum).algorithm
        except InvalidDigest:
            algorithm = ""
        if algorithm != "sha256":
            raise Problem(f"--checksum of a URL is sha256: and 64 digits, not {checksum!r}")
        return
    if set(checksum) - _HEX:
        raise Problem(f"--checksum of a git repository is a commit, not {checksum!r}")
    if remotes[0].commit not in ("", checksum):
        raise Problem(f"--checksum={checksum}, and the URL says {remotes[0].commit}")


def _check_git_dir(instruction: Add, remote: Remote | None) -> None:
    said = instruction.keep_git_dir
    if not isinstance(remote, GitReference) or None in (said, remote.keep_git_dir):
        return
    if said is not remote.keep_git_dir:
        raise Problem("--keep-git-dir says one thing, and keep-git-dir in the URL another")
