from __future__ import annotations

import pytest

from align.measures.correlation import pearson, spearman
from align.measures.length import length_report
from align.stats import proportion, wilson

# chosen longer, shorter, as long, longer, shorter; the model takes chosen, chosen, chosen, rejected, neither
GAPS = [1.0, 2.0, 0.5, -1.0, 0.0]
LONGER = [4, -3, 0, 2, -1]
ANSWERS = {
    i: (score, size) for i, (score, size) in enumerate([(1.0, 9), (0.0, 5), (2.5, 3), (0.5, 6), (0.1, 7), (0.2, 2)])
}


def test_by_hand() -> None:
    found = length_report(GAPS, LONGER, ANSWERS)
    assert (found["model"]["accuracy"], found["baseline"]["accuracy"]) == (0.7, 0.5)
    assert (found["baseline"]["low"], found["baseline"]["high"]) == wilson(2.5, 5)
    assert found["model_where"] == {
        "right": proportion([1.0, 0.0]), "wrong": proportion([1.0, 0.5]), "tied": proportion([1.0]),
    }  # fmt: skip
    # of the four pairs of unequal length: yes, no, no, half
    assert found["prefers_longer"]["model"] == proportion([1.0, 0.0, 0.0, 0.5])
    assert found["prefers_longer"]["people"] == proportion([1.0, 0.0, 1.0, 0.0])
    # differences 0, 1, .5, -1, .5
    assert found["gain"]["value"] == pytest.approx(0.2)
    assert found["gain"]["se"] == pytest.approx((((0.2**2 + 0.8**2 + 0.3**2 * 2 + 1.2**2) / 4) / 5) ** 0.5)
    scores, sizes = zip(*ANSWERS.values(), strict=True)
    assert found["answers"] == {"pearson": pearson(scores, sizes), "spearman": spearman(scores, sizes)}


def test_a_model_that_reads_length_alone_is_the_baseline() -> None:
    gaps = [float(more) for more in LONGER]
    found = length_report(gaps, LONGER, {i: (float(s), s) for i, s in enumerate((1, 5, 2, 8))})
    assert found["pairs"]["pearson"]["r"] == pytest.approx(1.0)
    assert found["answers"]["spearman"]["r"] == pytest.approx(1.0)
    assert found["gain"]["value"] == 0
    assert [found["model_where"][k]["accuracy"] for k in ("right", "wrong", "tied")] == [1.0, 0.0, 0.5]
    assert found["prefers_longer"]["model"]["accuracy"] == 1.0


def test_a_model_that_reads_anything_but_length() -> None:
    found = length_report([1.0, -2.0, 3.0], [0, 0, 0], {0: (1.0, 4), 1: (2.0, 4)})
    assert found["pairs"]["pearson"]["r"] is None
    assert found["prefers_longer"]["people"] == {"accuracy": None, "low": 0.0, "high": 1.0, "n": 0}
