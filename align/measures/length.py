"""Whether a reward model reads the answer or its length (pitfall: reward hacking by longer and longer answers)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from align.measures.correlation import pearson, pearson_of_gaps, spearman, spearman_of_gaps
from align.stats import estimate, preferred, proportion


def length_report(
    gaps: Sequence[float],
    longer: Sequence[int],
    answers: Mapping[Hashable, tuple[float, int]],
) -> dict[str, Any]:
    """Correlation of score with length, and the baseline that prefers the longer answer beside the model.

    Args:
        gaps: of each pair, score of the chosen answer minus that of the rejected one, logits.
        longer: of each pair, tokens of the chosen answer minus those of the rejected one.
        answers: each different answer -> (score, tokens).

    Returns:
        ``answers``: pearson and spearman over all answers; ``pairs``: the same of the differences within pairs, in
        both orders, which a prompt that asks for much does not disturb; ``model`` and ``baseline``: accuracy, of the
        baseline with ties at a half; ``gain``: model minus baseline on the same pairs, value and se; ``model_where``:
        its accuracy where the baseline is right, wrong and tied; ``prefers_longer``: of the pairs whose answers
        differ in length, how often the model and the people prefer the longer one.
    """
    model, baseline = [preferred(gap) for gap in gaps], [preferred(more) for more in longer]
    unequal = [(gap, more) for gap, more in zip(gaps, longer, strict=True) if more]
    scores, tokens = [score for score, _ in answers.values()], [float(size) for _, size in answers.values()]
    return {
        "answers": {"pearson": pearson(scores, tokens), "spearman": spearman(scores, tokens)},
        "pairs": {"pearson": pearson_of_gaps(gaps, longer), "spearman": spearman_of_gaps(gaps, longer)},
        "model": proportion(model),
        "baseline": proportion(baseline),
        "gain": estimate([ours - theirs for ours, theirs in zip(model, baseline, strict=True)]),
        "model_where": {
            name: proportion([ours for ours, theirs in zip(model, baseline, strict=True) if theirs == share])
            for name, share in (("right", 1.0), ("wrong", 0.0), ("tied", 0.5))
        },
        "prefers_longer": {
            "model": proportion([preferred(gap if more > 0 else -gap) for gap, more in unequal]),
            "people": proportion([preferred(more) for _, more in unequal]),
        },
    }
