"""What a micro-batch contributes to PPO's two losses: the clipped policy loss and the clipped value loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from align.records import PPOBatch

if TYPE_CHECKING:
    from align.engine.step import Term
    from align.engine.zero import Engine


def policy_counts(micro: PPOBatch) -> dict[str, int]:
    """Answer tokens of a micro-batch, for each term of :func:`policy_terms`."""
    return dict.fromkeys(("policy_loss", "entropy", "clipped", "log_ratio", "gap"), len(micro.logprobs))


def policy_terms(
    engine: Engine, micro: PPOBatch, *, clip: float, temperature: float, entropy: float
) -> dict[str, Term]:
    """The clipped surrogate (Schulman et al. 2017, equation 7) per token, with what is watched beside it.

    Args:
        engine: the policy.
        micro: N answer tokens.
        clip: of the probability ratio.
        temperature: of the rollouts; the policy's logits are divided by it here too.
        entropy: weight of the entropy bonus, 0 for none.
    """
    import torch

    from align.data.batches import predictors
    from align.engine.step import Term
    from align.losses import entropy as entropy_of
    from align.losses import ppo_policy_loss, token_logprobs

    batch = micro.batch
    logits = engine(batch.tokens, batch.positions, batch.segments, at=predictors(batch.mask), stems=batch.stems)
    logprobs = token_logprobs(logits[None], batch.tokens[batch.mask][None], temperature)
    loss = ppo_policy_loss(logprobs, micro.logprobs[None], micro.advantages[None], clip)[0]
    with torch.set_grad_enabled(entropy > 0):
        spread = entropy_of(logits[None], temperature)[0]
    with torch.no_grad():
        log_ratio = logprobs[0] - micro.logprobs
        clipped = ((log_ratio.exp() - 1).abs() > clip).float()
    return {
        "policy_loss": Term(loss, None),
        "entropy": Term(spread, None, weight=-entropy),
        "clipped": Term(clipped, None, weight=0.0),
        "log_ratio": Term(log_ratio, None, weight=0.0),
        "gap": Term(log_ratio.abs(), None, weight=0.0),
    }


def value_counts(micro: PPOBatch) -> dict[str, int]:
    """Answer tokens of a micro-batch."""
    return {"value_loss": len(micro.returns)}


def value_terms(engine: Engine, micro: PPOBatch, *, clip: float, weight: float) -> dict[str, Term]:
    """The clipped value loss per token.

    Args:
        engine: the critic.
        micro: N answer tokens.
        clip: how far a value may move from the one before the update.
        weight: of the loss.
    """
    from align.data.batches import predictors
    from align.engine.step import Term
    from align.losses import ppo_value_loss

    batch = micro.batch
    values = engine(batch.tokens, batch.positions, batch.segments, at=predictors(batch.mask), stems=batch.stems)
    loss = ppo_value_loss(values[None], micro.values[None], micro.returns[None], clip)[0]
    return {"value_loss": Term(loss, None, weight=weight)}
