"""Checks of our own about one stage: what makes images large and builds slow. All are optional.

Commands of RUN are looked at as text, not as shell: a check that is not sure says nothing.
"""

from __future__ import annotations

import re
from typing import TypeGuard

from asyncbuild.dockerfile import instructions as i
from asyncbuild.dockerfile.lint import Findings

_APT_INSTALL = re.compile(r"\bapt(?:-get)?\b[^;&|\n]*\sinstall\b[^;&|\n]*")
_APT_UPDATE = re.compile(r"\bapt(?:-get)?\b[^;&|\n]*\supdate\b")
_APT_USE = re.compile(
    r"\b(?:apt|apt-get|aptitude)\b[^;&|\n]*\s"
    r"(?:install|upgrade|dist-upgrade|full-upgrade|build-dep|source|download)\b"
)
_RECOMMENDS = re.compile(r"--no-install-recommends|Install-Recommends", re.IGNORECASE)
_INSTALL = re.compile(
    r"\b(?:pip3?\s+install\s+(?:[^;&|\n]*\s)?(?:-r|--requirement)\b|npm\s+(?:ci|install)\b|"
    r"yarn\s+install\b|pnpm\s+install\b|go\s+mod\s+download\b|bundle\s+install\b|"
    r"composer\s+install\b|poetry\s+install\b|uv\s+sync\b|cargo\s+fetch\b|"
    r"mvn\s+(?:[^;&|\n]*\s)?dependency:)"
)
_CHANGING = re.compile(
    r"(?:BUILD|CREATION)_?(?:DATE|TIME|TIMESTAMP|NUMBER|ID)|"
    r"(?:GIT|VCS|CI|SOURCE)?_?(?:COMMIT|SHA|REVISION)(?:_?(?:SHA|HASH|ID))?|GIT_?(?:REF|REV)|VCS_REF",
    re.IGNORECASE,
)


def check_advice(stage: i.Stage, findings: Findings) -> None:
    """Look at one stage with all of these checks."""
    _check_apt(stage, findings)
    _check_copy(stage, findings)
    _check_arguments(stage, findings)


def command_text(run: i.Run) -> str:
    """Everything that a RUN says to a shell or program, heredocs included."""
    return " ".join([*run.command, *(f"\n{heredoc.content}" for heredoc in run.heredocs)])


def _check_apt(stage: i.Stage, findings: Findings) -> None:
    alone: i.Run | None = None
    without = False
    for run in stage.instructions:
        if not isinstance(run, i.Run):
            continue
        text = command_text(run)
        install = _APT_INSTALL.search(text)
        without = without or bool(re.search("Install-Recommends", text, re.IGNORECASE))
        if install and not without and not _RECOMMENDS.search(install[0]):
            message = "apt-get install also installs what the packages recommend"
            findings.add("AptGetRecommends", message, run)
        if _APT_UPDATE.search(text):
            alone = None if _APT_USE.search(text) else run
        elif install and alone is not None:
            line = run.location.line
            message = f"apt-get update stands apart from the apt-get install in line {line}"
            findings.add("AptGetUpdateAlone", message, alone)
            alone = None


def _check_copy(stage: i.Stage, findings: Findings) -> None:
    whole: i.Copy | i.Add | None = None
    for item in stage.instructions:
        if copies_everything(item):
            whole = whole or item
        elif isinstance(item, i.Run):
            match = _INSTALL.search(command_text(item))
            if match and whole is not None:
                message = (
                    f"a change of any file runs `{' '.join(match[0].split())}` again"
                    f" (line {item.location.line})"
                )
                findings.add("CopyBeforeInstall", message, whole)
                return
            if match:
                return


def copies_everything(item: i.Instruction) -> TypeGuard[i.Copy | i.Add]:
    """Whether ``item`` copies the whole context."""
    if not isinstance(item, i.Copy | i.Add) or (isinstance(item, i.Copy) and item.from_):
        return False
    return any(source in (".", "./", "/", "*", "./*") for source in item.sources)


def _check_arguments(stage: i.Stage, findings: Findings) -> None:
    waiting: dict[str, i.Arg] = {}
    for item in stage.instructions:
        if isinstance(item, i.Arg):
            names = [a.name for a in item.arguments if _CHANGING.fullmatch(a.name)]
            waiting |= dict.fromkeys(names, item)
            continue
        text = item.original + (command_text(item) if isinstance(item, i.Run) else "")
        for name in [name for name in waiting if re.search(rf"\b{re.escape(name)}\b", text)]:
            del waiting[name]
        if isinstance(item, i.Run):
            for name, argument in waiting.items():
                line = item.location.line
                message = f"a new value of {name} runs line {line} again, which does not use it"
                findings.add("ArgBreaksCache", message, argument)
            waiting.clear()
