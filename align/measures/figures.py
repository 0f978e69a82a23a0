"""The figures of a reward model's report as data: titles, axes and the points of every series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from align.stats import mean_se

GROUPS = 10  # of answers by length, as many in each as can be; ours


def figures(report: Mapping[str, Any], answers: Sequence[tuple[float, int]]) -> list[dict[str, Any]]:
    """What a plotter needs, each figure on its own.

    Args:
        report: the other sections of the report.
        answers: (score in logits, tokens) of each different answer.

    Returns:
        A list of {name, title, x, y, series}; a series is {name, points}, points [[x, y], …], and where there are
        intervals ``low`` and ``high``, one a point. An x that is text is a category, in the order it comes.
    """
    found = [_histogram(report["scores"]), _reliability(report["calibration"]), _accuracy(report["accuracy"])]
    found.append(_length(answers))
    if report["safety"]["unsafe"]["curve"]:
        found.append(_unsafe(report["safety"]["unsafe"]["curve"]))
    return found


def _histogram(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Shares, not counts, so that groups of different size are seen side by side."""
    edges = scores["edges"]
    middles = [(low + high) / 2 for low, high in pairwise(edges)]
    series = [
        _series(name, [[x, n / sum(counts)] for x, n in zip(middles, counts, strict=True)])
        for name, counts in scores["counts"].items()
        if sum(counts)
    ]
    return _figure("score_histogram", "Scores", "score, logits", "share of the group's answers", series)


def _reliability(calibration: Mapping[str, Any]) -> dict[str, Any]:
    bins = calibration["bins"]
    model = _series(
        "model",
        [[b["confidence"], b["accuracy"]] for b in bins],
        [b["accuracy_low"] for b in bins],
        [b["accuracy_high"] for b in bins],
    )
    perfect = _series("perfectly calibrated", [[0.5, 0.5], [1.0, 1.0]])
    title = f"Reliability of the pairwise probability (ECE {calibration['ece']:.3f})"
    return _figure("reliability", title, "confidence", "accuracy", [model, perfect])


def _accuracy(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One series for each source and kind, and for the length baseline over all."""
    by_name: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for cell in cells:
        if cell["rating"] == "all":
            continue
        if cell["source"] == cell["kind"] == "all":
            by_name.setdefault("length baseline, all", []).append((cell["rating"], cell["length_baseline"]))
            by_name.setdefault("all", []).append((cell["rating"], cell))
        elif "all" not in (cell["source"], cell["kind"]):
            by_name.setdefault(f"{cell['source'] or 'no source'}, {cell['kind']}", []).append((cell["rating"], cell))
    series = [
        _series(
            name,
            [[rating, cell["accuracy"]] for rating, cell in told],
            [cell["low"] for _, cell in told],
            [cell["high"] for _, cell in told],
        )
        for name, told in by_name.items()
    ]
    return _figure("accuracy_by_rating", "Accuracy by rating", "rating", "accuracy", series)


def _length(answers: Sequence[tuple[float, int]]) -> dict[str, Any]:
    """Mean score of answers of similar length, ± 1.96 standard errors; answers of one length stay together."""
    ordered = sorted(answers, key=lambda answer: answer[1])
    sizes = np.array([tokens for _, tokens in ordered])
    cuts = sorted({int(np.searchsorted(sizes, sizes[len(sizes) * part // GROUPS])) for part in range(GROUPS)})
    points, low, high = [], [], []
    for start, end in zip(cuts, [*cuts[1:], len(sizes)], strict=True):
        mean, error = mean_se([score for score, _ in ordered[start:end]])
        points.append([float(sizes[start:end].mean()), mean])
        half = 1.96 * error if end - start > 1 else None
        low.append(None if half is None else mean - half)
        high.append(None if half is None else mean + half)
    series = [_series("mean score, 95 % interval", points, low, high)]
    return _figure("score_by_length", "Score by length", "tokens of the answer", "score, logits", series)


def _unsafe(curve: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    series = []
    for name in ("recall", "precision"):
        known = [(at["threshold"], at[name]) for at in curve if at[name]["n"]]
        points = [[threshold, cell["accuracy"]] for threshold, cell in known]
        series.append(_series(name, points, [cell["low"] for _, cell in known], [cell["high"] for _, cell in known]))
    title = "Finding unsafe answers: unsafe where the probability of safe is below the threshold"
    return _figure("unsafe_by_threshold", title, "threshold", "share", series)


def _series(
    name: str, points: list[Any], low: list[float | None] | None = None, high: list[float | None] | None = None
) -> dict[str, Any]:
    return {"name": name, "points": points, **({} if low is None else {"low": low, "high": high})}


def _figure(name: str, title: str, x: str, y: str, series: list[dict[str, Any]]) -> dict[str, Any]:
    return {"name": name, "title": title, "x": x, "y": y, "series": series}
