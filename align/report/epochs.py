"""Reward models over their epochs: training beside held-out, where over-fitting shows."""

from __future__ import annotations

from collections.abc import Mapping

from align.artifacts import Manifest
from align.report.tables import Table

CURVE = "held_out_curve"


def over_epochs(rewards: Mapping[str, Manifest]) -> Table | None:
    """One row a model and look at its held-out sets: accuracy, and loss in nats a pair, without margins.

    Args:
        rewards: manifests of reward models, by name.

    Returns:
        None where none was looked at while it learnt (``measure_every``).
    """
    curves = {name: manifest.metrics[CURVE] for name, manifest in rewards.items() if manifest.metrics.get(CURVE)}
    if not curves:
        return None
    sets = list(dict.fromkeys(held for points in curves.values() for point in points for held in point["held_out"]))
    rows = [
        [name, f"{point['epoch']:.2f}", _cell(point["train"]), *(_cell(point["held_out"].get(held)) for held in sets)]
        for name, points in curves.items()
        for point in points
    ]
    columns = ["reward model", "epoch", "training since the row above", *sets]
    return Table("Reward models while they learn: accuracy, % (loss, nats)", columns, rows)


def _cell(seen: Mapping[str, float] | None) -> str:
    return "–" if seen is None else f"{100 * seen['accuracy']:.1f} ({seen['loss']:.3f})"
