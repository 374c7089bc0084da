"""What a RUN may only do if the caller says so: ``--allow``, as in buildx."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from asyncbuild.build.run_options import DEVICE, SECURITY_INSECURE
from asyncbuild.dockerfile.instructions import Run
from asyncbuild.errors import IsolationError
from asyncbuild.plan.nouns import Plan


def check_plan_entitlements(plan: Plan, allow: AbstractSet[str]) -> None:
    """Raise `IsolationError` for the first RUN of a needed stage that asks for what is not allowed."""
    for stage in plan.stages:
        for step in stage.steps:
            if isinstance(step.instruction, Run):
                check_entitlements(step.instruction, allow)


def check_entitlements(instruction: Run, allow: AbstractSet[str]) -> None:
    """Raise `IsolationError` if this RUN asks for what is not allowed.

    The host's network is what every RUN has here, so that nothing is gained by asking for it. Devices are
    looked at once their names are known (`asyncbuild.build.devices`).
    """
    if instruction.security == "insecure" and SECURITY_INSECURE not in allow:
        raise IsolationError(
            "RUN --security=insecure is not allowed",
            hint=f"it gives the command all of this machine; allow it: --allow {SECURITY_INSECURE}",
            location=instruction.location,
        )


def may_use_device(name: str, allow: AbstractSet[str]) -> bool:
    """Whether ``--allow device``, or one with this name or its kind, permits a device."""
    kind = name.partition("=")[0]
    return bool({DEVICE, f"{DEVICE}={name}", f"{DEVICE}={kind}"} & allow)
