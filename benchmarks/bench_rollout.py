"""Sampling: our engine beside transformers' ``generate``, and two actors beside one.

    python benchmarks/bench_rollout.py [--runs 5] [--only small,base,actors] [--dtype auto]

Both engines get the same weights, prompts, sampling (temperature 1, no filter), dtype (bf16; fp32 where the processor
does not multiply bf16, or as --dtype says), threads (every core) and greatest batch (64), each in a process of its
own, in turn. transformers runs as fast as it was seen to run: prompts
sorted by length so that little is padded, a prompt prefilled once for its samples where ``generate`` can
(``num_return_sequences``), inference mode, and the faster of its two caches, found by a trial first.

The weights are random with a fixed seed. Component 0 is equal in all embeddings but that of the end token, where it is
larger: the end's logit is thereby raised by about the same amount everywhere, and by how much is found by
bisection such that a token ends an answer with probability 1/48 on average. So answers have lengths from 1 to
the limit of 128, mostly short and a few long, as sampled answers do.

Prints the medians and, last, a line ``ratio NAME value (goal …)`` each; exits 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import align  # noqa: F401  # before torch: it sets how OpenMP's threads wait

# isort: split
import torch
from measure import Ratio, arithmetic_limit, bandwidth_limit, conclude, in_a_process, in_turn, median, peak_memory
from torch import Tensor

from align.engine.precision import Trained, settled
from align.model.config import HF_DTYPES, LlamaConfig
from align.model.llama import Llama, init_weights
from align.model.strict import DTYPES
from align.model.weights import load_policy, save_policy
from align.records import Request

BATCH, NEW, SHORTEST, LONGEST, END, ENDS_AFTER = 64, 128, 16, 96, 2, 48


@dataclass(frozen=True)
class Case:
    """A policy and a job."""

    config: LlamaConfig
    prompts: int
    samples: int
    goal: float


CASES = {
    "small": Case(  # 8.7M parameters
        LlamaConfig(
            vocab_size=4096, dim=320, n_layers=6, n_heads=10, n_kv_heads=10, ffn_dim=864,
            max_seq_len=256, tie_embeddings=True,
        ),
        prompts=64, samples=16, goal=5.0,
    ),
    "base": Case(  # 110M parameters
        LlamaConfig(
            vocab_size=32000, dim=768, n_layers=12, n_heads=12, n_kv_heads=12, ffn_dim=2048,
            max_seq_len=256, tie_embeddings=True,
        ),
        prompts=16, samples=8, goal=3.0,
    ),
}  # fmt: skip


def prompts_of(case: Case) -> list[tuple[int, ...]]:
    rng = random.Random(0)
    lengths = [rng.randint(SHORTEST, LONGEST) for _ in range(case.prompts)]
    return [(1, *(rng.randrange(3, case.config.vocab_size) for _ in range(length - 1))) for length in lengths]


@torch.inference_mode()
def policy_of(case: Case) -> Llama:
    """Random weights whose answers end by themselves; bf16."""
    model = Llama(case.config).eval().requires_grad_(False)
    init_weights(model, seed=0)
    embedding = model.model.embed_tokens.weight
    embedding[:, 0] = 1.0
    rows = torch.randint(3, case.config.vocab_size, (8, LONGEST), generator=torch.Generator().manual_seed(0))
    hidden = model.model(rows)[:, LONGEST // 2 :].flatten(0, 1)
    logits = model.head(hidden[None])[0]
    low, high = 0.0, 100.0
    for _ in range(40):
        middle = (low + high) / 2
        raised = logits.clone()
        raised[:, END] += hidden[:, 0] * middle
        low, high = (middle, high) if raised.softmax(-1)[:, END].mean() < 1 / ENDS_AFTER else (low, middle)
    embedding[END, 0] += low
    return model.to(torch.bfloat16)


def requests_of(case: Case) -> list[Request]:
    return [Request(i, tokens, k) for i, tokens in enumerate(prompts_of(case)) for k in range(case.samples)]


def ours(case: Case, policy: Path, dtype: Trained) -> dict[str, Any]:
    from align.rollout.backend import SamplingConfig
    from align.rollout.local import LocalEngine

    model = load_policy(policy, dtype, "cpu").eval().requires_grad_(False)
    engine, requests = LocalEngine(model, END, slots=BATCH), requests_of(case)
    engine.generate(requests[: 2 * case.samples], SamplingConfig(max_new_tokens=8))
    began = time.perf_counter()
    rollouts = engine.generate(requests, SamplingConfig(max_new_tokens=NEW))
    return report(case, dtype, [len(rollout.tokens) for rollout in rollouts], time.perf_counter() - began)


def theirs(case: Case, policy: Path, dtype: Trained, cache: str, trial: bool) -> dict[str, Any]:
    """``trial``: one batch only, to choose the cache."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = transformers.LlamaForCausalLM.from_pretrained(policy, dtype=DTYPES[dtype]).eval()
    rows = sorted(prompts_of(case), key=len)
    batches = [rows[start : start + BATCH // case.samples] for start in range(0, len(rows), BATCH // case.samples)]
    generate(model, batches[0], case.samples, 8, cache)
    began = time.perf_counter()
    lengths: list[int] = []
    for batch in batches[len(batches) // 2 :][:1] if trial else batches:
        answers = generate(model, batch, case.samples, NEW, cache)
        ended = answers == END
        lengths += torch.where(ended.any(1), ended.int().argmax(1) + 1, answers.shape[1]).tolist()
    return report(case, dtype, lengths, time.perf_counter() - began)


@torch.inference_mode()
def generate(model: Any, prompts: list[tuple[int, ...]], samples: int, new: int, cache: str) -> Tensor:
    """Answers [prompts x samples, up to new], filled up after the end token with 0."""
    width = max(map(len, prompts))
    rows = torch.tensor([[0] * (width - len(row)) + list(row) for row in prompts])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
    whole: Tensor = model.generate(
        rows,
        attention_mask=mask,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        num_return_sequences=samples,
        max_new_tokens=new,
        eos_token_id=END,
        pad_token_id=0,
        use_cache=True,
        cache_implementation=cache,
    )
    return whole[:, width:]


def report(case: Case, dtype: Trained, lengths: list[int], seconds: float) -> dict[str, Any]:
    """What a run did, and what an ideal engine would have needed: every token once through every weight, and
    the weights and every token's own past read once a step of a full batch, in ``dtype``."""
    config = case.config
    tokens = sum(lengths)
    prompt = sum(map(len, prompts_of(case))) / case.prompts
    operations = 2 * config.parameters() * tokens
    past = sum(length * (prompt + length / 2) for length in lengths)
    size = DTYPES[dtype].itemsize
    a_token = size * 2 * config.n_layers * config.n_kv_heads * config.head_dim
    moved = size * config.parameters() * tokens / BATCH + past * a_token
    return {
        "tokens": tokens,
        "answers": len(lengths),
        "seconds": seconds,
        "cpu_seconds": time.process_time(),  # of the whole process: a check where neighbours disturb the clock
        "rate": tokens / seconds,
        "memory": peak_memory(),
        "operations": operations / seconds,
        "bytes": moved / seconds,
    }


def actors(case: Case, policy: Path, dtype: Trained, count: int) -> dict[str, Any]:
    """The job done by so many actors of one thread each."""
    from align.rollout.backend import SamplingConfig
    from align.rollout.pool import PoolConfig, open_pool

    pool = PoolConfig(kind="ray", actors=count, threads=1, slots=BATCH, dtype=dtype, chunk=128)
    with open_pool(policy, pool) as samplers:
        samplers.generate(requests_of(case)[:256], SamplingConfig(max_new_tokens=8))  # every actor is up
        began = time.perf_counter()
        rollouts = samplers.generate(requests_of(case), SamplingConfig(max_new_tokens=NEW))
        return report(case, dtype, [len(rollout.tokens) for rollout in rollouts], time.perf_counter() - began)


def compare(name: str, policy: Path, dtype: Trained, runs: int, limits: tuple[float, float]) -> Ratio:
    """Both engines on one case, in turn."""
    case = CASES[name]
    trials = {
        cache: in_a_process(__file__, "--run", f"trial-{cache}", name, policy, dtype) for cache in ("dynamic", "static")
    }
    cache = max(trials, key=lambda cache: float(trials[cache]["rate"]))
    seen = ", ".join(f"{cache} {trial['rate']:.0f}" for cache, trial in trials.items())
    print(
        f"\n{name}: {case.config.parameters() / 1e6:.1f}M parameters, {case.prompts} prompts x {case.samples} samples"
    )
    print(f"  transformers' cache: {cache} (tokens/s of one batch: {seen})")
    found = in_turn(runs, __file__, [("--run", engine, name, policy, dtype) for engine in ("align", cache)])
    for engine, results in zip(("align", "transformers"), found, strict=True):
        rates = [result["rate"] for result in results]
        print(
            f"  {engine:12} {median(results, 'rate'):7.0f} tokens/s ({min(rates):.0f}–{max(rates):.0f}), "
            f"peak {median(results, 'memory'):.0f} MB, "
            f"{median(results, 'operations') / limits[0]:.0%} of the arithmetic limit, "
            f"{median(results, 'bytes') / limits[1]:.0%} of the bandwidth limit, "
            f"{results[0]['tokens'] / results[0]['answers']:.1f} tokens an answer",
            flush=True,
        )
    return Ratio(f"{name}/transformers", median(found[0], "rate") / median(found[1], "rate"), case.goal)


def scale(name: str, policy: Path, dtype: Trained, runs: int) -> Ratio:
    """Two actors beside one."""
    one, two = in_turn(runs, __file__, [("--run", f"actors-{count}", name, policy, dtype) for count in (1, 2)])
    print(f"\nactors of one thread each, {name}")
    print(f"  one {median(one, 'rate'):7.0f} tokens/s, two {median(two, 'rate'):7.0f} tokens/s", flush=True)
    return Ratio("two-actors/one", median(two, "rate") / median(one, "rate"), 1.7)


def run(what: str, name: str, folder: str, dtype: Trained) -> dict[str, Any]:
    """One run, in this process."""
    case, policy = CASES[name], Path(folder)
    if what == "make":
        save_policy(policy_of(case), case.config, policy)
        return {}
    if what.startswith("actors-"):
        return actors(case, policy, dtype, int(what.removeprefix("actors-")))
    if what == "align":
        return ours(case, policy, dtype)
    return theirs(case, policy, dtype, what.removeprefix("trial-"), what.startswith("trial-"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="of each engine; the median counts")
    parser.add_argument("--only", default="small,base,actors", help="of these")
    parser.add_argument(
        "--dtype", default="auto", choices=["auto", "bf16", "fp32"], help="auto: what the processor has"
    )
    parser.add_argument("--run", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        print(json.dumps(run(*args.run)))
        return 0
    dtype = settled(args.dtype)
    threads, limits = torch.get_num_threads(), (arithmetic_limit(HF_DTYPES[dtype]), bandwidth_limit())
    print(f"this machine, {threads} threads: {limits[0] / 1e9:.0f} GFLOP/s {dtype}, {limits[1] / 1e9:.1f} GB/s")
    only, ratios = args.only.split(","), []
    with tempfile.TemporaryDirectory() as folder:
        policies = {name: Path(folder) / name for name in CASES}
        for name, policy in policies.items():
            in_a_process(__file__, "--run", "make", name, policy, dtype)
        ratios += [compare(name, policies[name], dtype, args.runs, limits) for name in CASES if name in only]
        if "actors" in only:
            ratios.append(scale("small", policies["small"], dtype, args.runs))
    print()
    return conclude(ratios)


if __name__ == "__main__":
    sys.exit(main())
