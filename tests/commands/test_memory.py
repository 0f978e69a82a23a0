from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from align.commands.check import USES, check
from align.commands.memory import estimate
from align.config import read_yaml, to_plain
from align.model.config import PRESETS
from align.model.memory import sampling, scoring, training
from align.pipeline import load_pipeline
from align.runner import STAGES, make_task
from align.values import leaves
from tests.stages import ppo_toy as toy
from tests.test_recipes import filled

RECIPES = Path(__file__).parent.parent.parent / "recipes"
GIB = 2**30
FOLDERS = ("policy", "helpful", "safety")


def test_check_knows_what_every_stage_uses() -> None:
    assert set(USES) >= {name for name, module in STAGES.items() if module.startswith("align.")}


def test_every_pattern_is_a_key_of_some_shipped_pipeline() -> None:
    given = ["model=given", "data=given"]
    tasks = [task for path in RECIPES.glob("*/pipeline.yaml") for task in load_pipeline(path, given).tasks]
    tasks += [filled(path) for path in (RECIPES / "exams").glob("*.yaml")]  # of no pipeline
    found = {(task.stage, key) for task in tasks for key, _ in leaves(task.plain)}
    ptx = {"data": [{"path": "d.jsonl"}], "text": ["t.txt"], "rows": 1, "micro_rows": 1, "length": 64}
    whole = toy.recipe(
        {name: Path(name) for name in FOLDERS}, ptx=ptx, held_out={"prompts": "p.jsonl", "every": 1}
    )  # what no shipped pipeline asks for
    found |= {("ppo", key) for key, _ in leaves(to_plain(whole))}
    for stage, patterns in USES.items():
        for pattern in patterns:
            assert any(s == stage and fnmatchcase(key, pattern) for s, key in found), (stage, pattern)


def test_ppo_holds_six_models() -> None:
    settings = {"policy": "p", "helpful": "h", "safety": "s", "prompts": "x.jsonl"}
    values = read_yaml(RECIPES / "llama2-7b" / "ppo.yaml", settings=settings)
    task = make_task(values, "ppo", Path("out"))
    big, small = PRESETS["llama2-13b"], PRESETS["llama2-7b"]
    sizes = {"p": big, "h": small, "s": small}
    found = estimate(task, sizes)
    assert sizes["out"] == big
    kwargs = {"stage": 3, "dtype": "bf16", "rows": 1, "length": 4096, "processes": 8, "checkpointing": "selective"}
    wanted = {
        "policy": training(big, head=True, whole_logits=True, **kwargs),  # type: ignore[arg-type]
        "critic": training(small, head=False, **kwargs),  # type: ignore[arg-type]
        "reference": scoring(big, dtype="bf16", head=True),
        "helpful": scoring(small, dtype="bf16", head=False),
        "safety": scoring(small, dtype="bf16", head=False),
        "sampler": sampling(big, dtype="bf16", slots=64, length=4096),
    }
    assert found == {name: memory.device / GIB for name, memory in wanted.items()}


def test_a_pair_is_two_rows() -> None:
    values = {
        "stage": "reward",
        "policy": "p",
        "data": {"main": ["a.jsonl"]},
        "held_out": {},
        "margins": "none",
        "batch": {"rows": 8, "micro_rows": 4, "length": 128},
        "optim": {
            "lr": 1, "betas": [0.9, 0.95], "eps": 1e-5, "weight_decay": 0, "clip": 1, "schedule": "constant"
        },
        "zero": {"stage": 0, "dtype": "fp32"},
    }  # fmt: skip
    found = estimate(make_task(values, "r", Path("out")), {"p": PRESETS["tiny-1m"]})
    whole = training(PRESETS["tiny-1m"], stage=0, dtype="fp32", rows=8, length=128, head=False)
    assert found == {"training": whole.device / GIB}


def test_an_unknown_size_is_not_guessed() -> None:
    values = {"stage": "ghost", "policy": "nowhere", "prompts": "p", "constraints": "c", "dialogs": 1, "turns": [2]}
    task = make_task({**values, "sampling": {"max_new_tokens": 4}}, "g", Path("out"))
    assert estimate(task, {}) is None


def test_sizes_are_handed_down_a_pipeline_that_has_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [str(line) for line in check(RECIPES / "world" / "pipeline.yaml", [])]
    assert sum("memory of each process" in line for line in lines) == sum(
        ": the recipe is good" in line and ": world: " not in line and ": people: " not in line for line in lines
    )


def test_ppo_by_adapters_needs_no_reference_and_one_reward_model_less() -> None:
    given = {"policy": "base", "helpful": "h", "safety": "s", "prompts": "p.jsonl"}
    model = PRESETS["llama2-7b"]
    sizes = dict.fromkeys(("base", "h", "s"), model)
    path = RECIPES / "llama2-7b" / "ppo.yaml"
    adapters = {"lora": {"rank": 8}, "critic_lora": {"rank": 8}}
    full, lean = (
        estimate(make_task(read_yaml(path, settings=given | extra), "ppo.yaml", Path("out")), sizes)
        for extra in ({}, adapters)
    )
    assert full
    assert lean
    assert full.keys() - lean.keys() == {"reference", "helpful"}
    assert lean["policy"] < full["policy"]
    assert lean["critic"] < full["critic"]
    assert lean["safety"] == full["safety"]
