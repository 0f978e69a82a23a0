"""PPO: one iteration of ours beside TRL's last PPO, and what DeepSpeed costs in it.

    python benchmarks/bench_ppo.py [--runs 5] [--dtype auto] [--only small,base,zero-small,zero-base]

Both get the same policy, critic and reward weights, prompts, limits, batch, mini-batches, losses, AdamW (fused), dtype
and threads (every core); each runs in a process of its own, in turn, and is timed from models that are loaded to new
weights: answers sampled, rewarded, read by reference and critic, one epoch of updates. TRL is release 1.12.0, the last
that has PPO, in a folder of its own; the environment's own is left alone. It has one reward model, so ours is given it
for helpfulness and safety alike.

That both do the same work is shown and checked: answers' tokens, to the token (ppo_cases.py tells how), gradient steps,
mean score of the untrained policy, its KL to the reference. TRL runs at the best of the settings that a trial
finds: answers a forward pass when it samples and reads, and when it trains; attention by SDPA or written out; weights
and activations in the dtype, nothing computed twice (its default is gradient checkpointing). Ours shuffles prompts into
mini-batches (``ppo.shuffle``), so that a prompt is computed once for its answers there too; a second line shows
it with answers shuffled, as TRL does and as is our default.

``--dtype auto`` is bf16 where the processor multiplies it, else fp32. Prints medians and, last, a line ``ratio NAME
value (goal …)`` each; exits 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import align  # noqa: F401  # before torch: it sets how OpenMP's threads wait

# isort: split
import ppo_ours
import ppo_trl
import torch
from measure import Ratio, arithmetic_limit, conclude, in_a_process, in_turn, median, peak_memory
from ppo_cases import CASES, Case, make, tokens_of

from align.engine.precision import cpu_has_bf16

ENGINES = ("plain", "zero-0", "zero-2", "zero-3")
OURS = "zero-0"  # what is compared with TRL, which runs without DeepSpeed
TOGETHER, APART = json.dumps({"shuffle": "prompts"}), json.dumps({"shuffle": "answers"})


def best_setting(name: str, folder: Path, dtype: str) -> str:
    """TRL's fastest, by an iteration of each: the phases with and without gradients choose for themselves."""
    case = CASES[name]
    sizes = [(case.answers, case.mini_batch), (case.answers // 2, case.mini_batch // 2)]
    sizes.append((case.answers // 4, max(1, case.mini_batch // 4)))
    seen: dict[str, dict[str, float]] = {}

    def phases(rollout: int, micro: int, attention: str) -> dict[str, float]:
        setting = json.dumps({"rollout": rollout, "micro": micro, "attention": attention})
        found = in_a_process(__file__, "--run", "trl", name, folder, dtype, setting)["phases"]
        update = found.pop("update")
        told = f"rollout {rollout}, micro {micro}, {attention}"
        print(f"  TRL tried: {told}: {sum(found.values()):.1f} s without gradients, {update:.1f} s with", flush=True)
        seen[setting] = {"rollout": sum(found.values()), "micro": update}
        return seen[setting]

    tried = {size: phases(*size, "sdpa") for size in sizes}
    rollout = min(sizes, key=lambda size: tried[size]["rollout"])[0]
    micro = min(sizes, key=lambda size: tried[size]["micro"])[1]
    least = sum(min(found[phase] for found in tried.values()) for phase in ("rollout", "micro"))
    attention = "eager" if sum(phases(rollout, micro, "eager").values()) < least else "sdpa"
    print(f"  TRL's best: {rollout} answers a pass without gradients, {micro} with, attention {attention}", flush=True)
    return json.dumps({"rollout": rollout, "micro": micro, "attention": attention})


def compare(name: str, folder: Path, runs: int, dtype: str, setting: str | None) -> Ratio:
    """Both on one case, in turn."""
    case = CASES[name]
    print(
        f"\n{name}: {case.config.parameters() / 1e6:.1f}M parameters, {case.prompts} prompts x {case.samples} answers, "
        f"mini-batches of {case.mini_batch}, answers of up to {case.new} tokens"
    )
    setting = setting or best_setting(name, folder, dtype)
    rivals = {"align": (OURS, TOGETHER), "align, answers shuffled": (OURS, APART), "TRL": ("trl", setting)}
    runs_of = [("--run", who, name, folder, dtype, how) for who, how in rivals.values()]
    ours, apart, theirs = in_turn(runs, __file__, runs_of)
    for who, results in zip(rivals, (ours, apart, theirs), strict=True):
        tell(who, results)
    check(name, case, [*ours, *apart], theirs)
    return Ratio(f"ppo-{name}/trl", median(ours, "rate") / median(theirs, "rate"), case.goal)


def tell(who: str, results: list[dict[str, Any]]) -> None:
    """Medians: how fast, what was done, and where the time went."""
    rates, first = [result["rate"] for result in results], results[0]
    seconds = [result["phases"] for result in results]
    print(
        f"  {who}: {median(results, 'rate'):.3f} episodes/s ({min(rates):.3f}–{max(rates):.3f}), "
        f"{median(results, 'cpu_seconds'):.1f} s of CPU, peak {median(results, 'memory'):.0f} MB"
    )
    print(
        f"    {first['answers']} answers, {first['tokens']} tokens, {first['steps']} gradient steps; score "
        f"{median(results, 'score'):+.3f}, KL {median(results, 'kl'):.1e}; "
        f"seconds: {', '.join(f'{phase} {median(seconds, phase):.2f}' for phase in first['phases'])}",
        flush=True,
    )


def check(name: str, case: Case, ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    """End this where the two did not do the same."""
    for key, expected in (("answers", case.answers), ("tokens", tokens_of(case)), ("steps", case.steps)):
        found = {who: [result[key] for result in results] for who, results in (("align", ours), ("TRL", theirs))}
        if any(abs(value - expected) > 0.01 * expected for values in found.values() for value in values):
            raise SystemExit(f"{name}: {key}: expected {expected}, found {found}; the two do not do the same work")
    error = ours[0]["score_sd"] * (2 / case.answers) ** 0.5
    scores = [median(results, "score") for results in (ours, theirs)]
    if abs(scores[0] - scores[1]) > 4 * error:
        raise SystemExit(f"{name}: mean scores {scores} differ by more than 4 standard errors of {error:.3g}")
    kl = max(abs(result["kl"]) for result in (*ours, *theirs))
    if kl > (0.1 if case.new > 8 else 1.0):
        raise SystemExit(f"{name}: the untrained policy is {kl:.3g} nats an answer from the reference, expected 0")


def deepspeeds_share(name: str, folder: Path, runs: int, dtype: str) -> None:
    """Our iteration under each engine; in bf16 beside ZeRO-0, for a plain loop has no fp32 masters."""
    engines = ENGINES if dtype == "fp32" else ENGINES[1:]
    print(f"\n{name}, our iteration by engine, and its time beside {engines[0]}'s")
    found = in_turn(runs, __file__, [("--run", engine, name, folder, dtype, TOGETHER) for engine in engines])
    for engine, results in zip(engines, found, strict=True):
        tell(f"{engine}, {median(results, 'seconds') / median(found[0], 'seconds'):.2f} times", results)


def run(who: str, name: str, folder: Path, dtype: str, setting: dict[str, Any]) -> dict[str, Any]:
    """One iteration in this process, after a tiny one that imports and builds what an iteration needs."""
    for case in (CASES["warm"], CASES[name]):
        models = folder.with_name("warm") if case is CASES["warm"] else folder
        if who == "trl":
            sizes = setting if case is CASES[name] else setting | {"rollout": case.answers, "micro": case.mini_batch}
            found = ppo_trl.iterate(case, models, dtype, sizes)
        else:
            found = ppo_ours.iterate(case, models, dtype, who, setting["shuffle"])
    return found | {"rate": found["answers"] / found["seconds"], "memory": peak_memory()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="of each, at most 3 of each engine; the median counts")
    parser.add_argument("--dtype", choices=("auto", "fp32", "bf16"), default="auto", help="of weights and activations")
    parser.add_argument("--only", default="small,base,zero-small,zero-base", help="of these")
    parser.add_argument("--setting", help="TRL's, as JSON with rollout, micro and attention, instead of the trial")
    parser.add_argument("--run", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        who, name, folder, dtype, setting = args.run
        print(json.dumps(run(who, name, Path(folder), dtype, json.loads(setting))))
        return 0
    only = args.only.split(",")
    wrong = set(only) - {f"{kind}{name}" for kind in ("", "zero-") for name in ("small", "base")}
    if wrong or args.runs < 1:
        parser.error(f"--only: {', '.join(sorted(wrong))}: expected some of small, base, zero-small, zero-base"
                     if wrong else "--runs: expected at least 1")  # fmt: skip
    dtype = args.dtype if args.dtype != "auto" else "bf16" if cpu_has_bf16() else "fp32"
    why = "" if args.dtype != "auto" else f" (auto: the processor has {'' if dtype == 'bf16' else 'no '}bf16)"
    limit = arithmetic_limit("bfloat16" if dtype == "bf16" else "float32")
    print(f"this machine, {torch.get_num_threads()} threads: {limit / 1e9:.0f} GFLOP/s {dtype}{why}", flush=True)
    ppo_trl.install()
    ratios = []
    with tempfile.TemporaryDirectory() as root:
        for name, case in CASES.items():
            make(case, Path(root) / name)
        for name in ("small", "base"):
            if name in only:
                ratios.append(compare(name, Path(root) / name, args.runs, dtype, args.setting))
            if f"zero-{name}" in only:
                deepspeeds_share(name, Path(root) / name, min(args.runs, 3), dtype)
    print()
    return conclude(ratios)


if __name__ == "__main__":
    sys.exit(main())
