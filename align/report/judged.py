"""The reward models of a run side by side, from the report that each of them brings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from align.errors import ArtifactError
from align.report.summary import interval, percent
from align.report.tables import Cell, Table

REPORT = "report.json"


def judged(folders: Sequence[Path]) -> Table | None:
    """One row a reward model and held-out set: what accuracy alone does not tell.

    Args:
        folders: of reward models.

    Returns:
        None where none of them brings a report.

    Raises:
        ArtifactError: a report that is not JSON.
    """
    rows: list[list[Cell]] = []
    for folder in folders:
        path = folder / REPORT
        if not path.is_file():
            continue
        try:
            sets = json.loads(path.read_text(encoding="utf-8"))["sets"]
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{path}: expected the report of a reward model: {error!r}") from error
        for held, told in sets.items():
            unsafe, length = told["safety"]["unsafe"], told["length"]
            mixed = told["safety"]["bins"][0]
            rank = length["pairs"]["spearman"]["r"]
            rows.append(
                [
                    folder.name, held, interval(length["model"]), interval(length["baseline"]),
                    "–" if rank is None else f"{rank:+.3f}", f"{told['calibration']['ece']:.3f}", interval(mixed),
                    interval(unsafe["recall"]), percent(unsafe["precision"]["accuracy"]),
                ]
            )  # fmt: skip
    if not rows:
        return None
    columns = (
        "reward model", "held-out set", "accuracy", "longer answer", "rank correlation with length", "ECE",
        "safe over unsafe", "unsafe recall at 0.5", "precision",
    )  # fmt: skip
    return Table("Reward models beside length, calibration and safety labels, % (95 % interval)", columns, rows)
