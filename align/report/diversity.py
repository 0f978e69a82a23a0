"""Self-BLEU against temperature as a table: the ends of each policy's curve, and its slope."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from align.artifacts import Manifest
from align.report.tables import Cell, Table

BETWEEN = 1.0  # shown beside the ends where it was sampled


def self_bleu(manifest: Manifest) -> Table | None:
    """One row a set of prompts and policy, of an artifact of stage ``temperature``."""
    curves = manifest.metrics.get("curves") or []
    if not curves:
        return None
    grid = [point["temperature"] for point in curves[0]["points"]]
    shown = sorted({grid[0], grid[-1]} | ({BETWEEN} & set(grid)))
    rows: list[list[Cell]] = []
    for curve in curves:
        at = {point["temperature"]: point for point in curve["points"]}
        cells = [_plus_minus(at[temperature]) for temperature in shown]
        rows.append([curve["prompts"], curve["policy"], *cells, _plus_minus(curve["slope"])])
    columns = ["prompts", "policy", *(f"T = {temperature:g}" for temperature in shown), "slope a unit of T"]
    count = manifest.recipe.get("samples", "several")
    return Table(f"Self-BLEU of {count} answers a prompt (± standard error over prompts)", columns, rows)


def _plus_minus(cell: Mapping[str, Any]) -> str:
    if cell["mean"] is None:
        return "–"
    return f"{cell['mean']:.1f} ± {'–' if cell['se'] is None else format(cell['se'], '.1f')}"
