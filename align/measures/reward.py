"""The report of a reward model on a set of preferences: all that its scores say, computed once."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from align.errors import DataError, RunError
from align.measures.agreement import agreement_report
from align.measures.calibration import calibration
from align.measures.distribution import histogram, quantiles
from align.measures.figures import figures
from align.measures.length import length_report
from align.measures.safety import safety_report
from align.records import RATINGS, Messages, Preference
from align.stats import preferred, proportion

FORMAT = 1
ALL = "all"


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known of one answer to one prompt; it is counted once, in however many pairs it is."""

    score: float  # logits
    tokens: int
    safe: bool | None


def reward_report(
    pairs: Sequence[Preference], scores: Sequence[tuple[float, float]], tokens: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    """What a reward model's scores of a set of preferences say (data_schemas/reward_report.json has the fields).

    Args:
        pairs: preferences.
        scores: (chosen, rejected) of each pair, logits.
        tokens: (chosen, rejected), length of each answer.

    Returns:
        Plain values: ``pairs``, ``accuracy``, ``safety``, ``scores``, ``calibration``, ``length``, ``annotators``
        and ``figures``.

    Raises:
        DataError: there are no pairs.
        RunError: a score is not finite.
    """
    if not pairs:
        raise DataError("reward report: found no pairs, expected at least one preference with its two answers")
    _check_finite(pairs, scores)
    gaps = [chosen - rejected for chosen, rejected in scores]
    longer = [chosen - rejected for chosen, rejected in tokens]
    answers = _answers(pairs, scores, tokens)
    spread = {
        "chosen": [chosen for chosen, _ in scores],
        "rejected": [rejected for _, rejected in scores],
        **{
            name: [answer.score for answer in answers.values() if answer.safe is label]
            for name, label in (("safe", True), ("unsafe", False), ("unlabelled", None))
        },
    }
    report: dict[str, Any] = {
        "pairs": len(pairs),
        "answers": len(answers),
        "accuracy": accuracy_cells(pairs, gaps, longer),
        "safety": safety_report(pairs, gaps, [(answer.score, answer.safe) for answer in answers.values()]),
        "scores": {"groups": {name: quantiles(values) for name, values in spread.items()}, **histogram(spread)},
        "calibration": calibration(gaps),
        "length": length_report(gaps, longer, {key: (a.score, a.tokens) for key, a in answers.items()}),
        "annotators": agreement_report(pairs, gaps),
    }
    return report | {"figures": figures(report, [(a.score, a.tokens) for a in answers.values()])}


def document(model: str, sets: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The reports of one model on several sets, as ``report.json`` holds them.

    Args:
        model: its name.
        sets: name of a set -> :func:`reward_report`.
    """
    return {"format": FORMAT, "model": model, "sets": dict(sets)}


def accuracy_cells(pairs: Sequence[Preference], gaps: Sequence[float], longer: Sequence[int]) -> list[dict[str, Any]]:
    """Accuracy of the model and of the length baseline by source × kind × rating, and over all of each.

    Args:
        pairs: preferences.
        gaps: score of the chosen answer minus that of the rejected one, logits; a tie counts half.
        longer: tokens of the chosen answer minus those of the rejected one; a tie counts half.

    Returns:
        A cell for each combination that occurs: source, kind, rating (each ``all`` where over all), accuracy with its
        95 % Wilson interval low, high, n, and ``length_baseline`` with the same fields; ``over_all`` where it is over
        all sources and kinds.
    """
    # None is over all: no source is called so
    ours: dict[tuple[str | None, str | None, str | None], list[float]] = defaultdict(list)
    theirs: dict[tuple[str | None, str | None, str | None], list[float]] = defaultdict(list)
    for pair, gap, more in zip(pairs, gaps, longer, strict=True):
        for source in (pair.source, None):
            for kind in (pair.kind, None):
                for rating in (pair.rating, None):
                    ours[source, kind, rating].append(preferred(gap))
                    theirs[source, kind, rating].append(preferred(more))
    order: dict[str | None, int] = {name: place for place, name in enumerate((*RATINGS, None))}
    keys = sorted(ours, key=lambda k: (k[0] is None, k[0] or "", k[1] is None, k[1] or "", order[k[2]]))
    return [
        {
            "source": ALL if source is None else source,
            "kind": kind or ALL,
            "rating": rating or ALL,
            "over_all": source is None and kind is None,
            **proportion(ours[source, kind, rating]),
            "length_baseline": proportion(theirs[source, kind, rating]),
        }
        for source, kind, rating in keys
    ]


def by_rating(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The report in short: accuracy by rating and together, over all sources and kinds, as a manifest keeps it."""
    cells = {c["rating"]: c for c in report["accuracy"] if c["over_all"]}
    return {
        name: {key: cells[name][key] for key in ("accuracy", "low", "high", "n")} if name in cells else proportion([])
        for name in (*RATINGS, ALL)
    }


def _answers(
    pairs: Sequence[Preference], scores: Sequence[tuple[float, float]], tokens: Sequence[tuple[int, int]]
) -> dict[tuple[Messages, Messages, bool | None], Answer]:
    """Each different answer to each prompt; one that is labelled differently in two rows is there with each label."""
    found = {}
    for pair, (chosen, rejected), (chosen_size, rejected_size) in zip(pairs, scores, tokens, strict=True):
        found[pair.prompt, pair.chosen, pair.chosen_safe] = Answer(chosen, chosen_size, pair.chosen_safe)
        found[pair.prompt, pair.rejected, pair.rejected_safe] = Answer(rejected, rejected_size, pair.rejected_safe)
    return found


def _check_finite(pairs: Sequence[Preference], scores: Sequence[tuple[float, float]]) -> None:
    bad = [at for at, both in enumerate(scores) if not all(map(math.isfinite, both))]
    if bad:
        source = pairs[bad[0]].source
        raise RunError(
            f"reward report: the scores of {len(bad)} of {len(pairs)} pairs are not finite, first those of pair "
            f"{bad[0]}{f' ({source})' if source else ''}: found {scores[bad[0]]}; is the model sound?"
        )
