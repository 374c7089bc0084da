"""What a layer leaves out, and that nothing in it is too young."""

from __future__ import annotations

from asyncbuild.layers.changeset import ChangeSet, Entry, Kind
from asyncbuild.layers.trim import Trim


def test_ignored_paths_go_with_what_is_below_them() -> None:
    """By whole components: /var/run is not /var/runner."""
    changes = ChangeSet.of(
        [Entry(path, Kind.FILE) for path in ("var/run/lock", "var/runner", "var/run", "srv/a")],
        ["var/run/old", "tmp/x"],
        ["var/run/d", "opt"],
    )
    trimmed = Trim.of(["/var/run/", "srv"], None)(changes)
    assert [entry.path for entry in trimmed.additions] == ["var/runner"]
    assert (trimmed.deletions, trimmed.opaque) == (("tmp/x",), ("opt",))


def test_times_are_clamped_not_set() -> None:
    """What is older stays as old as it is."""
    changes = ChangeSet.of(
        [Entry("a", Kind.FILE, mtime_ns=5), Entry("b", Kind.FILE, mtime_ns=9**20)]
    )
    trimmed = Trim.of((), 1)(changes)
    assert [entry.mtime_ns for entry in trimmed.additions] == [5, 10**9]


def test_no_rules_no_work() -> None:
    """Without rules it is the same object."""
    changes = ChangeSet.of([Entry("a", Kind.FILE)])
    assert Trim.of(["/"], None)(changes) is changes


def test_what_is_in_an_emptied_directory_goes_without_it() -> None:
    """Additions, deletions and opaque directories below it, and nothing beside it."""
    paths = ["v", "v/a", "v/d/e", "vv"]
    changes = ChangeSet.of(
        [Entry(path, Kind.FILE) for path in paths], ["v/gone", "w"], ["v/d", "v"]
    )
    kept = Trim(emptied=frozenset(["v"]))(changes)
    assert [entry.path for entry in kept.additions] == ["v", "vv"]
    assert kept.deletions == ("w",)
    assert kept.opaque == ("v",)
