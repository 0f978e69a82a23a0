"""YAML and ``key=value`` -> plain values, with ``${…}`` resolved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from align.errors import RecipeError, nearest


def read_yaml(path: Path, overrides: Sequence[str] = (), settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A YAML file with values laid over it and ``${…}`` resolved, as plain values.

    Args:
        path: the file.
        overrides: ``a.b=value`` each, the value in YAML; ``list.0.key=value`` reaches into a list.
        settings: the same as dotted keys and plain values, laid over the file before ``overrides``. A mapping
            is merged into a mapping; anything else takes the place of what was there.

    Raises:
        RecipeError: no such file, not YAML, not a mapping, an override without ``=``, ``${…}`` that
            leads nowhere.
    """
    return resolve(load(path), overrides, settings or {}, str(path))


def read_values(overrides: Sequence[str], where: str) -> dict[str, Any]:
    """Plain values from ``a.b=value`` alone, read as by :func:`read_yaml`; messages name ``where``."""
    return resolve({}, overrides, {}, where)


def load(path: Path) -> dict[str, Any]:
    """A YAML mapping as it stands, ``${…}`` and all.

    Raises:
        RecipeError: no such file, not YAML, not a mapping.
    """
    import yaml  # type: ignore[import-untyped]
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if not path.is_file():
        beside = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise RecipeError(f"{path}: no such recipe{nearest(path.name, beside)}")
    try:
        loaded = OmegaConf.load(path)
        if not OmegaConf.is_dict(loaded):
            raise RecipeError(f"{path}: expected a mapping of keys to values at the top level, found a list")
        values = OmegaConf.to_container(loaded, resolve=False)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise RecipeError(f"{path}{line}: not YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise RecipeError(f"{path}: not YAML: {_one_line(error)}") from error
    except OSError as error:  # OmegaConf's word for a file that holds a lone value; also a file that cannot be read
        raise RecipeError(f"{path}: expected a mapping of keys to values: {_one_line(error)}") from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def resolve(
    values: dict[str, Any], overrides: Sequence[str], settings: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """Lay settings, then overrides, over ``values`` and resolve ``${…}``; see :func:`read_yaml`."""
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import (
        InterpolationKeyError,
        InterpolationToMissingValueError,
        OmegaConfBaseException,
    )

    for key, value in settings.items():
        lay(values, key, value, where)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not all(key.split(".")):
            raise RecipeError(f"{override!r}: expected key=value")
        try:
            value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)
        except (yaml.YAMLError, OmegaConfBaseException) as error:
            raise RecipeError(f"{override!r}: the value is not YAML: {_one_line(error)}") from error
        assert isinstance(value, dict)
        lay(values, key, value["value"], where)
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(values), resolve=True)
    except InterpolationToMissingValueError as error:
        wanted = str(error).splitlines()[0].rpartition(": ")[2]
        raise RecipeError(f"{where}: {wanted}: must be given (key=value or in the recipe)") from error
    except InterpolationKeyError as error:
        hint = nearest(str(error).split("'")[1], [path for path, _ in leaves(values)])
        raise RecipeError(f"{where}: {error.full_key}: {str(error).splitlines()[0]}{hint}") from error
    except OmegaConfBaseException as error:
        raise RecipeError(f"{where}: {error.full_key}: {str(error).splitlines()[0]}") from error
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def lay(values: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Lay one value over ``values`` in place, at a dotted key; a mapping merges into a mapping."""
    place: Any = values
    *above, last = key.split(".")
    for step in above:
        inner = place[_index(place, step, key, where)] if isinstance(place, list) else place.get(step)
        if not isinstance(inner, (dict, list)):
            inner = {}  # ???, null or a value that gives way to a section
        place[_index(place, step, key, where) if isinstance(place, list) else step] = inner
        place = inner
    if isinstance(place, list):
        place[_index(place, last, key, where)] = value
    elif isinstance(value, Mapping) and isinstance(place.get(last), dict):
        for name, item in value.items():
            place[last][name] = _merged(place[last].get(name), item)
    else:
        place[last] = value


def _merged(old: Any, new: Any) -> Any:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return {**old, **{key: _merged(old.get(key), item) for key, item in new.items()}}
    return new


def _index(place: Sequence[Any], step: str, key: str, where: str) -> int:
    if not step.isdigit() or int(step) >= len(place):
        raise RecipeError(f"{where}: {key}: {step!r} is not an item of a list of {len(place)}, counted from 0")
    return int(step)


def leaves(values: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every (dotted key, plain value) within nested mappings and lists."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(values, list):
        for index, value in enumerate(values):
            yield from leaves(value, f"{path}.{index}")
    else:
        yield path, values


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
