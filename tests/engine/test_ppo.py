"""PPO's two losses of a micro-batch against their slow definitions, token by token, by an engine that is a table."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from align.engine.ppo import policy_counts, policy_terms, value_counts, value_terms
from align.engine.step import update
from align.records import Batch, PPOBatch
from tests.oracles import losses as slow

B, T, V = 2, 6, 7
TEMPERATURE = 0.7
CLIP = 0.2
# the second row is shorter: prompt of one token, answer of three, two of padding
MASK = torch.tensor([[False, False, True, True, True, True], [False, True, True, True, False, False]])
ANSWER = [(row, at) for row in range(B) for at in range(T) if MASK[row, at]]


class Table:
    """What the module says at each position, the same for any input: [B * T, V] logits, or [B * T] values."""

    def __init__(self, out: Tensor) -> None:
        self.out = out.requires_grad_()
        self.device, self.steps, self.grad_norm, self.lr = torch.device("cpu"), 0, 0.0, 0.0

    def __call__(self, tokens: Tensor, positions: Tensor, segments: Tensor, at: Tensor, stems: Tensor | None) -> Tensor:
        assert stems is None
        assert tokens.shape == positions.shape == segments.shape == (B, T)
        return self.out[at]

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self) -> None:
        self.steps += 1


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def policy() -> Any:
    return Table(2 * numbers(0, B * T, V))


def critic() -> Any:
    return Table(numbers(1, B * T))


def micro() -> PPOBatch:
    """Old log-probs and values such that each side of each clip is met, and so is the inside."""
    tokens = torch.randint(0, V, (B, T), generator=torch.Generator().manual_seed(2))
    segments = torch.ones(B, T, dtype=torch.long)
    segments[1, 4:] = 0
    batch = Batch(tokens, MASK, torch.arange(T).expand(B, T), segments)
    now = torch.tensor([now_logprob(tokens, row, at) for row, at in ANSWER], dtype=torch.float64)
    steps = torch.tensor([0.5, -0.5, 0.5, -0.5, 0.1, -0.1, 0.0], dtype=torch.float64)
    gain = torch.tensor([1.0, 2.0, -1.5, -0.5, 1.0, -1.0, 0.7], dtype=torch.float64)
    values = critic().out.detach()[[row * T + at - 1 for row, at in ANSWER]]
    moved = torch.tensor([1.0, -1.0, 1.0, -1.0, 0.1, -0.1, 0.0], dtype=torch.float64)
    return PPOBatch(batch, now - steps, gain, values - moved, values + 3 * gain * moved.abs() - 0.2)


def row_before(row: int, at: int) -> list[float]:
    """The logits that predict the token at ``at``: those one position before."""
    return policy().out.detach()[row * T + at - 1].tolist()


def now_logprob(tokens: Tensor, row: int, at: int, temperature: float = TEMPERATURE) -> float:
    return slow.token_logprob(row_before(row, at), int(tokens[row, at]), temperature)


def terms(engine: Any, entropy: float = 0.0, temperature: float = TEMPERATURE) -> Any:
    return policy_terms(engine, micro(), clip=CLIP, temperature=temperature, entropy=entropy)


def test_the_micro_batch_meets_every_case() -> None:
    """Both signs of the advantage, each with the ratio above, below and within the clip."""
    made = micro()
    sides = set()
    for n, (row, at) in enumerate(ANSWER):
        ratio = math.exp(now_logprob(made.batch.tokens, row, at) - float(made.logprobs[n]))
        sides.add((bool(made.advantages[n] > 0), (ratio > 1 + CLIP) - (ratio < 1 - CLIP)))
    assert sides == {(gain, side) for gain in (True, False) for side in (-1, 0, 1)}


@pytest.mark.parametrize("temperature", [TEMPERATURE, 1.0, 1.9])
def test_policy_terms_token_by_token(temperature: float) -> None:
    made, found = micro(), terms(policy(), temperature=temperature)
    for n, (row, at) in enumerate(ANSWER):
        now, old = now_logprob(made.batch.tokens, row, at, temperature), float(made.logprobs[n])
        ratio = math.exp(now - old)
        expected = {
            "policy_loss": slow.ppo_policy_loss(now, old, float(made.advantages[n]), CLIP),
            "entropy": slow.entropy(row_before(row, at), temperature),
            "clipped": float(not 1 - CLIP <= ratio <= 1 + CLIP),
            "log_ratio": now - old,
            "gap": abs(now - old),
        }
        assert {name: float(term.values[n].detach()) for name, term in found.items()} == pytest.approx(
            expected, abs=1e-12
        )
    assert all(len(term.values) == len(ANSWER) and term.mask is None for term in found.values())


def test_value_terms_token_by_token() -> None:
    made, engine = micro(), critic()
    out = engine.out.detach()
    found = value_terms(engine, made, clip=CLIP, weight=0.1)
    assert list(found) == ["value_loss"]
    assert found["value_loss"].weight == 0.1
    cases = set()
    for n, (row, at) in enumerate(ANSWER):
        value, old, target = float(out[row * T + at - 1]), float(made.values[n]), float(made.returns[n])
        expected = slow.ppo_value_loss(value, old, target, CLIP)
        assert float(found["value_loss"].values[n].detach()) == pytest.approx(expected, abs=1e-12)
        cases.add((abs(value - old) > CLIP, expected > 0.5 * (value - target) ** 2 + 1e-9))
    assert cases >= {(True, True), (False, False)}, "a clip that decides, and none"


@pytest.mark.parametrize("entropy", [0.0, 0.05])
def test_what_is_trained_and_what_is_only_watched(entropy: float) -> None:
    found = terms(policy(), entropy)
    weights = {"policy_loss": 1.0, "entropy": -entropy, "clipped": 0.0, "log_ratio": 0.0, "gap": 0.0}
    assert {name: term.weight for name, term in found.items()} == weights
    trained = {name for name, term in found.items() if term.values.requires_grad}
    assert trained == ({"policy_loss", "entropy"} if entropy else {"policy_loss"})


@pytest.mark.parametrize("entropy", [0.0, 0.05])
def test_the_gradient_of_an_update_is_that_of_the_slow_loss(entropy: float) -> None:
    """By central differences of the mean of (clipped surrogate - entropy bonus), over every logit."""
    made, engine = micro(), policy()
    result = update(engine, [made], policy_counts, lambda e, m: terms(e, entropy))

    def loss(logits: Tensor) -> float:
        total = 0.0
        for n, (row, at) in enumerate(ANSWER):
            before = logits[row * T + at - 1].tolist()
            now = slow.token_logprob(before, int(made.batch.tokens[row, at]), TEMPERATURE)
            total += slow.ppo_policy_loss(now, float(made.logprobs[n]), float(made.advantages[n]), CLIP)
            total -= entropy * slow.entropy(before, TEMPERATURE)
        return total / len(ANSWER)

    logits, h = engine.out.detach().clone(), 1e-6
    expected = torch.zeros_like(logits)
    for index in range(logits.numel()):
        for sign in (1, -1):
            moved = logits.clone()
            moved.view(-1)[index] += sign * h
            expected.view(-1)[index] += sign * loss(moved) / (2 * h)
    torch.testing.assert_close(engine.out.grad, expected, rtol=0, atol=1e-8)
    assert result.losses["policy_loss"] - entropy * result.losses["entropy"] == pytest.approx(loss(logits), abs=1e-12)
    assert set(result.counts.values()) == {len(ANSWER)}


def test_counts_are_the_answers_tokens() -> None:
    made = micro()
    assert policy_counts(made) == dict.fromkeys(terms(policy()), len(ANSWER))
    assert value_counts(made) == {"value_loss": len(ANSWER)}
