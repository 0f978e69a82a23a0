"""What stage reward tells of its held-out sets, beside reading every answer alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from align.artifacts import write_jsonl
from align.data.preference import pair_rows, read_pairs
from align.data.template import encode_dialog
from align.data.tokenizer import Tokenizer
from align.errors import DataError, RunError
from align.measures.reward import by_rating
from align.records import RATINGS
from align.stages.reward import _held_out, measure
from align.stats import accuracy_by
from tests.data.corpus import WORDS
from tests.fakes import tiny_scorer
from tests.stages.conftest import SMALL


def rows(count: int) -> list[dict[str, Any]]:
    """Pairs whose first answer is the same everywhere, one of them behind a prompt too long to read whole."""
    made = []
    for i in range(count):
        asked = [{"role": "user", "content": f"who says {WORDS[i % 4]}?"}]
        if i == 2:
            asked = [{"role": "user", "content": "hello " * 60}, {"role": "assistant", "content": "yes"}, *asked]
        answers = [[{"role": "assistant", "content": text}] for text in ("a fox", " ".join(WORDS[i : i + 3]))]
        made.append({"prompt": asked, "chosen": answers[0], "rejected": answers[1], "rating": RATINGS[i % 3]})
    return made


def test_it_is_what_reading_every_answer_alone_gives(models: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "held.jsonl", rows(12))
    tokenizer, scorer = Tokenizer(models / "tokenizer.model"), tiny_scorer(3, SMALL)
    read: list[int] = []
    scorer.register_forward_pre_hook(lambda _, given: read.append(len(given[0])))
    report = measure(scorer, *_held_out("mine", str(tmp_path / "held.jsonl"), tokenizer, 64))
    pairs = read_pairs([tmp_path / "held.jsonl"])
    prompts = [pair.prompt[-1:] for pair in pairs]  # cut at the turn
    gaps = []
    for prompt, pair in zip(prompts, pairs, strict=True):
        both = [encode_dialog(tokenizer, (*prompt, *answer)).tokens for answer in (pair.chosen, pair.rejected)]
        first, second = (float(scorer(torch.tensor([t.tolist()]))[0, -1].detach()) for t in both)
        gaps.append(first - second)
    assert by_rating(report) == accuracy_by(gaps, [pair.rating for pair in pairs], RATINGS)
    assert report["rows"] == report["rows"] | {"preferences": 12, "pairs": 12, "cut": 1, "skipped": 0}
    assert report["calibration"]["overconfidence"] == pytest.approx(
        sum(1 / (1 + 2.718281828459045 ** -abs(gap)) for gap in gaps) / 12 - sum(gap > 0 for gap in gaps) / 12, abs=1e-5
    )
    # four questions: their four answers "a fox", and twelve others, each forwarded once
    assert sum(read) - 2 * len(pairs) == 4 + 12


def test_an_answer_is_counted_with_its_eos(models: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "held.jsonl", rows(2))
    tokenizer = Tokenizer(models / "tokenizer.model")
    report = measure(tiny_scorer(3, SMALL), *_held_out("mine", str(tmp_path / "held.jsonl"), tokenizer, 64))
    sizes = [len(tokenizer.encode(" ".join(WORDS[i : i + 3]) + " ")) for i in (0, 1)]
    longer = len(tokenizer.encode("a fox ")) - sizes[0], len(tokenizer.encode("a fox ")) - sizes[1]
    expected = sum(0.5 if more == 0 else float(more > 0) for more in longer) / 2
    assert report["length"]["baseline"]["accuracy"] == expected
    points = next(f for f in report["figures"] if f["name"] == "score_by_length")["series"][0]["points"]
    assert points[-1][0] == max(*sizes, len(tokenizer.encode("a fox "))) + 1


def test_an_empty_split_is_told_before_anything_is_trained(models: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer(models / "tokenizer.model")
    for kept in ([], rows(3)[2:]):
        write_jsonl(tmp_path / "held.jsonl", kept)
        with pytest.raises(DataError, match=r"held\.jsonl"):
            _held_out("mine", str(tmp_path / "held.jsonl"), tokenizer, 8)


def test_a_score_that_is_no_number_is_told(models: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "held.jsonl", rows(3))
    scorer = tiny_scorer(3, SMALL)
    scorer.score.weight[0, 0] = float("nan")
    with pytest.raises(RunError, match="the scores of 3 of 3 pairs are not finite"):
        measure(scorer, *_held_out("mine", str(tmp_path / "held.jsonl"), Tokenizer(models / "tokenizer.model"), 64))


def test_pairs_know_which_preference_they_are_of(models: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "held.jsonl", rows(6))
    tokenizer = Tokenizer(models / "tokenizer.model")
    made = pair_rows(tokenizer, read_pairs([tmp_path / "held.jsonl"]), margins="none", max_len=64, overlong="skip")
    assert made.kept == [0, 1, 3, 4, 5]
