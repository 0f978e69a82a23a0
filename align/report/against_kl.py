"""Scores of policies against their KL to the reference: where a reward model is over-optimised.

Along a training run the reward that it maximises goes on rising while what is really wanted turns and falls (Gao et
al. 2023, arXiv 2210.10760, figure 1). An evaluation whose recipe names policies in the order of training
(``against_kl``) is drawn so: the reward models' score, and what the judge says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from align.artifacts import Manifest
from align.report.summary import percent, plus_minus
from align.report.tables import Cell, Table

KL = "KL, nats an answer"
MEANS = {"reward": "reward, logits", "helpful": "helpful"}  # of the manifest's measures, what is drawn
UNSAFE = "unsafe answers"


def against_kl(manifest: Manifest) -> tuple[list[Table], list[dict[str, Any]]]:
    """The table and the figures (as :mod:`align.report.given` reads them), none where the recipe names no runs.

    Args:
        manifest: of an evaluation.
    """
    runs: Mapping[str, Sequence[str]] = manifest.recipe.get("against_kl") or {}
    if not runs:
        return [], []
    measured: Mapping[str, Any] = manifest.metrics["policies"]
    drawn = [policy for policies in runs.values() for policy in policies]
    known = {name: label for name, label in MEANS.items() if all(name in measured[policy] for policy in drawn)}
    judged = "helpful" in known  # who says how helpful says how safe
    columns = ("run", "policy", KL, *known.values(), *([UNSAFE] if judged else []))
    rows: list[list[Cell]] = []
    for run, policies in runs.items():
        for policy in policies:
            told = measured[policy]
            row: list[Cell] = [run, policy, plus_minus(told["kl"], 2), *(plus_minus(told[name], 3) for name in known)]
            rows.append([*row, percent(told["unsafe"]["share"])] if judged else row)
    figures = [_figure(name, label, runs, measured) for name, label in known.items()]
    return [Table("Along training: scores against KL (± standard error)", columns, rows)], figures


def _figure(name: str, label: str, runs: Mapping[str, Sequence[str]], measured: Mapping[str, Any]) -> dict[str, Any]:
    series = []
    for run, policies in runs.items():
        cells = [(measured[policy]["kl"]["mean"], measured[policy][name]) for policy in policies]
        series.append({
            "name": run,
            "points": [[kl, cell["mean"]] for kl, cell in cells],
            "low": [_end(cell, -1.96) for _, cell in cells],
            "high": [_end(cell, 1.96) for _, cell in cells],
        })  # fmt: skip
    title = f"{label.split(',')[0].capitalize()} against KL, along training"
    return {"name": f"against-kl-{name}", "title": title, "x": KL, "y": label, "series": series}


def _end(cell: Mapping[str, float | None], times: float) -> float | None:
    """An end of a mean's interval; a single value has none."""
    mean, error = cell["mean"], cell["se"]
    return None if mean is None or error is None else mean + times * error
