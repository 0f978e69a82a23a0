"""`align score`: a reward model's scores of a data file, and the report of the model where it holds preferences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from align.errors import DataError, RunError, nearest
from align.report.tables import table

if TYPE_CHECKING:
    from align.data.fit import Overlong
    from align.records import Dialog, Messages, Preference
    from align.rollout.reward_model import RewardModel


def score_file(
    folder: Path,
    data: Path,
    out: Path | None,
    report: Path | None = None,
    layout: str | None = None,
    overlong: str = "error",
) -> str:
    """Score every answer of a file of dialogues or preferences.

    Args:
        folder: the reward model's.
        data: dialogues, of which the last answers are scored, or preferences.
        out: where the rows are written with their scores: ``score``, or ``chosen_score`` and ``rejected_score``.
        report: where all that is told is written, figures as data included (data_schemas/reward_report.json).
        layout: how a dialogue is written for the model; see :func:`align.rollout.reward_model.load_reward_model`.
        overlong: a row longer than the model's context is an ``error``, has its prompt ``cut`` at a turn from the left,
            or is ``skip``-ped; both are counted.

    Returns:
        Tables to print: quantiles of the scores, or the report of the reward model.

    Raises:
        AlignError: a folder that is no reward model, a row that is wrong or too long.
        RunError: a score is not finite.
    """
    from align.data.files import read_rows
    from align.data.preference import read_pairs
    from align.data.schema import read_dialogs
    from align.rollout.reward_model import check_layout, load_reward_model

    written, mode = check_layout(layout), _overlong(overlong)
    _, first = next(read_rows(data), (None, None))
    if first is None:
        raise DataError(
            f"{data}: found no rows, expected dialogues (messages) or preferences (prompt, chosen, rejected)"
        )
    if isinstance(first, DataError):
        raise first
    paired = isinstance(first, dict) and ("chosen" in first or "answers" in first)
    if not isinstance(first, dict) or not (paired or "messages" in first):
        raise DataError(f"{data}: found neither dialogues (messages) nor preferences (prompt, chosen, rejected)")
    if report and not paired:
        raise DataError(f"{data}: found dialogues; expected preferences for the report of --json")
    # read before the model is loaded: a bad row is told at once
    if paired:
        pairs = read_pairs([data])
        fitting = _Fitting(load_reward_model(folder, layout=written), mode, data)
        return _pairs(fitting, pairs, out, report, folder.resolve().name)
    dialogs = list(read_dialogs(data))
    return _dialogs(_Fitting(load_reward_model(folder, layout=written), mode, data), dialogs, out)


class _Fitting:
    """A reward model, and what becomes of rows that it cannot read whole."""

    def __init__(self, model: RewardModel, overlong: Overlong, data: Path) -> None:
        self.model = model
        self.overlong = overlong
        self.data = data
        self.counts = {"cut": 0, "skipped": 0}

    def prompt(self, number: int, prompt: Messages, answers: Sequence[Messages]) -> Messages | None:
        """The prompt as all answers fit behind it; None where the row is skipped."""
        from align.data.fit import fit

        def longest(messages: Messages) -> int:
            return max(self.model.size((*messages, *answer)) for answer in answers)

        found = fit(prompt, longest, self.model.context, self.overlong, f"{self.data}: row {number}")
        self.counts["skipped"] += found is None
        self.counts["cut"] += found is not None and found is not prompt
        return found

    def check_left(self, left: int, rows: int) -> None:
        """Refuse to tell of nothing."""
        if not left:
            raise DataError(f"{self.data}: found none of {rows} rows of at most {self.model.context} tokens")

    def told(self) -> str:
        """What was not read as it is, for a table's foot; empty where all was."""
        cut, skipped = self.counts["cut"], self.counts["skipped"]
        return f"\n\nrows over {self.model.context} tokens: {cut} cut, {skipped} skipped" if cut or skipped else ""


def _pairs(fitting: _Fitting, pairs: Sequence[Preference], out: Path | None, report: Path | None, name: str) -> str:
    from align.artifacts import write_json
    from align.measures.reward import document, reward_report
    from align.report.reward_model import reward_tables

    kept: list[Preference] = []
    dialogs: list[Messages] = []
    for number, pair in enumerate(pairs, 1):
        answers = (pair.chosen, pair.rejected)
        prompt = fitting.prompt(number, pair.prompt, answers)
        if prompt is not None:
            kept.append(pair)
            dialogs += [(*prompt, *answer) for answer in answers]
    fitting.check_left(len(kept), len(pairs))
    scores, sizes = fitting.model.read(dialogs)
    chosen, rejected = scores[::2], scores[1::2]
    both, lengths = zip(chosen, rejected, strict=True), zip(sizes[::2], sizes[1::2], strict=True)
    rows = {"preferences": len(pairs), "pairs": len(kept), **fitting.counts}
    found = {"rows": rows, **reward_report(kept, list(both), list(lengths))}
    if out:
        _write(out, kept, chosen_score=chosen, rejected_score=rejected)
    if report:
        write_json(report, document(name, {fitting.data.name: found}))
    return reward_tables(found) + fitting.told()


def _dialogs(fitting: _Fitting, dialogs: Sequence[Dialog], out: Path | None) -> str:
    kept: list[Dialog] = []
    rows: list[Messages] = []
    for number, dialog in enumerate(dialogs, 1):
        prompt = fitting.prompt(number, dialog.messages[:-1], [dialog.messages[-1:]])
        if prompt is not None:
            kept.append(dialog)
            rows.append((*prompt, dialog.messages[-1]))
    fitting.check_left(len(kept), len(dialogs))
    scores = fitting.model.score(rows)
    if bad := sum(not math.isfinite(score) for score in scores):
        raise RunError(f"{fitting.data}: {bad} of {len(scores)} scores are not finite; is the model sound?")
    if out:
        _write(out, kept, score=scores)
    ordered = sorted(scores)
    at = [ordered[round(share * (len(ordered) - 1))] for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    columns = ("dialogues", "mean", "least", "quarter", "median", "three quarters", "most")
    return table("Scores, logits", columns, [(len(scores), statistics.fmean(scores), *at)]) + fitting.told()


def _write(out: Path, records: Sequence[Dialog | Preference], **columns: Sequence[float]) -> None:
    from align.artifacts import write_jsonl
    from align.data.schema import to_json

    def rows() -> Iterator[dict[str, object]]:
        for number, record in enumerate(records):
            yield to_json(record) | {name: values[number] for name, values in columns.items()}

    write_jsonl(out, rows())


def _overlong(name: str) -> Overlong:
    choices: tuple[Overlong, ...] = ("error", "cut", "skip")
    for choice in choices:
        if name == choice:
            return choice
    raise DataError(f"--overlong: found {name!r}, expected one of {', '.join(choices)}{nearest(name, choices)}")
