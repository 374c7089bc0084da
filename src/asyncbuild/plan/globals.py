"""The ARGs before the first FROM, and the platform's predefined ones."""

from __future__ import annotations

from collections.abc import Mapping

from asyncbuild.dockerfile.expansion import Expander, located
from asyncbuild.dockerfile.instructions import Dockerfile
from asyncbuild.image.platform import Platform
from asyncbuild.plan.scope import PROXIES, BuildArguments

PLATFORM_ARGUMENTS = tuple(
    f"{side}{what}"
    for side in ("BUILD", "TARGET")
    for what in ("PLATFORM", "OS", "OSVERSION", "ARCH", "VARIANT")
)
_PREDEFINED = frozenset([*PLATFORM_ARGUMENTS, "TARGETSTAGE", "SOURCE_DATE_EPOCH", *PROXIES])


def platform_arguments(build: Platform, target: Platform, stage: str) -> dict[str, str]:
    """The arguments that every Dockerfile may ask for: BUILD…, TARGET… and TARGETSTAGE."""
    values: dict[str, str] = {}
    for side, platform in (("BUILD", build), ("TARGET", target)):
        values[f"{side}PLATFORM"] = str(platform)
        values[f"{side}OS"] = platform.os
        values[f"{side}OSVERSION"] = platform.os_version
        values[f"{side}ARCH"] = platform.architecture
        values[f"{side}VARIANT"] = platform.variant
    values["TARGETSTAGE"] = stage or "default"
    return values


def resolve_globals(
    dockerfile: Dockerfile, given: Mapping[str, str], predefined: Mapping[str, str]
) -> BuildArguments:
    """The arguments that FROM sees, and that a stage's ARG without a default inherits.

    Each is expanded with those before it; --build-arg wins over defaults and over what is predefined.
    """
    values = {name: given.get(name, value) for name, value in predefined.items()}
    for instruction in dockerfile.global_arguments:
        for argument in instruction.arguments:
            if argument.name in given:
                values[argument.name] = given[argument.name]
            elif argument.default is not None:
                expander = Expander(values, dockerfile.escape)
                try:
                    values[argument.name] = expander.word(argument.default)
                except ValueError as problem:
                    raise located(problem, instruction.location) from None
    return BuildArguments(dict(given), values, dockerfile.escape)


def is_predefined(name: str) -> bool:
    """Whether --build-arg may name it although no ARG declares it."""
    return name.upper() in PROXIES or name in _PREDEFINED or name.startswith("BUILDKIT_")
