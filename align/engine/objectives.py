"""What a micro-batch of language modelling contributes to an update: shared by pretraining, SFT and PPO-ptx."""

from __future__ import annotations

from typing import TYPE_CHECKING

from align.records import Batch

if TYPE_CHECKING:
    from align.engine.step import Term
    from align.engine.zero import Engine


def lm_counts(batch: Batch) -> dict[str, int]:
    """Counted tokens of a micro-batch."""
    count = int(batch.mask.sum())
    return {"loss": count, "accuracy": count}


def lm_terms(engine: Engine, batch: Batch) -> dict[str, Term]:
    """Cross-entropy of the counted tokens, nats; the language head runs on the positions that predict them only,
    and in chunks.
    """
    from align.data.batches import predictors
    from align.engine.step import Term

    logprobs, right = engine(
        batch.tokens, batch.positions, batch.segments,
        at=predictors(batch.mask), targets=batch.tokens[batch.mask],
    )  # fmt: skip
    return {"loss": Term(-logprobs), "accuracy": Term(right.float(), None, weight=0.0)}
