"""`align score` and the scoring interface, beside transformers' own reading of the folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from align.artifacts import write_jsonl
from align.commands.score import score_file
from align.data.explain import explain
from align.data.template import encode_dialog
from align.data.tokenizer import Tokenizer
from align.errors import ArtifactError, DataError, RunError
from align.records import Message
from align.rollout.reward_model import load_reward_model
from tests.commandline import TURN, align, here, make_reward_model, refused

WORDS = ["hello good day how are you", "I am well", "what is the time", "it is noon"]
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
    done = here("score", model, pairs, "--out", out)
    assert done.returncode == 0, done.stderr
    lines = {line.split("|")[1].strip(): line for line in done.stdout.splitlines() if line.startswith("| ")}
    assert "100.0 (" in lines["better"]
    assert "0.0 (" in lines["slightly"]
    assert "66.7 (" in lines["all"]
    assert "negligibly" not in lines
    first = json.loads(out.read_text().splitlines()[0])
    assert first["chosen_score"] > first["rejected_score"]
    assert first["rating"] == "better"


def test_a_template_of_its_own_is_not_passed_over_silently(model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "rm")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    dialogs = [[*ASKED, *ANSWERS[0]]]
    with pytest.warns(UserWarning, match=r"Llama-2 chat format.*layout chat"):
        scores = load_reward_model(folder).score(dialogs)
    assert load_reward_model(folder, layout="llama2").score(dialogs) == scores
    (folder / "tokenizer_config.json").write_text("[]")
    with pytest.raises(ArtifactError, match=r"tokenizer_config\.json"):
        load_reward_model(folder)


def test_the_report_as_a_file(model: Path, tmp_path: Path) -> None:
    pairs, told, out = tmp_path / "pairs.jsonl", tmp_path / "report.json", tmp_path / "scored.jsonl"
    both = [
        {"prompt": ASKED, "chosen": ANSWERS[i], "rejected": ANSWERS[j], "source": source, "kind": kind, "votes": votes}
        for i, j, source, kind, votes in (
            (0, 1, "one", "helpful", ["chosen", "chosen"]), (1, 2, "two", "safety", ["chosen", "rejected"]),
        )
    ]  # fmt: skip
    write_jsonl(pairs, [both[0] | {"chosen_safe": True, "rejected_safe": False}, both[1]])
    done = here("score", model, pairs, "--json", told, "--out", out)
    assert done.returncode == 0, done.stderr
    titles = [line[4:] for line in done.stdout.splitlines() if line.startswith("### ")]
    for title in ("Accuracy by source", "Accuracy by safety labels", "Calibration: ECE", "Annotators: Fleiss' kappa"):
        assert any(found.startswith(title) for found in titles), titles
    report = json.loads(told.read_text())
    assert explain("reward_report", report) is None
    assert (report["model"], list(report["sets"])) == ("rm", ["pairs.jsonl"])
    scored = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["votes"] for row in scored] == [row["votes"] for row in both]
    right = sum(row["chosen_score"] > row["rejected_score"] for row in scored)
    (cell,) = (c for c in report["sets"]["pairs.jsonl"]["accuracy"] if c["over_all"] and c["rating"] == "all")
    assert cell["accuracy"] == right / 2


def test_rows_over_the_context(model: Path, tmp_path: Path) -> None:
    long = [{"role": "user", "content": "noon " * 95}, {"role": "assistant", "content": "it is noon"}, *ASKED]
    pairs, dialogs, out = tmp_path / "pairs.jsonl", tmp_path / "dialogs.jsonl", tmp_path / "out.jsonl"
    write_jsonl(pairs, [{"prompt": p, "chosen": ANSWERS[0], "rejected": ANSWERS[1]} for p in (ASKED, long)])
    write_jsonl(dialogs, [{"messages": [*p, *ANSWERS[0]]} for p in (ASKED, long)])
    for data in (pairs, dialogs):
        with pytest.raises(DataError, match=rf"{data.name}: row 2: found \d+ tokens, expected at most 96; overlong"):
            score_file(model, data, None)
        for overlong, rows, told in (("cut", 2, "1 cut, 0 skipped"), ("skip", 1, "0 cut, 1 skipped")):
            assert score_file(model, data, out, overlong=overlong).endswith(f"rows over 96 tokens: {told}")
            assert len(out.read_text().splitlines()) == rows
    scores = load_reward_model(model).score([[*ASKED, *ANSWERS[0]]])
    score_file(model, dialogs, out, overlong="cut")
    assert [json.loads(line)["score"] for line in out.read_text().splitlines()] == pytest.approx(scores * 2, abs=1e-5)
    write_jsonl(pairs, [{"prompt": long[:1], "chosen": ANSWERS[0], "rejected": ANSWERS[1]}])
    with pytest.raises(DataError, match="none of 1 rows of at most 96 tokens"):
        score_file(model, pairs, None, overlong="cut")


def test_our_own_reward_model_reads_the_same_through_transformers(model: Path, tmp_path: Path) -> None:
    pairs, told = tmp_path / "pairs.jsonl", [tmp_path / "ours.json", tmp_path / "theirs.json"]
    write_jsonl(pairs, [{"prompt": ASKED, "chosen": ANSWERS[0], "rejected": other} for other in ANSWERS[1:]])
    score_file(model, pairs, None, report=told[0])
    score_file(model, pairs, None, report=told[1], layout="chat")
    ours, theirs = (json.loads(path.read_text())["sets"]["pairs.jsonl"] for path in told)
    for group in ("chosen", "rejected"):
        assert theirs["scores"]["groups"][group]["mean"] == pytest.approx(
            ours["scores"]["groups"][group]["mean"], abs=1e-6
        )
    assert theirs["calibration"]["ece"] == pytest.approx(ours["calibration"]["ece"], abs=1e-6)


def test_wrong_files_are_one_line(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "prompts.jsonl"
    write_jsonl(other, [{"id": "a", "prompt": TURN[:1]}])
    assert "found neither dialogues (messages) nor preferences" in refused("score", model, other)
    write_jsonl(other, [{"messages": TURN}])
    assert str(tmp_path / "none") in refused("score", tmp_path / "none", other)


def test_wrong_options(model: Path, tmp_path: Path) -> None:
    data = tmp_path / "dialogs.jsonl"
    write_jsonl(data, [{"messages": TURN}])
    with pytest.raises(DataError, match="found dialogues; expected preferences for the report"):
        score_file(model, data, None, report=tmp_path / "report.json")
    with pytest.raises(DataError, match=r"expected one of error, cut, skip \(did you mean 'skip'\?\)"):
        score_file(model, data, None, overlong="skp")
    with pytest.raises(DataError, match="expected one of llama2, chat, pair"):
        score_file(model, data, None, layout="chta")
    data.write_text("")
    with pytest.raises(DataError, match="found no rows"):
        score_file(model, data, None)
    data.write_text("{")
    with pytest.raises(DataError, match=r"dialogs\.jsonl:1: not JSON"):
        score_file(model, data, None)


def test_a_broken_model_is_told(model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "rm")
    weights = load_file(folder / "model.safetensors")
    weights["score.weight"].fill_(float("nan"))
    save_file(weights, folder / "model.safetensors")
    data = tmp_path / "rows.jsonl"
    for row in ({"messages": TURN}, {"prompt": ASKED, "chosen": ANSWERS[0], "rejected": ANSWERS[1]}):
        write_jsonl(data, [row])
        with pytest.raises(RunError, match="not finite"):
            score_file(folder, data, tmp_path / "out.jsonl", report=tmp_path / "r.json" if "prompt" in row else None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rm", "rows.jsonl"]
