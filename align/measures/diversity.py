"""Self-BLEU against temperature: how alike a policy's answers to one prompt are, and how fast that falls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from align.measures.bleu import self_bleu
from align.stats import mean_se

Z = 1.96  # normal quantile of a 95 % interval


def curve(answers: Mapping[float, Mapping[str, Sequence[str]]]) -> dict[str, Any]:
    """One policy's curve over one set of prompts (the paper's figure of in-context temperature rescaling).

    Args:
        answers: by temperature, by prompt: several answers to it. The same prompts at every temperature.

    Returns:
        ``points``: temperature, the mean over prompts of Self-BLEU (0 … 100) with its standard error and its normal
        95 % interval low, high; ``slope``: mean over prompts of the least-squares slope of Self-BLEU against
        temperature, and its standard error, both None where there is one temperature. Standard errors are None with
        one prompt.
    """
    found = {t: {key: self_bleu(said) for key, said in by_prompt.items()} for t, by_prompt in answers.items()}
    points = [{"temperature": t, **_interval(list(by_prompt.values()))} for t, by_prompt in sorted(found.items())]
    if len(found) < 2:
        return {"points": points, "slope": {"mean": None, "se": None}}
    prompts = next(iter(found.values()))
    mean, error = mean_se([slope([(t, by[key]) for t, by in found.items()]) for key in prompts])
    return {"points": points, "slope": {"mean": mean, "se": _known(error)}}


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Least-squares slope of y against x.

    Args:
        points: (x, y), at least two different x.
    """
    n = len(points)
    x0, y0 = math.fsum(x for x, _ in points) / n, math.fsum(y for _, y in points) / n
    return math.fsum((x - x0) * (y - y0) for x, y in points) / math.fsum((x - x0) ** 2 for x, _ in points)


def _interval(values: Sequence[float]) -> dict[str, Any]:
    mean, error = mean_se(values)
    if math.isnan(error):
        return {"mean": mean, "se": None, "low": None, "high": None}
    return {"mean": mean, "se": error, "low": mean - Z * error, "high": mean + Z * error}


def _known(error: float) -> float | None:
    return None if math.isnan(error) else error
