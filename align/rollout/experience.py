"""Rollouts and scores -> what PPO learns from: rewards, advantages and returns for every answer token.

Tables are [R, A]: R answers, A tokens of the longest one, left-aligned, ``mask`` True on real tokens. Prompts are
not in them; :func:`answer_batch` joins prompt and answer for a forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from align.data.batches import predictors
from align.losses import gae, kl_k1, token_logprobs, token_rewards, unit_variance, whiten
from align.records import Batch, PPOBatch

Tokens = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Experience:
    """What one PPO iteration learns from."""

    prompts: list[tuple[int, ...]]
    answers: list[tuple[int, ...]]
    mask: Tensor  # [R, A] bool
    logprobs: Tensor  # [R, A] nats, under the policy that answered, at the sampling temperature
    ref_logprobs: Tensor  # [R, A] nats, under the frozen reference, at the same temperature
    values: Tensor  # [R, A] the critic's before the update; entry t sees everything before token t
    rewards: Tensor  # [R, A] -beta * kl on each token, the score added on the last
    advantages: Tensor  # [R, A] whitened over all counted tokens
    returns: Tensor  # [R, A]


def build(
    prompts: list[tuple[int, ...]],
    answers: list[tuple[int, ...]],
    *,
    logprobs: Tensor,
    ref_logprobs: Tensor,
    values: Tensor,
    scores: Tensor,
    beta: float,
    gamma: float,
    lam: float,
) -> Experience:
    """Rewards, advantages and returns of an iteration (paper section 3.2.3; GAE, Schulman et al. 2016).

    Args:
        prompts: R prompts.
        answers: R answers, none empty.
        logprobs: [R, A] nats.
        ref_logprobs: [R, A] nats.
        values: [R, A].
        scores: [R], scaled.
        beta: weight of the KL penalty.
        gamma: discount.
        lam: GAE's lambda.
    """
    mask = answer_mask(answers)
    rewards = token_rewards(scores, kl_k1(logprobs, ref_logprobs), mask, beta)
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    return Experience(
        prompts=prompts,
        answers=answers,
        mask=mask,
        logprobs=logprobs,
        ref_logprobs=ref_logprobs,
        values=values,
        rewards=rewards,
        advantages=whiten(advantages, mask),
        returns=returns,
    )


def select(experience: Experience, rows: Sequence[int]) -> PPOBatch:
    """The experience of some answers as one padded batch."""
    index = list(rows)
    mask = experience.mask[index]
    return PPOBatch(
        batch=answer_batch([experience.prompts[r] for r in index], [experience.answers[r] for r in index]),
        logprobs=experience.logprobs[index][mask],
        advantages=experience.advantages[index][mask],
        values=experience.values[index][mask],
        returns=experience.returns[index][mask],
    )


def scaled_scores(
    scores: Tensor, finished: Tensor, safety: Tensor, *, how: str, clip: float | None, no_eos: float | None
) -> Tensor:
    """An iteration's combined scores, made comparable with the KL penalty.

    Args:
        scores: [R] logits.
        finished: [R] bool, the answer reached its EOS.
        safety: [R] bool, the prompt is one of safety.
        how: ``whiten`` (paper section 3.2.3), ``whiten_by_kind`` (safety prompts' scores and the others' each among
            themselves: where one model's logits are much the larger, the other's would hardly count), ``unit_variance``
            (mean kept) or ``none``.
        clip: bound on the absolute scaled score.
        no_eos: what an answer without EOS gets instead, after scaling.
    """
    every = torch.ones_like(scores, dtype=torch.bool)
    if how == "whiten":
        scores = whiten(scores, every)
    elif how == "whiten_by_kind":
        scores = sum((whiten(scores, kind) for kind in (safety, ~safety) if kind.any()), torch.zeros_like(scores))
    elif how == "unit_variance":
        scores = unit_variance(scores, every)
    if clip is not None:
        scores = scores.clamp(-clip, clip)
    if no_eos is not None:
        scores = torch.where(finished, scores, torch.full_like(scores, no_eos))
    return scores


def answer_mask(answers: Tokens) -> Tensor:
    """[R, A] bool, True on each answer's tokens: by length, never by token id."""
    lengths = torch.tensor([len(answer) for answer in answers])
    return torch.arange(int(lengths.max()))[None, :] < lengths[:, None]


def table(lists: Sequence[Sequence[float]]) -> Tensor:
    """Ragged per-token values as [R, A] float32, zero on padding."""
    mask = answer_mask(lists)  # type: ignore[arg-type]  # lengths only
    filled = torch.zeros(mask.shape)
    filled[mask] = torch.from_numpy(np.concatenate([np.asarray(values, dtype=np.float32) for values in lists]))
    return filled


def answer_batch(prompts: Tokens, answers: Tokens) -> Batch:
    """Prompt and answer of each row joined, right-padded; the mask is True on the answers' tokens."""
    width = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
    tokens = np.zeros((len(prompts), width), dtype=np.int64)
    mask = np.zeros(tokens.shape, dtype=np.bool_)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        start, end = len(prompt), len(prompt) + len(answer)
        tokens[row, :start], tokens[row, start:end] = prompt, answer
        mask[row, start:end] = True
    positions = np.broadcast_to(np.arange(width), tokens.shape).copy()
    return Batch(torch.from_numpy(tokens), torch.from_numpy(mask), torch.from_numpy(positions), None)


def groups(prompts: Tokens, answers: Tokens, batch_tokens: int) -> Iterator[list[int]]:
    """Row numbers of similar length, each group at most ``batch_tokens`` padded tokens."""
    lengths = [len(p) + len(a) for p, a in zip(prompts, answers, strict=True)]
    queue = sorted(range(len(lengths)), key=lambda row: lengths[row])
    start = 0
    while start < len(queue):
        end = start + 1
        while end < len(queue) and lengths[queue[end]] * (end - start + 1) <= batch_tokens:
            end += 1
        yield queue[start:end]
        start = end


@torch.no_grad()
def over_answers(read: Callable[[Batch], Tensor], prompts: Tokens, answers: Tokens, batch_tokens: int) -> Tensor:
    """A reading of every answer token, [R, A] float32, zero on padding.

    Args:
        read: batch -> [N] readings of its counted tokens, row by row.
        prompts: R prompts.
        answers: R answers.
        batch_tokens: size of a forward pass, tokens.
    """
    mask = answer_mask(answers)
    filled = torch.zeros(mask.shape)
    for rows in groups(prompts, answers, batch_tokens):
        batch = answer_batch([prompts[r] for r in rows], [answers[r] for r in rows])
        part = torch.zeros(len(rows), mask.shape[1])
        part[mask[rows]] = read(batch).float()
        filled[rows] = part
    return filled


def logprob_reader(policy: Callable[..., Tensor], temperature: float) -> Callable[[Batch], Tensor]:
    """Reads the counted tokens' log-probabilities, nats, at the sampling temperature."""

    def read(batch: Batch) -> Tensor:
        logits = policy(batch.tokens, batch.positions, batch.segments, at=predictors(batch.mask))
        return token_logprobs(logits[None], batch.tokens[batch.mask][None], temperature)[0]

    return read


def value_reader(critic: Callable[..., Tensor]) -> Callable[[Batch], Tensor]:
    """Reads the critic's value of the state before each counted token."""

    def read(batch: Batch) -> Tensor:
        return critic(batch.tokens, batch.positions, batch.segments, at=predictors(batch.mask))

    return read
