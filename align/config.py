"""Plain values -> validated, frozen dataclasses. A mistake names its path and the nearest valid key."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, dataclass_transform

import pydantic
import pydantic.dataclasses

from align.errors import RecipeError, nearest
from align.values import leaves, read_values, read_yaml

__all__ = ["config", "parse", "read_values", "read_yaml", "to_plain"]

T = TypeVar("T")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def config(cls: type[T]) -> type[T]:
    """Make ``cls`` a config section: frozen, keyword-only, every value checked, unknown keys refused."""
    settings = pydantic.ConfigDict(extra="forbid", arbitrary_types_allowed=False, validate_default=True)
    made: Any = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=settings)(cls)
    return typing.cast(type[T], made)


def parse(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Check plain values against a config class.

    Args:
        cls: a class made by :func:`config`.
        values: plain YAML values.
        where: named in messages, e.g. the recipe's path.

    Raises:
        RecipeError: one line a mistake: path of the key, what was found, what was expected, the nearest name.
    """
    lines = {path: ["must be given (key=value or in the recipe)"] for path, v in leaves(values) if v == "???"}
    try:
        # strict, so that true is no 1 and "3" no 3; by way of JSON, where a list may still be a tuple
        recipe = pydantic.TypeAdapter(cls).validate_json(json.dumps(values), strict=True)
        if not lines:
            return recipe
    except pydantic.ValidationError as error:
        absent = set(lines)
        for detail in error.errors():
            steps = _steps(values, detail)
            path = ".".join(map(str, steps))
            if path not in absent:
                lines.setdefault(path, []).append(_explain(cls, steps, detail))
    said = (f"{path}: {' or '.join(dict.fromkeys(found))}".removeprefix(": ") for path, found in lines.items())
    raise RecipeError("; ".join(f"{where}: {line}" for line in said))


def to_plain(recipe: Any) -> dict[str, Any]:
    """A config as plain JSON values, defaults filled in."""
    return typing.cast(dict[str, Any], pydantic.TypeAdapter(type(recipe)).dump_python(recipe, mode="json"))


def _steps(values: Any, detail: Any) -> list[Any]:
    """The part of a mistake's location that is a path in the recipe: pydantic names members of unions too."""
    steps = []
    for step in detail["loc"]:
        items = dict(enumerate(values)) if isinstance(values, list) else values
        if isinstance(items, Mapping) and step in items:
            values = items[step]
        elif not detail["type"].startswith("missing"):
            continue
        steps.append(step)
    return steps


def _explain(cls: type, steps: Sequence[Any], detail: Any) -> str:
    kind, found = detail["type"], detail["input"]
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"unknown key{nearest(str(steps[-1]), _keys_at(cls, steps[:-1]))}"
    if kind.startswith("missing"):
        return "missing; it has no default"
    message: str = detail["msg"].removeprefix("Value error, ").replace("Input should be", "expected", 1)
    if kind == "value_error" and isinstance(found, Mapping):
        return message  # a rule between several keys: the message names them
    if kind == "literal_error" and isinstance(found, str):
        options = detail["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        message += nearest(found, options)
    return f"{message}, found {found!r}" if len(repr(found)) < 80 else f"{message}, found a {type(found).__name__}"


def _keys_at(cls: Any, steps: Sequence[Any]) -> list[str]:
    """The field names valid at a path below a config class."""
    hints = [cls]
    for step in steps:
        hints = [inner for hint in hints for inner in _inner(hint, step)]
    return [f.name for hint in hints for found in _classes(hint) for f in dataclasses.fields(found)]


def _inner(hint: Any, step: Any) -> Iterator[Any]:
    """What the type says of one step down: a field of a config, an item of a list, a value of a dict."""
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        if step in hints:
            yield hints[step]
    elif isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        for part in typing.get_args(hint):
            yield from _inner(part, step)
    elif arguments := typing.get_args(hint):
        yield arguments[-1] if typing.get_origin(hint) is dict else arguments[0]


def _classes(hint: Any) -> Iterator[Any]:
    """The config classes within a type hint, through unions and containers."""
    if dataclasses.is_dataclass(hint):
        yield hint
    elif isinstance(hint, types.UnionType) or typing.get_origin(hint) is not None:
        for part in typing.get_args(hint):
            yield from _classes(part)
