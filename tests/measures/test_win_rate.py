"""Win rates against closed forms, published intervals, and regressions fitted by others."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from align.measures.win_rate import length_controlled, win_rate

UNKNOWN = {"share": None, "low": None, "high": None, "slope": None}
# 60 comparisons drawn once: the first answer's length less the second's, and whether it won
LONGER = [
    27, 40, -38, 40, 6, 11, 23, -12, 57, -35, -13, -2, 17, 0, -27, -36, -40, -36, -26, 59,
    -21, 25, 35, -17, -12, 3, -14, 57, -23, 49, 39, 44, -29, -1, 22, 9, 26, 27, 26, -34,
    55, 15, 50, -13, -4, 47, -22, -34, -3, 27, -28, 47, -6, -18, 14, 49, 48, 47, -10, -39,
]  # fmt: skip
WON = [c == "1" for c in "110111011010110001101010100101111010110110100000010110101110"]


def test_by_hand() -> None:
    found = win_rate([1, 1, -1, 0, 1, 0], [(1, 1)] * 6)
    assert (found["wins"], found["losses"], found["ties"], found["share"]) == (3, 1, 2, 0.75)
    assert found["length_controlled"]["share"] == pytest.approx(0.75, abs=1e-9), "all are of one length"


@pytest.mark.parametrize(
    ("wins", "losses", "low", "high"),
    [(81, 182, 0.2553, 0.3662), (15, 133, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 28, 0.0061, 0.1718)],
)
def test_the_interval_is_the_published_one_of_the_decided_comparisons(
    wins: int, losses: int, low: float, high: float
) -> None:
    """Newcombe 1998 (Statistics in Medicine 17:857), table I, method 3; ties beside them change nothing."""
    outcomes = [1] * wins + [0] * 7 + [-1] * losses
    found = win_rate(outcomes, [(3, 5)] * len(outcomes))
    assert (found["low"], found["high"]) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6), st.lists(st.integers(0, 4), min_size=1, max_size=6))
def test_over_all_pairs_of_scores_it_is_the_mann_whitney_statistic_of_the_decided(
    first: list[int], second: list[int]
) -> None:
    """Closed form: over every pair of draws, P(X > Y) / (P(X > Y) + P(X < Y)) counted from both distributions."""
    outcomes = [(a > b) - (a < b) for a, b in itertools.product(first, second)]
    wins = sum(first.count(a) * sum(second.count(b) for b in range(a)) for a in range(5))
    losses = sum(second.count(b) * sum(first.count(a) for a in range(b)) for b in range(5))
    found = win_rate(outcomes, [(1, 1)] * len(outcomes))
    assert (found["wins"], found["losses"]) == (wins, losses)
    assert found["ties"] == sum(first.count(a) * second.count(a) for a in range(5))
    assert found["share"] == (wins / (wins + losses) if wins + losses else None)


def test_normal_scores_win_as_often_as_their_closed_form_says() -> None:
    """X ~ N(m, 1) beats Y ~ N(0, 1) with probability Phi(m / sqrt 2); 99.99 % of draws are within 4 standard errors."""
    rng, n, m = np.random.default_rng(0), 40_000, 0.5
    x, y = rng.normal(m, 1, n), rng.normal(0, 1, n)
    expected = (1 + math.erf(m / 2)) / 2
    found = win_rate([int(a > b) - int(a < b) for a, b in zip(x, y, strict=True)], [(1, 1)] * n)
    assert abs(found["share"] - expected) < 4 * math.sqrt(expected * (1 - expected) / n)
    assert found["low"] < expected < found["high"]


@example([(-1, 0, 0)] * 3 + [(1, 0, 1), (-1, 0, 0), (-1, 2, 0)])  # rounding once stopped the fit short of its minimum
@given(st.lists(st.tuples(st.sampled_from((-1, 0, 1)), st.integers(0, 9), st.integers(0, 9)), max_size=30))
def test_swapping_the_policies_turns_everything_round(rows: list[tuple[int, int, int]]) -> None:
    here = win_rate([o for o, _, _ in rows], [(a, b) for _, a, b in rows])
    there = win_rate([-o for o, _, _ in rows], [(b, a) for _, a, b in rows])
    assert (here["wins"], here["losses"], here["ties"]) == (there["losses"], there["wins"], there["ties"])
    for a, b in ((here, there), (here["length_controlled"], there["length_controlled"])):
        if a["share"] is None:
            assert b["share"] is None
        else:
            assert a["share"] == pytest.approx(1 - b["share"], abs=1e-9)
            assert (a["low"], a["high"]) == (
                pytest.approx(1 - b["high"], abs=1e-9),
                pytest.approx(1 - b["low"], abs=1e-9),
            )


def test_the_closed_form_of_two_lengths() -> None:
    """Where d is +c or -c the plain regression is saturated: theta is the mean of both sides' logits."""
    won = [True] * 7 + [False] * 3 + [True] * 2 + [False] * 8
    found = length_controlled(won, [12.0] * 10 + [-12.0] * 10, ridge=0.0)
    logit = (math.log(7 / 3) + math.log(2 / 8)) / 2
    t = math.tanh(12 / (12 * math.sqrt(20 / 19)))
    assert found["share"] == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-10)
    assert found["slope"] == pytest.approx((math.log(7 / 3) - math.log(2 / 8)) / 2 / t, abs=1e-9)
    # delta method: the variance of a logit of n is 1 / (n p q), and theta is the mean of two
    error = math.sqrt(1 / (10 * 0.7 * 0.3) + 1 / (10 * 0.2 * 0.8)) / 2
    assert found["high"] == pytest.approx(1 / (1 + math.exp(-logit - 1.96 * error)), abs=1e-9)


@pytest.mark.parametrize(
    ("ridge", "share", "slope"),
    [(1.0, 0.5254958681972962, 1.008324418496794), (0.1, 0.5224090441772372, 1.1677874336842236)],
)
def test_it_is_the_regression_of_scikit_learn(ridge: float, share: float, slope: float) -> None:
    """LogisticRegression(C=1/ridge, solver="newton-cholesky") of 1.9.1, the intercept left free."""
    found = length_controlled(WON, LONGER, ridge)
    assert (found["share"], found["slope"]) == (pytest.approx(share, abs=1e-9), pytest.approx(slope, abs=1e-8))


@pytest.mark.parametrize("ridge", [1.0, 0.01])
@pytest.mark.parametrize("seed", range(3))
def test_another_optimiser_and_automatic_derivatives_find_the_same(ridge: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    d = rng.normal(5, 30, 80)
    won = rng.random(80) < 1 / (1 + np.exp(-(seed - 1) - d / 20))
    x = torch.tensor(np.tanh(d / np.std(d, ddof=1)))
    y = torch.tensor(won, dtype=torch.float64)

    def cost(beta: torch.Tensor) -> torch.Tensor:
        z = beta[0] + beta[1] * x
        return torch.nn.functional.binary_cross_entropy_with_logits(z, y, reduction="sum") + ridge / 2 * beta[1] ** 2

    beta = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [beta], max_iter=500, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = cost(beta)
        loss.backward()
        return loss

    optimiser.step(closure)
    error = torch.linalg.inv(torch.autograd.functional.hessian(cost, beta.detach()))[0, 0].sqrt()
    ends = torch.sigmoid(beta[0].detach() + torch.tensor([0.0, -1.96, 1.96]) * error).tolist()
    found = length_controlled(won.tolist(), d.tolist(), ridge)
    assert [found["share"], found["low"], found["high"]] == pytest.approx(ends, abs=1e-7)
    assert found["slope"] == pytest.approx(float(beta.detach()[1]), abs=1e-6)


def test_a_judge_of_length_alone_prefers_neither_at_equal_length() -> None:
    """The first policy is longer in three of four; the judge takes the longer one in 90 %."""
    rng = np.random.default_rng(1)
    d = rng.normal(20, 30, 4000)
    won = np.where(rng.random(4000) < 0.9, d > 0, d < 0)
    found = length_controlled(won.tolist(), d.tolist())
    assert won.mean() > 0.65
    assert found["low"] < 0.5 < found["high"]


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng, held, truth = np.random.default_rng(2), 0, 0.4
    for _ in range(400):
        d = rng.normal(0, 1, 150)
        x = np.tanh(d / d.std(ddof=1))
        found = length_controlled((rng.random(150) < 1 / (1 + np.exp(-truth - x))).tolist(), d.tolist())
        held += found["low"] < 1 / (1 + math.exp(-truth)) < found["high"]
    assert 0.92 < held / 400 < 0.98


@pytest.mark.parametrize(
    ("won", "longer"),
    [([], []), ([True], [3]), ([True] * 5, [1, 2, 3, 4, 5]), ([False] * 5, [1, 2, 3, 4, 5]), ([True, False], [4, 4])],
)
def test_what_cannot_be_told_is_null(won: Sequence[bool], longer: Sequence[float]) -> None:
    assert length_controlled(won, longer) == UNKNOWN


def test_lengths_that_part_wins_from_losses_leave_it_finite() -> None:
    found = length_controlled([True] * 20 + [False] * 20, [9.0] * 20 + [-9.0] * 20)
    assert found["share"] == pytest.approx(0.5, abs=1e-9)
    assert 0 < found["low"] < 0.5 < found["high"] < 1
    assert 0 < found["slope"] < 100
