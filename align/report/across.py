"""Several runs of one pipeline, usually of several seeds, as one table: means over runs and their spread."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from align.artifacts import read_manifest
from align.errors import ArtifactError
from align.report.tables import table
from align.stats import mean_se

Measured = Mapping[str, Any]


def across(runs: Sequence[Path]) -> str:
    """Each policy's numbers as mean over runs ± standard error over runs, and what each gained on those before it.

    Args:
        runs: at least two run folders of pipelines with the same policies in their evaluation.

    Raises:
        ArtifactError: a run without an evaluation, or with other policies.
    """
    found = [evaluation(run) for run in runs]
    names = list(found[0])
    for run, measured in zip(runs, found, strict=True):
        if list(measured) != names:
            raise ArtifactError(f"{run}: evaluates {list(measured)}, {runs[0]} evaluates {names}")
    readings = readings_of(found[0][names[0]])
    rows = [
        [name, *(over([read(measured[name]) for measured in found], digits) for read, digits in readings.values())]
        for name in names
    ]
    means = table(f"Means over {len(runs)} runs ± standard error over runs", ["policy", *readings], rows)
    if "helpful" not in found[0][names[0]]:
        return means
    gains = [
        [later, *(step([m[earlier] for m in found], [m[later] for m in found]) for earlier in names[:place])]
        for place, later in enumerate(names)
        if place
    ]
    gains = [row + [""] * (len(names) - len(row)) for row in gains]
    title = "Gain in helpfulness over each earlier policy (and in its standard errors)"
    return f"{means}\n\n{table(title, ['policy', *names[:-1]], gains)}"


def evaluation(run: Path) -> Mapping[str, Measured]:
    """What the run's evaluation measured, by policy."""
    for manifest in sorted(run.glob("*/manifest.json")):
        read = read_manifest(manifest.parent)
        if read.stage == "evaluate":
            policies: Mapping[str, Measured] = read.metrics["policies"]
            return policies
    raise ArtifactError(f"{run}: no evaluation among its artifacts")


def readings_of(first: Measured) -> dict[str, tuple[Callable[[Measured], float], int]]:
    """Column -> (how it is read off one policy's numbers, digits)."""
    found: dict[str, tuple[Callable[[Measured], float], int]] = {}
    if "helpful" in first:
        found["helpful"] = (lambda m: m["helpful"]["mean"], 3)
        found["unsafe, %"] = (lambda m: 100 * m["unsafe"]["share"], 1)
        found["false refusals, %"] = (lambda m: 100 * m["false_refusals"]["share"], 1)
    if "reward" in first:
        found["reward, logits"] = (lambda m: m["reward"]["mean"], 2)
    if "safety" in first:
        found["safety score, logits"] = (lambda m: m["safety"]["mean"], 2)
    found["KL, nats an answer"] = (lambda m: m["kl"]["mean"], 2)
    for turn in first.get("kept", {}):
        found[f"kept at turn {turn}, %"] = (lambda m, turn=turn: _percent(m["kept"][turn]["share"]), 1)  # type: ignore[misc]
    return found


def _percent(share: float | None) -> float:
    return math.nan if share is None else 100 * share


def over(values: Sequence[float], digits: int) -> str:
    """Mean and standard error over runs."""
    mean, error = mean_se(values)
    return f"{mean:z.{digits}f} ± {error:.{digits}f}"


def step(before: Sequence[Measured], after: Sequence[Measured]) -> str:
    """Gain in helpfulness from one policy to another, and how many of its standard errors that is."""
    found, error = gain(before, after)
    return f"{found:+.3f} ({found / error:+.1f})"


def gain(before: Sequence[Measured], after: Sequence[Measured]) -> tuple[float, float]:
    """Gain in helpfulness from one policy to another over runs, and its standard error.

    The standard error is that of the mean over runs of the difference, from each run's standard errors of its
    two means: runs are independent of each other, prompts within a run are the sample. NaN where a run has one prompt.
    """
    gains = [b["helpful"]["mean"] - a["helpful"]["mean"] for a, b in zip(before, after, strict=True)]
    errors = [m["helpful"]["se"] for m in (*before, *after)]
    error = math.nan if None in errors else math.fsum(e**2 for e in errors) ** 0.5 / len(gains)
    return math.fsum(gains) / len(gains), error
