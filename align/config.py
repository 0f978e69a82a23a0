"""YAML and ``key=value`` -> validated, frozen dataclasses. A mistake names its path and the nearest valid key."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

import pydantic
import pydantic.dataclasses

from align.errors import RecipeError, nearest

T = TypeVar("T")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def config(cls: type[T]) -> type[T]:
    """Make ``cls`` a config section: frozen, keyword-only, every value checked, unknown keys refused."""
    settings = pydantic.ConfigDict(extra="forbid", arbitrary_types_allowed=False, validate_default=True)
    return pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=settings)(cls)


def read_yaml(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A YAML file with ``a.b=value`` overrides laid over it and ``${…}`` resolved, as plain values.

    Raises:
        RecipeError: no such file, not YAML, not a mapping, an override without ``=``, an unresolvable ``${…}``.
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if not path.is_file():
        beside = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise RecipeError(f"{path}: no such recipe{nearest(path.name, beside)}")
    for override in overrides:
        if "=" not in override:
            raise RecipeError(f"{override!r}: expected key=value")
    try:
        loaded = OmegaConf.load(path)
        if not OmegaConf.is_dict(loaded):
            raise RecipeError(f"{path}: expected a mapping of keys to values at the top level")
        merged = OmegaConf.merge(loaded, OmegaConf.from_dotlist(list(overrides)))
        values = OmegaConf.to_container(merged, resolve=True)
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise RecipeError(f"{path}: {_one_line(error)}") from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def parse(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Check plain values against a config class.

    Args:
        cls: a class made by :func:`config`.
        values: plain YAML values.
        where: named in messages, e.g. the recipe's path.

    Raises:
        RecipeError: one line a mistake: path of the key, what was found, what was expected, the nearest name.
    """
    missing = [path for path, value in _leaves(values) if value == "???"]
    if missing:
        raise RecipeError("; ".join(f"{where}: {path}: must be given (key=value or in the recipe)" for path in missing))
    try:
        return pydantic.TypeAdapter(cls).validate_python(dict(values))
    except pydantic.ValidationError as error:
        lines = [_explain(cls, values, detail) for detail in error.errors()]
        raise RecipeError("; ".join(f"{where}: {line}" for line in dict.fromkeys(lines))) from error


def to_plain(recipe: Any) -> dict[str, Any]:
    """A config as plain JSON values, defaults filled in."""
    return typing.cast(dict[str, Any], pydantic.TypeAdapter(type(recipe)).dump_python(recipe, mode="json"))


def _explain(cls: type, values: Mapping[str, Any], detail: Any) -> str:
    steps = [step for step in detail["loc"] if not (isinstance(step, str) and "[" in step)]
    path = ".".join(str(step) for step in steps)
    kind = detail["type"]
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{path}: unknown key{nearest(str(steps[-1]), _keys_at(cls, steps[:-1]))}"
    if kind in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{path}: missing; it has no default"
    message = detail["msg"].removeprefix("Value error, ")
    if kind == "literal_error" and isinstance(detail["input"], str):
        options = detail["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        message += nearest(detail["input"], options)
    found = detail["input"] if len(repr(detail["input"])) < 80 else type(detail["input"]).__name__
    return f"{path or 'recipe'}: {message}, found {found!r}"


def _keys_at(cls: Any, steps: Sequence[Any]) -> list[str]:
    """The field names valid at a path below a config class."""
    for step in steps:
        for candidate in _classes(cls):
            hints = typing.get_type_hints(candidate)
            if step in hints:
                cls = hints[step]
                break
    return [f.name for candidate in _classes(cls) for f in dataclasses.fields(candidate)]


def _classes(hint: Any) -> Iterator[Any]:
    """The config classes within a type hint, through unions and containers."""
    if dataclasses.is_dataclass(hint):
        yield hint
    elif isinstance(hint, types.UnionType) or typing.get_origin(hint) is not None:
        for part in typing.get_args(hint):
            yield from _classes(part)


def _leaves(values: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(values, list):
        for index, value in enumerate(values):
            yield from _leaves(value, f"{path}.{index}")
    else:
        yield path, values


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
