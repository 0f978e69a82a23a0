"""The engine against the plain oracle, transformers, a full forward, and itself in other company."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from align.errors import DataError, WeightsError
from align.losses import token_logprobs
from align.model import sampler
from align.model.config import LlamaConfig, LoraConfig
from align.model.lora import add_lora
from align.model.weights import save_policy
from align.records import Request, Rollout
from align.rollout import packed
from align.rollout.backend import SamplingConfig
from align.rollout.local import LocalEngine
from align.rollout.paged import Paged
from tests.fakes import TINY, tiny_llama

STOPS = [2, 5, 9]
MODEL = tiny_llama()


def prompts(count: int, longest: int = 30, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[1, *(rng.randrange(3, 64) for _ in range(rng.randrange(longest)))] for _ in range(count)]


def requests(encoded: list[list[int]], samples: int = 1, seed: int = 3, step: int = 1) -> list[Request]:
    return [Request(i, tuple(p), k, seed, step) for i, p in enumerate(encoded) for k in range(samples)]


def words(rollouts: list[Rollout]) -> list[tuple[int, int, tuple[int, ...], str]]:
    return [(r.prompt, r.sample, r.tokens, r.finish) for r in rollouts]


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingConfig(max_new_tokens=20),
        SamplingConfig(max_new_tokens=20, temperature=0),
        SamplingConfig(max_new_tokens=95, temperature=0.7, top_p=0.9),
        SamplingConfig(max_new_tokens=15, temperature=1.3, top_k=5, top_p=0.8),
        SamplingConfig(max_new_tokens=1),
    ],
    ids=str,
)
def test_tokens_and_logprobs_equal_the_plain_oracle(sampling: SamplingConfig) -> None:
    encoded = prompts(9)
    expected = sampler.generate(
        MODEL,
        encoded,
        max_new_tokens=sampling.max_new_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        eos=STOPS,
        seed=3,
        step=1,
        samples=3,
    )
    for slots in (1, 5, 64):
        found = LocalEngine(MODEL, STOPS, slots=slots).generate(requests(encoded, samples=3), sampling)
        assert words(found) == words(expected)
        for a, b in zip(found, expected, strict=True):
            assert a.logprobs == pytest.approx(b.logprobs, abs=5e-5)
    assert sampling.max_new_tokens == 1 or any(r.finish == "stop" for r in expected)


def test_greedy_equals_transformers_generate(tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    save_policy(MODEL, TINY, tmp_path)
    theirs = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    encoded = prompts(6, seed=4)
    found = LocalEngine(MODEL, 2, slots=4).generate(requests(encoded), SamplingConfig(max_new_tokens=24, temperature=0))
    for prompt, rollout in zip(encoded, found, strict=True):
        ids = torch.tensor([prompt])
        expected = theirs.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24, eos_token_id=2, pad_token_id=0
        )
        assert list(rollout.tokens) == expected[0, len(prompt) :].tolist()


def test_logprobs_are_those_the_trainer_computes() -> None:
    sampling = SamplingConfig(max_new_tokens=40, temperature=0.8)
    encoded = prompts(12, seed=5)
    for request, rollout in zip(
        requests(encoded), LocalEngine(MODEL, STOPS, slots=4).generate(requests(encoded), sampling), strict=True
    ):
        row = torch.tensor([[*request.tokens, *rollout.tokens]])
        full = token_logprobs(MODEL(row)[:, :-1], row[:, 1:], temperature=0.8)[0]
        assert rollout.logprobs == pytest.approx(full[len(request.tokens) - 1 :].tolist(), abs=1e-4)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_answers_do_not_depend_on_company(data: st.DataObject) -> None:
    """To the bit: any of the requests, in any order, with any number of slots, dealt to any number of engines."""
    everyone = requests(prompts(10, seed=6), samples=6)
    sampling = SamplingConfig(
        max_new_tokens=data.draw(st.sampled_from([3, 17, 40, 66])),
        temperature=data.draw(st.sampled_from([0.0, 0.7, 1.0])),
        top_k=data.draw(st.sampled_from([0, 9])),
    )
    expected = {(r.prompt, r.sample): r for r in LocalEngine(MODEL, STOPS, slots=64).generate(everyone, sampling)}
    some = data.draw(st.lists(st.sampled_from(everyone), unique=True, min_size=1))
    dealt = [data.draw(st.integers(0, 2)) for _ in some]
    for actor in range(3):
        share = [request for request, whose in zip(some, dealt, strict=True) if whose == actor]
        engine = LocalEngine(MODEL, STOPS, slots=data.draw(st.integers(1, 40)))
        assert engine.generate(share, sampling) == [expected[r.prompt, r.sample] for r in share]


def test_an_engine_is_used_again_with_longer_and_shorter_work() -> None:
    engine = LocalEngine(MODEL, STOPS, slots=6)
    short, long = requests(prompts(7, 5)), requests(prompts(20, 60))
    few, many = SamplingConfig(max_new_tokens=4), SamplingConfig(max_new_tokens=30)
    for work, sampling in ((short, few), (long, many), (short, few)):
        fresh = LocalEngine(MODEL, STOPS, slots=6).generate(work, sampling)
        assert words(engine.generate(work, sampling)) == words(fresh)


def test_samples_steps_and_seeds_differ() -> None:
    sampling = SamplingConfig(max_new_tokens=12)
    engine = LocalEngine(MODEL, 2)
    base = Request(0, (1, 7, 8), 0, 0, 0)
    others = [Request(0, (1, 7, 8), 1, 0, 0), Request(0, (1, 7, 8), 0, 1, 0), Request(0, (1, 7, 8), 0, 0, 1)]
    answers = [r.tokens for r in engine.generate([base, *others], sampling)]
    assert len(set(answers)) == 4


def test_context_limit_ends_an_answer_by_length() -> None:
    engine = LocalEngine(MODEL, 63, max_len=20)
    requested = [Request(0, (1,) * 15), Request(1, (1,) * 19), Request(2, (1, 4))]
    found = engine.generate(requested, SamplingConfig(max_new_tokens=18))
    longest = [5, 1, 18]
    for rollout, most in zip(found, longest, strict=True):
        assert len(rollout.tokens) == most if rollout.finish == "length" else rollout.tokens[-1] == 63


@pytest.mark.parametrize(("length", "says"), [(0, "no tokens"), (20, "20 tokens"), (500, "500 tokens")])
def test_a_prompt_without_room_is_refused_by_name(length: int, says: str) -> None:
    engine = LocalEngine(MODEL, 2, max_len=20)
    with pytest.raises(DataError, match=f"prompt 41: found {says}.*expected 1 to 19"):
        engine.generate([Request(41, (1,) * length)], SamplingConfig(max_new_tokens=4))


def test_no_requests_no_answers() -> None:
    assert LocalEngine(MODEL, 2).generate([], SamplingConfig(max_new_tokens=4)) == []


def test_results_are_told_as_they_are_done() -> None:
    told: list[Rollout] = []
    work = requests(prompts(9), samples=2)
    found = LocalEngine(MODEL, STOPS, slots=4).generate(work, SamplingConfig(max_new_tokens=20), told.append)
    assert sorted(words(told)) == sorted(words(found))
    assert words(told) != words(found)


def test_a_prompt_is_prefilled_once_for_all_its_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = LocalEngine(MODEL, STOPS, slots=4)
    cached: list[tuple[int, ...]] = []
    plain = Paged.prefill

    def counted(self: Paged, prompts: Sequence[tuple[int, ...]], samples: Sequence[int]) -> list[int]:
        cached.extend(prompts)
        return plain(self, prompts, samples)

    monkeypatch.setattr(Paged, "prefill", counted)
    encoded = [p for p in prompts(12, seed=8) if len(p) > 1]
    engine.generate(requests(encoded, samples=8), SamplingConfig(max_new_tokens=10))
    assert sorted(cached) == sorted(map(tuple, encoded))


def test_bf16_logprobs_are_near_the_full_forward() -> None:
    model = tiny_llama(std=0.1).to(torch.bfloat16)
    work = requests(prompts(8, seed=9))
    for request, rollout in zip(
        work, LocalEngine(model, STOPS).generate(work, SamplingConfig(max_new_tokens=10)), strict=True
    ):
        row = torch.tensor([[*request.tokens, *rollout.tokens]])
        full = token_logprobs(model(row)[:, :-1], row[:, 1:])[0, len(request.tokens) - 1 :]
        assert rollout.logprobs == pytest.approx(full.tolist(), abs=0.05)


def test_weights_are_handed_over_by_name_and_by_folder(tmp_path: Path) -> None:
    other = tiny_llama(seed=1)
    work, sampling = requests(prompts(5)), SamplingConfig(max_new_tokens=10)
    expected = LocalEngine(other, STOPS).generate(work, sampling)

    engine = LocalEngine(tiny_llama(), STOPS)
    assert words(engine.generate(work, sampling)) != words(expected)
    engine.load_weights(dict(other.named_parameters()), "step-7")
    found = engine.generate(work, sampling)
    assert words(found) == words(expected)
    assert {r.version for r in found} == {"step-7"}

    save_policy(other, TINY, tmp_path / "chat")
    engine = LocalEngine(tiny_llama(config=LlamaConfig(**{**vars(TINY), "n_layers": 1})), STOPS)
    engine.generate(work, sampling)
    engine.load_weights(tmp_path / "chat")
    found = engine.generate(work, sampling)
    assert words(found) == words(expected)
    assert {r.version for r in found} == {"chat"}


def test_weights_that_do_not_fit_are_refused_whole() -> None:
    engine = LocalEngine(tiny_llama(), 2)
    state = {name: tensor + 1 for name, tensor in engine.model.named_parameters()}
    before = engine.model.lm_head.weight.clone()
    broken = [
        ({k: v for k, v in state.items() if k != "lm_head.weight"}, "missing lm_head.weight"),
        ({**state, "lm_heed.weight": before}, "lm_heed.weight.*left over.*lm_head.weight"),
        ({**state, "lm_head.weight": before[:5]}, "lm_head.weight: expected shape .64, 32., found .5, 32."),
    ]
    for weights, says in broken:
        with pytest.raises(WeightsError, match=says):
            engine.load_weights(weights, "2")
        assert torch.equal(engine.model.lm_head.weight, before)
        assert engine.version == "0"


def test_an_adapted_policy_samples_as_the_oracle_does() -> None:
    model = add_lora(tiny_llama(), LoraConfig(rank=2, alpha=4, targets=("q_proj", "o_proj", "down_proj")), seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(3))
    encoded, sampling = prompts(6), SamplingConfig(max_new_tokens=20)
    expected = sampler.generate(model, encoded, max_new_tokens=20, temperature=1.0, eos=STOPS, seed=3, step=1)
    found = LocalEngine(model, STOPS, slots=4).generate(requests(encoded), sampling)
    assert words(found) == words(expected)
    assert words(found) != words(LocalEngine(tiny_llama(), STOPS).generate(requests(encoded), sampling))


def test_weights_changed_between_two_calls_are_read() -> None:
    """A trainer shares its model with the engine and updates it in place."""
    model, sampling, work = tiny_llama(), SamplingConfig(max_new_tokens=10), requests(prompts(5))
    engine = LocalEngine(model, STOPS)
    engine.generate(work, sampling)
    for parameter, other in zip(model.parameters(), tiny_llama(seed=1).parameters(), strict=True):
        parameter.data.copy_(other)
    assert words(engine.generate(work, sampling)) == words(
        LocalEngine(tiny_llama(seed=1), STOPS).generate(work, sampling)
    )


def test_a_processor_without_packed_products_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    work, sampling = requests(prompts(7), samples=2), SamplingConfig(max_new_tokens=20)
    expected = LocalEngine(MODEL, STOPS).generate(work, sampling)
    monkeypatch.setattr(packed, "_packable", lambda weight: False)
    found = LocalEngine(MODEL, STOPS).generate(work, sampling)
    assert words(found) == words(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=2e-5)


def test_bf16_answers_do_not_depend_on_company_either() -> None:
    model = tiny_llama(std=0.1).to(torch.bfloat16)
    work, sampling = requests(prompts(9), samples=3), SamplingConfig(max_new_tokens=40)
    expected = LocalEngine(model, STOPS, slots=64).generate(work, sampling)
    assert LocalEngine(model, STOPS, slots=3).generate(work[::-1], sampling) == expected[::-1]


def test_where_bf16_would_be_emulated_its_values_are_multiplied_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    half = tiny_llama(std=0.1).to(torch.bfloat16)
    work, sampling = requests(prompts(7), samples=2), SamplingConfig(max_new_tokens=20)
    expected = LocalEngine(copy.deepcopy(half).float(), STOPS).generate(work, sampling)
    plainly = packed._packable
    monkeypatch.setattr(packed, "_packable", lambda weight: weight.dtype == torch.float32 and plainly(weight))
    assert LocalEngine(half, STOPS).generate(work, sampling) == expected
