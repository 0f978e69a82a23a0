"""Which of two policies wins, prompt by prompt, and what is left of it where both answers are of one length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from align.stats import wilson

Z = 1.96  # normal quantile of a 95 % interval
RIDGE = 1.0  # ours: a normal prior of sd 1 on the slope; it keeps it finite where length parts wins from losses
STEPS = 100  # Newton's; some ten are enough where the data are not extreme
ROUNDING = 1e-14  # of a sum of some hundred terms in float64, relative
CLOSE = 1e-12  # change of the coefficients at which it has arrived
Array = NDArray[np.float64]


def win_rate(outcomes: Sequence[int], lengths: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """How often the first of two policies wins.

    ``share`` = wins / (wins + losses), its interval Wilson's of 95 % over the decided prompts: one comparison a
    prompt, prompts independent. Ties are counted and left out.

    Args:
        outcomes: of each prompt, 1 where the first policy's answer won, -1 where it lost, 0 for a tie.
        lengths: of the same prompts' two answers, characters; the first policy's first.

    Returns:
        wins, losses, ties; share (None where nothing was decided), low, high; and under ``length_controlled``
        what :func:`length_controlled` finds.
    """
    wins, losses = outcomes.count(1), outcomes.count(-1)
    low, high = wilson(wins, wins + losses)
    decided = [i for i, outcome in enumerate(outcomes) if outcome]
    return {
        "wins": wins,
        "losses": losses,
        "ties": len(outcomes) - wins - losses,
        "share": wins / (wins + losses) if decided else None,
        "low": low,
        "high": high,
        "length_controlled": length_controlled(
            [outcomes[i] > 0 for i in decided], [lengths[i][0] - lengths[i][1] for i in decided]
        ),
    }


def length_controlled(won: Sequence[bool], longer: Sequence[float], ridge: float = RIDGE) -> dict[str, Any]:
    """The win rate to expect of answers of equal length (Dubois et al. 2024, arXiv 2404.04475, AlpacaEval 2).

    Their regression without its term for the instruction's difficulty, which needs many models on the same prompts:
    P(won) = sigmoid(theta + phi · tanh(d / sd(d))) with d = the first answer's length less the second's, in
    characters, and sd the sample's (n - 1). The length-controlled win rate is P(won) at d = 0, sigmoid(theta).
    (theta, phi) minimise the negative log-likelihood + ridge / 2 · phi². Its interval is sigmoid(theta ± 1.96
    standard errors), from the inverse Hessian. Swapping the policies gives exactly one minus it.

    Args:
        won: of each decided prompt.
        longer: d of the same prompts.
        ridge: on phi alone; 0 is the plain maximum likelihood, which has no finite value where length parts the two.

    Returns:
        share, low, high, all None where they cannot be told: no wins or no losses, or one and the same d ≠ 0
        everywhere, so that nothing says what an equal length would do; and ``slope``, phi.
    """
    y, d = np.asarray(won, dtype=np.float64), np.asarray(longer, dtype=np.float64)
    unknown = {"share": None, "low": None, "high": None, "slope": None}
    if len(y) < 2 or y.min() == y.max():
        return unknown
    sd = float(d.std(ddof=1))
    if sd == 0 and d[0] != 0:
        return unknown
    x = np.tanh(d / sd) if sd else np.zeros_like(d)
    theta, phi, error = _fit(x, y, ridge)
    ends = (theta, theta - Z * error, theta + Z * error)
    return dict(zip(("share", "low", "high"), map(_sigmoid, ends), strict=True)) | {"slope": phi}


def _fit(x: Array, y: Array, ridge: float) -> tuple[float, float, float]:
    """theta, phi and the standard error of theta, by Newton's method with halved steps."""
    design = np.stack([np.ones_like(x), x], 1)
    penalty = np.array([0.0, ridge])

    def cost(beta: Array) -> float:
        z = design @ beta
        return float(np.logaddexp(0, z).sum() - y @ z + penalty @ beta**2 / 2)

    beta = np.zeros(2)
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-(design @ beta)))
        hessian = (design * (p * (1 - p))[:, None]).T @ design + np.diag(penalty)
        step = np.linalg.solve(hessian, design.T @ (p - y) + penalty * beta)
        size, before = 1.0, cost(beta)
        worse = before + ROUNDING * abs(before)  # at the minimum costs differ by rounding alone
        while cost(beta - size * step) > worse and size > CLOSE:
            size /= 2
        beta = beta - size * step
        if np.abs(size * step).max() < CLOSE:
            break
    return float(beta[0]), float(beta[1]), math.sqrt(np.linalg.inv(hessian)[0, 0])


def _sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))
