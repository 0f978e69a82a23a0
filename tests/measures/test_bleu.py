"""Self-BLEU against sacrebleu, text by text."""

from __future__ import annotations

import statistics

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from align.measures.bleu import self_bleu, tokens

TEXTS = [
    ["the cat sat on the mat", "the cat is on the mat", "a dog sat on the mat."],
    ["sure, mira likes red.", "sure, mira likes red.", "sure, mira likes blue.", "red"],
    ["3.5 - 4,000 (of 10-20) &amp; &quot;more&quot; &amp;lt;", "It's 3.5, or 4-5: e.g. $1,000!", "x"],
    ["one", "two"], ["", "a b", "a b c d e f"], ["", ""], ["a  b\nc-\nd  \n", "a b c d", "<skipped> a b"],
    ["日本語 のテキスト。", "日本語 の 文、と", "日本語"],
]  # fmt: skip
WORDS = st.sampled_from(["the", "cat", "sat", "on", "a", "mat", "3.5", "10-20", "it's", ",", ".", "&amp;", "-\n", "é"])
ANSWERS = st.lists(st.lists(WORDS, max_size=9).map(" ".join), min_size=2, max_size=6)


def by_sacrebleu(answers: list[str]) -> float:
    """Its definition, one answer after the other."""
    return statistics.fmean(
        sacrebleu.sentence_bleu(answer, answers[:place] + answers[place + 1 :]).score
        for place, answer in enumerate(answers)
    )


@pytest.mark.parametrize("answers", TEXTS)
def test_given_texts_have_sacrebleu_s_value(answers: list[str]) -> None:
    assert self_bleu(answers) == pytest.approx(by_sacrebleu(answers), rel=1e-12, abs=1e-12)


@given(ANSWERS)
def test_drawn_texts_have_sacrebleu_s_value(answers: list[str]) -> None:
    assert self_bleu(answers) == pytest.approx(by_sacrebleu(answers), rel=1e-12, abs=1e-12)


@given(st.text(max_size=60))
def test_any_text_is_cut_as_sacrebleu_cuts_it(text: str) -> None:
    assert tokens(text) == Tokenizer13a()(text.rstrip()).split()


def test_by_hand() -> None:
    """ "a b" against "a c": 1 of 2 tokens, 0 of 1 pairs smoothed to 1/2, and the other way round."""
    assert self_bleu(["a b", "a c"]) == pytest.approx(100 * (1 / 2 * 1 / 2) ** 0.5, rel=1e-12)
    assert self_bleu(["a b c d e"] * 25) == pytest.approx(100, rel=1e-12)
    assert self_bleu(["a b c", "d e f"]) == 0


def test_one_answer_is_like_nothing() -> None:
    with pytest.raises(ValueError, match="found 1 answers"):
        self_bleu(["alone"])
