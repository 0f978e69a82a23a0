"""What every backend promises, asked of each: the in-repo engine with either decoder, and vLLM.

vLLM itself is asked where it is installed. Everywhere, our side of it is asked around a stand-in with vLLM's
interface that samples by the plain oracle, so that what we tell vLLM and what we read from it are tested.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from align.errors import DataError, LaunchError
from align.losses import token_logprobs
from align.model import sampler
from align.model.llama import Llama
from align.model.weights import load_policy, save_policy
from align.records import Request, Rollout
from align.rollout import local
from align.rollout.backend import Backend, SamplingConfig
from align.rollout.dense import Dense
from align.rollout.pool import PoolConfig, make_engine
from align.rollout.vllm import VllmEngine, first_end
from tests.fakes import TINY, tiny_llama
from tests.rollout.test_local import prompts, requests, words

STOPS = [2, 5, 9]
REAL_VLLM = ["vllm"] if importlib.util.find_spec("vllm") else []
Open = Callable[[Path], Backend]


class PlainLLM:
    """``vllm.LLM``'s methods that we call, with answers of the plain oracle."""

    def __init__(self, model: str, dtype: str, max_model_len: int, **settings: Any) -> None:
        assert dtype == "float32"
        assert settings["logprobs_mode"] == "processed_logprobs"
        assert settings["skip_tokenizer_init"]
        self.model, self.max_len = load_policy(Path(model), "fp32", "cpu"), max_model_len
        self.prefixes_of: Llama | None = None
        self.asked: list[Any] = []

    def generate(self, prompts: Sequence[dict[str, list[int]]], params: Sequence[Any], use_tqdm: bool) -> list[Any]:
        assert not use_tqdm
        assert self.prefixes_of in (None, self.model), "prompts cached under other weights"
        self.prefixes_of = self.model
        self.asked = list(params)
        return [self.answer(p["prompt_token_ids"], s) for p, s in zip(prompts, params, strict=True)]

    def answer(self, prompt: list[int], params: Any) -> Any:
        assert params.ignore_eos
        assert len(prompt) + params.max_tokens <= self.max_len
        answer = sampler.generate(
            self.model,
            [prompt],
            max_new_tokens=params.max_tokens,
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=params.top_k,
            eos=params.stop_token_ids,
            seed=params.seed,
        )[0]
        logprobs = [{t: SimpleNamespace(logprob=p)} for t, p in zip(answer.tokens, answer.logprobs, strict=True)]
        done = SimpleNamespace(token_ids=list(answer.tokens), logprobs=logprobs, finish_reason=answer.finish)
        return SimpleNamespace(outputs=[done])

    def collective_rpc(self, method: str, kwargs: dict[str, str]) -> None:
        assert method == "reload_weights"
        self.model = load_policy(Path(kwargs["weights_path"]), "fp32", "cpu")

    def reset_prefix_cache(self) -> None:
        self.prefixes_of = None


def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = PlainLLM, SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)


@pytest.fixture(params=["paged", "dense", "interface of vllm", *REAL_VLLM])
def open_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Open:
    if "vllm" in request.param:
        if request.param != "vllm":
            stand_in(monkeypatch)
        return lambda folder: VllmEngine(folder, STOPS, slots=5, dtype="fp32")
    if request.param == "dense":
        monkeypatch.setattr(local, "Paged", Dense)
    return lambda folder: local.LocalEngine(load_policy(folder, "fp32", "cpu"), STOPS, slots=5, version=folder.name)


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policies") / "chat"
    save_policy(tiny_llama(), TINY, folder)
    return folder


@pytest.mark.parametrize("stop", [(), ((7, 1),), ((40,), (3, 3, 3))], ids=str)
def test_greedy_answers_are_the_oracles(open_backend: Open, chat: Path, stop: tuple[tuple[int, ...], ...]) -> None:
    encoded = prompts(9)
    sampling = SamplingConfig(max_new_tokens=20, temperature=0, stop=stop)
    expected = sampler.generate(tiny_llama(), encoded, max_new_tokens=20, temperature=0, eos=STOPS, stop=stop)
    found = open_backend(chat).generate(requests(encoded), sampling)
    assert words(found) == words(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)
    assert {r.version for r in found} == {"chat"}


def test_a_stop_sequence_ends_an_answer_within_it_and_stays(open_backend: Open, chat: Path) -> None:
    """The sequence is taken from a free answer; tokens of the prompt do not count towards it."""
    backend = open_backend(chat)
    free = SamplingConfig(max_new_tokens=20, temperature=0)
    work = [Request(i, tuple(prompt)) for i, prompt in enumerate(prompts(6, seed=2))]
    whole = backend.generate(work, free)
    longest = max(whole, key=lambda rollout: len(rollout.tokens))
    assert len(longest.tokens) > 5
    sequence = longest.tokens[2:5]
    first = next(n for n in range(3, 6) if longest.tokens[n - 3 : n] == sequence)
    across = (work[longest.prompt].tokens[-1], longest.tokens[0])
    inside = any(longest.tokens[n : n + 2] == across for n in range(first))
    assert not inside
    cut = backend.generate(work, SamplingConfig(max_new_tokens=20, temperature=0, stop=(sequence, across)))
    found = cut[longest.prompt]
    assert (found.tokens, found.finish) == (longest.tokens[:first], "stop")
    assert found.logprobs == pytest.approx(longest.logprobs[:first], abs=1e-4)


def test_sampled_logprobs_are_a_full_forwards(open_backend: Open, chat: Path) -> None:
    work = requests(prompts(8, seed=5), samples=2)
    sampling = SamplingConfig(max_new_tokens=30, temperature=0.8)
    model = tiny_llama()
    answers = set()
    for request, rollout in zip(work, open_backend(chat).generate(work, sampling), strict=True):
        assert (rollout.prompt, rollout.sample) == (request.prompt, request.sample)
        row = torch.tensor([[*request.tokens, *rollout.tokens]])
        full = token_logprobs(model(row)[:, :-1], row[:, 1:], temperature=0.8)[0]
        assert rollout.logprobs == pytest.approx(full[len(request.tokens) - 1 :].tolist(), abs=1e-4)
        assert rollout.finish == ("stop" if rollout.tokens[-1] in STOPS else "length")
        assert not set(rollout.tokens[:-1]) & set(STOPS)
        answers.add(rollout.tokens)
    assert len(answers) > 8  # samples of a prompt differ


def test_equal_requests_get_equal_answers(open_backend: Open, chat: Path) -> None:
    backend, work = open_backend(chat), requests(prompts(6), samples=2)
    sampling = SamplingConfig(max_new_tokens=12)
    first = backend.generate(work, sampling)
    assert words(backend.generate(work[::-1], sampling)) == words(first[::-1])
    assert words(backend.generate(work[3:4], sampling)) == words(first[3:4])
    assert backend.generate([], sampling) == []


def test_the_context_ends_an_answer(open_backend: Open, chat: Path) -> None:
    backend = open_backend(chat)
    found = backend.generate([Request(0, (1,) * 90), Request(1, (1,) * 95)], SamplingConfig(max_new_tokens=40))
    for rollout, most in zip(found, (6, 1), strict=True):
        assert len(rollout.tokens) == most or rollout.finish == "stop"
    with pytest.raises(DataError, match="prompt 7: found 96 tokens"):
        backend.generate([Request(7, (1,) * 96)], SamplingConfig(max_new_tokens=4))


def test_every_answer_is_told(open_backend: Open, chat: Path) -> None:
    told: list[Rollout] = []
    found = open_backend(chat).generate(requests(prompts(5)), SamplingConfig(max_new_tokens=9), told.append)
    assert sorted(words(told)) == sorted(words(found))


def test_weights_are_handed_over_by_version(open_backend: Open, chat: Path, tmp_path: Path) -> None:
    other, greedy = tiny_llama(seed=1), SamplingConfig(max_new_tokens=10, temperature=0)
    encoded = prompts(5)
    expected = words(sampler.generate(other, encoded, max_new_tokens=10, temperature=0, eos=STOPS))
    backend = open_backend(chat)
    assert words(backend.generate(requests(encoded), greedy)) != expected
    backend.load_weights(dict(other.named_parameters()), "step-7")
    found = backend.generate(requests(encoded), greedy)
    assert (words(found), {r.version for r in found}) == (expected, {"step-7"})
    backend.load_weights(chat)
    assert {r.version for r in backend.generate(requests(encoded), greedy)} == {"chat"}
    save_policy(other, TINY, tmp_path / "other")
    backend.load_weights(tmp_path / "other")
    found = backend.generate(requests(encoded), greedy)
    assert (words(found), {r.version for r in found}) == (expected, {"other"})


def test_vllm_is_told_the_address_of_the_randomness_and_every_stop(chat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)
    engine = VllmEngine(chat, 2, dtype="fp32")
    work = [Request(0, (1, 7)), Request(0, (1, 7), 1), Request(0, (1, 7), 0, 1), Request(0, (1, 7), 0, 0, 1)]
    engine.generate(work, SamplingConfig(max_new_tokens=3, top_k=4, top_p=0.9, stop=((8,), (9, 9))))
    seeds = {params.seed for params in engine._llm.asked}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert engine._llm.asked[0].stop_token_ids == [2, 8]
    assert (engine._llm.asked[0].top_k, engine._llm.asked[0].top_p) == (4, 0.9)


def test_the_first_end_is_found() -> None:
    assert first_end((4, 5, 6, 5, 6), [(5, 6)]) == 3
    assert first_end((4, 5, 6), [(6,), (4, 5)]) == 2
    assert first_end((4, 5), [(5, 4), (4, 5, 6)]) is None
    assert first_end((), [(5,)]) is None


@pytest.mark.skipif(bool(REAL_VLLM), reason="vllm is installed")
def test_vllm_that_is_not_installed_is_named(chat: Path) -> None:
    with pytest.raises(LaunchError, match=r"vllm cannot be imported.*pip install vllm.*engine: local"):
        make_engine(chat, PoolConfig(engine="vllm"))


def test_vllm_is_imported_only_when_it_is_chosen() -> None:
    code = "import sys, align.rollout.pool, align.rollout.local, align.rollout.vllm; print('vllm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
