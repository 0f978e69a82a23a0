"""On one GPU: sampling beside transformers' ``generate``, SFT and one PPO iteration of a 1.1B LLaMA in bf16.

    python benchmarks/bench_gpu.py [--case 1b] [--only sample,sft,ppo-zero-0,ppo-zero-3] [--runs 3]

Weights are random and made on the spot: a token says how long its answer still goes on (ppo_cases.py), so that
everybody does the same work to the token. Prompts and answers have the lengths of Anthropic HH-RLHF
(training_cases.py). Each part runs in a process of its own, after a warm-up of the same shapes.

* sample: answers, as many a batch for both; transformers' with its dynamic cache, a prompt prefilled once.
* sft: updates on packed rows of the whole context, AdamW with fp32 masters; nothing computed twice, and everything.
* ppo: an iteration, phase by phase: sync, sampling, reward models, reference, critic, updates; ZeRO-1 and ZeRO-3.

MFU: operations that nobody can do without (2 a weight and token forward, 4 backward, the head on counted tokens only,
attention left out), by the rate of a large product measured in the same run. ``--case tiny`` is for a machine without a
GPU, where it shows only that everything runs.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import align  # noqa: F401  # before torch: it sets how OpenMP's threads wait

# isort: split
import ppo_ours
import torch
from measure import peak_memory
from ppo_cases import END, Case, make, prompts_of, tokens_of
from training_cases import CHOSEN, PROMPT, row

from align.model.config import preset
from align.model.weights import load_policy
from align.records import Request

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Sizes:
    """What is run: an iteration of PPO, whose answers are also what is sampled; and an update of SFT."""

    ppo: Case
    length: int  # tokens of a packed row
    rows: int  # an update
    micro_rows: int  # a forward pass
    micro_tokens: int  # of PPO's forward passes


CASES = {
    "1b": Sizes(Case("base-1b", 64, 4, 64, 256, 0.0, share=1, longest=512), 4096, 16, 4, 16384),
    "tiny": Sizes(Case("tiny-1m", 4, 4, 8, 64, 0.0, share=1, longest=128), 512, 4, 2, 1024),
}


def product_rate() -> float:
    """Operations a second of [8192, 8192] bf16 products on the device, median of ten."""
    size = 8192 if DEVICE == "cuda" else 512
    a, b = (torch.randn(size, size, device=DEVICE).bfloat16() for _ in range(2))
    return 2 * size**3 / timed(lambda: a @ b, 10)


def copy_rate() -> float:
    """Bytes a second read and written by a copy within the device's memory, median of ten."""
    size = 2**31 if DEVICE == "cuda" else 2**26
    a = torch.ones(size, dtype=torch.uint8, device=DEVICE)
    b = torch.empty_like(a)
    return 2 * size / timed(lambda: b.copy_(a), 10)


def timed(call: Callable[[], Any], runs: int) -> float:
    """Median seconds, after one call that does not count."""
    found = []
    for index in range(runs + 1):
        began = time.perf_counter()
        call()
        settle()
        found.append(time.perf_counter() - began)
        if index == 0:
            found.clear()
    return statistics.median(found)


def settle() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def device_memory() -> float:
    """MB held at most; the process' own without a GPU."""
    return torch.cuda.max_memory_allocated() / 1e6 if DEVICE == "cuda" else peak_memory()


def sample(case: Case, folder: Path, runs: int) -> None:
    """Ours and transformers', in turn in one process, on weights of their own."""
    import transformers

    from align.rollout.backend import SamplingConfig
    from align.rollout.local import LocalEngine

    transformers.logging.set_verbosity_error()
    prompts = prompts_of(case)
    requests = [Request(i, prompt, k) for i, prompt in enumerate(prompts) for k in range(case.samples)]
    engine = LocalEngine(load_policy(folder / "policy", "bf16", DEVICE).eval(), END, slots=case.answers)
    rival = transformers.AutoModelForCausalLM.from_pretrained(folder / "policy", dtype=torch.bfloat16).to(DEVICE)
    width = max(map(len, prompts))
    rows = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=DEVICE)
    seen = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=DEVICE)
    counts: dict[str, int] = {}

    def ours() -> None:
        rollouts = engine.generate(requests, SamplingConfig(max_new_tokens=case.new))
        counts["align"] = sum(len(rollout.tokens) for rollout in rollouts)

    @torch.inference_mode()
    def theirs() -> None:
        whole = rival.generate(
            rows, attention_mask=seen, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
            num_return_sequences=case.samples, max_new_tokens=case.new, eos_token_id=END, pad_token_id=0,
        )  # fmt: skip
        answers = whole[:, width:]
        ended = answers == END
        lengths = torch.where(ended.any(1), ended.int().argmax(1) + 1, answers.shape[1])
        counts["transformers"] = int(lengths.sum())

    seconds = {who: timed(call, runs) for who, call in (("align", ours), ("transformers", theirs))}
    expected = tokens_of(case)
    for who, took in seconds.items():
        told = f"{counts[who]} tokens of {expected} expected" if counts[who] != expected else f"{expected} tokens"
        print(f"  {who:12} {counts[who] / took:9.0f} tokens/s, {took:.2f} s, {told}", flush=True)
    print(f"  align over transformers: {seconds['transformers'] / seconds['align']:.1f}", flush=True)


def sft(sizes: Sizes, folder: Path, runs: int) -> None:
    """Updates of ``sizes.rows`` full rows."""
    from align.data.batches import BatchConfig, packed_batches
    from align.engine.objectives import lm_counts, lm_terms
    from align.engine.optim import OptimConfig
    from align.engine.step import update
    from align.engine.zero import ZeroConfig, wrap

    config, rate = preset(sizes.ppo.preset), product_rate()
    rng = random.Random(0)

    def text(deciles: Sequence[int]) -> list[int]:
        place = rng.random() * (len(deciles) - 1)
        low = int(place)
        size = round(deciles[low] + (place - low) * (deciles[low + 1] - deciles[low]))
        return [rng.randrange(3, config.vocab_size) for _ in range(min(size, sizes.length // 2 - 1))]

    documents, room = [], sizes.rows * sizes.length * 97 // 100
    while sum(len(document.tokens) for document in documents) < room:
        documents.append(row([1, *text(PROMPT)], [*text(CHOSEN), END]))
    tokens, counted = (sum(part) for part in zip(*((len(d.tokens), int(d.mask.sum())) for d in documents), strict=True))
    narrow = BatchConfig(rows=1, micro_rows=sizes.micro_rows, length=sizes.length)
    units = packed_batches(documents, narrow, seed=0, rank=0, world=1).steps
    batch = BatchConfig(rows=units, micro_rows=sizes.micro_rows, length=sizes.length)
    micros = packed_batches(documents, batch, seed=0, rank=0, world=1)(0)
    weights = config.backbone_parameters() - config.vocab_size * config.dim
    operations = 6 * weights * tokens + 6 * config.vocab_size * config.dim * counted
    optim = OptimConfig(lr=1e-5, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0, clip=1.0, schedule="constant")
    for checkpointing in ("none", "full"):
        zero = ZeroConfig(stage=0, dtype="bf16", checkpointing=checkpointing)  # type: ignore[arg-type]
        engine = wrap(load_policy(folder / "policy"), optim, zero, 10**6)
        if DEVICE == "cuda":
            torch.cuda.reset_peak_memory_stats()
        losses: list[float] = []

        def step(engine: Any = engine, losses: list[float] = losses) -> None:
            losses.append(update(engine, micros, lm_counts, lm_terms).losses["loss"])

        took = timed(step, runs)
        assert losses[-1] < losses[0], losses
        print(
            f"  checkpointing {checkpointing:4}: {tokens / took:8.0f} tokens/s ({counted / took:.0f} counted), "
            f"{operations / took / rate:.1%} of {rate / 1e12:.0f} TFLOP/s, {device_memory():.0f} MB; an update of "
            f"{tokens} tokens in {len(micros)} passes {took:.2f} s, loss {losses[0]:.3f} to {losses[-1]:.3f}",
            flush=True,
        )
        engine.close()
        del engine, step
        gc.collect()


def ppo(sizes: Sizes, folder: Path, engine: str) -> None:
    """The second iteration of two; the first makes the kernels ready."""
    case = sizes.ppo
    found = ppo_ours.iterate(case, folder, "bf16", engine, "prompts", sizes.micro_tokens, iterations=2)
    phases, whole = found["phases"], sum(found["phases"].values())
    told = ", ".join(f"{name} {seconds:.2f} s ({seconds / whole:.0%})" for name, seconds in phases.items())
    trained = (sum(map(len, prompts_of(case))) + found["tokens"]) / phases["update"]
    print(
        f"  {engine}: {found['answers']} answers of {found['tokens']} tokens in {found['seconds']:.2f} s: "
        f"{found['answers'] / found['seconds']:.1f} episodes/s, sampled {found['tokens'] / phases['sample']:.0f} "
        f"tokens/s, trained on {trained:.0f} tokens/s in {case.steps} steps of policy and critic; "
        f"{device_memory():.0f} MB; {told}; KL {found['kl']:.1e}",
        flush=True,
    )


def run(part: str, name: str, folder: Path, runs: int) -> None:
    sizes = CASES[name]
    if part == "make":
        make(sizes.ppo, folder, "bf16")
    elif part == "sample":
        sample(sizes.ppo, folder, runs)
    elif part == "sft":
        sft(sizes, folder, runs)
    else:
        ppo(sizes, folder, part.removeprefix("ppo-"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=CASES, default="1b" if DEVICE == "cuda" else "tiny")
    parser.add_argument("--only", default="sample,sft,ppo-zero-0,ppo-zero-3", help="of these")
    parser.add_argument("--runs", type=int, default=3, help="timed, after one that is not; the median counts")
    parser.add_argument("--run", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        part, name, folder, runs = args.run
        run(part, name, Path(folder), int(runs))
        return 0
    config = preset(CASES[args.case].ppo.preset)
    device = torch.cuda.get_device_name() if DEVICE == "cuda" else "a CPU"
    print(f"{device}, torch {torch.__version__}, {config.parameters() / 1e9:.2f}B parameters, bf16", flush=True)
    print(f"  {product_rate() / 1e12:.1f} TFLOP/s, {copy_rate() / 1e9:.0f} GB/s read and written", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for part in ("make", *args.only.split(",")):
            began = time.perf_counter()
            command = [sys.executable, __file__, "--run", part, args.case, folder, str(args.runs)]
            if code := subprocess.run(command).returncode:
                return code
            print(f"{part}: {time.perf_counter() - began:.0f} s in all", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
