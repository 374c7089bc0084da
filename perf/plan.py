"""The order in which a whole matrix is taken, and which of its runs may be side by side.

What matters most comes first, so that what a time limit cuts off is what matters least. Ours and the best peer are
always alone. A peer that waits for a far registry most of its time leaves the machine to others that do the same,
each over a link, with a registry and in a network of its own, as far as no figure changes for it (`stretch`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from perf.costs import Costs, Key
from perf.jobs import JOBS
from perf.results import OURS, Run

#: RTTs in milliseconds, the most important first.
RTTS = (100, 0, 200, 20)
#: How much longer a run may become by those beside it, as `stretch` expects it.
MOST_STRETCH = 0.03
#: A run that uses more cores than this on average, or of which nothing is known, is always alone.
WAITING = 0.6
#: Runs at once.
LANES = 4
#: A job of as many new bytes is beside no other such one: memory and its bandwidth are not in `stretch`.
_BULKY = 100_000_000
#: Seconds, for a run of which nothing is known; and for what the bench itself does about each.
_UNKNOWN = 30.0
_AROUND = 0.5


@dataclass(frozen=True, slots=True)
class Turn:
    """One run to be taken: ``rtt`` in milliseconds, ``wall`` and ``cores`` as they are expected."""

    tool: str
    job: str
    rtt: int
    repeat: int = 1
    wall: float = _UNKNOWN
    cores: float | None = None

    @property
    def state(self) -> str:
        """What it starts from."""
        return JOBS[self.job].state

    @property
    def key(self) -> Key:
        """As costs are remembered."""
        return self.tool, self.job, self.state, self.rtt

    @property
    def seconds(self) -> float:
        """With what the bench does about it."""
        return self.wall + _AROUND

    @property
    def waits(self) -> bool:
        """Whether it may be beside others at all."""
        return self.cores is not None and self.cores <= WAITING

    def __str__(self) -> str:
        return f"{self.job} {self.tool} {self.rtt} ms"


@dataclass(frozen=True, slots=True)
class Part:
    """Turns in their order; ``together``: side by side where they may."""

    title: str
    turns: tuple[Turn, ...]
    together: bool = False


def in_order_of_importance(rtts: Iterable[int]) -> list[int]:
    """The RTTs, known ones first."""
    return sorted(rtts, key=lambda rtt: (RTTS.index(rtt) if rtt in RTTS else len(RTTS), rtt))


def parts(
    jobs: Sequence[str],
    tools: Sequence[str],
    rtts: Iterable[int],
    costs: Costs,
    *,
    repeats: int = 1,
    alone: bool = False,
) -> list[Part]:
    """The whole matrix. ``tools``: ours, the best peer, two others, and those that come after all of these, in this
    order; ``repeats`` are those of the first two, the later ones when everything else is done. ``alone``: nothing is
    side by side.
    """
    rtts = in_order_of_importance(rtts)
    front = tools[:2]

    def turns(names: Sequence[str], ms: int, repeat: int = 1) -> list[Turn]:
        return [_turn(tool, job, ms, repeat, costs) for job in jobs for tool in names]

    def first(repeat: int) -> Part:
        whole = tuple(turn for ms in rtts for turn in turns(front, ms, repeat))
        return Part(f"{' and '.join(front)}, #{repeat}", whole)

    def behind(names: Sequence[str]) -> list[Part]:
        named = {ms: turns(names, ms) for ms in rtts}
        waiting = [turn for ms in rtts for turn in _longest_first(named[ms]) if turn.waits]
        called = " and ".join(names)
        busy = [
            Part(f"{called}, {ms} ms", tuple(turn for turn in named[ms] if alone or not turn.waits))
            for ms in rtts
        ]
        together = [] if alone else [Part(f"{called}, waiting", tuple(waiting), together=True)]
        return [*busy[:2], *together, *busy[2:]]

    later = [first(repeat) for repeat in range(2, repeats + 1)]
    found = [first(1), *behind(tools[2:4]), *behind(tools[4:]), *later]
    return [part for part in found if part.turns]


def _turn(tool: str, job: str, rtt: int, repeat: int, costs: Costs) -> Turn:
    key = (tool, job, JOBS[job].state, rtt)
    wall = costs.wall(key)
    return Turn(tool, job, rtt, repeat, _UNKNOWN if wall is None else wall, costs.cores(key))


def _longest_first(turns: list[Turn]) -> list[Turn]:
    return sorted(turns, key=lambda turn: -turn.wall)


def stretch(own: float, others: float, cores: int) -> float:
    """By which part of its time a run that uses ``own`` cores on average becomes longer beside runs that use ``others``.

    It can be held up while it wants a processor only, and then by others as far as they have taken the machine's.
    """
    return own * others / cores


def may_join(turn: Turn, running: Sequence[Turn], cores: int) -> bool:
    """Whether ``turn`` may start beside those that run, for all of their figures and its own."""
    if not running:
        return True
    everyone = [*running, turn]
    if sum(JOBS[each.job].work.new_bytes >= _BULKY for each in everyone) > 1:
        return False
    used = [each.cores for each in everyone if each.cores is not None]
    if len(used) < len(everyone):
        return False
    return all(stretch(own, sum(used) - own, cores) <= MOST_STRETCH for own in used)


def used_beside(run: Run, others: Iterable[Run]) -> float:
    """The cores that ``others`` used on average while ``run`` ran; each as if it used its own evenly."""
    end = run.started + run.wall
    taken = 0.0
    for other in others:
        shared = min(end, other.started + other.wall) - max(run.started, other.started)
        taken += max(shared, 0.0) * other.cores
    return taken / run.wall


def doubtful(runs: Iterable[Run], cores: int, earlier: Iterable[Run] = ()) -> list[Run]:
    """Runs that must be taken again alone: others got in their way more than was expected, or they would be what ours
    is compared with. ``earlier``: what else there is of the same cells.
    """
    runs = [run for run in runs if run.succeeded]
    best: dict[tuple[str, str, float], Run] = {}
    for run in (*(run for run in earlier if run.succeeded), *runs):
        if run.tool != OURS and (run.group not in best or run.wall < best[run.group].wall):
            best[run.group] = run
    return [
        run
        for run in runs
        if run.beside
        and (best.get(run.group) is run or stretch(run.cores, run.beside, cores) > 2 * MOST_STRETCH)
    ]
