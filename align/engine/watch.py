"""How a reward model in training agrees with held-out pairs, and the curve of that over the epochs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from align.engine import dist
from align.records import PairBatch

if TYPE_CHECKING:
    from align.engine.zero import Engine

PREFIX = "held_out/"


def look(engine: Engine, batches: Sequence[PairBatch]) -> dict[str, float]:
    """Accuracy and loss on held-out pairs, of the weights as they are. Every process calls it with the same batches.

    Args:
        engine: a scorer's.
        batches: at least one, which the processes share out.

    Returns:
        ``accuracy``: share of pairs whose chosen answer scores higher, an equal score counts half; ``loss``: mean of
        ``-log sigmoid(chosen - rejected)``, without margins, nats. A model that knows nothing has 0.5 and log 2.
    """
    import torch

    from align.engine.step import to_device
    from align.losses import ranking_loss

    sums = {"accuracy": 0.0, "loss": 0.0, "pairs": 0.0}
    rank, world = dist.rank(), dist.world_size()
    for start in range(0, len(batches), world):
        # with split weights every forward is a collective: a process that has no batch left runs the last one again
        micro = to_device(batches[min(start + rank, len(batches) - 1)], engine.device)
        batch = micro.batch
        with torch.no_grad():
            scores = engine(batch.tokens, batch.positions, batch.segments, at=micro.ends, stems=batch.stems)
            chosen, rejected = scores.chunk(2)
            losses = ranking_loss(chosen, rejected, torch.zeros_like(micro.margin))
        if start + rank < len(batches):
            sums["accuracy"] += float((chosen > rejected).sum() + 0.5 * (chosen == rejected).sum())
            sums["loss"] += float(losses.sum())
            sums["pairs"] += len(losses)
    total = dist.sum_numbers(sums)
    return {name: total[name] / total["pairs"] for name in ("accuracy", "loss")}


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
