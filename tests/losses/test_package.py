from __future__ import annotations

import doctest
import inspect

import align.losses


def test_the_example_in_the_docstring_runs_as_printed() -> None:
    result = doctest.testmod(align.losses)
    assert result.attempted > 15
    assert result.failed == 0


def test_the_names_and_arguments_are_the_published_ones() -> None:
    published = {
        "token_logprobs": ["logits", "tokens", "temperature"],
        "entropy": ["logits", "temperature"],
        "sft_loss": ["logits", "tokens", "mask"],
        "ranking_loss": ["chosen", "rejected", "margin"],
        "kwise_ranking_loss": ["scores", "rank"],
        "safety_loss": ["scores", "is_safe"],
        "kl_k1": ["logprobs", "ref_logprobs"],
        "kl_k3": ["logprobs", "ref_logprobs"],
        "combine_rewards": ["helpful", "safety", "is_safety_prompt", "threshold"],
        "whiten": ["x", "mask"],
        "unit_variance": ["x", "mask"],
        "token_rewards": ["score", "kl", "mask", "beta"],
        "gae": ["rewards", "values", "mask", "gamma", "lam"],
        "ppo_policy_loss": ["logprobs", "old_logprobs", "advantages", "clip"],
        "ppo_value_loss": ["values", "old_values", "returns", "clip"],
    }
    for name, arguments in published.items():
        found = list(inspect.signature(getattr(align.losses, name)).parameters)
        assert found[: len(arguments)] == arguments, name
    assert set(published) <= set(align.losses.__all__)
