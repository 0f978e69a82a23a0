"""Log-probabilities of continuations against transformers' model, one continuation at a time."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from align.model.saving import save_policy
from align.rollout.choices import _batches, continuation_logprobs
from tests.fakes import TINY, tiny_llama


def drawn(seed: int, number: int, most: int) -> list[tuple[list[int], list[list[int]]]]:
    random.seed(seed)

    def ids(low: int, high: int) -> list[int]:
        return [random.randrange(3, TINY.vocab_size) for _ in range(random.randint(low, high))]

    return [(ids(1, 30), [ids(1, 12) for _ in range(random.randint(1, most))]) for _ in range(number)]


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> LlamaForCausalLM:
    folder: Path = tmp_path_factory.mktemp("peer")
    save_policy(tiny_llama(3), TINY, folder)
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def slowly(peer: LlamaForCausalLM, context: list[int], continuation: list[int]) -> float:
    with torch.no_grad():
        logits = peer(torch.tensor([[*context, *continuation]])).logits[0].double()
    logprobs = logits.log_softmax(-1)
    return sum(float(logprobs[len(context) - 1 + i, token]) for i, token in enumerate(continuation))


@pytest.mark.parametrize("batch_tokens", [16384, 128, 40, 1])
def test_every_continuation_has_the_log_probability_that_it_has_alone(
    peer: LlamaForCausalLM, batch_tokens: int
) -> None:
    asked = drawn(0, 9, 7)
    found = continuation_logprobs(tiny_llama(3), asked, batch_tokens)
    expected = [[slowly(peer, context, one) for one in continuations] for context, continuations in asked]
    assert [len(row) for row in found] == [len(row) for row in expected]
    for row, told in zip(found, expected, strict=True):
        assert row == pytest.approx(told, abs=2e-4)


def test_a_full_context_of_the_model_is_read(peer: LlamaForCausalLM) -> None:
    random.seed(1)
    context = [random.randrange(3, 64) for _ in range(TINY.max_seq_len - 4)]
    both = [[5, 6, 7, 8], [9]]
    (found,) = continuation_logprobs(tiny_llama(3), [(context, both)])
    assert found == pytest.approx([slowly(peer, context, one) for one in both], abs=2e-4)


def test_nothing_asked_nothing_told_and_progress_counts_each_once() -> None:
    assert continuation_logprobs(tiny_llama(), []) == []
    asked, seen = drawn(2, 12, 5), []
    continuation_logprobs(tiny_llama(), asked, 200, seen.append)
    assert len(seen) > 1
    assert sum(seen) == sum(len(continuations) for _, continuations in asked)


def test_batches_hold_every_tree_once_and_no_more_than_they_may() -> None:
    random.seed(3)
    sizes = [random.randint(1, 90) for _ in range(200)]
    batches = list(_batches(sizes, 256))
    assert sorted(i for rows in batches for row in rows for i in row) == list(range(200))
    for rows in batches:
        widest = max(sum(sizes[i] for i in row) for row in rows)
        assert len(rows) * widest <= 256
    filled = sum(sizes) / sum(len(rows) * max(sum(sizes[i] for i in row) for row in rows) for rows in batches)
    assert filled > 0.85
