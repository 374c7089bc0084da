"""Results of the bench put together, and the short table of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from perf.bases import BaseLayer
from perf.results import Run, load_results, medians, short_table, write_results
from perf.summary import join

BASES: dict[str, tuple[BaseLayer, ...]] = {
    name: (BaseLayer("sha256:1", 1000, 3000, 10),)
    for name in ("many", "a", "b", "c", "d", "large", "small-layers")
}
FACTS: dict[str, object] = {
    "date": "2026-11-24 23:30", "commit": "abc", "cores": 2, "kernel": "6", "bandwidth": 125e6,
    "per_connection": 25e6, "window": 1 << 20, "registry": "plain", "versions": {"asyncbuild": "1"},
}  # fmt: skip


def run_of(
    tool: str, wall: float, *, rtt: float = 0.1, repeat: int = 1, beside: float = 0.0
) -> Run:
    """A cold J1 of 16 requests."""
    return Run(
        "J1", tool, rtt, "cold", repeat, succeeded=True, started=0.0, wall=wall, cpu=wall / 2, far_cpu=0.1,
        peak_rss=40_000_000, peak_pss=1, requests=16, connections=4, up=2_000_000, down=5, beside=beside,
    )  # fmt: skip


def written(results: Path, runs: list[Run], facts: dict[str, object] = FACTS) -> Path:
    """A result as the bench leaves it; every run made one request, to a path that names the run."""
    (results / "requests").mkdir(parents=True)
    for run in runs:
        request = {
            "listener": "near", "connection": 1, "method": "GET", "path": f"/v2/{results.name}-{run.repeat}",
            "status": 200, "start": 0.0, "sent": 0.1, "first_byte": 0.2, "end": 0.3, "up": 1, "down": 1,
        }  # fmt: skip
        (results / "requests" / run.log_name).write_text(json.dumps(request) + "\n")
    write_results(results, facts, runs, BASES)
    return results


def cells(table: str) -> list[list[str]]:
    """The rows of a Markdown table, without its head."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_a_row_has_ours_beside_the_fastest_other() -> None:
    """With its name, and pairs of ours and theirs."""
    found = medians([run_of("asyncbuild", 1.0), run_of("buildah", 9.0), run_of("buildkit", 4.0)])
    (row,) = cells(short_table(found, FACTS, BASES))
    assert row == [
        "J1", "100", "**1.00**", "buildkit 4.00", "0.25", "2.00 of 0.50", "0.50 / 2.00", "40 / 40", "16 / 16", "2 / 2",
    ]  # fmt: skip


def test_several_runs_have_their_range_and_ours_alone_has_no_ratio() -> None:
    """The median stands before it."""
    found = medians(
        [run_of("asyncbuild", wall, repeat=n) for n, wall in enumerate((2.0, 1.0, 4.0))]
    )
    (row,) = cells(short_table(found, FACTS, BASES))
    assert row[2:5] == ["**2.00 (1.00-4.00)**", "-", "-"]


def test_a_peer_that_was_not_alone_is_marked() -> None:
    """The mark is explained, where there is one."""
    found = medians([run_of("asyncbuild", 1.0), run_of("buildah", 9.0, beside=0.2)])
    text = short_table(found, FACTS, BASES)
    assert cells(text)[0][3] == "buildah 9.00 ‖"
    assert text.splitlines()[-1].startswith("‖: taken beside")
    assert "‖" not in short_table(medians([run_of("asyncbuild", 1.0)]), FACTS, BASES)


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    """Results, and the short table beside them."""
    runs = [run_of("asyncbuild", 1.0), run_of("buildah", 9.0, beside=0.2)]
    results = written(tmp_path / "one", runs)
    assert load_results(results) == (FACTS, runs)
    assert (results / "short.md").read_text() == short_table(medians(runs), FACTS, BASES)


def test_cells_of_two_results_are_put_together_and_repeats_counted_on(tmp_path: Path) -> None:
    """Each run keeps the log of its own requests."""
    one = written(tmp_path / "one", [run_of("asyncbuild", 1.0), run_of("buildkit", 4.0)])
    more = {**FACTS, "date": "2026-11-25 01:00", "versions": {"buildah": "1.28"}}
    two = written(
        tmp_path / "two", [run_of("asyncbuild", 3.0), run_of("buildah", 9.0, rtt=0.2)], more
    )
    joined = join([one, two])
    assert [(run.tool, run.rtt, run.repeat) for run in joined.runs] == [
        ("asyncbuild", 0.1, 1), ("buildkit", 0.1, 1), ("asyncbuild", 0.1, 2), ("buildah", 0.2, 1),
    ]  # fmt: skip
    logs = [json.loads(log.read_text())["path"] for log in joined.logs]
    assert logs == ["/v2/one-1", "/v2/one-1", "/v2/two-1", "/v2/two-1"]
    assert joined.facts["date"] == "2026-11-24 23:30 and 2026-11-25 01:00"
    assert joined.facts["commit"] == "abc"
    assert joined.facts["versions"] == {"asyncbuild": "1", "buildah": "1.28"}
    assert {median.tool: median.wall for median in medians(joined.runs)}["asyncbuild"] == 2.0


@pytest.mark.parametrize(
    "other", [{"per_connection": 1e6}, {"cores": 64}, {"versions": {"asyncbuild": "2"}}], ids=str
)
def test_what_cannot_be_compared_is_not_put_together(
    tmp_path: Path, other: dict[str, object]
) -> None:
    """Another link, machine, or version of a tool."""
    one = written(tmp_path / "one", [run_of("asyncbuild", 1.0)])
    two = written(tmp_path / "two", [run_of("asyncbuild", 1.0)], {**FACTS, **other})
    with pytest.raises(SystemExit, match="two has another"):
        join([one, two])
