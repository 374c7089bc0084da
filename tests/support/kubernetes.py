"""Kubernetes objects checked against the API's own types, which lightkube-models generates from it."""

from __future__ import annotations

import dataclasses
import importlib
import sys
import types
import typing
from typing import Any, Union


def _model(module: str, name: str) -> Any:
    """A class of lightkube's models. They import a piece of lightkube's client, for which dataclasses do."""
    schema = types.ModuleType("lightkube.core.schema")
    schema.__dict__.update(
        dataclass=dataclasses.dataclass, field=dataclasses.field, DictMixin=object
    )
    sys.modules.setdefault("lightkube.core", types.ModuleType("lightkube.core"))
    sys.modules.setdefault("lightkube.core.schema", schema)
    return getattr(importlib.import_module(f"lightkube.models.{module}"), name)


def problems(document: Any, module: str, name: str) -> list[str]:
    """What is wrong with ``document`` as an object of a type, such as ("batch_v1", "Job"); paths first."""
    return list(_check(document, _model(module, name), name))


def _check(value: Any, wanted: Any, path: str) -> typing.Iterator[str]:
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is Union or isinstance(wanted, types.UnionType):
        (wanted,) = [item for item in arguments if item is not type(None)]
        yield from _check(value, wanted, path)
    elif origin is list:
        if not isinstance(value, list):
            yield f"{path}: not a list"
            return
        for number, item in enumerate(value):
            yield from _check(item, arguments[0], f"{path}[{number}]")
    elif dataclasses.is_dataclass(wanted):
        yield from _check_object(value, wanted, path)
    elif origin is dict or wanted is dict:
        if not isinstance(value, dict):
            yield f"{path}: not a mapping"
    elif isinstance(wanted, type) and wanted is not object:
        number = wanted is float and isinstance(value, int)
        if not (isinstance(value, wanted) or number) or (wanted is int and value is True):
            yield f"{path}: {value!r} is not of type {wanted.__name__}"


def _check_object(value: Any, wanted: Any, path: str) -> typing.Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path}: not a mapping"
        return
    hints = typing.get_type_hints(wanted)
    fields = {
        field.metadata.get("json", field.name): (field, hints[field.name])
        for field in dataclasses.fields(wanted)
    }
    for name, (field, _) in fields.items():
        if name not in value and field.default is dataclasses.MISSING:
            yield f"{path}.{name} is missing"
    for name, item in value.items():
        if name not in fields:
            yield f"{path}.{name} is unknown"
        else:
            yield from _check(item, fields[name][1], f"{path}.{name}")
