"""The bench's plan: what comes first, what may be side by side, what must be taken again."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
from perf.costs import Cost, Costs, load_costs
from perf.plan import (
    MOST_STRETCH,
    Part,
    Turn,
    doubtful,
    in_order_of_importance,
    may_join,
    parts,
    stretch,
    used_beside,
)
from perf.results import Run

TOOLS = ("asyncbuild", "buildkit", "kaniko-fork", "buildah")


def run_of(
    tool: str, *, started: float = 0.0, wall: float = 10.0, cpu: float = 1.0, beside: float = 0.0
) -> Run:
    """A J6 at 100 ms; its registry and link use half of what the tool does."""
    rest = {"peak_rss": 1, "peak_pss": 1, "requests": 1, "connections": 1, "up": 0, "down": 0}
    return Run(
        "J6", tool, 0.1, "cached", 1, succeeded=True, started=started, wall=wall, cpu=cpu,
        far_cpu=cpu / 2, beside=beside, **rest,
    )  # fmt: skip


def known(*rows: tuple[str, str, int, float, float]) -> Costs:
    """Costs of cached jobs by tool, job, RTT: wall, cores."""
    return Costs(
        {(tool, job, "cached", ms): Cost(wall, cores) for tool, job, ms, wall, cores in rows}
    )


def order(plan: list[Part]) -> list[str]:
    """All turns in their order."""
    return [str(turn) for part in plan for turn in part.turns]


def test_ours_and_the_best_peer_come_first_at_all_rtts_and_interleaved() -> None:
    """A B A B, the most important RTT first, and nothing beside them."""
    plan = parts(["J5", "J6"], TOOLS, [0, 20, 100, 200], Costs())
    front = [str(turn) for turn in plan[0].turns]
    assert front[:4] == ["J5 asyncbuild 100 ms", "J5 buildkit 100 ms", "J6 asyncbuild 100 ms", "J6 buildkit 100 ms"]  # fmt: skip
    assert [turn.rtt for turn in plan[0].turns] == [100] * 4 + [0] * 4 + [200] * 4 + [20] * 4
    assert not plan[0].together


def test_every_cell_is_taken_once_whatever_is_known() -> None:
    """What is remembered orders the matrix and leaves nothing out."""
    jobs, rtts = ["J4", "J5", "J6"], [0, 20, 100, 200]
    costs = known(
        ("buildah", "J6", 100, 48, 0.2),
        ("kaniko-fork", "J6", 0, 1, 0.5),
        ("buildah", "J5", 0, 10, 1.4),
    )
    cells = {f"{job} {tool} {rtt} ms" for job in jobs for tool in TOOLS for rtt in rtts}
    for alone in (False, True):
        taken = order(parts(jobs, TOOLS, rtts, costs, alone=alone))
        assert sorted(taken) == sorted(cells)


def test_only_others_that_are_known_to_wait_are_together() -> None:
    """Neither ours, nor the best peer, nor a busy one, nor one of which nothing is known."""
    costs = known(
        ("asyncbuild", "J6", 100, 1, 0.01), ("buildkit", "J6", 100, 3, 0.01),
        ("kaniko-fork", "J6", 100, 37, 0.01), ("buildah", "J6", 100, 48, 1.5),
    )  # fmt: skip
    plan = parts(["J6"], TOOLS, [100, 200], costs)
    together = [str(turn) for part in plan if part.together for turn in part.turns]
    assert together == ["J6 kaniko-fork 100 ms", "J6 kaniko-fork 200 ms"]
    assert not any(part.together for part in parts(["J6"], TOOLS, [100], costs, alone=True))


def test_later_repeats_come_when_all_else_is_done() -> None:
    """They fill what is left of the time."""
    plan = parts(["J6"], TOOLS, [0, 100], Costs(), repeats=2)
    last = plan[-1].turns
    assert [(turn.tool, turn.rtt, turn.repeat) for turn in last] == [
        ("asyncbuild", 100, 2), ("buildkit", 100, 2), ("asyncbuild", 0, 2), ("buildkit", 0, 2),
    ]  # fmt: skip
    assert all(turn.repeat == 1 for part in plan[:-1] for turn in part.turns)


def test_a_fifth_tool_comes_after_the_others_at_all_rtts() -> None:
    """But before later repeats; it waits beside nobody else's runs but its own."""
    costs = known(("kaniko", "J6", 0, 60, 0.1), ("kaniko-fork", "J6", 0, 37, 0.01))
    plan = parts(["J6"], (*TOOLS, "kaniko"), [0, 100], costs, repeats=2)
    taken = [(turn.tool, turn.repeat) for part in plan for turn in part.turns]
    begun = taken.index(("kaniko", 1))
    assert all(turn[1] == 1 and turn[0] != "kaniko" for turn in taken[:begun])
    assert taken[begun : begun + 2] == [("kaniko", 1)] * 2
    assert all(turn[1] == 2 for turn in taken[begun + 2 :])


def test_unknown_rtts_come_last() -> None:
    """They are in their own order then."""
    assert in_order_of_importance([50, 200, 0, 10, 100]) == [100, 0, 200, 10, 50]


def test_seconds_are_remembered_or_on_the_line_through_two_rtts() -> None:
    """An RTT that was never run is expected to cost what it adds between two others."""
    costs = known(("buildah", "J6", 0, 7.0, 1.4), ("buildah", "J6", 100, 47.0, 0.2))
    assert costs.wall(("buildah", "J6", "cached", 100)) == 47.0
    assert costs.wall(("buildah", "J6", "cached", 20)) == pytest.approx(15.0)
    assert costs.wall(("buildah", "J6", "cached", 200)) == pytest.approx(87.0)
    assert costs.wall(("buildah", "J5", "cached", 200)) is None


def test_cores_are_never_taken_from_a_longer_rtt() -> None:
    """A shorter one waits less, so its share is greater."""
    costs = known(("buildah", "J6", 0, 7.0, 1.4), ("buildah", "J6", 100, 47.0, 0.2))
    assert costs.cores(("buildah", "J6", "cached", 20)) == 1.4
    assert costs.cores(("buildah", "J6", "cached", 200)) == 0.2
    assert known(("buildah", "J6", 100, 47.0, 0.2)).cores(("buildah", "J6", "cached", 20)) is None


def test_costs_are_those_of_runs_alone_and_outlive_the_bench(tmp_path: Path) -> None:
    """A run beside others says nothing certain."""
    costs = Costs()
    costs.learn([run_of("buildah", wall=8.0, cpu=1.6), run_of("kaniko", wall=9.0, beside=0.2)])
    costs.save(tmp_path / "costs.json")
    again = load_costs(tmp_path / "costs.json")
    assert again.wall(("buildah", "J6", "cached", 100)) == 8.0
    assert again.cores(("buildah", "J6", "cached", 100)) == pytest.approx(0.3)
    assert again.wall(("kaniko", "J6", "cached", 100)) is None
    assert load_costs(tmp_path / "none.json").wall(("buildah", "J6", "cached", 100)) is None


def test_whoever_joins_keeps_every_figure_within_the_bound() -> None:
    """Of the newcomer and of those that run."""
    turns = [Turn("t", "J6", 100, cores=share) for share in (0.01, 0.1, 0.15, 0.2, 0.3, 0.45, 0.6)]
    accepted = 0
    for count in (1, 2, 3):
        for *running, last in combinations(turns, count + 1):
            if may_join(last, running, cores=2):
                accepted += 1
                total = sum(turn.cores or 0 for turn in (*running, last))
                for turn in (*running, last):
                    own = turn.cores or 0
                    assert stretch(own, total - own, 2) <= MOST_STRETCH
    assert accepted


def test_nobody_joins_whose_share_is_unknown_and_anybody_runs_alone() -> None:
    """Nor does anybody join such a one."""
    unknown, idle = Turn("t", "J6", 100), Turn("t", "J6", 200, cores=0.01)
    assert may_join(unknown, [], cores=2)
    assert not may_join(unknown, [idle], cores=2)
    assert not may_join(idle, [unknown], cores=2)


def test_two_bulky_jobs_are_never_together() -> None:
    """However little processor they need."""
    bulky = [Turn(tool, "J7", 200, cores=0.01) for tool in ("kaniko", "buildah")]
    assert not may_join(bulky[0], bulky[1:], cores=64)
    assert may_join(bulky[0], [Turn("kaniko", "J6", 200, cores=0.01)], cores=2)


def test_what_was_used_beside_is_what_overlapped() -> None:
    """A run that ended before, or began after, counts for nothing."""
    run = run_of("buildah", started=100.0, wall=10.0)
    others = [
        run_of("kaniko", started=95.0, wall=10.0, cpu=2.0),  # 0.3 cores in half of the time
        run_of("kaniko", started=104.0, wall=2.0, cpu=1.0),  # 0.75 in a fifth
        run_of("kaniko", started=110.0, wall=10.0, cpu=9.0),
    ]
    assert used_beside(run, others) == pytest.approx(0.3)
    assert used_beside(run, []) == 0


def test_a_run_beside_others_is_taken_again_where_it_would_be_what_ours_is_compared_with() -> None:
    """The best peer of a cell was always alone."""
    best, slower = run_of("kaniko", wall=5.0, cpu=0.1, beside=0.1), run_of("buildah", wall=9.0)
    ours = run_of("asyncbuild", wall=1.0)
    assert doubtful([ours, slower, best], cores=2) == [best]
    assert doubtful([ours, run_of("buildkit", wall=3.0), slower, best], cores=2) == []
    assert doubtful([slower, best], 2, earlier=[ours, run_of("buildkit", wall=3.0)]) == []
    assert doubtful([slower, best], 2, earlier=[ours, run_of("buildkit", wall=6.0)]) == [best]


def test_a_run_beside_others_is_taken_again_where_they_used_more_than_was_expected() -> None:
    """As far as they can have been in its way."""
    best = run_of("buildkit", wall=3.0)
    held_up = run_of("buildah", wall=10.0, cpu=4.0, beside=0.5)  # 0.6 cores beside 0.5
    assert doubtful([best, held_up], cores=2) == [held_up]
    assert doubtful([best, held_up], cores=64) == []
