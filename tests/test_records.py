"""Our dataclasses against the standard library's: the same class body, made by both, behaves alike."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbuild import records

Maker = Callable[..., Any]


def classes(dataclass: Maker, field: Maker) -> dict[str, Any]:
    """The same classes by either decorator; all features that the package uses, and how they meet."""

    @dataclass(frozen=True, slots=True)
    class Plain:
        a: Any
        b: Any = "b"

        @property
        def both(self) -> tuple[Any, Any]:
            return self.a, self.b

    @dataclass(frozen=True, slots=True)
    class Below(Plain):
        c: Any = 3

    @dataclass(frozen=True, slots=True)
    class One:
        a: Any

    @dataclass(frozen=True, slots=True)
    class Made:
        a: Any
        b: list[Any] = field(default_factory=list, compare=False)
        c: Any = field(default=7, repr=False)
        d: Any = field(default=1, init=False)
        e: list[Any] = field(default_factory=list, init=False, compare=False)

    @dataclass(slots=True)
    class Open:
        a: Any
        b: Any = 0
        c: Any = field(init=False)

        def __post_init__(self) -> None:
            self.c = self.a

    @dataclass(frozen=True, slots=True, order=True)
    class Ordered:
        a: Any
        b: Any = 0
        c: Any = field(default=5, compare=False)

    @dataclass(frozen=True, slots=True, eq=False)
    class Identity:
        a: Any
        b: Any = 0

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Named:
        a: Any
        b: Any = 0

    @dataclass(frozen=True, slots=True)
    class Own:
        a: Any
        b: Any = 0

        def __repr__(self) -> str:
            return f"<{self.a}>"

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Own) and self.a == other.a

        def __hash__(self) -> int:
            return hash(self.a)

    found = (Plain, Below, One, Made, Open, Ordered, Identity, Named, Own)
    return {cls.__name__: cls for cls in found}


OURS = classes(records.dataclass, records.field)
THEIRS = classes(dataclasses.dataclass, dataclasses.field)
_VALUES = st.one_of(st.integers(0, 2), st.sampled_from(["", "x", None, 1.5, float("nan")]))


def made(cls: Any, values: tuple[Any, ...]) -> Any:
    """An instance with these first fields."""
    if cls.__name__ == "Named":
        return cls(**dict(zip("ab", values, strict=False)))
    return cls(*values[:1]) if cls.__name__ == "One" else cls(*values)


@given(st.sampled_from(sorted(OURS)), st.tuples(_VALUES), st.tuples(_VALUES, _VALUES))
def test_alike(name: str, first: tuple[Any, ...], second: tuple[Any, ...]) -> None:
    """Text, equality, hash, order, replacement, copies: what ours says, theirs says."""
    answers = []
    for cls, replace in ((OURS[name], records.replace), (THEIRS[name], dataclasses.replace)):
        one, two = made(cls, first), made(cls, second)
        text = [repr(item).replace("classes.<locals>.", "") for item in (one, two)]
        hashes = [] if cls.__hash__ is None or name == "Identity" else [hash(one), hash(two)]
        changed = replace(one, a="new")
        assert dataclasses.replace(one, a="new").a == "new"
        same = (one == two, one == copy.copy(one), one == one, one == 3, changed.a)  # noqa: PLR0124
        fields = [getattr(two, item.name) for item in dataclasses.fields(cls)]
        answers.append((text, hashes, same, repr(fields), cls.__match_args__))
    assert answers[0] == answers[1]


@given(
    st.tuples(st.integers(0, 2), st.integers(0, 2)), st.tuples(st.integers(0, 2), st.integers(0, 2))
)
def test_ordered_alike(first: tuple[int, int], second: tuple[int, int]) -> None:
    """All four comparisons, and none with another class."""
    found = []
    for cls in (OURS["Ordered"], THEIRS["Ordered"]):
        one, two = cls(*first), cls(*second)
        found.append((one < two, one <= two, one > two, one >= two))
        with pytest.raises(TypeError):
            _ = one < 3
    assert found[0] == found[1]


@pytest.mark.parametrize("name", sorted(OURS))
def test_signatures(name: str) -> None:
    """The same parameters in the same order, and the same that may be left out."""

    def shape(cls: Any) -> list[Any]:
        parameters = inspect.signature(cls).parameters.values()
        return [(p.name, p.kind, p.default is p.empty) for p in parameters]

    assert shape(OURS[name]) == shape(THEIRS[name])
    assert OURS[name].__slots__ == THEIRS[name].__slots__


@pytest.mark.parametrize("name", ["Plain", "Below", "One", "Made", "Ordered", "Identity", "Named"])
def test_frozen(name: str) -> None:
    """Nothing can be assigned to, deleted or added."""
    one = made(OURS[name], (1,))
    with pytest.raises(FrozenInstanceError):
        one.a = 2
    with pytest.raises(FrozenInstanceError):
        del one.a
    with pytest.raises(FrozenInstanceError):
        one.other = 2
    assert one.a == 1


@pytest.mark.parametrize(("given", "named"), [((), {}), ((1, 2, 3), {}), ((1,), {"z": 1})])
def test_missing_and_unknown_arguments(given: tuple[int, ...], named: dict[str, int]) -> None:
    """As for any function."""
    with pytest.raises(TypeError, match=r"Plain.__init__\(\)"):
        OURS["Plain"](*given, **named)


@pytest.mark.parametrize("name", sorted(OURS))
def test_the_standard_library_finds_the_fields(name: str) -> None:
    """All that it says of a field."""

    def said(cls: Any) -> list[Any]:
        return [
            (item.name, item.type, item.init, item.repr, item.compare, item.kw_only, item.default)
            for item in dataclasses.fields(cls)
        ]

    assert said(OURS[name]) == said(THEIRS[name])
    assert dataclasses.is_dataclass(OURS[name])


@pytest.mark.parametrize("name", ["Made", "Open", "Plain"])
def test_replacements_that_are_mistakes(name: str) -> None:
    """What is not given to the class when one is made."""
    for changes in ({"d": 1}, {"unknown": 1}, {"c": 1}):
        if "c" in changes and name == "Made":
            continue
        for cls, replace in ((OURS[name], records.replace), (THEIRS[name], dataclasses.replace)):
            with pytest.raises((TypeError, ValueError)):
                replace(cls(1), **changes)


@pytest.mark.parametrize("default", [[], {}, dataclasses.field(default=1)])
def test_defaults_that_are_mistakes(default: Any) -> None:
    """One list for all instances; the standard library's word for ours."""
    body = {"__annotations__": {"a": "Any"}, "a": default}
    with pytest.raises(TypeError, match=r"^Wrong\.a = .*: say field\(…\), of this module$"):
        records.dataclass(slots=True)(type("Wrong", (), body))


def test_match_arguments() -> None:
    """A class pattern takes the fields by place, a subclass's behind its base's."""
    assert OURS["Below"].__match_args__ == ("a", "b", "c")
    match Sent(1, (2,)):
        case Sent(one, (two,)):
            assert (one, two) == (1, 2)


@records.dataclass(frozen=True, slots=True)
class Sent:
    """One that can be found by its name, as pickle wants it."""

    a: int
    b: tuple[int, ...] = ()


def test_pickles() -> None:
    """Workers are sent such things."""
    assert pickle.loads(pickle.dumps(Sent(1, (2,)), pickle.HIGHEST_PROTOCOL)) == Sent(1, (2,))
    assert copy.deepcopy(Sent(1, (2,))) == Sent(1, (2,))


def test_recursion_has_an_end() -> None:
    """An instance that holds itself has a text."""
    one = OURS["Open"](1)
    one.a = one
    assert repr(one).endswith("(a=..., b=0, c=1)")
