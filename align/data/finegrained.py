"""Rows of FineGrainedRLHF -> examples: four answers to a question, compared two by two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from align.data.formats import Example, UnfitError
from align.records import Comparison, Message


def finegrained(row: Mapping[str, Any]) -> Iterator[Example]:
    """FineGrainedRLHF's feedback (Wu et al. 2023, arXiv 2306.01693): four answers to a question and six labels.

    ``preference`` tells of the pairs (1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4): 0 a tie, 1 the first and 2 the
    second is better. The order is presumed: with it no row of the public file prefers in a circle. Ties need not
    chain, so the labels are kept as they are; passages, gold answer and marked spans go to ``meta``.
    """
    said = {key: row.get(key) for key in ("question", *(f"prediction {number}" for number in range(1, 5)))}
    for key, value in said.items():
        if not isinstance(value, str):
            raise UnfitError("wrong type", f"{key}: found {type(value).__name__}, expected text")
    question, *answers = (str(value).strip() for value in said.values())
    labels, pairs = row.get("preference"), list(combinations(range(4), 2))
    if (
        not isinstance(labels, list)
        or len(labels) != len(pairs)
        or not all(type(label) is int and 0 <= label <= 2 for label in labels)
    ):
        raise UnfitError("unknown labels", f"preference: found {labels!r}, expected six of 0 (tie), 1 and 2")
    yield Example(
        prompt=(Message("user", question),),
        answers=tuple((Message("assistant", answer),) for answer in answers),
        comparisons=tuple(
            Comparison(pair=pair, chosen=pair[label - 1] if label else None)
            for pair, label in zip(pairs, labels, strict=True)
        ),
        meta={key: row[key] for key in ("passages", "gold", "feedback") if key in row},
    )
