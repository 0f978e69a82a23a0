"""When to stop rather than train on, and why."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from align.stages.ppo.recipe import Recipe


def broken(recipe: Recipe, seen: Mapping[str, float]) -> str | None:
    """The first bound that an iteration broke, as a sentence; None: all is well.

    Args:
        recipe: the bounds, under ``ppo``.
        seen: what was measured so far; what is not there breaks nothing.
    """
    ppo = recipe.ppo
    for name, value in seen.items():
        if not math.isfinite(value):
            return f"{name} is {value}; {_origin(name)}"
    kl, gap = seen.get("kl/answer", 0.0), seen.get("gap", 0.0)
    length = seen.get("answer/tokens", math.inf)
    if kl < -ppo.max_negative_kl:
        return (
            f"KL to the reference is {kl:.3g} nats an answer, the bound is -{ppo.max_negative_kl} "
            "(ppo.max_negative_kl): no KL is below 0, so the log-probs are of another distribution than the answers: "
            "filtered sampling, another temperature, or weights that are not the policy's"
        )
    if kl > ppo.max_kl:
        return (
            f"KL to the reference is {kl:.3g} nats an answer, the bound is {ppo.max_kl} (ppo.max_kl); "
            "raise ppo.beta or lower optim.lr"
        )
    if length < ppo.min_length:
        return (
            f"answers have {length:.3g} tokens on average, the bound is {ppo.min_length} (ppo.min_length): "
            "they have collapsed; raise ppo.beta, or see what the reward models say of short answers"
        )
    # one step ahead the policy that answered is not the one that trains: its distance is no sampler's mistake
    if gap > ppo.max_gap and not recipe.ahead:
        return (
            f"rollout and trainer log-probs differ by {gap:.3g} nats a token, the bound is {ppo.max_gap} "
            "(ppo.max_gap): the sampler does not run the trainer's weights, temperature or tokens"
        )
    return None


def _origin(name: str) -> str:
    part = name.partition("/")[0]
    return {
        "reward": "a reward model gave it",
        "kl": "the policy's or the reference's log-probs are broken",
        "value": "the critic gave it",
    }.get(part, "the update before it went wrong; lower optim.lr or critic_optim.lr")
