"""`align score` and the scoring interface, beside transformers' own reading of the folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from align.artifacts import write_jsonl
from align.data.template import encode_dialog
from align.data.tokenizer import Tokenizer
from align.errors import DataError
from align.records import Message
from align.rollout.reward_model import load_reward_model
from tests.commandline import TURN, align, make_reward_model, refused

ASKED = [{"role": "user", "content": "what is the time"}]
ANSWERS = [[{"role": "assistant", "content": text}] for text in ("it is noon", "hello", "I am well")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_reward_model(tmp_path_factory.mktemp("shelf") / "rm")


def test_scores_are_those_that_transformers_reads(model: Path) -> None:
    theirs = AutoModelForSequenceClassification.from_pretrained(model, dtype=torch.float32).eval()
    tokenizer = Tokenizer(model / "tokenizer.model")
    expected = []
    for answer in ANSWERS:
        messages = tuple(Message(**m) for m in (*ASKED, *answer))
        tokens = torch.from_numpy(encode_dialog(tokenizer, messages).tokens.astype("int64"))[None]
        with torch.no_grad():
            expected.append(float(theirs(tokens).logits))
    rm = load_reward_model(model)
    assert rm.score([[*ASKED, *answer] for answer in ANSWERS]) == pytest.approx(expected, abs=1e-5)
    records = [tuple(Message(**m) for m in (*ASKED, *answer)) for answer in ANSWERS]
    assert rm.score(records, batch_tokens=1) == pytest.approx(expected, abs=1e-5)
    assert rm.score([]) == []


def test_a_dialogue_longer_than_the_context_is_told(model: Path) -> None:
    long = [*ASKED, {"role": "assistant", "content": "noon " * 200}]
    with pytest.raises(DataError, match=r"dialogue 1: \d+ tokens, and the reward model reads 96"):
        load_reward_model(model).score([[*ASKED, *ANSWERS[0]], long])


def test_score_of_dialogues_and_of_preferences(model: Path, tmp_path: Path) -> None:
    rm = load_reward_model(model)
    dialogs, out = tmp_path / "dialogs.jsonl", tmp_path / "scored.jsonl"
    write_jsonl(dialogs, [{"messages": [*ASKED, *answer]} for answer in ANSWERS])
    done = align("score", model, dialogs, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "### Scores, logits" in done.stdout
    scores = rm.score([[*ASKED, *answer] for answer in ANSWERS])
    assert [json.loads(line)["score"] for line in out.read_text().splitlines()] == pytest.approx(scores, abs=1e-6)

    best, worst = max(range(3), key=scores.__getitem__), min(range(3), key=scores.__getitem__)
    pairs = tmp_path / "pairs.jsonl"
    row = {"prompt": ASKED, "chosen": ANSWERS[best], "rejected": ANSWERS[worst], "rating": "better"}
    turned = {"prompt": ASKED, "chosen": ANSWERS[worst], "rejected": ANSWERS[best], "rating": "slightly"}
    write_jsonl(pairs, [row, turned, row])
    done = align("score", model, pairs, "--out", out)
    assert done.returncode == 0, done.stderr
    lines = {line.split("|")[1].strip(): line for line in done.stdout.splitlines() if line.startswith("| ")}
    assert "100.0 (" in lines["better"]
    assert "0.0 (" in lines["slightly"]
    assert "66.7 (" in lines["all"]
    assert "negligibly" not in lines
    first = json.loads(out.read_text().splitlines()[0])
    assert first["chosen_score"] > first["rejected_score"]
    assert first["rating"] == "better"


def test_wrong_files_are_one_line(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "prompts.jsonl"
    write_jsonl(other, [{"id": "a", "prompt": TURN[:1]}])
    assert "found neither dialogues (messages) nor preferences" in refused("score", model, other)
    write_jsonl(other, [{"messages": TURN}])
    assert str(tmp_path / "none") in refused("score", tmp_path / "none", other)
