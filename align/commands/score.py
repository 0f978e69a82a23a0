"""`align score`: a reward model's scores of a data file, and how often it agrees with its preferences."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from align.errors import DataError
from align.report.tables import table

if TYPE_CHECKING:
    from align.records import Dialog, Preference
    from align.rollout.reward_model import RewardModel


def score_file(folder: Path, data: Path, out: Path | None) -> str:
    """Score every answer of a file of dialogues or preferences.

    Args:
        folder: the reward model's.
        data: dialogues, of which the last answers are scored, or preferences.
        out: where the rows are written with their scores: ``score``, or ``chosen_score`` and ``rejected_score``.

    Returns:
        A table to print: quantiles of the scores, or accuracy by rating.

    Raises:
        AlignError: a folder that is no reward model, a row that is wrong or too long.
    """
    from align.data.files import read_rows
    from align.data.schema import read_dialogs, read_preferences
    from align.rollout.reward_model import load_reward_model

    _, first = next(read_rows(data), (None, {}))
    paired = isinstance(first, dict) and "chosen" in first
    if not isinstance(first, dict) or not (paired or "messages" in first):
        raise DataError(f"{data}: found neither dialogues (messages) nor preferences (prompt, chosen, rejected)")
    model = load_reward_model(folder)
    if paired:
        return _pairs(model, list(read_preferences(data)), out)
    return _dialogs(model, list(read_dialogs(data)), out)


def _pairs(model: RewardModel, pairs: Sequence[Preference], out: Path | None) -> str:
    from align.records import RATINGS
    from align.stats import accuracy_by

    both = [pair.prompt + answer for pair in pairs for answer in (pair.chosen, pair.rejected)]
    scores = model.score(both)
    chosen, rejected = scores[::2], scores[1::2]
    if out:
        _write(out, pairs, chosen_score=chosen, rejected_score=rejected)
    gaps = [a - b for a, b in zip(chosen, rejected, strict=True)]
    found = accuracy_by(gaps, [pair.rating for pair in pairs], RATINGS)
    rows = [
        (name, value["n"], f"{100 * value['accuracy']:.1f} ({100 * value['low']:.1f}–{100 * value['high']:.1f})")
        for name, value in found.items()
        if value["n"]
    ]
    return table("Accuracy by rating, % (95 % interval)", ("rating", "pairs", "accuracy"), rows)


def _dialogs(model: RewardModel, dialogs: Sequence[Dialog], out: Path | None) -> str:
    scores = model.score([dialog.messages for dialog in dialogs])
    if out:
        _write(out, dialogs, score=scores)
    ordered = sorted(scores)
    at = [ordered[round(share * (len(ordered) - 1))] for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    columns = ("dialogues", "mean", "least", "quarter", "median", "three quarters", "most")
    return table("Scores, logits", columns, [(len(scores), statistics.fmean(scores), *at)])


def _write(out: Path, records: Sequence[Dialog | Preference], **columns: Sequence[float]) -> None:
    from align.artifacts import write_jsonl
    from align.data.schema import to_json

    def rows() -> Iterator[dict[str, object]]:
        for number, record in enumerate(records):
            yield to_json(record) | {name: values[number] for name, values in columns.items()}

    write_jsonl(out, rows())
