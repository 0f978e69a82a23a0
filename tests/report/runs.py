"""A run folder with something of everything, made by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from align.artifacts import building, publish, write_json, write_jsonl, write_text
from align.measures.win_rate import win_rate
from tests.report.test_summary import BEST, RATED, judged

NASTY = "</script><script>document.title='ran'</script><img src=x onerror=\"document.title='ran'\"> & 'quotes'"
SECRET = "s3cr3t-hush"
POLICIES = ("base", "SFT", "PPO")


def made(
    run: Path,
    name: str,
    stage: str,
    metrics: Mapping[str, Any] | None = None,
    *,
    parents: Sequence[str] = (),
    inputs: Sequence[str] = (),
    files: Mapping[str, Any] | None = None,
    rows: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> Path:
    """An artifact of the run; files are JSON, rows JSONL."""
    out = run / name
    with building(out) as folder:
        for file, value in (files or {}).items():
            write_json(folder / file, value)
        for file, values in (rows or {}).items():
            write_text(folder / file, "".join(json.dumps(row) + "\n" for row in values))  # NaN stays NaN
        publish(
            folder, out, stage=stage, name=name, recipe={"stage": stage, "hf_token": SECRET, **(recipe or {})}, seed=7,
            parents=[run / p for p in parents], inputs=[run / i for i in inputs], metrics=dict(metrics or {}),
        )  # fmt: skip
    return out


def training(steps: int) -> dict[str, list[dict[str, float]]]:
    return {
        "metrics.jsonl": [{"step": i, "loss": 1 / (i + 1), "accuracy": i / steps, "lr": 1e-5} for i in range(steps)],
        "timings.jsonl": [{"step": i, "seconds": 0.1, "counted_per_second": 1000.0 + i} for i in range(steps)],
    }


def points(n: int) -> list[dict[str, float]]:
    return [
        {"n": i, "max": math.log(i + 1), "max_low": math.log(i + 1) - 0.1, "max_high": math.log(i + 1) + 0.1,
         "median": 0.5, "median_low": 0.4, "median_high": 0.6}
        for i in range(1, n + 1)
    ]  # fmt: skip


def chosen(low: float, high: float) -> dict[str, float]:
    return {"expected_best": 1.0, "standard_error": 0.1, "low": 0.8, "high": 1.2, "to_chosen": (low + high) / 2,
            "to_chosen_low": low, "to_chosen_high": high, "usable": 1.0}  # fmt: skip


def measured(scale: float) -> dict[str, Any]:
    turns = {str(t): {"share": 1 / t * scale / 2, "low": 0.0, "high": 1.0, "n": 12} for t in (2, 4, 6, 20)}
    return judged(scale) | {"kept": turns, "kept_by_source": {"trained": turns, "held-out": turns}}


def won_pairs() -> list[dict[str, Any]]:
    """The later policy wins two in three, and is the longer one as often as not."""
    outcomes, lengths = [1, 1, -1] * 10, [(5 + i % 4, 6) for i in range(30)]
    return [
        {"judge": "judge", "first": first, "second": second, **win_rate(outcomes, lengths)}
        for first, second in (("SFT", "base"), ("PPO", "base"), ("PPO", "SFT"))
    ]


def whole(run: Path) -> Path:
    """A finished pipeline: world, base, SFT, reward model, rejection sampling, PPO, evaluation."""
    prompts = [
        {"id": f"p{i}", "prompt": [{"role": "user", "content": f"question {i} {NASTY if i == 0 else ''}"}],
         "kind": "safety" if i % 3 == 0 else "helpful", "source": f"skill-{i % 3}"}
        for i in range(30)
    ]  # fmt: skip
    made(run, "data", "world", {"rows": {"sft": 3}}, files={"ceilings.json": {"simulated_pairs": 9, "helpful": BEST}},
         rows={"prompts_test.jsonl": prompts, "sft.jsonl": []})  # fmt: skip
    made(run, "base", "pretrain", {"loss": 1.0}, inputs=["data/sft.jsonl"], rows=training(1200))
    made(run, "sft", "sft", {"loss": 0.5}, parents=["base"], inputs=["data/sft.jsonl"], rows=training(40))
    made(run, "rm", "reward", {"held_out/helpful": RATED}, parents=["sft"], rows=training(20))
    rollouts = [
        {"prompt_id": "a", "policy": "sft", "temperature": 1.0, "scores": {"combined": (i % 17) / 3 - 2}}
        for i in range(200)
    ]
    curve = {"policy": "sft", "policy_sha256": "0" * 64, "prompts": 5, "points": points(8)}
    won = [{"version": 0, "policy": "sft", "won": 3, "share": 0.75, "low": 0.3, "high": 0.95},
           {"version": 1, "policy": "old", "won": 1, "share": 0.25, "low": 0.05, "high": 0.7}]  # fmt: skip
    made(
        run, "reject", "rejection",
        {"best_of_n": points(8), "winners": won,
         "temperature": {"chosen": 1.0, "n": 8, "prompts": 5, "policy": "sft",
                         "curve": [{"temperature": 0.6, **chosen(-0.2, 0.1)}, {"temperature": 1.0, **chosen(0, 0)}]}},
        parents=["sft", "rm"], inputs=["data/prompts_test.jsonl"], rows={"rollouts.jsonl": rollouts},
        files={"curves.json": {"samples": [curve | {"temperature": 1.0}],
                               "temperatures": [curve | {"temperature": t} for t in (0.6, 1.0)]}},
    )  # fmt: skip
    steps = [
        {"step": i, "reward/combined": i / 2, "kl/answer": 0.1 * i, "kl/k1": 0.01 * i, "kl/k3": 0.011 * i,
         "answer/tokens": 12 - i / 9, "something/new": math.nan if i == 3 else i}
        for i in range(12)
    ]  # fmt: skip
    made(run, "ppo", "ppo", {"kl/answer": 1.1}, parents=["sft", "rm"], inputs=["data/prompts_test.jsonl"], rows={
        "metrics.jsonl": steps,
        "timings.jsonl": [{"step": i, "rollout": 1.5, "score": 2.5, "update": 4.0} for i in range(12)],
    })  # fmt: skip
    answers = [
        {"policy": policy, "prompt_id": f"p{i}", "question": "?", "answer": f"{policy} says {NASTY} \ud800",
         "helpful": (i * k % 5) / 4, "safe": i % 7 != 0, "refused": i % 5 == 0, "kept": None}
        for k, policy in enumerate(POLICIES, 1) for i in range(30)
    ]  # fmt: skip
    made(
        run, "exam", "evaluate", {"policies": {name: measured(k / 2 + 0.5) for k, name in enumerate(POLICIES)}},
        parents=["base", "sft", "ppo"], inputs=["data/prompts_test.jsonl"], rows={"answers.jsonl": answers},
        files={"win_rates.json": {"format": 1, "prompts": 30, "ridge": 1.0, "pairs": won_pairs()}},
        recipe={"policies": {"base": "base", "SFT": "sft", "PPO": "ppo"}, "reference": "sft",
                "dialogues": {"turns": [2]}},
    )  # fmt: skip
    names = {"data": "world", "base": "pretrain", "sft": "sft", "rm": "reward", "reject": "rejection", "ppo": "ppo",
             "exam": "evaluate"}  # fmt: skip
    write_json(run / "pipeline.json", {
        "pipeline": "test",
        "recipe": {"pipeline": "test", "watts": 100.0, "stages": {"sft": {"set": {"api_key": SECRET}}}},
        "stages": {name: {"state": "finished", "stage": stage, "artifact": name, "seconds": 36.0, "peak_gib": 1.5}
                   for name, stage in names.items()},
    })  # fmt: skip
    return run


def unfinished(run: Path) -> Path:
    """A pipeline whose second stage is writing just now, and whose third waits."""
    made(run, "base", "pretrain", {"loss": 1.0}, rows=training(30))
    write_jsonl(run / "work" / "sft" / "metrics.jsonl", [{"step": i, "loss": 2.0 - i / 10} for i in range(8)])
    with (run / "work" / "sft" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')
    write_json(run / "pipeline.json", {
        "pipeline": "test", "recipe": {"pipeline": "test"},
        "stages": {"base": {"state": "finished", "stage": "pretrain", "seconds": 3.0, "peak_gib": 0.5},
                   "sft": {"state": "running", "stage": "sft"}, "exam": {"state": "waiting", "stage": "evaluate"}},
    })  # fmt: skip
    return run
