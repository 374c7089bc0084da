"""Dataclasses that cost little to define.

The standard library writes the text of up to nine functions for each dataclass and compiles them: 0.45 ms
for a frozen one, and with nearly 300 of them a third of what a build's start cost; without that it still
takes 0.07 ms to find out what the fields are, and 7 ms to be imported. `dataclass` here makes the same
class (`dataclasses.fields`, `replace`, ``match``, `pickle`, `copy` treat it alike), and only its
``__init__`` is compiled, when it is first called: what else differs between classes is which fields it
looks at. An instance is made faster, too: its slots are written to directly. All of them have slots.

Annotations are text, as ``from __future__ import annotations`` makes them. A subclass is made with this
decorator as its base was, or with none. ``InitVar``, ``metadata`` and other rarities are not here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter, ge, gt, le, lt
from reprlib import recursive_repr
from types import MethodType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, dataclass_transform

if TYPE_CHECKING:
    import dataclasses
    from dataclasses import replace as replace  # noqa: PLC0414 - mypy knows what it may be given
else:

    def replace(instance: Any, /, **changes: Any) -> Any:
        """As `dataclasses.replace`, for records."""
        for item in instance.__record_fields__:
            if item.init and item.name not in changes:
                changes[item.name] = getattr(instance, item.name)
        return type(instance)(**changes)


T = TypeVar("T")
MISSING: Any = object()
"""No default."""


class Field:
    """What is said of one field; ``name`` is "" until it has one."""

    __slots__ = ("compare", "default", "default_factory", "init", "kw_only", "name", "repr", "text")

    def __init__(
        self, default: Any, default_factory: Any, *, init: bool, shown: bool, compare: bool
    ) -> None:
        self.default = default
        self.default_factory = default_factory
        self.init = init
        self.repr = shown
        self.compare = compare
        self.kw_only = False
        self.name = self.text = ""

    def standard(self) -> Any:
        """The same as the standard library has it."""
        import dataclasses  # noqa: PLC0415 - hardly ever needed

        given: dict[str, Any] = {"init": self.init, "repr": self.repr, "compare": self.compare}
        if self.default is not MISSING:
            given["default"] = self.default
        if self.default_factory is not MISSING:
            given["default_factory"] = self.default_factory
        return dataclasses.field(kw_only=self.kw_only, **given)


Fields = Sequence[Field]


def field(
    *,
    default: Any = MISSING,
    default_factory: Any = MISSING,
    init: bool = True,
    repr: bool = True,  # noqa: A002 - dataclasses' word
    compare: bool = True,
) -> Any:
    """As `dataclasses.field`, of these arguments."""
    return Field(default, default_factory, init=init, shown=repr, compare=compare)


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
        known = tuple(_fields(cls, kw_only=kw_only))
        compared = [item for item in known if item.compare]
        methods: dict[str, Any] = {"__repr__": _repr(known)}
        if frozen:
            methods |= _FROZEN
        if eq:
            methods |= _equal(compared, hashed=frozen)
        if order:
            methods |= _ordered(compared)
        places = [item.name for item in known if item.init and not item.kw_only]
        methods["__match_args__"] = tuple(places)
        made = _with_slots(cls, known, methods)
        if "__init__" not in cls.__dict__:
            made.__init__ = _Uncompiled(made, known, frozen=frozen)  # type: ignore[assignment]
        return made

    return make


def _fields(cls: type, *, kw_only: bool) -> Iterator[Field]:
    """The fields of a class: those of its bases first, in their order, as the last of them says."""
    found: dict[str, Field] = {}
    for base in reversed(cls.__mro__[1:]):
        for item in base.__dict__.get("__record_fields__", ()):
            found[item.name] = item
    said = cls.__dict__.get("__annotations__", {})  # noqa: RUF063 - inspect takes 5 ms to import
    for name, text in said.items():
        if text.startswith("ClassVar"):
            continue
        given = cls.__dict__.get(name, MISSING)
        item = given if isinstance(given, Field) else field(default=given)
        if (
            item.default.__class__.__hash__ is None
            or "dataclasses" in item.default.__class__.__module__
        ):
            raise TypeError(f"{cls.__name__}.{name} = {given!r}: say field(…), of this module")
        item.name, item.text, item.kw_only = name, text, kw_only
        found[name] = item
    yield from found.values()


def _with_slots(cls: type[T], known: Fields, methods: dict[str, Any]) -> type[T]:
    """The class made again, with ``__slots__`` for what its bases have none for, and the ``methods`` that
    it does not have itself.
    """
    there = {name for base in cls.__mro__[1:-1] for name in base.__dict__.get("__slots__", ())}
    content = {**methods, **cls.__dict__}
    for item in known:
        content.pop(item.name, None)
    for name in ("__dict__", "__weakref__"):
        content.pop(name, None)
    content["__slots__"] = tuple(item.name for item in known if item.name not in there)
    content["__record_fields__"] = known
    content["__dataclass_fields__"] = _Standard(known)
    metaclass: Any = type(cls)
    made: type[T] = metaclass(cls.__name__, cls.__bases__, content)
    made.__qualname__ = cls.__qualname__
    return made


class _Standard:
    """``__dataclass_fields__``, for the standard library: made when it first looks there."""

    def __init__(self, known: Fields) -> None:
        self._known = known
        self._found: dict[str, dataclasses.Field[Any]] = {}

    def __get__(self, _instance: object, _owner: type) -> dict[str, dataclasses.Field[Any]]:
        if len(self._found) < len(self._known):
            self._found = self._make()
        return self._found

    def _make(self) -> dict[str, dataclasses.Field[Any]]:
        import dataclasses  # noqa: PLC0415 - see above

        content: dict[str, Any] = {item.name: item.standard() for item in self._known}
        content["__annotations__"] = {item.name: item.text for item in self._known}
        shadow: Any = type("_", (), content)
        dataclasses.dataclass(init=False, repr=False, eq=False)(shadow)
        found: dict[str, dataclasses.Field[Any]] = shadow.__dataclass_fields__
        return found


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
        from inspect import signature  # noqa: PLC0415 - hardly ever needed, and 5 ms

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


def _refuse_to_set(_self: object, name: str, _value: object) -> None:
    _refuse(f"cannot assign to field {name!r}")


def _refuse_to_delete(_self: object, name: str) -> None:
    _refuse(f"cannot delete field {name!r}")


def _refuse(what: str) -> NoReturn:
    from dataclasses import FrozenInstanceError  # noqa: PLC0415 - see above

    raise FrozenInstanceError(what)


def _state_of(self: Any) -> tuple[Any, ...]:
    return tuple(getattr(self, item.name) for item in self.__record_fields__)


def _restore(self: Any, state: tuple[Any, ...]) -> None:
    for item, value in zip(self.__record_fields__, state, strict=True):
        getattr(type(self), item.name).__set__(self, value)


_FROZEN = {
    "__setattr__": _refuse_to_set,
    "__delattr__": _refuse_to_delete,
    "__getstate__": _state_of,
    "__setstate__": _restore,
}
"""No assignments; and what `pickle` and `copy` need where there are none."""
