"""Means of a measure by the value of something, an event's distance say, within each source of prompts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from align.errors import DataError
from align.records import Prompt
from align.stats import mean_se, wilson


def check_key(prompts: Sequence[Prompt], key: str, where: str) -> None:
    """Refuse prompts whose ``meta`` lacks a value to group by.

    Raises:
        DataError: names the prompt.
    """
    for prompt in prompts:
        value = prompt.meta.get(key)
        if not isinstance(value, (int, float, str)):
            raise DataError(f"{where}: prompt {prompt.id}: meta.{key}: found {value!r}, expected a number or a text")


def means_by(prompts: Sequence[Prompt], values: Sequence[float], key: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Means by source and by ``meta[key]``, numbers in their order.

    Args:
        prompts: P, each with a value of ``key``.
        values: P, of their answers.
        key: of ``meta``.

    Returns:
        source -> value as text -> mean, its standard error (NaN of one value) and the number of values.
    """
    found: dict[str, dict[int | float | str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for prompt, value in zip(prompts, values, strict=True):
        found[prompt.source][prompt.meta[key]].append(value)
    return {
        source: {str(at): _cell(groups[at]) for at in sorted(groups, key=lambda at: (isinstance(at, str), at))}
        for source, groups in sorted(found.items())
    }


def figures_by(measured: Mapping[str, Mapping[str, Mapping[str, Any]]], key: str, measure: str) -> list[dict[str, Any]]:
    """A figure for each source, a line for each policy, with 95 % intervals of a measure in [0, 1].

    They are Wilson's: right of shares, and wide enough of other values in [0, 1], which vary less at the same mean.

    Args:
        measured: policy -> what :func:`means_by` gave.
        key: what it was grouped by.
        measure: what the means are of.
    """
    sources = dict.fromkeys(source for groups in measured.values() for source in groups)
    return [
        {
            "name": f"{measure}-by-{key}-{number}",
            "title": f"{measure.capitalize()} by {key}{f': {source}' if source else ''}",
            "x": key,
            "y": measure,
            "series": [_series(name, groups[source]) for name, groups in measured.items() if source in groups],
        }
        for number, source in enumerate(sources)
    ]


def _cell(values: Sequence[float]) -> dict[str, Any]:
    mean, error = mean_se(values)
    return {"mean": mean, "se": error, "n": len(values)}


def _series(name: str, cells: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    ends = [wilson(c["mean"] * c["n"], c["n"]) for c in cells.values()]
    return {
        "name": name,
        "points": [[_number(at), cell["mean"]] for at, cell in cells.items()],
        "low": [low for low, _ in ends],
        "high": [high for _, high in ends],
    }


def _number(at: str) -> float | str:
    try:
        return float(at)
    except ValueError:
        return at
