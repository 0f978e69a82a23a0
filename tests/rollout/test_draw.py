"""Drawing against the plain definition in model/sampler.py, by hand and by counting."""

from __future__ import annotations

import math

import pytest
import torch

from align.model.sampler import draw as draw_one
from align.model.sampler import filtered_logprobs
from align.rollout.backend import SamplingConfig
from align.rollout.draw import draw, filtered

SETTINGS = [
    SamplingConfig(max_new_tokens=1),
    SamplingConfig(max_new_tokens=1, temperature=0.6, top_p=0.9),
    SamplingConfig(max_new_tokens=1, temperature=1.3, top_k=5),
    SamplingConfig(max_new_tokens=1, temperature=0.9, top_k=7, top_p=0.5),
    SamplingConfig(max_new_tokens=1, top_k=1),
    SamplingConfig(max_new_tokens=1, top_p=1e-6),
    SamplingConfig(max_new_tokens=1, top_k=1000),
]


@pytest.mark.parametrize("sampling", SETTINGS, ids=str)
def test_draw_equals_the_plain_definition(sampling: SamplingConfig) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(200, 50, generator=generator)
    uniform = torch.rand(200, generator=generator)
    tokens, logprobs = draw(logits, uniform, sampling)
    for row in range(200):
        plain = filtered_logprobs(logits[row], sampling.temperature, sampling.top_p, sampling.top_k)
        assert int(tokens[row]) == draw_one(plain, float(uniform[row]))
        assert float(logprobs[row]) == pytest.approx(float(plain[tokens[row]]), abs=2e-6)


def test_temperature_zero_takes_the_likeliest_and_tells_its_logprob_at_one() -> None:
    logits = torch.tensor([[0.0, math.log(3.0), 0.0]])
    tokens, logprobs = draw(logits, torch.tensor([0.0]), SamplingConfig(max_new_tokens=1, temperature=0))
    assert tokens.tolist() == [1]
    assert logprobs.tolist() == pytest.approx([math.log(0.6)], abs=1e-6)


def test_uniform_walks_the_tokens_in_id_order() -> None:
    logits = torch.tensor([0.25, 0.5, 0.25]).log().expand(6, 3)
    uniform = torch.tensor([0.0, 0.2499, 0.2501, 0.7499, 0.7501, 1 - 2**-24])
    tokens, _ = draw(logits, uniform, SamplingConfig(max_new_tokens=1))
    assert tokens.tolist() == [0, 0, 1, 1, 2, 2]


def test_a_token_of_probability_zero_is_never_drawn() -> None:
    logits = torch.full((2, 40_000), -torch.inf)
    logits[:, 10:20_000] = 0.0
    uniform = torch.tensor([0.0, 1 - 2**-24])
    tokens, logprobs = draw(logits, uniform, SamplingConfig(max_new_tokens=1))
    assert tokens[0] == 10
    assert 19_000 < int(tokens[1]) < 20_000
    assert torch.isfinite(logprobs).all()


def test_nucleus_keeps_the_token_that_crosses_as_meta_does() -> None:
    logits = torch.tensor([[0.1, 0.5, 0.4]]).log()
    kept = filtered(logits, top_k=0, top_p=0.45)
    assert kept[0].tolist() == pytest.approx([0.0, 1.0, 0.0])
    kept = filtered(logits, top_k=0, top_p=0.6)
    assert kept[0].tolist() == pytest.approx([0.0, 5 / 9, 4 / 9], abs=1e-6)


def test_equal_logits_are_kept_in_id_order() -> None:
    kept = filtered(torch.zeros(1, 5), top_k=2, top_p=1.0)
    assert kept[0].tolist() == [0.5, 0.5, 0.0, 0.0, 0.0]
