"""How much a build will say at once, as far as its plan tells. Pure."""

from __future__ import annotations

from asyncbuild.dockerfile.instructions import Add, Copy, Run, Workdir
from asyncbuild.plan.nouns import Plan

_OF_A_BASE = 16
"""Layers that most bases do not exceed, the configuration, and what caches are asked meanwhile."""
_MOST = 40


def wave_of(plan: Plan) -> int:
    """How many requests go to a destination when the base and the cache are known: each layer is mounted,
    or sent, over a connection of its own. About that many; at most 40.
    """
    steps = (step.instruction for index in plan.line for step in plan.all_stages[index].steps)
    layers = sum(isinstance(step, Run | Copy | Add | Workdir) for step in steps)
    return min(_OF_A_BASE + layers, _MOST)
