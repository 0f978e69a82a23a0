"""How a reward model in training agrees with held-out pairs, and the curve of that over the epochs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from align.rollout.scorer import score_rows

if TYPE_CHECKING:
    from align.data.preference import PairRow
    from align.model.heads import Scorer

PREFIX = "held_out/"


def look(scorer: Scorer, pairs: Sequence[PairRow]) -> dict[str, float]:
    """Accuracy and loss on held-out pairs.

    Args:
        scorer: a reward model.
        pairs: at least one.

    Returns:
        ``accuracy``: share of pairs whose chosen answer scores higher, an equal score counts half; ``loss``: mean of
        ``-log sigmoid(chosen - rejected)``, without margins, nats. A model that knows nothing has 0.5 and log 2.
    """
    scores = score_rows(scorer, [row.tokens.tolist() for pair in pairs for row in (pair.chosen, pair.rejected)])
    gaps = [chosen - rejected for chosen, rejected in zip(scores[::2], scores[1::2], strict=True)]
    return {
        "accuracy": fmean(0.5 if gap == 0 else float(gap > 0) for gap in gaps),
        # log(1 + exp(-gap)), whichever sign it has
        "loss": fmean(max(-gap, 0.0) + math.log1p(math.exp(-abs(gap))) for gap in gaps),
    }


def curve(logged: Iterable[Mapping[str, Any]], epoch: float) -> list[dict[str, Any]]:
    """Training beside held-out, point by point: where they part, the model over-fits.

    Args:
        logged: rows of ``metrics.jsonl`` in order, some with ``held_out/SET/accuracy`` and ``held_out/SET/loss``.
        epoch: the share of an epoch that an update is.

    Returns:
        A point for each such row: ``epoch``, ``train`` (means over the updates since the point before: loss with
        margins, accuracy) and each set's accuracy and loss.
    """
    points: list[dict[str, Any]] = []
    since: list[Mapping[str, Any]] = []
    for row in logged:
        since.append(row)
        sets: dict[str, dict[str, float]] = {}
        for key, value in row.items():
            if key.startswith(PREFIX):
                name, _, what = key.removeprefix(PREFIX).rpartition("/")
                sets.setdefault(name, {})[what] = value
        if sets:
            train = {name: fmean(one[name] for one in since) for name in ("loss", "accuracy")}
            points.append({"epoch": (row["step"] + 1) * epoch, "train": train, "held_out": sets})
            since = []
    return points
