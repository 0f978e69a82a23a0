"""Training: supervised fine-tuning and reward models beside TRL's SFTTrainer and RewardTrainer.

    python benchmarks/bench_train.py [--runs 5] [--only sft-small,reward-small,sft-base,reward-base]
    python benchmarks/bench_train.py --profile --only reward-base
    python benchmarks/bench_train.py --lengths PAIRS.jsonl.gz tokenizer.model

Both get the same weights, documents, AdamW (fused) with clipping and threads (every core), compute in bf16, and make an
update of all documents, so that tokens an update and the loss of the first are the same whoever packs how; each
runs in a process of its own, in turn. The first update is left out of the times.

TRL runs at the best of the settings that a trial finds: weights in fp32 under autocast, or all in bf16 (then its
AdamW has no fp32 masters, which ours always keeps); attention by SDPA or written out; packed by best-fit decreasing or
padded in order of length, as many rows a forward pass as are fastest. Completion-only loss. Of ours a trial finds
how many rows.

The documents are random tokens of a seed. Their lengths have the deciles of Anthropic HH-RLHF's helpful-base test
split in Llama-2 tokens, which ``--lengths`` prints; a prompt's length and its answers' are drawn independently.

Prints medians and, last, a line ``ratio NAME value (goal …)`` each; exits 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import align  # noqa: F401  # before torch: it sets how OpenMP's threads wait

# isort: split
import torch
from measure import Ratio, arithmetic_limit, conclude, in_a_process, in_turn, median, peak_memory, tokenizer_of
from training_cases import CASES, LENGTH, Case, lengths, pairs_of, row, work_of

from align.model.llama import Llama, init_weights
from align.model.weights import load_policy, save_policy

LR = 1e-4
BATCHES = {"sft": (1, 4, 16), "reward": (2, 4, 8)}  # rows, and pairs, a forward pass of TRL's, tried
OURS = {"sft": (4, 8), "reward": (8, 16)}  # packed rows, and pairs, a forward pass of ours, tried


def ours(case: Case, task: str, policy: Path, setting: dict[str, Any]) -> dict[str, Any]:
    """``setting``: rows a forward pass, updates; ``profile``: where one more update's time goes, by operation."""
    from align.data.batches import BatchConfig, packed_batches, pair_batches
    from align.data.compared import ComparedRow
    from align.engine.objectives import lm_counts, lm_terms
    from align.engine.optim import OptimConfig
    from align.engine.step import update
    from align.engine.zero import ZeroConfig, wrap
    from align.stages import reward

    pairs = pairs_of(case)
    optim = OptimConfig(lr=LR, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0, clip=1.0, schedule="constant")
    zero = ZeroConfig(stage=0, dtype="bf16")
    batches: Any
    counts: Any
    terms: Any
    if task == "sft":
        rows = [row(p.prompt, p.chosen) for p in pairs]
        units = packed_batches(rows, BatchConfig(rows=1, micro_rows=1, length=LENGTH), seed=0, rank=0, world=1).steps
        sizes = BatchConfig(rows=units, micro_rows=setting["rows"], length=LENGTH)
        batches = packed_batches(rows, sizes, seed=0, rank=0, world=1)
        module, counts, terms = load_policy(policy), lm_counts, lm_terms
    else:
        drawn = [
            ComparedRow((row(p.prompt, p.chosen), row(p.prompt, p.rejected)), ((0, 1),), (0.0,), (0,), (-1, -1))
            for p in pairs
        ]
        sizes = BatchConfig(rows=len(drawn), micro_rows=setting["rows"], length=LENGTH)
        batches = pair_batches(drawn, sizes, seed=0, rank=0, world=1)
        module = scorer(policy)
        counts = partial(reward.counts, mean_over="pairs")
        terms = partial(reward.terms, mean_over="pairs", safety_weight=0.0)
    engine = wrap(module, optim, zero, 10**6)
    losses, ends = [], []
    for _ in range(setting["updates"] + 1):
        losses.append(update(engine, batches(0), counts, terms).losses["loss"])
        ends.append(time.perf_counter())
    if setting.get("profile"):
        with torch.profiler.profile(with_flops=True) as watched:
            update(engine, batches(0), counts, terms)
        found = sorted(watched.key_averages(), key=lambda one: -one.self_cpu_time_total)
        return {"operations": [(one.key, one.self_cpu_time_total / 1e6, one.flops) for one in found]}
    return report(case, task, losses, ends)


def scorer(policy: Path) -> Any:
    from align.model.heads import scorer_from_policy

    return scorer_from_policy(load_policy(policy), seed=0)


def theirs(case: Case, task: str, policy: Path, setting: dict[str, Any]) -> dict[str, Any]:
    """``setting``: dtype autocast or bf16, attention, packed, rows a forward pass, updates."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    import datasets
    import transformers
    import trl

    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    pairs, ends = pairs_of(case), []

    class Watch(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    kind = transformers.AutoModelForCausalLM if task == "sft" else transformers.AutoModelForSequenceClassification
    model = kind.from_pretrained(
        policy if task == "sft" else policy.with_name(f"{policy.name}-scorer"),
        dtype=torch.bfloat16 if setting["dtype"] == "bf16" else torch.float32,
        attn_implementation=setting["attention"],
    )
    tokenizer = tokenizer_of(case.config.vocab_size)
    model.config.pad_token_id = tokenizer.pad_token_id
    with tempfile.TemporaryDirectory() as folder:
        common: dict[str, Any] = {
            "output_dir": folder, "max_steps": setting["updates"] + 1, "learning_rate": LR, "max_grad_norm": 1.0,
            "lr_scheduler_type": "constant", "adam_beta2": 0.95, "bf16": setting["dtype"] == "autocast",
            "optim": "adamw_torch_fused", "logging_steps": 1, "report_to": "none", "save_strategy": "no",
            "use_cpu": True, "gradient_checkpointing": False, "max_length": LENGTH, "disable_tqdm": True,
            "dataloader_pin_memory": False, "train_sampling_strategy": "sequential",
        }  # fmt: skip
        trainer: Any
        if task == "sft":
            rows = sorted(([*p.prompt, *p.chosen], len(p.prompt)) for p in pairs)
            rows = sorted(rows, key=lambda r: len(r[0]))
            data = datasets.Dataset.from_dict({
                "input_ids": [tokens for tokens, _ in rows],
                "completion_mask": [[0] * start + [1] * (len(tokens) - start) for tokens, start in rows],
            })  # fmt: skip
            count = len(trl.pack_dataset(data, LENGTH, "bfd")) if setting["packed"] else len(rows)
            args = trl.SFTConfig(
                **common, **dealt(count, setting["rows"]), packing=setting["packed"], completion_only_loss=True
            )
            trainer = trl.SFTTrainer(model, args, train_dataset=data, processing_class=tokenizer, callbacks=[Watch()])
        else:
            pairs = sorted(pairs, key=lambda p: len(p.prompt) + max(len(p.chosen), len(p.rejected)))
            data = datasets.Dataset.from_dict({
                "chosen_ids": [p.prompt + p.chosen for p in pairs],
                "rejected_ids": [p.prompt + p.rejected for p in pairs],
            })  # fmt: skip
            args = trl.RewardConfig(**common, **dealt(len(pairs), setting["rows"]))
            trainer = trl.RewardTrainer(
                model, args, train_dataset=data, processing_class=tokenizer, callbacks=[Watch()]
            )
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return report(case, task, losses, ends)


def dealt(count: int, rows: int) -> dict[str, int]:
    """An update of all rows, so many a forward pass; the last pass may hold fewer."""
    return {"per_device_train_batch_size": rows, "gradient_accumulation_steps": math.ceil(count / rows)}


def report(case: Case, task: str, losses: list[float], ends: list[float]) -> dict[str, Any]:
    counted, operations = work_of(case, task)
    seconds = (ends[-1] - ends[0]) / (len(ends) - 1)
    return {
        "seconds": seconds,
        "rate": counted / seconds,
        "operations": operations / seconds,
        "memory": peak_memory(),
        "first": losses[0],
        "last": losses[-1],
    }


def best_setting(name: str, task: str, policy: Path) -> dict[str, Any]:
    """TRL's fastest, by one update of each combination that is not beaten on the way."""
    found: dict[str, Any] = {
        "dtype": "bf16", "attention": "sdpa", "packed": task == "sft", "rows": BATCHES[task][0], "updates": 1,
    }  # fmt: skip
    choices: dict[str, Sequence[Any]] = {
        "packed": (True, False) if task == "sft" else (False,),
        "rows": BATCHES[task],
        "attention": ("sdpa", "eager"),
        "dtype": ("bf16", "autocast"),
    }
    seen: dict[str, float] = {}

    def rate(setting: dict[str, Any]) -> float:
        key = json.dumps(setting, sort_keys=True)
        if key not in seen:
            seen[key] = float(in_a_process(__file__, "--run", "trl", task, name, policy, key)["rate"])
        return seen[key]

    for key in ("rows", "packed", "rows", "attention", "dtype"):
        found = max(({**found, key: value} for value in choices[key]), key=rate)
    told = ", ".join(f"{key} {value}" for key, value in found.items() if key != "updates")
    print(f"  TRL's best of {len(seen)} settings tried: {told}", flush=True)
    return found | {"updates": CASES[name].updates}


def our_setting(name: str, task: str, policy: Path) -> dict[str, Any]:
    """Ours that is fastest, by one update of each."""

    def rate(setting: dict[str, Any]) -> float:
        return float(in_a_process(__file__, "--run", "align", task, name, policy, json.dumps(setting))["rate"])

    found = max(({"rows": rows, "updates": 1} for rows in OURS[task]), key=rate)
    print(f"  ours: {found['rows']} {'rows' if task == 'sft' else 'pairs'} a forward pass", flush=True)
    return found | {"updates": CASES[name].updates}


def compare(task: str, name: str, policy: Path, runs: int, limit: float) -> Ratio:
    case = CASES[name]
    counted, _ = work_of(case, task)
    unit = "counted tokens" if task == "sft" else "pairs"
    print(f"\n{task}, {name}: {case.config.parameters() / 1e6:.1f}M parameters, {counted} {unit} an update")
    settings = {"align": our_setting(name, task, policy), "trl": best_setting(name, task, policy)}
    found = in_turn(
        runs, __file__, [("--run", who, task, name, policy, json.dumps(one)) for who, one in settings.items()]
    )
    for who, results in zip(("align", "TRL"), found, strict=True):
        rates = [result["rate"] for result in results]
        print(
            f"  {who:6} {median(results, 'rate'):8.1f} {unit}/s ({min(rates):.1f}–{max(rates):.1f}), "
            f"peak {median(results, 'memory'):.0f} MB, {median(results, 'operations') / limit:.0%} of this machine's "
            f"matrix products, loss {results[0]['first']:.4f} at step 1, {results[0]['last']:.4f} at the last",
            flush=True,
        )
    first = [results[0]["first"] for results in found]
    if abs(first[0] - first[1]) > 0.01 * first[0]:
        raise SystemExit(f"{task}, {name}: the losses of step 1 differ: {first}; the two do not train the same")
    return Ratio(f"{task}-{name}/trl", median(found[0], "rate") / median(found[1], "rate"), case.goals[task])


def profile(task: str, name: str, policy: Path, limit: float) -> None:
    """Print which operations an update of ours spends its time in, and how fast its matrix products are."""
    setting = our_setting(name, task, policy) | {"profile": True}
    found = in_a_process(__file__, "--run", "align", task, name, policy, json.dumps(setting))["operations"]
    total = sum(seconds for _, seconds, _ in found)
    print(f"{task}, {name}: an update's {total:.2f} s")
    for operation, seconds, flops in found[:12]:
        rate = f", {flops / seconds / limit:.0%} of this machine's rate" if operation == "aten::mm" else ""
        print(f"  {seconds / total:4.0%}  {operation}{rate}")


def make(case: Case, policy: Path) -> None:
    """The policy and a scorer on it, as Hugging Face folders."""
    from align.model.saving import save_scorer

    model = Llama(case.config)
    init_weights(model, seed=0)
    save_policy(model, case.config, policy)
    save_scorer(scorer(policy), case.config, policy.with_name(f"{policy.name}-scorer"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="of each; the median counts")
    parser.add_argument("--only", default="sft-small,reward-small,sft-base,reward-base", help="of these")
    parser.add_argument("--profile", action="store_true", help="in place of comparing: where an update's time goes")
    parser.add_argument("--lengths", nargs=2, type=Path, help="print deciles of a file of pairs, and end")
    parser.add_argument("--run", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.lengths:
        lengths(*args.lengths)
        return 0
    if args.run:
        who, task, name, policy, setting = args.run
        case = CASES[name]
        if who == "make":
            make(case, Path(policy))
            print("{}")
        else:
            train = ours if who == "align" else theirs
            print(json.dumps(train(case, task, Path(policy), json.loads(setting))))
        return 0
    limit = arithmetic_limit("bfloat16")
    print(f"this machine, {torch.get_num_threads()} threads: {limit / 1e9:.0f} GFLOP/s bf16")
    only, ratios = args.only.split(","), []
    with tempfile.TemporaryDirectory() as folder:
        for name in CASES:
            tasks = [task for task in ("sft", "reward") if f"{task}-{name}" in only]
            if tasks:
                in_a_process(__file__, "--run", "make", "-", name, Path(folder) / name, "{}")
            if args.profile:
                for task in tasks:
                    profile(task, name, Path(folder) / name, limit)
                continue
            ratios += [compare(task, name, Path(folder) / name, args.runs, limit) for task in tasks]
    print()
    return 0 if args.profile else conclude(ratios)


if __name__ == "__main__":
    sys.exit(main())
