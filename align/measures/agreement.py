"""How far annotators agree with each other where several compared the same two answers, and the model with them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from align.records import Messages, Preference
from align.stats import estimate, preferred, proportion

Side = Literal["first", "second", "tie"]
_TURNED: dict[str, Side] = {"chosen": "second", "rejected": "first", "tie": "tie"}
_STRAIGHT: dict[str, Side] = {"chosen": "first", "rejected": "second", "tie": "tie"}


@dataclass(slots=True)
class Item:
    """Two answers that were compared, and by whom how."""

    gap: float  # score of the first answer minus that of the second, logits
    votes: list[Side] = field(default_factory=list)
    rows: int = 0  # of the data that the votes are from


def items(pairs: Sequence[Preference], gaps: Sequence[float]) -> list[Item]:
    """The comparisons that two or more people made.

    A row with ``votes`` brings those; one without is one person's vote for its chosen answer. Rows with the same
    prompt and the same two answers, in either order, are one comparison.

    Args:
        pairs: preferences.
        gaps: score of the chosen answer minus that of the rejected one, logits.
    """
    found: dict[tuple[Messages, Messages, Messages], Item] = {}
    for pair, gap in zip(pairs, gaps, strict=True):
        if pair.chosen == pair.rejected:
            continue
        key, turned = (pair.prompt, pair.chosen, pair.rejected), (pair.prompt, pair.rejected, pair.chosen)
        item = found.get(turned)
        sides = _STRAIGHT if item is None else _TURNED
        if item is None:
            item = found.setdefault(key, Item(gap))
        item.votes += [sides[vote] for vote in pair.votes or ("chosen",)]
        item.rows += 1
    return [item for item in found.values() if len(item.votes) > 1]


def agreement_report(pairs: Sequence[Preference], gaps: Sequence[float]) -> dict[str, Any] | None:
    """Agreement between annotators, and the model's with them beside it.

    Args:
        pairs: preferences; see :func:`items` for where votes come from.
        gaps: score of the chosen answer minus that of the rejected one, logits.

    Returns:
        None where nobody compared what another compared too. Else ``comparisons``, how many of them are
        ``from_repeated_rows`` (a copied row looks like a person who agrees), ``votes``, ``tied_votes``, and

        - ``people``: ``agreement`` of two annotators, ties being a vote of their own, and ``kappa`` (Fleiss), each with
          its standard error over comparisons; ``decided``, agreement of two annotators neither of whom said tie;
        - ``model``: ``decided``, its agreement with one annotator who did not say tie, to be read beside people's;
          ``majority``, with the side that most took; ``unanimous`` and ``divided``, the same where all took one side
          and where not;
        - ``annotators``, by place in ``votes`` where all rows that have any have as many: how often the model agrees
          with this annotator's side, and how often the annotator does with the majority of the others.
    """
    compared = items(pairs, gaps)
    if not compared:
        return None
    counts = [Counter(item.votes) for item in compared]
    decided = [(c["first"], c["second"]) for c in counts]
    # of one comparison's votes that took a side, the share that the model is with
    with_model = [
        (first * preferred(item.gap) + second * preferred(-item.gap)) / (first + second)
        for item, (first, second) in zip(compared, decided, strict=True)
        if first + second
    ]
    both = [(a * (a - 1) + b * (b - 1)) / ((a + b) * (a + b - 1)) for a, b in decided if a + b > 1]
    majority = [
        (preferred(item.gap if first > second else -item.gap), max(first, second) == len(item.votes))
        for item, (first, second) in zip(compared, decided, strict=True)
        if first != second
    ]
    table = [[c["first"], c["second"], c["tie"]] for c in counts]
    return {
        "comparisons": len(compared),
        "from_repeated_rows": sum(item.rows > 1 for item in compared),
        "votes": sum(len(item.votes) for item in compared),
        "tied_votes": sum(c["tie"] for c in counts),
        "people": {
            "agreement": estimate([_agreeing(row) for row in table]),
            "kappa": pairwise_kappa(table),
            "decided": estimate(both),
        },
        "model": {
            "decided": estimate(with_model),
            "majority": proportion([right for right, _ in majority]),
            "unanimous": proportion([right for right, all_of_them in majority if all_of_them]),
            "divided": proportion([right for right, all_of_them in majority if not all_of_them]),
        },
        "annotators": _by_place(pairs, gaps),
    }


def fleiss_kappa(table: Sequence[Sequence[int]]) -> float | None:
    """Agreement beyond chance of several raters (Fleiss 1971, Psychological Bulletin 76:378).

    kappa = (P - P_e) / (1 - P_e), P the mean over subjects of the share of agreeing pairs of raters, P_e the sum of
    squared shares of the categories among all votes. Fleiss has as many raters for each subject; with other numbers
    the same two definitions are taken (ours).

    Args:
        table: [subjects][categories], how many raters put the subject there; at least two raters a subject.

    Returns:
        None where all votes are in one category: chance alone agrees then.
    """
    return _kappa(np.array([_agreeing(row) for row in table]), np.asarray(table, dtype=np.float64))


def pairwise_kappa(table: Sequence[Sequence[int]]) -> dict[str, float | int | None]:
    """Fleiss' kappa of comparisons, whatever answer is named first.

    Which answer is the first is a matter of naming. Where the chosen one always is, as in a preference file, the
    categories look lopsided, chance agreement large and kappa small. So each comparison is counted in both orders.

    Args:
        table: [comparisons][first, second, tie] votes.

    Returns:
        value (None as in :func:`fleiss_kappa`), se by the jackknife over comparisons (None below 2), n.
    """
    votes = np.asarray(table, dtype=np.float64)
    both, agreeing = votes + votes[:, [1, 0, 2]], np.array([_agreeing(row) for row in table])
    n, value = len(votes), _kappa(agreeing, both)
    if value is None or n < 2:
        return {"value": value, "se": None, "n": n}
    shares = both.sum(0) - both  # [n, 3] votes without each comparison
    chance = ((shares / shares.sum(1, keepdims=True)) ** 2).sum(1)
    if bool((chance == 1).any()):  # without one of them nothing but ties is left
        return {"value": value, "se": None, "n": n}
    left_out = ((agreeing.sum() - agreeing) / (n - 1) - chance) / (1 - chance)
    return {"value": value, "se": math.sqrt((n - 1) / n * float(((left_out - left_out.mean()) ** 2).sum())), "n": n}


def _kappa(
    agreeing: np.ndarray[Any, np.dtype[np.float64]], votes: np.ndarray[Any, np.dtype[np.float64]]
) -> float | None:
    chance = float(((votes.sum(0) / votes.sum()) ** 2).sum())
    return None if chance == 1 else (float(agreeing.mean()) - chance) / (1 - chance)


def _agreeing(row: Sequence[int]) -> float:
    """The share of pairs of raters of one subject who agree."""
    n = sum(row)
    if n < 2:
        raise ValueError(f"agreement: found {n} raters of a subject, expected at least 2")
    return sum(k * (k - 1) for k in row) / (n * (n - 1))


def _by_place(pairs: Sequence[Preference], gaps: Sequence[float]) -> list[dict[str, Any]] | None:
    voted = [(pair.votes, gap) for pair, gap in zip(pairs, gaps, strict=True) if pair.chosen != pair.rejected]
    voted = [(votes, gap) for votes, gap in voted if len(votes) > 1]
    sizes = {len(votes) for votes, _ in voted}
    if len(sizes) != 1:
        return None
    found = []
    for place in range(sizes.pop()):
        model, others = [], []
        for votes, gap in voted:
            vote = votes[place]
            if vote == "tie":
                continue
            model.append(preferred(gap if vote == "chosen" else -gap))
            rest = Counter(other for at, other in enumerate(votes) if at != place)
            if rest["chosen"] != rest["rejected"]:
                others.append(float((vote == "chosen") == (rest["chosen"] > rest["rejected"])))
        found.append({"annotator": place + 1, "model": proportion(model), "others": proportion(others)})
    return found
