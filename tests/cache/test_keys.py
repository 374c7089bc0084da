"""Keys: framing is injective, recipes keep their parts, and what changed can be told."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asyncbuild.cache.keys import Recipe, Value, changed_parts, frame

VALUES: st.SearchStrategy[Value] = st.recursive(
    st.none() | st.text(max_size=6) | st.binary(max_size=6) | st.integers(-5, 500),
    lambda inner: st.lists(inner, max_size=4).map(tuple),
    max_leaves=12,
)


def typed(value: Value) -> object:
    """``value`` with its types, since 0 == False and the like must not be taken for one another."""
    if isinstance(value, tuple):
        return tuple(map(typed, value))
    return type(value).__name__, value


@given(one=VALUES, other=VALUES)
def test_equal_frames_mean_equal_values(one: Value, other: Value) -> None:
    """Two values have the same frame only if they are the same value."""
    assert (frame(one) == frame(other)) == (typed(one) == typed(other))


@given(parts=st.lists(st.text("ab:;0 ", max_size=4), max_size=5), cut=st.integers(0, 12))
def test_moving_a_border_changes_the_frame(parts: list[str], cut: int) -> None:
    """The same text cut elsewhere is another value (kaniko's joined keys were not so)."""
    text = "".join(parts)
    again = (text[:cut], text[cut:])
    if tuple(parts) != again:
        assert frame(tuple(parts)) != frame(again)


def test_a_recipe_of_another_kind_is_another_key() -> None:
    """The kind, the names and the order of parts all count."""
    parts = (("a", 1), ("b", 2))
    keys = {
        Recipe("run", parts).key,
        Recipe("copy", parts).key,
        Recipe("run", parts[::-1]).key,
        Recipe("run", (("a", 1), ("c", 2))).key,
        Recipe("run", (("a", "1"), ("b", 2))).key,
    }
    assert len(keys) == 5


def test_what_changed_is_told_by_name() -> None:
    """The names of parts that differ, came or went, without their values."""
    before = Recipe("run", (("the command", "make"), ("variable A", "1"), ("USER", ""))).digests()
    now = Recipe("run", (("the command", "make"), ("variable A", "2"), ("WORKDIR", "/"))).digests()
    assert changed_parts(before, now) == ("variable A", "WORKDIR", "USER")
    assert all(digest != "2" for digest in now.values())
