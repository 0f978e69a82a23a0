"""What only a GPU runs: graphs of decode steps, attention by its kernels, training beside a CPU's."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch

from align.losses import token_logprobs
from align.model import sampler
from align.model.attention import attend, packed_mask, visible
from align.model.config import LlamaConfig
from align.model.llama import Llama, init_weights
from align.model.weights import save_policy
from align.records import Request, Rollout
from align.rollout.backend import SamplingConfig
from align.rollout.local import LocalEngine

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")

SIZES = LlamaConfig(vocab_size=512, dim=256, n_layers=3, n_heads=8, n_kv_heads=2, ffn_dim=512, max_seq_len=512)
ENDS = [2, 5, 9]


def policy() -> Llama:
    model = Llama(SIZES).eval().requires_grad_(False)
    init_weights(model, seed=0, std=0.1)
    return model.cuda()


def prompts(count: int) -> list[list[int]]:
    draws = torch.Generator().manual_seed(0)
    sizes = torch.randint(1, 200, (count,), generator=draws).tolist()
    return [[1, *torch.randint(10, 512, (size,), generator=draws).tolist()] for size in sizes]


def requests(encoded: list[list[int]], samples: int) -> list[Request]:
    return [Request(i, tuple(prompt), k, seed=3, step=1) for i, prompt in enumerate(encoded) for k in range(samples)]


def words(rollouts: list[Rollout]) -> list[tuple[int, int, tuple[int, ...], str]]:
    return [(r.prompt, r.sample, r.tokens, r.finish) for r in rollouts]


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("slots", [7, 24, 200])
def test_graphs_draw_what_the_plain_sampler_draws(slots: int, temperature: float) -> None:
    """With more answers than slots, so that columns are filled again, and with columns closing ranks at the end."""
    model, encoded = policy(), prompts(20)
    expected = sampler.generate(
        model, encoded, max_new_tokens=150, temperature=temperature, eos=ENDS, seed=3, step=1, samples=4
    )
    found = LocalEngine(model, ENDS, slots=slots).generate(
        requests(encoded, 4), SamplingConfig(max_new_tokens=150, temperature=temperature)
    )
    assert words(found) == words(expected)
    assert {rollout.finish for rollout in found} == {"stop", "length"}
    for rollout, plain in zip(found, expected, strict=True):
        assert rollout.logprobs == pytest.approx(plain.logprobs, abs=1e-4)


def test_logprobs_are_those_of_a_forward() -> None:
    model, encoded = policy(), prompts(12)
    for request, rollout in zip(
        requests(encoded, 1),
        LocalEngine(model, ENDS, slots=8).generate(requests(encoded, 1), SamplingConfig(max_new_tokens=60)),
        strict=True,
    ):
        whole = torch.tensor([[*request.tokens, *rollout.tokens]], device="cuda")
        full = token_logprobs(model(whole)[:, :-1], whole[:, 1:])[0, len(request.tokens) - 1 :]
        assert rollout.logprobs == pytest.approx(full.tolist(), abs=1e-4)


def test_greedy_equals_transformers(tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    model, encoded = policy(), prompts(8)
    save_policy(model, SIZES, tmp_path)
    rival = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).cuda()
    found = LocalEngine(model, 2, slots=5).generate(
        requests(encoded, 1), SamplingConfig(max_new_tokens=40, temperature=0)
    )
    for prompt, rollout in zip(encoded, found, strict=True):
        ids = torch.tensor([prompt], device="cuda")
        theirs = rival.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=40, eos_token_id=2, pad_token_id=0
        )
        assert list(rollout.tokens) == theirs[0, len(prompt) :].tolist()


def test_new_weights_are_sampled_from(tmp_path: Path) -> None:
    """Graphs of old weights do not outlive them."""
    model, encoded = policy(), prompts(6)
    engine, sampling = LocalEngine(model, ENDS, slots=6), SamplingConfig(max_new_tokens=30, temperature=0)
    before = engine.generate(requests(encoded, 1), sampling)
    other = Llama(SIZES)
    init_weights(other, seed=1, std=0.1)
    engine.load_weights(dict(other.state_dict()), "1")
    after = engine.generate(requests(encoded, 1), sampling)
    assert words(after) != words(before)
    assert words(after) == words(
        LocalEngine(other.cuda().eval(), ENDS, slots=6).generate(requests(encoded, 1), sampling)
    )


def test_trees_with_shared_heads_equal_attention_written_out() -> None:
    """A prompt and two answers in a row of more than 512 tokens."""
    segments = torch.tensor([[1] * 300 + [2] * 200 + [3] * 150], device="cuda")
    stems = torch.tensor([[-1] * 300 + [1] * 350], device="cuda")
    draws = torch.Generator("cuda").manual_seed(0)
    q, k, v = (torch.randn(1, heads, 650, 32, device="cuda", generator=draws).requires_grad_() for heads in (8, 2, 2))
    out = attend(q, k, v, visible(segments, torch.float32, stems))
    keys, values = (x.repeat_interleave(4, 1) for x in (k, v))
    weights = q @ keys.transpose(2, 3) / 32**0.5 + packed_mask(segments, torch.float32, stems)
    plain = weights.softmax(-1) @ values
    upstream = torch.randn(out.shape, device="cuda", generator=draws)
    torch.testing.assert_close(out, plain, rtol=1e-4, atol=1e-4)
    for a, b in zip(*(torch.autograd.grad(x, (q, k, v), upstream) for x in (out, plain)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("checkpointing", ["none", "selective", "full"])
def test_packed_rows_train_as_on_a_cpu(checkpointing: str) -> None:
    """Loss and gradients of a row of 700 tokens in three documents, fp32."""
    from align.model.checkpointing import set_checkpointing

    here = Llama(dataclasses.replace(SIZES, max_seq_len=1024))
    init_weights(here, seed=0)
    there = copy.deepcopy(here).cuda()
    set_checkpointing(there, checkpointing)  # type: ignore[arg-type]
    draws = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 512, (1, 700), generator=draws)
    segments = torch.tensor([[1] * 300 + [2] * 250 + [3] * 150])
    positions = torch.cat([torch.arange(size) for size in (300, 250, 150)])[None]
    at, targets = torch.arange(0, 699, 2), tokens[0, 1::2][:350]
    found = []
    for model, device in ((here, "cpu"), (there, "cuda")):
        given = (part.to(device) for part in (tokens, positions, segments))
        logprobs, _ = model(*given, at=at.to(device), targets=targets.to(device))
        loss = -logprobs.mean()
        loss.backward()
        found.append((float(loss), [p.grad.cpu() for p in model.parameters() if p.grad is not None]))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-5)
    for a, b in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
