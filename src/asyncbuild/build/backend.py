"""What executes RUN: the interface of backends.

A backend gets a `RunOrder`, whose `RunSpec` says upon which layers the command runs, with what mounts, and
where its changes go: when the command has ended well, ``spec.upper`` holds exactly what it changed, in
overlayfs's format (see `asyncbuild.layers.marks`), whatever way the backend went. So nothing downstream
knows which one it was, and the same Dockerfile gives the same layers on each.
"""

from __future__ import annotations

from typing import Protocol

from asyncbuild.records import dataclass, field
from asyncbuild.rootfs.cgroups import Limits
from asyncbuild.rootfs.isolation import Isolation
from asyncbuild.rootfs.runspec import RunSpec
from asyncbuild.rootfs.sandbox import OnOutput


@dataclass(frozen=True, slots=True)
class RunOrder:
    """One RUN. ``more``: another RUN of the stage will come upon what this one leaves."""

    spec: RunSpec
    limits: Limits = field(default_factory=Limits)
    more: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that came to its end: its exit code, and whether it was killed for want of memory."""

    code: int
    out_of_memory: bool = False


class Backend(Protocol):
    """One way to execute RUNs; several at once, unless the backend itself lets one wait for another."""

    @property
    def isolation(self) -> Isolation:
        """Which way this is."""

    @property
    def shares_caches(self) -> bool:
        """Whether two RUNs can have one cache mount at the same time; else each waits for the other."""

    def prepare(self) -> None:
        """A RUN is near: start what can be started before it is known. Does not wait."""

    async def run(self, order: RunOrder, on_output: OnOutput) -> Ended:
        """Run the command; what it changed is in ``order.spec.upper``.

        Cancelled, it kills the command and all that it started before it returns. Raises `IsolationError`
        for what this place does not permit, `DockerfileError` for mounts that cannot be.
        """

    async def aclose(self) -> None:
        """End and give back everything; also while the task is being cancelled."""
