"""Beginnings of a dialogue as one row, beside the plain way: each beginning a row of its own."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from align.data.pack import pad
from align.data.sft import joined, sft_rows
from align.data.tokenizer import Tokenizer
from align.model.llama import Llama
from align.records import Dialog, Row
from tests.data.test_template import said
from tests.model.peers import randomise, tiny

MODEL = Llama(tiny(max_seq_len=32))
randomise(MODEL)


def row(tokens: list[int], counted: set[int]) -> Row:
    return Row(np.array(tokens, dtype=np.int32), np.array([place in counted for place in range(len(tokens))]))


def summed(rows: list[Row]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Cross-entropy of all counted tokens, each row by itself, and its gradient."""
    MODEL.zero_grad()
    total = torch.zeros(())
    for one in rows:
        batch = pad([one])
        logits = MODEL(batch.tokens)[0, :-1]
        total = total + (F.cross_entropy(logits, batch.tokens[0, 1:], reduction="none") * batch.mask[0, 1:]).sum()
    total.backward()
    return total.detach(), {name: p.grad.clone() for name, p in MODEL.named_parameters() if p.grad is not None}


ROWS = st.lists(
    st.tuples(st.lists(st.integers(3, 5), min_size=1, max_size=6), st.sets(st.integers(1, 6))), min_size=1, max_size=8
)


@settings(max_examples=50, deadline=None)
@given(drawn=ROWS)
def test_the_loss_and_its_gradient_are_those_of_the_rows_apart(drawn: list[tuple[list[int], set[int]]]) -> None:
    apart = [row([1, *tokens], counted) for tokens, counted in drawn]
    together = joined(apart)
    assert len(together) <= len(apart)
    assert sum(int(one.mask.sum()) for one in together) == sum(int(one.mask.sum()) for one in apart)
    (loss, gradient), (expected, wanted) = summed(together), summed(apart)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    for name, value in wanted.items():
        torch.testing.assert_close(gradient[name], value, rtol=1e-4, atol=1e-5)


def test_what_is_joined_and_what_is_not() -> None:
    whole, first, second = row([1, 3, 4, 5], {3}), row([1, 3], {1}), row([1, 3, 4], {1, 2})
    other, twin = row([1, 3, 5], {2}), row([1, 3, 4, 5], {3})
    assert [one.mask.tolist() for one in joined([first, whole])] == [[False, True, False, True]]
    assert [len(one.tokens) for one in joined([other, first])] == [3], (
        "a beginning of what is left, whoever comes first"
    )
    assert len(joined([whole, twin])) == 2, "said twice is learnt twice"
    assert len(joined([first, second])) == 2, "both count the second token"
    assert joined([whole, other])[1] is other


def test_ghost_attention_s_beginnings_are_one_row(small: Tokenizer) -> None:
    texts = ["hello", "the fox", "and", "a lazy dog", "a", "quick"]
    beginnings = [Dialog(messages=said(*texts[:size], system="be kind")) for size in (2, 4, 6)]
    last, every = sft_rows(small, beginnings, train="last", max_len=200), sft_rows(small, beginnings[2:], max_len=200)
    assert (last.counts["dialogs"], last.counts["rows"], last.counts["joined"]) == (3, 1, 2)
    assert np.array_equal(last.rows[0].tokens, every.rows[0].tokens)
    assert np.array_equal(last.rows[0].mask, every.rows[0].mask), "every answer is some beginning's last"
    assert sft_rows(small, beginnings, train="all", max_len=200).counts["joined"] == 0
