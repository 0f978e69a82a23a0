"""The plain sampler: a published greedy text, transformers' generate, Meta's top-p, frequencies."""

from __future__ import annotations

from pathlib import Path

import pytest
import sentencepiece
import torch
from torch import Tensor

from align.model.randomness import uniform
from align.model.sampler import draw, filtered_logprobs, generate
from align.model.weights import load_llama2c
from tests.model.peers import policies, tiny


def test_stories260k_gives_its_published_greedy_text(shared_data: Path) -> None:
    """A really trained LLaMA with GQA, character by character: 256 tokens from BOS at temperature 0."""
    folder = shared_data / "llama_stories260K"
    published = (folder / "stories260K.md").read_text().split("-t 0.0\n")[1].split("\n```")[0]
    model = load_llama2c(folder / "stories260K.bin")
    assert model.config.parameters() == 260_032
    answer = generate(model, [[1]], max_new_tokens=256, temperature=0.0, eos=1)[0]
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tok512.model"))
    assert tokenizer.decode(list(answer.tokens)) == published
    assert len(published) == 565


@pytest.mark.parametrize("kv_heads", [4, 1])
def test_greedy_equals_transformers_generate(kv_heads: int) -> None:
    ours, theirs = policies(tiny(kv_heads))
    prompts = [[1, 5, 9], [1], [1, 90, 3, 3, 44, 8]]
    found = generate(ours, prompts, max_new_tokens=30, temperature=0.0, eos=-1)
    for prompt, rollout in zip(prompts, found, strict=True):
        whole = theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            do_sample=False,
            max_new_tokens=30,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert list(rollout.tokens) == whole[0, len(prompt) :].tolist()
        assert rollout.finish == "length"


def test_answers_are_addressed_not_advanced() -> None:
    ours, _ = policies(tiny())
    settings = {"max_new_tokens": 8, "temperature": 1.0, "eos": 2, "seed": 7, "step": 3}
    many = generate(ours, [[1, 4], [1, 5, 6]], samples=3, **settings)
    assert [(r.prompt, r.sample) for r in many] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert generate(ours, [[1, 4]], samples=2, **settings) == many[:2]
    assert len({r.tokens for r in many[:3]}) == 3
    other = generate(ours, [[1, 4]], **(settings | {"step": 4}))
    assert other[0].tokens != many[0].tokens


def test_logprobs_are_those_of_the_distribution_drawn_from() -> None:
    ours, theirs = policies(tiny())
    for rollout in generate(ours, [[1, 4, 6]], max_new_tokens=12, temperature=0.7, samples=3):
        row = torch.tensor([[1, 4, 6, *rollout.tokens]])
        logprobs = (theirs(row).logits[0, 2:-1] / 0.7).log_softmax(-1)
        expected = logprobs.gather(1, torch.tensor(rollout.tokens)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(rollout.logprobs), expected, rtol=0, atol=1e-5)


def test_stops_at_eos_and_keeps_it() -> None:
    ours, _ = policies(tiny())
    free = generate(ours, [[1, 4]], max_new_tokens=20, temperature=0.0, eos=-1)[0]
    stop = free.tokens[3]
    first = free.tokens.index(stop)
    stopped = generate(ours, [[1, 4]], max_new_tokens=20, temperature=0.0, eos=(stop, 96))[0]
    assert stopped.tokens == free.tokens[: first + 1]
    assert stopped.finish == "stop"
    assert len(stopped.logprobs) == first + 1
    # an EOS that ends the prompt does not end the answer before it began
    assert generate(ours, [[1, 2]], max_new_tokens=1, temperature=0.0, eos=2)[0].tokens
    full = generate(ours, [[1] * 62], max_new_tokens=20, temperature=0.0, eos=-1)[0]
    assert (len(full.tokens), full.finish) == (2, "length")  # the context holds 64


def meta_top_p(probs: Tensor, p: float) -> Tensor:
    """Probabilities after llama/generation.py's sample_top_p, copied from Meta's reference code."""
    probs_sort, probs_idx = torch.sort(probs, dim=-1, descending=True)
    probs_sum = torch.cumsum(probs_sort, dim=-1)
    mask = probs_sum - probs_sort > p
    probs_sort[mask] = 0.0
    probs_sort.div_(probs_sort.sum(dim=-1, keepdim=True))
    return torch.zeros_like(probs_sort).scatter(-1, probs_idx, probs_sort)


@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
def test_top_p_is_metas(top_p: float, temperature: float) -> None:
    logits = 3 * torch.randn(50, generator=torch.Generator().manual_seed(1))
    expected = meta_top_p(torch.softmax(logits / temperature, -1), top_p)
    found = filtered_logprobs(logits, temperature, top_p).exp()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    assert ((found == 0) == (expected == 0)).all()


def test_top_k_keeps_k_even_among_equals() -> None:
    found = filtered_logprobs(torch.tensor([1.0, 2.0, 2.0, 2.0, 0.0]), 1.0, top_k=2).exp()
    torch.testing.assert_close(found, torch.tensor([0.0, 0.5, 0.5, 0.0, 0.0]))


def test_draw_is_the_inverse_of_the_cumulated_probability() -> None:
    logprob = torch.tensor([0.0, 0.25, 0.0, 0.5, 0.25, 0.0]).log()
    for u, token in [(0.0, 1), (0.2499, 1), (0.25, 3), (0.7499, 3), (0.75, 4), (1 - 2**-24, 4)]:
        assert draw(logprob, u) == token


def test_rounding_never_draws_an_impossible_token() -> None:
    """32,000 tokens of which the last possible is followed by impossible ones, at the largest u there is."""
    for seed in range(20):
        logits = torch.randn(32000, generator=torch.Generator().manual_seed(seed))
        logits[-100:] = float("-inf")
        assert draw(filtered_logprobs(logits, 1.0), 1 - 2**-24) <= 31899


def test_frequencies_follow_the_probabilities() -> None:
    logprob = filtered_logprobs(torch.tensor([0.0, 1.0, -1.0, 2.0]), 1.0)
    n = 20_000
    counts = torch.zeros(4)
    for i in range(n):
        counts[draw(logprob, uniform(0, 0, i, 0, 1))] += 1
    expected = logprob.exp() * n
    assert ((counts - expected) ** 2 / expected).sum() < 21.1  # chi-square, 3 degrees of freedom, p = 1e-4
