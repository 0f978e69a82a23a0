"""Policies of an evaluation along an axis that its recipe names: how safe, how helpful, how ready to decline."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from align.artifacts import Manifest
from align.report.refusals import by_policy
from align.report.tables import Cell, Table
from align.stats import mean_se, proportion

Rows: TypeAlias = Sequence[Mapping[str, Any]]
Point: TypeAlias = tuple[float, float | None, float | None]  # value, low, high


def measures() -> Mapping[str, Callable[[Rows], Point | None]]:
    """What is drawn, by name; each gives a value with its 95 % interval, or None where there is nothing to count."""
    return {
        "mean safety score, logits": lambda rows: _mean(
            [r["scores"]["safety"] for r in rows if r["kind"] == "safety" and r.get("scores")]
        ),
        "unsafe answers": lambda rows: _share([not r["safe"] for r in rows if r.get("should_refuse") is True]),
        "helpfulness on ordinary prompts": lambda rows: _mean(
            [r["helpful"] for r in rows if r["kind"] == "helpful" and "helpful" in r]
        ),
        "false refusals": lambda rows: _share([r["refused"] for r in rows if r.get("should_refuse") is False]),
        "false refusals on borderline prompts": lambda rows: _share(
            [r["refused"] for r in rows if r.get("should_refuse") is False and r["kind"] == "safety"]
        ),
    }


def along(folder: Path, manifest: Manifest) -> tuple[list[Table], list[dict[str, Any]]]:
    """The tables and figures (as :mod:`align.report.given` reads them) of an evaluation that names axes.

    Args:
        folder: of the evaluation.
        manifest: of it.
    """
    axes: Mapping[str, Mapping[str, float]] = manifest.recipe.get("along") or {}
    answers = by_policy(folder) if axes else {}
    tables, figures = [], []
    for axis, places in axes.items():
        named = sorted((place, name) for name, place in places.items() if name in answers)
        told = {
            measure: [(place, read(answers[name])) for place, name in named] for measure, read in measures().items()
        }
        told = {measure: points for measure, points in told.items() if any(point for _, point in points)}
        if named and told:
            tables.append(_table(axis, [place for place, _ in named], told))
            figures += [_figure(number, axis, measure, points) for number, (measure, points) in enumerate(told.items())]
    return tables, figures


def _table(axis: str, places: Sequence[float], told: Mapping[str, Sequence[tuple[float, Point | None]]]) -> Table:
    rows: list[list[Cell]] = [
        [f"{place:g}", *(_cell(points[line][1], "logits" in measure) for measure, points in told.items())]
        for line, place in enumerate(places)
    ]
    return Table(f"Along: {axis} (95 % intervals)", (axis, *told), rows)


def _cell(point: Point | None, score: bool) -> str:
    if point is None:
        return "–"
    scale, digits = (1, 2) if score else (100, 1)
    told = [f"{scale * value:.{digits}f}" for value in point if value is not None]
    return told[0] if len(told) < 3 else f"{told[0]} ({told[1]} to {told[2]})"


def _figure(number: int, axis: str, measure: str, points: Sequence[tuple[float, Point | None]]) -> dict[str, Any]:
    known = [(place, point) for place, point in points if point is not None]
    series = {
        "name": measure,
        "points": [[place, point[0]] for place, point in known],
        "low": [point[1] for _, point in known],
        "high": [point[2] for _, point in known],
    }
    title = f"{measure[:1].upper()}{measure[1:]} against {axis}"
    return {"name": f"along-{number}", "title": title, "x": axis, "y": measure, "series": [series]}


def _mean(values: Sequence[float]) -> Point | None:
    if not values:
        return None
    mean, error = mean_se(values)
    return (mean, None, None) if math.isnan(error) else (mean, mean - 1.96 * error, mean + 1.96 * error)


def _share(values: Sequence[bool]) -> Point | None:
    cell = proportion([float(value) for value in values])
    return (cell["accuracy"], cell["low"], cell["high"]) if values else None
