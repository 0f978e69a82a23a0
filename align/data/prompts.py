"""Prompts -> encoded prompts -> requests for a sampler."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from align.data.fit import Overlong, fit
from align.data.template import assemble_prompt, check_messages, encode_prompt, encode_texts
from align.records import Prompt, Request

if TYPE_CHECKING:
    from align.data.tokenizer import Tokenizer


def encode_prompts(tokenizer: Tokenizer, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Token ids of each prompt, in order; every different turn is encoded once.

    Raises:
        TemplateError: a prompt that the format refuses, named by its id.
    """
    for prompt in prompts:
        check_messages(prompt.messages, f"prompt {prompt.id}", ends="user")
    encoded = encode_texts(tokenizer, (prompt.messages for prompt in prompts))
    return [assemble_prompt(tokenizer, prompt.messages, encoded) for prompt in prompts]


def fit_prompts(
    tokenizer: Tokenizer, prompts: Sequence[Prompt], max_len: int, overlong: Overlong
) -> tuple[list[Prompt], dict[str, int]]:
    """Prompts that leave room for an answer.

    Args:
        tokenizer: of the policy.
        prompts: to be answered.
        max_len: tokens of a prompt at most: the context less ``max_new_tokens``.
        overlong: a longer one is an ``error``, ``cut`` at a turn from the left, or ``skip``-ped.

    Returns:
        The prompts kept, and counts: prompts, kept, cut, skipped.

    Raises:
        DataError: a prompt that is too long, where that is an error.
    """
    kept: list[Prompt] = []
    cut = 0
    for prompt, ids in zip(prompts, encode_prompts(tokenizer, prompts), strict=True):
        if len(ids) <= max_len:
            kept.append(prompt)
            continue
        where = f"prompt {prompt.id}"
        messages = fit(prompt.messages, lambda m: len(encode_prompt(tokenizer, m)), max_len, overlong, where)
        if messages is not None:
            kept.append(dataclasses.replace(prompt, messages=messages))
            cut += 1
    counts = {"prompts": len(prompts), "kept": len(kept), "cut": cut, "skipped": len(prompts) - len(kept)}
    return kept, counts


def requests(encoded: Sequence[Sequence[int]], *, samples: int = 1, seed: int = 0, step: int = 0) -> list[Request]:
    """``samples`` requests for each encoded prompt, prompt by prompt."""
    return [
        Request(prompt=index, tokens=tuple(ids), sample=sample, seed=seed, step=step)
        for index, ids in enumerate(encoded)
        for sample in range(samples)
    ]
