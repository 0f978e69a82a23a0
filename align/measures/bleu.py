"""Self-BLEU: how alike the answers to one prompt are (Zhu et al. 2018, arXiv 1802.01886).

The BLEU of each answer with all others as its references, averaged. BLEU is that of sacrebleu's ``sentence_bleu``
(Post 2018, arXiv 1804.08771): tokens as mteval-v13a cuts them, case kept, n-grams up to 4, orders beyond the answer's
length left out, exponential smoothing, the closest reference's length.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TypeAlias

ORDERS = 4
Grams: TypeAlias = Counter[tuple[str, ...]]
ESCAPES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
SPLITS = (
    (re.compile(r"([\{-\~\[-\` -\&\(-\+\:-\@\/])"), r" \1 "),  # punctuation, as ranges of ASCII
    (re.compile(r"([^0-9])([\.,])"), r"\1 \2 "),
    (re.compile(r"([\.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)


def self_bleu(answers: Sequence[str]) -> float:
    """Mean BLEU of each answer against all others, 0 … 100; 100 where all are the same.

    Args:
        answers: at least two, to one prompt.

    Raises:
        ValueError: fewer than two.
    """
    if len(answers) < 2:
        raise ValueError(f"self_bleu: found {len(answers)} answers, expected at least two")
    cut = [tokens(answer) for answer in answers]
    counted = [grams(words) for words in cut]
    best = _two_highest(counted)
    found = []
    for place, (words, own) in enumerate(zip(cut, counted, strict=True)):
        right, total = [0] * ORDERS, [max(0, len(words) - order) for order in range(ORDERS)]
        for gram, count in own.items():
            high, holder, second = best[gram]
            right[len(gram) - 1] += min(count, second if holder == place else high)
        others = [len(other) for number, other in enumerate(cut) if number != place]
        found.append(_score(right, total, len(words), min(others, key=lambda n: (abs(n - len(words)), n))))
    return math.fsum(found) / len(found)


def tokens(text: str) -> list[str]:
    """A text's tokens as mteval-v13a, WMT's script, cuts them."""
    text = text.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for escaped, plain in ESCAPES:
        text = text.replace(escaped, plain)
    text = f" {text} "
    for pattern, put in SPLITS:
        text = pattern.sub(put, text)
    return text.split()


def grams(words: Sequence[str]) -> Grams:
    """How often each n-gram of up to four tokens stands there."""
    return Counter(
        tuple(words[start : start + order]) for order in range(1, ORDERS + 1) for start in range(len(words) - order + 1)
    )


def _two_highest(counted: Sequence[Grams]) -> dict[tuple[str, ...], tuple[int, int, int]]:
    """For each n-gram: its highest count in a text, that text, and its highest count in another one."""
    best: dict[tuple[str, ...], tuple[int, int, int]] = defaultdict(lambda: (0, -1, 0))
    for place, own in enumerate(counted):
        for gram, count in own.items():
            high, holder, second = best[gram]
            best[gram] = (count, place, high) if count > high else (high, holder, max(second, count))
    return best


def _score(right: Sequence[int], total: Sequence[int], length: int, reference: int) -> float:
    """BLEU, per cent, from the n-grams found and counted by order, and both lengths."""
    if not any(right):
        return 0.0
    logs, halved = [], 1
    for found, count in zip(right, total, strict=True):
        if count == 0:
            break
        if found == 0:
            halved *= 2
        logs.append(math.log(100 * found / count if found else 100 / (halved * count)))
    brevity = min(1.0, math.exp(1 - reference / length))
    return brevity * math.exp(math.fsum(logs) / len(logs))
