"""Metadata instructions: BuildKit's results, field by field."""

from __future__ import annotations

from dataclasses import replace

import pytest

from asyncbuild.build.metadata import ImageState, apply
from asyncbuild.dockerfile.parser import parse_dockerfile
from asyncbuild.image.config import Healthcheck, ImageConfig, RuntimeConfig
from asyncbuild.image.platform import Platform
from asyncbuild.plan.scope import DEFAULT_PATH, BuildArguments, StageScope

AMD64 = Platform("linux", "amd64")


def after(text: str, base: RuntimeConfig | None = None) -> ImageState:
    """The state after the instructions of ``text``, expanded in order."""
    state = ImageState.scratch(AMD64)
    if base is not None:
        state = ImageState.of_base(ImageConfig(AMD64, base))
    scope = StageScope.start(BuildArguments(), state.runtime.environment)
    for instruction in parse_dockerfile(f"FROM scratch\n{text}").stages[0].instructions:
        resolved = scope.resolve(instruction).instruction
        state, scope = apply(state, resolved), scope.after(resolved)
    return state


def test_scratch_has_a_path_and_a_working_directory() -> None:
    """FROM scratch starts with PATH and WorkingDir / (BuildKit's emptyImage)."""
    runtime = ImageState.scratch(AMD64).runtime
    assert runtime.env == (f"PATH={DEFAULT_PATH}",)
    assert runtime.working_dir == "/"


def test_a_base_without_path_gets_one() -> None:
    """An image that sets no PATH is given the default, and one that does keeps its own."""
    assert after("", RuntimeConfig(env=("A=1",))).runtime.env == ("A=1", f"PATH={DEFAULT_PATH}")
    assert after("", RuntimeConfig(env=("PATH=/x",))).runtime.env == ("PATH=/x",)


@pytest.mark.parametrize(
    ("text", "env"),
    [
        ("ENV A=1 B=2", ("A=1", "B=2")),
        ("ENV A=1\nENV A=2 C=3\nENV A=4", ("A=4", "C=3")),
        ("ENV A=1\nENV A=2 B=$A", ("A=2", "B=1")),
        ("ENV A a b  c", ("A=a b  c",)),
    ],
)
def test_env(text: str, env: tuple[str, ...]) -> None:
    """ENV sets in place, and one instruction sees the environment before it."""
    assert after(text, RuntimeConfig(env=("PATH=/",))).runtime.env[1:] == env


def test_entrypoint_resets_an_inherited_cmd_only() -> None:
    """A CMD of the base goes with a new ENTRYPOINT, a CMD of this stage stays."""
    base = RuntimeConfig(cmd=("base",))
    assert after('ENTRYPOINT ["e"]', base).runtime.cmd is None
    assert after('CMD ["c"]\nENTRYPOINT ["e"]', base).runtime.cmd == ("c",)
    assert after('ENTRYPOINT ["e"]\nCMD ["c"]', base).runtime.cmd == ("c",)


def test_a_stage_hands_on_neither_triggers_nor_its_claim_to_cmd() -> None:
    """What is FROM a stage gets no ONBUILD triggers, and its ENTRYPOINT resets the stage's CMD."""
    handed = after('CMD ["c"]\nONBUILD RUN x').inherited()
    assert handed.runtime.on_build == ()
    assert handed.runtime.cmd == ("c",)
    assert not handed.command_is_ours


def test_shell_form_uses_the_shell_at_that_point() -> None:
    """SHELL changes the shell forms that come after it."""
    state = after('CMD one\nSHELL ["/bin/bash", "-ec"]\nENTRYPOINT two')
    assert state.runtime.cmd == ("/bin/sh", "-c", "one")
    assert state.runtime.entrypoint == ("/bin/bash", "-ec", "two")
    assert state.runtime.shell == ("/bin/bash", "-ec")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("WORKDIR /a\nWORKDIR b\nWORKDIR ../c", "/a/c"),
        ("WORKDIR rel", "/rel"),
        ("WORKDIR /a\nWORKDIR /", "/"),
    ],
)
def test_workdir(text: str, expected: str) -> None:
    """WORKDIR is seen from the one before it."""
    assert after(text).runtime.working_dir == expected


def test_the_rest() -> None:
    """USER, EXPOSE, VOLUME, LABEL, STOPSIGNAL, HEALTHCHECK, MAINTAINER and ONBUILD go to their fields."""
    state = after(
        "USER a:b\nEXPOSE 80 53/udp\nEXPOSE 80/tcp\nVOLUME /v /w\nLABEL a=1 b=2\nLABEL a=3\n"
        "STOPSIGNAL SIGQUIT\nHEALTHCHECK --interval=5s --retries=2 CMD x\nMAINTAINER me <m@x>\n"
        "ONBUILD RUN y"
    )
    runtime = state.runtime
    assert runtime.user == "a:b"
    assert runtime.exposed_ports == {"80/tcp", "53/udp"}
    assert runtime.volumes == {"/v", "/w"}
    assert runtime.labels == {"a": "3", "b": "2"}
    assert runtime.stop_signal == "SIGQUIT"
    assert runtime.healthcheck == Healthcheck(("CMD-SHELL", "x"), interval=5 * 10**9, retries=2)
    assert state.author == "me <m@x>"
    assert runtime.on_build == ("RUN y",)


def test_files_change_no_metadata() -> None:
    """RUN and COPY leave the configuration as it is."""
    plain = ImageState.scratch(AMD64)
    assert after("RUN x\nCOPY a b") == replace(plain)
