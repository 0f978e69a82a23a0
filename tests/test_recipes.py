"""Every recipe that is shipped is loaded by the real parser; the paper's values are compared with the paper's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from align.config import read_yaml
from align.pipeline import load_pipeline
from align.runner import Task, make_task
from align.values import load

RECIPES = Path(__file__).parent.parent / "recipes"
ALL = sorted(RECIPES.rglob("*.yaml"))
PIPELINES = [path for path in ALL if path.name == "pipeline.yaml"]
STAGES = [path for path in ALL if path not in PIPELINES]
SIZES = ["7b", "13b", "34b", "70b"]

# something of the right kind for what a recipe leaves to its user (???)
FILL: dict[str, Any] = {
    "policy": "base", "helpful": "h", "safety": "s", "reference": "r", "prompts": "p.jsonl",
    "constraints": "c.jsonl", "policies": ["a"], "data": [{"path": "d.jsonl"}],
    "data.main": ["m.jsonl"], "data.other": ["o.jsonl"], "held_out": {"set": "t.jsonl"}, "text.paths": ["t.txt"],
    "rewards.helpful": "h", "rewards.safety": "s", "rewards": {"helpful": "h", "safety": "s", "threshold": 0.15},
    "rollouts": ["r.jsonl"], "preprompts": "q.jsonl",
    "truthfulqa.path": "t.csv", "winogender.path": "w.tsv", "gsm8k.path": "g.jsonl",
    "gsm8k.shots.path": "g.jsonl", "humaneval.path": "h.jsonl", "humaneval.run_programs": True,
    "dialogues": "d.jsonl",
    "prompts.factual.path": "p.jsonl", "prompts.creative.path": "p.jsonl",
    "jobs": [{"format": "hh", "path": "a.jsonl", "to": "preferences", "out": "a"}],
}  # fmt: skip


def filled(path: Path) -> Task:
    values = read_yaml(path)
    settings = {key: value for key, value in FILL.items() if _at(values, key) == "???"}
    if values["stage"] in ("evaluate", "exam", "attention", "temperature") and "policies" in settings:
        settings["policies"] = {"SFT": "a"}
    return make_task(read_yaml(path, settings=settings), str(path), Path("out"))


def _at(values: Any, key: str) -> Any:
    for step in key.split("."):
        values = values.get(step) if isinstance(values, dict) else None
    return values


def test_there_are_recipes() -> None:
    assert len(ALL) >= 4 * 8
    assert {p.parent.name for p in PIPELINES} >= {"world", *(f"llama2-{size}" for size in SIZES)}


@pytest.mark.parametrize("path", STAGES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_stage_s_recipe_is_good(path: Path) -> None:
    assert filled(path).stage == read_yaml(path)["stage"]


@pytest.mark.parametrize("path", PIPELINES, ids=lambda p: p.parent.name)
def test_a_pipeline_and_all_its_stages_are_good(path: Path) -> None:
    raw = load(path)
    given = [f"{key}=given" for key in ("model", "data") if raw.get(key) == "???"]
    pipeline = load_pipeline(path, given)
    assert [task.name for task in pipeline.tasks] == list(raw["stages"])
    assert pipeline.out.parent == Path("runs")


@pytest.mark.parametrize("path", PIPELINES, ids=lambda p: p.parent.name)
def test_the_seed_of_a_pipeline_reaches_every_stage(path: Path) -> None:
    given = ["seed=41", "model=given", "data=given"]
    assert {task.plain["seed"] for task in load_pipeline(path, given).tasks} == {41}


@pytest.mark.parametrize("path", PIPELINES, ids=lambda p: p.parent.name)
def test_every_recipe_beside_a_pipeline_is_used_by_it(path: Path) -> None:
    used = {name for entry in load(path)["stages"].values() if "/" not in (name := entry["recipe"])}
    spare = {"rejection.yaml"} if path.parent.name in ("llama2-7b", "llama2-13b", "llama2-34b") else set()
    assert {p.name for p in path.parent.glob("*.yaml")} - {"pipeline.yaml"} - spare == used


BASE = {"betas": [0.9, 0.95], "eps": 1e-5, "weight_decay": 0.1, "clip": 1.0}


@pytest.mark.parametrize("size", SIZES)
def test_the_paper_s_values(size: str) -> None:
    """Numbers of sections 3.1, 3.2.2, 3.2.3 and 3.3 of arXiv 2307.09288, written here a second time."""
    plain = {p.stem: filled(p).plain for p in (RECIPES / f"llama2-{size}").glob("*.yaml") if p not in PIPELINES}

    sft = plain["sft"]
    assert sft["optim"].items() >= {**BASE, "lr": 2e-5, "schedule": "cosine"}.items()
    assert sft["batch"].items() >= {"rows": 64, "length": 4096, "epochs": 2.0}.items()

    for kind, share in (("helpful", 0.5), ("safety", 0.9)):
        reward = plain[f"reward-{kind}"]
        lr = 5e-6 if size == "70b" else 1e-5
        schedule = {"schedule": "cosine", "final_lr_ratio": 0.1, "warmup_ratio": 0.03, "warmup_min": 5}
        assert reward["optim"].items() >= {**BASE, **schedule, "lr": lr}.items()
        assert reward["batch"].items() >= {"rows": 512, "epochs": 1.0}.items()
        assert reward["data"]["main_share"] == share
        assert reward["margins"] in ("small", "large")
    assert plain["reward-safety"]["safety_weight"] > 0

    ppo = plain["ppo"]
    assert ppo["optim"].items() >= {**BASE, "lr": 1e-6, "schedule": "constant"}.items()
    beta = 0.01 if size in ("7b", "13b") else 0.005
    assert ppo["ppo"].items() >= {"prompts": 512, "mini_batch": 64, "clip": 0.2, "beta": beta}.items()
    assert 200 <= ppo["ppo"]["iterations"] <= 400
    assert ppo["ppo"].items() >= {"epochs": 1, "gamma": 1.0, "lam": 0.95, "score_scale": "whiten"}.items()
    assert ppo["threshold"] == plain["rejection"]["threshold"] == 0.15
    assert ppo["zero"]["stage"] == 3

    assert plain["ghost"]["short_share"] == 0.5
    assert {1.2, 1.3} <= set(plain["rejection"]["temperature"]["grid"])


def test_every_number_says_where_it_is_from() -> None:
    checked, unsaid = 0, []
    for path in ALL:
        if not path.parent.name.startswith("llama2-") or path in PIPELINES:
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if re.match(r"\s*\w+: *[-{\[]?[\w.: ]*\d", line):
                checked += 1
                if not re.search(r"#.*\b(section \d|ours)\b", line):
                    unsaid.append(f"{path.parent.name}/{path.name}:{number}: {line}")
    assert checked > 4 * 60
    assert unsaid == []
