"""The whole road at toy size: every stage runs, every artifact is whole, and others can read what we wrote."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from align.artifacts import lineage, read_manifest
from align.data.explain import explain
from align.data.schema import read_dialogs, read_prompts, read_rollouts
from align.data.template import encode_dialog, encode_prompt
from align.data.tokenizer import Tokenizer
from align.measures.reward import by_rating
from align.model.weights import load_policy, load_scorer

PIPELINE = Path(__file__).with_name("tiny.yaml")
STAGES = [
    "data",
    "base",
    "sft",
    "reward-helpful",
    "reward-safety",
    "reject",
    "rlhf",
    "people",
    "reward-helpful-2",
    "ghost",
    "gatt",
    "ppo",
    "evaluation",
]

TAGS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")


def command(out: Path) -> list[str]:
    return [sys.executable, "-m", "align.cli", "pipeline", str(PIPELINE), f"out={out}"]


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    out = tmp_path_factory.mktemp("road") / "run"
    done = subprocess.run(command(out), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return out, done.stdout


def test_every_stage_left_a_whole_artifact(road):
    out, _ = road
    for name in STAGES:
        assert read_manifest(out / name, verify=True).name == name
    assert [m.name for m in lineage(out / "ppo")][:2] == ["ppo", "gatt"]


def test_the_tables_are_printed(road):
    _, printed = road
    assert "| PPO " in printed
    assert "ceiling" in printed
    assert "kept at turn 6" in printed


def test_a_second_run_does_nothing(road):
    out, _ = road
    began = time.monotonic()
    again = subprocess.run(command(out), capture_output=True, text=True, timeout=60, check=True)
    assert again.stdout.count("finished and unchanged") == len(STAGES)
    assert time.monotonic() - began < 20


def test_a_policy_loads_in_transformers_with_the_same_logits(road):
    from transformers import AutoModelForCausalLM

    out, _ = road
    tokenizer = Tokenizer(out / "ppo" / "tokenizer.model")
    prompt = next(iter(read_prompts(out / "data" / "prompts_test.jsonl")))
    tokens = torch.tensor([encode_prompt(tokenizer, prompt.messages)])
    ours = load_policy(out / "ppo")(tokens)
    theirs = AutoModelForCausalLM.from_pretrained(out / "ppo", dtype=torch.float32)(tokens).logits
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_a_reward_model_loads_in_transformers_with_the_same_score(road):
    from transformers import AutoModelForSequenceClassification

    out, _ = road
    tokenizer = Tokenizer(out / "reward-helpful" / "tokenizer.model")
    dialog = next(iter(read_dialogs(out / "reject" / "best.jsonl")))
    tokens = torch.from_numpy(encode_dialog(tokenizer, dialog.messages).tokens.astype(np.int64))[None]
    ours = load_scorer(out / "reward-helpful")(tokens)[:, -1]
    model = AutoModelForSequenceClassification.from_pretrained(out / "reward-helpful", dtype=torch.float32)
    torch.testing.assert_close(ours, model(tokens).logits[:, 0], rtol=0, atol=1e-5)


def test_a_reward_model_brings_its_report(road):
    out, _ = road
    for name in ("reward-helpful", "reward-safety", "reward-helpful-2"):
        report = json.loads((out / name / "report.json").read_text())
        assert explain("reward_report", report) is None
        short = {held: by_rating(told) for held, told in report["sets"].items()}
        told = read_manifest(out / name).metrics
        assert short == {key.removeprefix("held_out/"): told[key] for key in told if key.startswith("held_out/")}


def test_a_reward_model_learns_on_from_where_it_stands(road):
    out, _ = road
    first, second = (load_scorer(out / name).score.weight.detach() for name in ("reward-helpful", "reward-helpful-2"))
    assert torch.cosine_similarity(first, second).item() > 0.9  # a new head would be near 0
    assert not torch.equal(first, second)


def test_the_best_answer_of_each_prompt_is_the_one_with_the_highest_score(road):
    out, _ = road
    rollouts = list(read_rollouts(out / "reject" / "rollouts.jsonl"))
    best: dict[str, dict] = {}
    for rollout in rollouts:
        usable = rollout["finish"] == "stop" and rollout["answer"] and not any(t in rollout["answer"] for t in TAGS)
        known = best.get(rollout["prompt_id"])
        if usable and (known is None or rollout["scores"]["combined"] > known["scores"]["combined"]):
            best[rollout["prompt_id"]] = rollout
    chosen = [json.loads(line) for line in (out / "reject" / "best.jsonl").read_text().splitlines()]
    assert sorted(c["messages"][-1]["content"] for c in chosen) == sorted(b["answer"] for b in best.values())
    assert len(rollouts) == 24 * 2


def test_scores_in_the_rollouts_are_the_reward_models_own(road):
    out, _ = road
    tokenizer = Tokenizer(out / "sft" / "tokenizer.model")
    model = load_scorer(out / "reward-safety")
    prompts = {p.id: p for p in read_prompts(out / "data" / "prompts.jsonl")}
    for rollout in list(read_rollouts(out / "reject" / "rollouts.jsonl"))[:5]:
        prompt = encode_prompt(tokenizer, prompts[rollout["prompt_id"]].messages)
        tokens = torch.tensor([[*prompt, *rollout["tokens"]]])
        assert float(model(tokens)[0, -1].detach()) == pytest.approx(rollout["scores"]["safety"], abs=1e-4)


def test_ghost_dialogues_hold_the_instruction_in_the_first_turn_only(road):
    out, _ = road
    dialogs = list(read_dialogs(out / "ghost" / "dialogs.jsonl"))
    for dialog in dialogs:
        instruction = dialog.messages[0]
        assert instruction.role == "system"
        assert all(instruction.content not in message.content for message in dialog.messages[1:])
    held = {dialog.messages for dialog in dialogs}
    turns = Counter(sum(message.role == "user" for message in messages) for messages in held)
    assert sorted(turns) == [1, 2, 3]
    assert turns[1] >= turns[2] >= turns[3] > 0  # with prefixes a dialogue of three turns is there three times
    assert all(messages[: 1 + 2 * shorter] in held for messages in held for shorter in range(1, len(messages) // 2))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_again_and_again_the_same_command_finishes(road, tmp_path):
    undisturbed, _ = road
    out, rng = tmp_path / "run", random.Random(0)
    for attempt in range(40):
        process = subprocess.Popen(
            command(out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )
        try:
            _, complaint = process.communicate(timeout=rng.uniform(8, 25) if attempt < 12 else 600)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            continue
        assert process.returncode == 0, complaint.decode()[-3000:]
        break
    for name in ("base", "sft", "reward-helpful"):
        assert (
            read_manifest(out / name).files["model.safetensors"]
            == read_manifest(undisturbed / name).files["model.safetensors"]
        )
    assert read_manifest(out / "evaluation", verify=True).metrics.keys() == {"policies"}


@pytest.mark.slow
def test_ppo_on_two_processes_learns_what_one_does(road, tmp_path):
    out, _ = road
    recipe = PIPELINE.parent.parent.parent / "recipes" / "world" / "ppo.yaml"
    settings = [
        f"policy={out / 'gatt'}", f"helpful={out / 'reward-helpful'}", f"safety={out / 'reward-safety'}",
        f"prompts={out / 'data' / 'prompts.jsonl'}", "ppo.iterations=2", "ppo.prompts=4", "ppo.mini_batch=8",
        "zero.dtype=fp32",
    ]  # fmt: skip
    logged = []
    for processes in (1, 2):
        made = tmp_path / f"ppo-{processes}"
        one = [sys.executable, "-m", "align.cli", "run", str(recipe), *settings]
        subprocess.run([*one, f"launch.processes={processes}", f"out={made}"], check=True, timeout=300)
        logged.append([json.loads(line) for line in (made / "metrics.jsonl").read_text().splitlines()])
    for alone, shared in zip(*logged, strict=True):
        assert shared == pytest.approx(alone, abs=1e-4)
