"""Dataclasses that cost little to define.

The standard library writes the text of up to nine functions for each dataclass and compiles them: 0.45 ms
for a frozen one, and with nearly 300 of them a third of what a build's start cost. `dataclass` here makes
the same class (`dataclasses.fields`, `replace`, ``match``, `pickle`, `copy` treat it alike), and only its
``__init__`` is compiled, when it is first called: what else differs between classes is which fields it
looks at. An instance is made faster, too: its slots are written to directly. All of them have slots.

A subclass is made with this decorator as its base was, or with none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, FrozenInstanceError, field
from inspect import signature
from operator import attrgetter, ge, gt, le, lt
from reprlib import recursive_repr
from types import MethodType
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")
Fields = Sequence[Field[Any]]


@dataclass_transform(field_specifiers=(field,))
def dataclass(
    *,
    slots: bool,
    frozen: bool = False,
    eq: bool = True,
    order: bool = False,
    kw_only: bool = False,
) -> Callable[[type[T]], type[T]]:
    """As `dataclasses.dataclass` with these arguments; ``slots`` is always True."""
    assert slots

    def make(cls: type[T]) -> type[T]:
        own = frozenset(cls.__dict__)
        plain = dataclasses.dataclass(
            init=False, repr=False, eq=False, slots=True, kw_only=kw_only
        )(cls)
        known = dataclasses.fields(plain)  # type: ignore[arg-type]
        methods = {"__init__": _Uncompiled(plain, known, frozen=frozen), "__repr__": _repr(known)}
        if frozen:
            methods |= _frozen(plain, known)
        if eq:
            methods |= _equal([item for item in known if item.compare], hashed=frozen)
        if order:
            methods |= _ordered([item for item in known if item.compare])
        for name, method in methods.items():
            if name not in own:
                setattr(plain, name, method)
        return plain

    return make


class _Uncompiled:
    """``__init__`` before the first instance is made: most builds make some of half of the classes."""

    def __init__(self, cls: type, known: Fields, *, frozen: bool) -> None:
        self._cls = cls
        self._known = known
        self._frozen = frozen
        self.__qualname__ = f"{cls.__qualname__}.__init__"

    def __get__(self, instance: object, _owner: type | None = None) -> Callable[..., None]:
        return self if instance is None else MethodType(self, instance)

    def __call__(self, instance: object, *arguments: Any, **named: Any) -> None:
        self._compile()(instance, *arguments, **named)

    def _compile(self) -> Callable[..., None]:
        made = _compiled(self._cls, self._known, frozen=self._frozen)
        self._cls.__init__ = made  # type: ignore[misc]
        return made

    @property
    def __signature__(self) -> Any:
        """For `inspect.signature`, and by it for documentation."""
        return signature(self._compile())


def _compiled(cls: type, known: Fields, *, frozen: bool) -> Callable[..., None]:
    """``__init__``, from its text: nothing else is as fast when it is called."""
    scope: dict[str, Any] = {"made": MISSING}
    positional: list[str] = []
    named: list[str] = []
    lines: list[str] = []
    for item in known:
        name, value = item.name, item.name
        argument = name
        if item.default is not MISSING:
            scope[f"default_{name}"] = item.default
            argument = f"{name}=default_{name}"
        elif item.default_factory is not MISSING:
            scope[f"new_{name}"] = item.default_factory
            argument = f"{name}=made"
            value = f"new_{name}() if {name} is made else {name}" if item.init else f"new_{name}()"
        elif not item.init:
            continue  # `__post_init__` sets it
        if item.init:
            (named if item.kw_only else positional).append(argument)
        elif item.default is not MISSING:
            value = f"default_{name}"
        scope[f"set_{name}"] = getattr(cls, name).__set__
        lines.append(f"set_{name}(self, {value})" if frozen else f"self.{name} = {value}")
    if hasattr(cls, "__post_init__"):
        lines.append("self.__post_init__()")
    arguments = ", ".join(["self", *positional, *(["*", *named] if named else [])])
    body = "".join(f"\n {line}" for line in lines or ["pass"])
    exec(f"def __init__({arguments}):{body}", scope)  # noqa: S102 - the text is ours, of names that a class has
    made: Callable[..., None] = scope["__init__"]
    made.__qualname__ = f"{cls.__qualname__}.__init__"
    return made


def _values(known: Fields) -> Callable[[Any], tuple[Any, ...]]:
    """The values of these fields of an instance."""
    names = [item.name for item in known]
    if len(names) > 1:
        return attrgetter(*names)
    return lambda self: tuple(getattr(self, name) for name in names)


def _repr(known: Fields) -> Callable[[Any], str]:
    names = [item.name for item in known if item.repr]

    @recursive_repr()
    def shown(self: Any) -> str:
        parts = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{self.__class__.__qualname__}({parts})"

    return shown


def _equal(known: Fields, *, hashed: bool) -> dict[str, Any]:
    values = _values(known)

    def equal(self: Any, other: object) -> Any:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return values(self) == values(other)

    def hashed_values(self: Any) -> int:
        return hash(values(self))

    return {"__eq__": equal, "__hash__": hashed_values if hashed else None}


def _ordered(known: Fields) -> dict[str, Any]:
    values = _values(known)

    def compared(by: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        def compare(self: Any, other: Any) -> Any:
            if other.__class__ is not self.__class__:
                return NotImplemented
            return by(values(self), values(other))

        return compare

    return {f"__{by.__name__}__": compared(by) for by in (lt, le, gt, ge)}


def _frozen(cls: type, known: Fields) -> dict[str, Any]:
    """No assignments; and what `pickle` and `copy` need where there are none."""
    setters = [getattr(cls, item.name).__set__ for item in known]
    values = _values(known)

    def state_of(self: Any) -> tuple[Any, ...]:
        return tuple(values(self))

    def restore(self: Any, state: tuple[Any, ...]) -> None:
        for write, value in zip(setters, state, strict=True):
            write(self, value)

    methods = {"__getstate__": state_of, "__setstate__": restore}
    return {"__setattr__": _refuse_to_set, "__delattr__": _refuse_to_delete, **methods}


def _refuse_to_set(_self: object, name: str, _value: object) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_to_delete(_self: object, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r}")
