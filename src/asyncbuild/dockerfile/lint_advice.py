"""Checks of our own about one stage: what makes images large and builds slow. All are optional.

Commands of RUN are looked at as text, not as shell: a check that is not sure says nothing.
"""

from __future__ import annotations

import re
from typing import TypeGuard

from asyncbuild.dockerfile import instructions as i
from asyncbuild.dockerfile.lint import Findings

_RECOMMENDS = ("--no-install-recommends", "install-recommends")
_APT = ("apt-get", "apt", "aptitude")
_APT_USES = frozenset(
    ["install", "upgrade", "dist-upgrade", "full-upgrade", "build-dep", "source", "download"]
)
_INSTALLS = (
    ("pip", "install", "-r"),
    ("pip3", "install", "-r"),
    ("pip", "install", "--requirement"),
    ("npm", "ci"),
    ("npm", "install"),
    ("yarn", "install"),
    ("pnpm", "install"),
    ("go", "mod", "download"),
    ("bundle", "install"),
    ("composer", "install"),
    ("poetry", "install"),
    ("uv", "sync"),
    ("cargo", "fetch"),
    ("mvn", "dependency:go-offline"),
    ("mvn", "dependency:resolve"),
)
"""Commands that install what a list names: these words, in this order, others in between."""
_SEPARATORS = re.compile(r"[;&|\n]+")
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


def _commands(run: i.Run) -> list[list[str]]:
    """The words of each simple command of a RUN, as far as text tells."""
    return [piece.split() for piece in _SEPARATORS.split(command_text(run))]


def _says(words: list[str], wanted: tuple[str, ...]) -> bool:
    """Whether ``wanted`` are among ``words`` in this order."""
    rest = iter(words)
    return all(any(word == item for item in rest) for word in wanted)


def _apt(words: list[str]) -> list[str]:
    """What follows apt-get in a command; empty for any other command."""
    places = [at for at, word in enumerate(words) if word in _APT]
    return words[places[0] + 1 :] if places else []


def _check_apt(stage: i.Stage, findings: Findings) -> None:
    alone: i.Run | None = None
    without = False
    for run in stage.instructions:
        if not isinstance(run, i.Run):
            continue
        asked = [words for command in _commands(run) if (words := _apt(command))]
        installs = [words for words in asked if "install" in words]
        without = without or _RECOMMENDS[1] in command_text(run).lower()
        if not without and any(_RECOMMENDS[0] not in words for words in installs):
            message = "apt-get install also installs what the packages recommend"
            findings.add("AptGetRecommends", message, run)
        if any("update" in words for words in asked):
            alone = None if any(_APT_USES & set(words) for words in asked) else run
        elif installs and alone is not None:
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
            commands = _commands(item)
            known = [words for words in _INSTALLS if any(_says(c, words) for c in commands)]
            if known and whole is not None:
                again = f"a change of any file runs `{' '.join(known[0])}` again"
                findings.add("CopyBeforeInstall", f"{again} (line {item.location.line})", whole)
            if known:
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
