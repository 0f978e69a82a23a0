"""Agreement beside published kappas, plain definitions, and comparisons counted by hand."""

from __future__ import annotations

import gzip
import json
import math
import random
from itertools import combinations
from pathlib import Path

import pytest

from align.measures.agreement import agreement_report, fleiss_kappa, items, pairwise_kappa
from align.records import Message, Messages, Preference, Vote

# fourteen raters, ten subjects, five categories: the worked example of Wikipedia's article on Fleiss' kappa
WORKED = [
    [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
]  # fmt: skip


def test_fleiss_kappa_as_published() -> None:
    assert fleiss_kappa(WORKED) == pytest.approx(0.210, abs=5e-4)


def test_fleiss_kappa_at_its_edges() -> None:
    assert fleiss_kappa([[3, 0], [0, 3], [3, 0]]) == pytest.approx(1.0)
    assert fleiss_kappa([[2, 0], [2, 0]]) is None
    assert fleiss_kappa([[1, 1], [1, 1]]) == pytest.approx(-1.0)
    with pytest.raises(ValueError, match="found 1 raters"):
        fleiss_kappa([[1, 0]])


def test_kappa_of_comparisons_is_that_of_both_orders_with_the_jackknife_error() -> None:
    rng = random.Random(0)
    table = [[0, 0, 0] for _ in range(30)]
    for row in table:
        for _ in range(3):
            row[rng.choice((0, 0, 0, 1, 2))] += 1
    turned = [[b, a, t] for a, b, t in table]
    found = pairwise_kappa(table)
    assert found["value"] == pytest.approx(fleiss_kappa([*table, *turned]))
    assert pairwise_kappa([rng.choice(both) for both in zip(table, turned, strict=True)]) == pytest.approx(found)
    without = [fleiss_kappa([*table[:i], *table[i + 1 :], *turned[:i], *turned[i + 1 :]]) or 0.0 for i in range(30)]
    mean = sum(without) / 30
    assert found["se"] == pytest.approx(math.sqrt(29 / 30 * sum((value - mean) ** 2 for value in without)))


def test_the_error_of_kappa_is_the_spread_over_samples() -> None:
    rng, values, errors = random.Random(2), [], []
    for _ in range(200):
        table = []
        for _ in range(80):
            side = rng.choice((0, 1))
            votes = [side if rng.random() < 0.8 else 1 - side if rng.random() < 0.7 else 2 for _ in range(3)]
            table.append([votes.count(k) for k in range(3)])
        found = pairwise_kappa(table)
        values.append(found["value"])
        errors.append(found["se"])
    mean = sum(values) / 200
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / 199)
    assert sum(errors) / 200 == pytest.approx(spread, rel=0.15)


def test_nothing_but_ties_has_no_kappa() -> None:
    assert pairwise_kappa([[0, 0, 3], [0, 0, 3]]) == {"value": None, "se": None, "n": 2}
    assert pairwise_kappa([[3, 0, 0], [0, 0, 3]])["se"] is None


def said(text: str) -> Messages:
    return (Message("assistant", text),)


def pair(question: str, chosen: str, rejected: str, *votes: Vote) -> Preference:
    return Preference(
        prompt=(Message("user", question),), chosen=said(chosen), rejected=said(rejected), votes=tuple(votes)
    )


def test_rows_of_the_same_two_answers_are_one_comparison_in_either_order() -> None:
    pairs = [pair("q", "a", "b"), pair("q", "b", "a"), pair("q", "a", "b"), pair("q", "a", "c"), pair("p", "a", "b")]
    (found,) = items(pairs, [2.0, -2.0, 2.0, 1.0, 1.0])
    assert (found.gap, found.votes, found.rows) == (2.0, ["first", "second", "first"], 3)
    report = agreement_report(pairs, [2.0, -2.0, 2.0, 1.0, 1.0])
    assert report is not None
    assert (report["comparisons"], report["from_repeated_rows"], report["votes"]) == (1, 1, 3)
    assert report["people"]["agreement"]["value"] == pytest.approx(1 / 3)
    assert report["model"]["decided"]["value"] == pytest.approx(2 / 3)
    assert report["model"]["majority"]["accuracy"] == 1.0
    assert report["annotators"] is None
    assert agreement_report([pair("q", "a", "a"), pair("q", "a", "a")], [0.0, 0.0]) is None
    assert agreement_report(pairs[3:], [1.0, 1.0]) is None


def test_votes_by_hand() -> None:
    pairs = [
        pair("1", "a", "b", "chosen", "chosen", "chosen"),  # the model agrees
        pair("2", "a", "b", "chosen", "rejected", "chosen"),  # the model takes rejected
        pair("3", "a", "b", "chosen", "rejected", "tie"),
        pair("4", "a", "b", "tie", "tie", "tie"),
    ]
    report = agreement_report(pairs, [1.0, -1.0, 1.0, 0.0])
    assert report is not None
    assert (report["comparisons"], report["votes"], report["tied_votes"]) == (4, 12, 4)
    # agreeing pairs of annotators: 3/3, 1/3, 0/3, 3/3; without ties 3/3, 1/3, 0/1
    assert report["people"]["agreement"]["value"] == pytest.approx((1 + 1 / 3 + 0 + 1) / 4)
    assert report["people"]["decided"]["value"] == pytest.approx((1 + 1 / 3 + 0) / 3)
    # the model with one annotator: 1, 1/3, 1/2
    assert report["model"]["decided"]["value"] == pytest.approx((1 + 1 / 3 + 1 / 2) / 3)
    assert [report["model"][k]["n"] for k in ("majority", "unanimous", "divided")] == [2, 1, 1]
    assert [report["model"][k]["accuracy"] for k in ("majority", "unanimous", "divided")] == [0.5, 1.0, 0.0]
    first, second, third = report["annotators"]
    assert (first["model"]["accuracy"], first["model"]["n"]) == (pytest.approx(2 / 3), 3)
    # of the others: 2 chosen; split; 1 rejected, with whom the first does not agree
    assert (first["others"]["accuracy"], first["others"]["n"]) == (0.5, 2)
    assert (second["model"]["accuracy"], second["others"]["accuracy"]) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert (third["model"]["n"], third["others"]["n"]) == (2, 1)


def test_swapping_the_names_of_the_answers_changes_nothing() -> None:
    rng = random.Random(3)
    votes: list[Vote] = ["chosen", "rejected", "tie"]
    turned: dict[Vote, Vote] = {"chosen": "rejected", "rejected": "chosen", "tie": "tie"}
    pairs = [pair(str(i), "a", "b", *rng.choices(votes, [5, 2, 1], k=3)) for i in range(50)]
    gaps = [rng.gauss(0.5, 1) for _ in pairs]
    flip = [rng.random() < 0.5 for _ in pairs]
    other = [
        pair(str(i), "b", "a", *(turned[v] for v in p.votes)) if f else p
        for i, (p, f) in enumerate(zip(pairs, flip, strict=True))
    ]
    ours = agreement_report(pairs, gaps)
    theirs = agreement_report(other, [-g if f else g for g, f in zip(gaps, flip, strict=True)])
    assert ours == theirs


def test_a_tie_beside_one_side_is_no_unanimity() -> None:
    report = agreement_report([pair("1", "a", "b", "chosen", "tie")], [1.0])
    assert report is not None
    assert [report["model"][name]["n"] for name in ("majority", "unanimous", "divided")] == [1, 0, 1]


def test_a_comparison_told_by_two_rows_with_votes() -> None:
    """Its votes are taken together for agreement, and each row alone by annotator."""
    pairs = [pair("q", "a", "b", "chosen", "chosen"), pair("q", "b", "a", "chosen", "rejected"), pair("p", "a", "b")]
    report = agreement_report(pairs, [1.0, -1.0, 1.0])
    assert report is not None
    assert (report["comparisons"], report["votes"]) == (1, 4)
    assert report["people"]["agreement"]["value"] == pytest.approx((3 * 2) / (4 * 3))
    first, second = report["annotators"]
    assert (first["model"]["n"], first["model"]["accuracy"], first["others"]["accuracy"]) == (2, 0.5, 0.5)
    assert (second["model"]["accuracy"], second["others"]["n"]) == (1.0, 2)
    assert agreement_report([*pairs, pair("x", "a", "b", "chosen", "tie", "tie")], [1.0] * 4)["annotators"] is None


def cohen(first: list[int], second: list[int]) -> float:
    """Cohen 1960: observed agreement against that of the two raters' own shares."""
    n = len(first)
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / n
    chance = sum(first.count(k) / n * second.count(k) / n for k in set(first) | set(second))
    return (observed - chance) / (1 - chance)


def test_pandalm_agrees_as_its_authors_say(shared_data: Path) -> None:
    """Three annotators, 999 pairs; the paper (arXiv 2306.05087) tells Cohen's kappas above 0.85."""
    with gzip.open(shared_data / "preference" / "pandalm_testset_v1.json.gz") as file:
        rows = json.load(file)
    sides: dict[int, Vote] = {0: "tie", 1: "chosen", 2: "rejected"}
    voted = [[row[f"annotator{i}"] for i in (1, 2, 3)] for row in rows]
    pairs = [pair(str(i), "1", "2", *(sides[v] for v in votes)) for i, votes in enumerate(voted)]
    report = agreement_report(pairs, [1.0] * len(pairs))
    assert report is not None
    kappas = [cohen([v[a] for v in voted], [v[b] for v in voted]) for a, b in combinations(range(3), 2)]
    assert min(kappas) > 0.85
    assert report["people"]["kappa"]["value"] == pytest.approx(sum(kappas) / 3, abs=0.005)
