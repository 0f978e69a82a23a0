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
from align.data.branches import Tokens, Tree, collate, plant
from align.data.pack import NARROW, bins, pad
from align.losses import gae, kl_k1, token_logprobs, token_rewards, unit_variance, whiten
from align.records import Batch, PPOBatch, Row

Packs = Sequence[Sequence[Tree]]  # rows of a batch, each with the answers in it


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


def select(experience: Experience, packs: Packs) -> PPOBatch:
    """The experience of some answers as one batch of packed rows, its tables in the order of the rows."""
    index = rows_of(packs)
    mask = experience.mask[index]
    return PPOBatch(
        batch=answer_batch(experience.prompts, experience.answers, packs),
        logprobs=experience.logprobs[index][mask],
        advantages=experience.advantages[index][mask],
        values=experience.values[index][mask],
        returns=experience.returns[index][mask],
    )


def scaled_scores(
    scores: Tensor,
    finished: Tensor,
    safety: Tensor,
    *,
    how: str,
    clip: float | None,
    no_eos: float | None,
    samples: int = 1,
) -> Tensor:
    """An iteration's combined scores, made comparable with the KL penalty.

    Args:
        scores: [R] logits.
        finished: [R] bool, the answer reached its EOS.
        safety: [R] bool, the prompt is one of safety.
        how: ``whiten`` (paper section 3.2.3), ``whiten_by_kind`` (safety prompts' scores and the others' each among
            themselves: where one model's logits are much the larger, the other's would hardly count),
            ``whiten_by_prompt`` (each score less the mean of the prompt's other answers, then whitened: a ranking loss
            leaves a model's level free from prompt to prompt), ``unit_variance`` (mean kept) or ``none``.
        clip: bound on the absolute scaled score.
        no_eos: what an answer without EOS gets instead, after scaling.
        samples: answers of each prompt, which stand side by side.
    """
    every = torch.ones_like(scores, dtype=torch.bool)
    if how == "whiten":
        scores = whiten(scores, every)
    elif how == "whiten_by_kind":
        scores = sum((whiten(scores, kind) for kind in (safety, ~safety) if kind.any()), torch.zeros_like(scores))
    elif how == "whiten_by_prompt":
        beside = scores.view(-1, samples)
        others = (beside.sum(1, keepdim=True) - beside) / (samples - 1)
        scores = whiten((beside - others).flatten(), every)
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


def answer_batch(prompts: Tokens, answers: Tokens, packs: Packs) -> Batch:
    """Prompt and answer joined, packed as told; the mask is True on the answers' tokens."""
    if all(len(pack) == len(pack[0].rows) == 1 for pack in packs):
        return pad([_joined(prompts[row], answers[row]) for row in rows_of(packs)])
    return collate(prompts, answers, packs)


def rows_of(packs: Packs) -> list[int]:
    """The numbers of the answers in a batch's order."""
    return [row for pack in packs for tree in pack for row in tree.rows]


def groups(
    prompts: Tokens, answers: Tokens, batch_tokens: int, rows: Sequence[int] | None = None, widest: int = NARROW
) -> Iterator[Packs]:
    """Answers in packed rows, those to one prompt behind it as a tree, trees of similar length together.

    A row is as long as the longest of its group, or NARROW where all are shorter: lengths differ much and answers are
    short, so that one to a row would be padding mostly.

    Args:
        prompts: R prompts.
        answers: R answers.
        batch_tokens: size of a forward pass; one answer that is longer gets one of its own.
        rows: those to group; None: all.
        widest: tokens of a row that holds several answers; no more than the model's context.
    """
    wanted = range(len(prompts)) if rows is None else rows
    queue = sorted(plant(prompts, answers, wanted, batch_tokens), key=lambda tree: tree.size)
    while queue:
        total, count = 0, 0
        while count < len(queue) and (total + queue[count].size <= batch_tokens or not count):
            total += queue[count].size
            count += 1
        while True:
            sizes = [tree.size for tree in queue[:count]]
            packs = bins(sizes, max(sizes[-1], min(widest, batch_tokens)))
            width = max(sum(sizes[index] for index in pack) for pack in packs)
            if width * len(packs) <= batch_tokens or count == 1:
                break
            count -= max(1, count // 16)  # what the rows' ends leave free did not fit
        yield [[queue[index] for index in pack] for pack in packs]
        queue = queue[count:]


def _joined(prompt: Sequence[int], answer: Sequence[int]) -> Row:
    size = len(prompt) + len(answer)
    return Row(np.array([*prompt, *answer], dtype=np.int32), np.arange(size) >= len(prompt))


def moved(batch: Batch, device: torch.device | str) -> Batch:
    """The batch on a device."""
    segments, stems = (None if part is None else part.to(device) for part in (batch.segments, batch.stems))
    return Batch(batch.tokens.to(device), batch.mask.to(device), batch.positions.to(device), segments, stems)


@torch.no_grad()
def over_answers(
    read: Callable[[Batch], Tensor],
    prompts: Tokens,
    answers: Tokens,
    batch_tokens: int,
    device: torch.device | str = "cpu",
    widest: int = NARROW,
) -> Tensor:
    """A reading of every answer token, [R, A] float32 on the CPU, zero on padding.

    Args:
        read: batch -> [N] readings of its counted tokens, row by row.
        prompts: R prompts.
        answers: R answers.
        batch_tokens: size of a forward pass, tokens.
        device: that ``read`` wants its batches on.
        widest: see :func:`groups`.
    """
    mask = answer_mask(answers)
    filled = torch.zeros(mask.shape)
    for packs in groups(prompts, answers, batch_tokens, widest=widest):
        rows = rows_of(packs)
        part = torch.zeros(len(rows), mask.shape[1])
        part[mask[rows]] = read(moved(answer_batch(prompts, answers, packs), device)).float().cpu()
        filled[rows] = part
    return filled


def logprob_reader(policy: Callable[..., Tensor], temperature: float) -> Callable[[Batch], Tensor]:
    """Reads the counted tokens' log-probabilities, nats, at the sampling temperature."""

    def read(batch: Batch) -> Tensor:
        logits = policy(batch.tokens, batch.positions, batch.segments, at=predictors(batch.mask), stems=batch.stems)
        return token_logprobs(logits[None], batch.tokens[batch.mask][None], temperature)[0]

    return read


def value_reader(critic: Callable[..., Tensor]) -> Callable[[Batch], Tensor]:
    """Reads the critic's value of the state before each counted token."""

    def read(batch: Batch) -> Tensor:
        return critic(batch.tokens, batch.positions, batch.segments, at=predictors(batch.mask), stems=batch.stems)

    return read
