"""A case's arguments, which are those of ``docker build``, as buildctl's.

docker's own command line does this translation; BuildKit itself only knows options of its frontend. What
docker does alone (archives and Dockerfiles on standard input, checks of its own arguments) has no
translation: such a case is not comparable.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from support.cases import Case

_PASSED_ON = frozenset(["--secret", "--ssh", "--allow"])
_FRONTEND = {"--target": "target=", "--build-arg": "build-arg:", "-f": "filename="}
_TRANSLATED = frozenset(["--build-context", "--add-host", "--shm-size", "--ulimit", "--progress"])
_UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_REMOTE = ("http://", "https://")
DOCKERS_OWN = frozenset(
    [
        "build-context-malformed",
        "build-context-no-directory",
        "build-context-layout-missing",
        "context-file-from-url",
        "mount-secret-missing-file",
        "mount-secret-unknown-key",
    ]
)
"""Cases about what docker's command line does itself before BuildKit is asked."""


def is_translatable(case: Case) -> bool:
    """Whether buildctl can be asked for the same."""
    if case.name in DOCKERS_OWN or case.stdin is not None:
        return False
    if case.main is not None and not case.main.startswith(_REMOTE):
        return False
    options = {word.split("=")[0] for word in case.args if word.startswith("-")}
    return options <= {*_PASSED_ON, *_FRONTEND, *_TRANSLATED} and "-" not in case.args


@dataclass(slots=True)
class _Words:
    plain: list[str] = field(default_factory=list)
    joined: dict[str, list[str]] = field(default_factory=dict)

    def option(self, text: str) -> None:
        """An option of the frontend."""
        self.plain += ["--opt", text]

    def all(self) -> list[str]:
        """With the options that are lists."""
        lists = [["--opt", f"{name}={','.join(values)}"] for name, values in self.joined.items()]
        return [*self.plain, *(word for pair in lists for word in pair)]


def buildctl_words(args: list[str], main: str | None, context: Path) -> list[str]:
    """``args`` and the context (``main`` where that is a URL) in buildctl's words."""
    words = _Words()
    if main is None:
        words.plain += [f"--local=context={context}", f"--local=dockerfile={context}"]
    else:
        words.option(f"context={main}")
    for option, value in zip(args[::2], args[1::2], strict=True):
        if option in _PASSED_ON:
            words.plain += [option, value]
        elif option in _FRONTEND:
            words.option(f"{_FRONTEND[option]}{value}")
        elif option == "--build-context":
            _named_context(words, value, context.parent)
        elif option == "--add-host":
            name, address = re.split("[:=]", value, maxsplit=1)
            words.joined.setdefault("add-hosts", []).append(f"{name}={address.strip('[]')}")
        elif option == "--shm-size":
            words.option(f"shm-size={int(value[:-1]) * _UNITS[value[-1]]}")
        elif option == "--ulimit":
            words.joined.setdefault("ulimit", []).append(value)
    return words.all()


def _named_context(words: _Words, value: str, beside: Path) -> None:
    name, _, source = value.partition("=")
    # docker gives familiar names: docker.io/library/alpine:latest is asked for as alpine.
    name = name.removeprefix("docker.io/library/").removesuffix(":latest")
    if "://" in source:
        words.option(f"context:{name}={source}")
        return
    local = f"named-{sum(word.startswith('--local') for word in words.plain)}"
    words.plain.append(f"--local={local}={beside / source}")
    words.option(f"context:{name}=local:{local}")
