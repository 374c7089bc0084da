"""The whole matrix: every job at every RTT by every tool that is found, as much of it as ``--minutes`` permit.

What matters most comes first (`perf.plan`): asyncbuild and the best peer at all RTTs, alone and interleaved; then the
others at 100 and 0 ms, at 200, at 20; of more than two others the rest after that. Peers that wait most of their time are taken side by side where no figure
changes for it; tables mark them. What is left is named, and is what ``--beyond NAME`` takes another time;
``perf/run summary`` makes one table of both.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace

from perf.bases import load_bases
from perf.bench import Case, Stand, listed, machine, own_lane, prepare, run_case, standing
from perf.costs import Key, costs_file, key_of, load_costs
from perf.farsite import Link
from perf.jobs import JOBS
from perf.plan import LANES, RTTS, Part, Turn, doubtful, may_join, parts, used_beside
from perf.results import OURS, RESULTS, Run, load_results, write_results
from perf.tools import PEERS, Tool, known_tools


@dataclass(slots=True)
class Matrix:
    """What is taken on ``stand`` until ``deadline`` (of the monotonic clock), and what time did not permit; ``earlier``:
    what is there already.
    """

    stand: Stand
    tools: dict[str, Tool]
    deadline: float
    cores: int = field(default_factory=lambda: os.cpu_count() or 1)
    runs: list[Run] = field(default_factory=list)
    left: list[Turn] = field(default_factory=list)
    earlier: list[Run] = field(default_factory=list)

    def take(self, part: Part) -> None:
        """All turns of a part, as far as time permits."""
        print(f"perf: {part.title}: {len(part.turns)}", file=sys.stderr, flush=True)
        if part.together and self.stand.apart:
            for turn in filter(self._has_time_for, part.turns):
                prepare(self.case_of(turn), self.stand)
            self._take_together(part.turns)
            return
        for turn in part.turns:
            if self._has_time_for(turn):
                self._note(run_case(self.case_of(turn), self.stand, turn.repeat))
            else:
                self.left.append(turn)

    def take_again(self) -> None:
        """Alone, what must not have been side by side."""
        for run in doubtful(self.runs, self.cores, self.earlier):
            turn = Turn(run.tool, run.job, round(run.rtt * 1000), run.repeat, run.wall)
            if self._has_time_for(turn):
                self.runs.remove(run)
                self._note(run_case(self.case_of(turn), self.stand, turn.repeat))

    def _has_time_for(self, turn: Turn) -> bool:
        return time.monotonic() + turn.seconds <= self.deadline

    def case_of(self, turn: Turn) -> Case:
        """What a turn runs."""
        return Case(JOBS[turn.job], self.tools[turn.tool], Link(turn.rtt / 1000), turn.state)

    def _note(self, run: Run) -> None:
        self.runs.append(run)
        print(run.line(), file=sys.stderr, flush=True)

    def _take_together(self, turns: Sequence[Turn]) -> None:
        taken: list[Run] = []
        with ThreadPoolExecutor(LANES) as pool:
            for run in self._finished(pool, list(turns)):
                print(run.line(), file=sys.stderr, flush=True)
                taken.append(run)
        for run in taken:
            others = [other for other in taken if other is not run]
            self.runs.append(replace(run, beside=used_beside(run, others)))

    def _finished(self, pool: ThreadPoolExecutor, pending: list[Turn]) -> Iterator[Run]:
        """Each run when it has ended: whoever comes first in the order and fits to those that run starts."""
        lanes = threading.local()
        running: dict[Future[Run], Turn] = {}
        while True:
            for turn in list(pending):
                if len(running) == LANES:
                    break
                beside = list(running.values())
                if may_join(turn, beside, self.cores) and self._has_time_for(turn):
                    pending.remove(turn)
                    running[pool.submit(self._run_in_lane, lanes, turn)] = turn
            if not running:
                break
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                del running[done]
                yield done.result()
        self.left += pending

    def _run_in_lane(self, lanes: threading.local, turn: Turn) -> Run:
        """In the thread's own network and scratch."""
        if not hasattr(lanes, "stand"):
            lanes.stand = own_lane(self.stand, f"lane-{threading.get_native_id()}")
        return run_case(self.case_of(turn), lanes.stand, turn.repeat)


def found_tools(known: dict[str, Tool]) -> list[str]:
    """Ours, the best peer, the others."""
    return [OURS, *(name for name in PEERS if name in known)]


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """What of the matrix to take."""
    parser = argparse.ArgumentParser(prog="perf/run matrix", description=__doc__)
    known = known_tools()
    parser.add_argument("--minutes", type=float, default=20.0, help="no run is to end later")
    parser.add_argument("--jobs", type=listed, default=list(JOBS), help=f"of {','.join(JOBS)}")
    parser.add_argument(
        "--tools",
        type=listed,
        default=found_tools(known),
        help=f"ours, the best peer, others; of {','.join(known)}",
    )
    parser.add_argument("--rtts", type=listed, default=[str(ms) for ms in RTTS])
    parser.add_argument(
        "--repeats",
        type=int,
        default=3,
        help="of the first two tools, where time is left at the end",
    )
    parser.add_argument("--alone", action="store_true", help="nothing side by side")
    parser.add_argument(
        "--beyond", type=listed, default=[], help="not what these results (perf/results/NAME) have"
    )
    parser.add_argument(
        "--prepare", action="store_true", help="make bases and cached states only, which are kept"
    )
    parser.add_argument("--name", default=time.strftime("matrix-%Y-%m-%dT%H%M"))
    return parser.parse_args(arguments)


def planned(options: argparse.Namespace, earlier: Sequence[Run]) -> list[Part]:
    """The parts, without the cells of ``earlier`` runs."""
    there: set[Key] = {key_of(run) for run in earlier if run.succeeded}
    whole = parts(
        options.jobs,
        options.tools,
        map(int, options.rtts),
        load_costs(costs_file()),
        repeats=options.repeats,
        alone=options.alone,
    )
    kept = [replace(p, turns=tuple(t for t in p.turns if t.key not in there)) for p in whole]
    return [part for part in kept if part.turns]


def main(arguments: list[str]) -> int:
    """Take the matrix; 1 when a run failed."""
    begun = time.monotonic()
    options = parse_arguments(arguments)
    facts = machine(options.tools, Link(0))
    with standing(options.name) as stand:
        matrix = Matrix(own_lane(stand, "alone"), known_tools(), begun + 60 * options.minutes)
        for name in options.beyond:
            matrix.earlier += load_results(RESULTS / name)[1]
        plan = planned(options, matrix.earlier)
        if options.prepare:
            _prepare_all(plan, matrix)
            return 0
        try:
            for part in plan:
                if part.turns[0].repeat > 1:
                    matrix.take_again()
                matrix.take(part)
            matrix.take_again()
        finally:
            if matrix.runs:
                _finish(matrix, facts, begun)
    return 0 if all(run.succeeded for run in matrix.runs) else 1


def _prepare_all(plan: list[Part], matrix: Matrix) -> None:
    for turn in (turn for part in plan for turn in part.turns):
        prepare(matrix.case_of(turn), matrix.stand)


def _finish(matrix: Matrix, facts: dict[str, object], begun: float) -> None:
    costs = load_costs(costs_file())
    costs.learn(matrix.runs)
    costs.save(costs_file())
    first = [turn for turn in matrix.left if turn.repeat == 1]
    facts["left for another time"] = ", ".join(map(str, first)) or "nothing"
    facts["minutes"] = round((time.monotonic() - begun) / 60, 1)
    write_results(matrix.stand.results, facts, matrix.runs, load_bases())
    if first:
        print(f"perf: no time for {facts['left for another time']}", file=sys.stderr)
    minutes = (time.monotonic() - begun) / 60
    print(f"perf: {minutes:.1f} min, results in {matrix.stand.results}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
