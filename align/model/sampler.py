"""Plain generation, one sequence at a time, nothing cached: the definition rollout engines must equal."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from align.model.llama import Llama
from align.model.randomness import uniform
from align.records import Rollout


@torch.no_grad()
def generate(
    model: Llama,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    top_p: float = 1.0,
    top_k: int = 0,
    eos: int | Sequence[int] = 2,
    stop: Sequence[Sequence[int]] = (),
    seed: int = 0,
    step: int = 0,
    samples: int = 1,
) -> list[Rollout]:
    """Answers to encoded prompts.

    Args:
        model: the policy.
        prompts: token ids; row i is prompt i.
        max_new_tokens: at most so many tokens an answer.
        temperature: logits are divided by it; 0 takes the likeliest token.
        top_p: keep the likeliest tokens until their mass exceeds it (Meta's rule), 1 keeps all.
        top_k: keep so many of the likeliest, 0 keeps all.
        eos: tokens that end an answer; the one reached belongs to the answer.
        stop: sequences of tokens that end an answer likewise.
        seed: with step, the indices of prompt and sample, and the token's position, the address of each draw.
        step: see seed.
        samples: answers a prompt.

    Returns:
        ``samples`` answers of each prompt, in order; log-probs under what was drawn from (at T = 0: T = 1).
    """
    endings = [(token,) for token in ([eos] if isinstance(eos, int) else eos)] + [tuple(ending) for ending in stop]
    device = next(model.parameters()).device
    rollouts = []
    for index, prompt in enumerate(prompts):
        for sample in range(samples):
            tokens = list(prompt)
            logprobs: list[float] = []
            room = min(max_new_tokens, model.config.max_seq_len - len(prompt))
            answer: tuple[int, ...] = ()
            stopped = False
            while len(logprobs) < room and not stopped:
                logits = model(torch.tensor([tokens], device=device))[0, -1]
                logprob = filtered_logprobs(logits, temperature, top_p, top_k)
                if temperature == 0:
                    token = int(logits.argmax())
                else:
                    token = draw(logprob, uniform(seed, step, index, sample, len(tokens)))
                tokens.append(token)
                logprobs.append(float(logprob[token]))
                answer = tuple(tokens[len(prompt) :])
                stopped = any(answer[-len(ending) :] == ending for ending in endings)
            rollouts.append(
                Rollout(index, sample, answer, tuple(logprobs), "stop" if stopped else "length", version="0")
            )
    return rollouts


def filtered_logprobs(logits: Tensor, temperature: float, top_p: float = 1.0, top_k: int = 0) -> Tensor:
    """Log-probabilities [V] fp32 to draw from: temperature, then top-k, then top-p; -inf where cut."""
    logprob = (logits.float() / (temperature or 1.0)).log_softmax(-1)
    if top_k and top_k < logprob.numel():
        kept = logprob.argsort(descending=True, stable=True)[:top_k]
        logprob = torch.full_like(logprob, float("-inf")).index_copy(0, kept, logprob[kept]).log_softmax(-1)
    if top_p < 1.0:
        order = logprob.argsort(descending=True, stable=True)
        p = logprob[order].exp()
        cut = order[p.cumsum(0) - p > top_p]
        logprob = logprob.index_fill(0, cut, float("-inf")).log_softmax(-1)
    return logprob


def draw(logprob: Tensor, u: float) -> int:
    """Inverse CDF in token-id order: the first token whose cumulated probability exceeds u × the whole.

    u of the sum as it was cumulated, not of 1: rounding cannot reach past the last possible token.
    """
    cumulated = logprob.exp().cumsum(0)
    return int(torch.searchsorted(cumulated, cumulated[-1] * u, right=True))
