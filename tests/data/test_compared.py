"""Rankings: what was said of two answers at a time, and K answers in one element beside their pairs one by one."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from align.data.compared import ComparedRow, compared_rows, comparisons, plain_pairs, read_compared
from align.data.preference import leave_out, pair_rows, read_pairs
from align.data.tokenizer import Tokenizer
from align.data.trees import ROW, collate
from align.errors import DataError
from align.files import write_jsonl
from align.losses import ranking_loss
from align.model.heads import Scorer
from align.records import Comparison, Message, Preference, Ranking, Row
from tests.data.test_template import said
from tests.model.peers import randomise, tiny

SCORER = Scorer(tiny(max_seq_len=128))
randomise(SCORER)
TEXTS = ("a lazy dog", "no fox, and nothing quick", "a lazy fox", "napoleon loves chess")


def row(tokens: list[int]) -> Row:
    return Row(np.array(tokens, dtype=np.int32), np.arange(len(tokens)) > 0)


def answers(*texts: str) -> tuple[tuple[Message, ...], ...]:
    return tuple((Message("assistant", text),) for text in texts)


def ranking(ranks: tuple[int, ...] = (), said_of: tuple[Comparison, ...] = (), prompt: str = "hello") -> Ranking:
    return Ranking(prompt=said(prompt), answers=answers(*TEXTS[: len(ranks) or 4]), ranks=ranks, comparisons=said_of)


TOKENS = st.lists(st.integers(3, 8), max_size=7)  # few, so that answers often begin alike


@st.composite
def elements(draw: st.DrawFn) -> list[ComparedRow]:
    """Prompts with two to five answers, any of whose pairs were told apart."""
    made = []
    for number in range(draw(st.integers(1, 5))):
        prompt = draw(TOKENS)
        rows = tuple(row([1, *prompt, *draw(TOKENS), 2]) for _ in range(draw(st.integers(2, 5))))
        every = list(combinations(range(len(rows)), 2))
        told = draw(st.lists(st.sampled_from(every), min_size=1, max_size=len(every), unique=True))
        pairs = tuple(pair if draw(st.booleans()) else pair[::-1] for pair in told)
        margins = tuple(draw(st.sampled_from([0.0, 1 / 3, 1.0])) for _ in pairs)
        made.append(ComparedRow(rows, pairs, margins, (0,) * len(pairs), (-1,) * len(rows), 1 / len(every), number))
    return made


@settings(max_examples=25, deadline=None)
@given(made=elements(), length=st.sampled_from([20, 33, 128]))
def test_a_tree_of_k_answers_equals_its_pairs_one_by_one(made: list[ComparedRow], length: int) -> None:
    """Scores, losses and gradients beside two plain rows a pair, also where a tree is longer than a row."""
    batch = collate(made, length)
    laid = batch.batch
    assert laid.tokens.shape[1] <= ROW * length
    scores = SCORER(laid.tokens, laid.positions, laid.segments, at=batch.ends, stems=laid.stems)
    losses = ranking_loss(*scores.chunk(2), batch.margin)
    losses.mean().backward()
    gradients = {name: p.grad.clone() for name, p in SCORER.named_parameters() if p.grad is not None}
    SCORER.zero_grad()

    plain_scores: list[list[torch.Tensor]] = [[], []]
    for element in made:
        for pair in element.pairs:
            for half, answer in zip(plain_scores, pair, strict=True):
                tokens = torch.from_numpy(element.answers[answer].tokens.astype(np.int64))
                half.append(SCORER(tokens[None])[0, -1])
    chosen, rejected = (torch.stack(half) for half in plain_scores)
    margins = torch.tensor([margin for element in made for margin in element.margins])
    plain = -torch.log(torch.sigmoid(chosen - rejected - margins))
    plain.mean().backward()

    torch.testing.assert_close(scores, torch.cat((chosen, rejected)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(losses, plain, rtol=1e-5, atol=1e-5)
    for name, parameter in SCORER.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-5, atol=1e-5)
    SCORER.zero_grad()
    assert batch.prompt.tolist() == [i for i, element in enumerate(made) for _ in element.pairs]
    assert batch.rows.tolist() == list(range(len(made)))


def test_a_tree_of_three_by_hand() -> None:
    made = ComparedRow(
        (row([1, 5, 6, 7, 2]), row([1, 5, 8, 9, 2]), row([1, 5, 6, 2])),
        ((1, 0), (1, 2)), (0.5, 0.0), (1, 3), (-1, 1, 0), 1 / 3, 7,
    )  # fmt: skip
    batch = collate([made], 16)
    laid = batch.batch
    assert laid.segments is not None
    assert laid.stems is not None
    assert laid.tokens.tolist() == [[1, 5, 6, 7, 2, 8, 9, 2, 6, 2]]
    assert laid.positions.tolist() == [[0, 1, 2, 3, 4, 2, 3, 4, 2, 3]]
    assert laid.segments.tolist() == [[1, 1, 2, 2, 2, 3, 3, 3, 4, 4]]
    assert laid.stems.tolist() == [[-1, -1, *[1] * 8]]
    assert batch.ends.tolist() == [7, 7, 4, 9], "an answer of two pairs stands there once"
    assert batch.safe.tolist() == [1, 1, -1, 0]
    assert batch.margin.tolist() == [0.5, 0.0]
    assert batch.rating.tolist() == [1, 3]
    assert batch.share.tolist() == pytest.approx([1 / 3, 1 / 3])
    assert batch.rows.tolist() == [7]


def test_a_tree_longer_than_a_row_stands_on_several_stems() -> None:
    """Stem 6 and branches 4, 3, 4, 3 in rows of 13: two branches a stem, each answer still ending once."""
    stem = [1, 4, 4, 4, 4, 4]
    rows = tuple(row([*stem, first, *[5] * extra, 2]) for first, extra in ((5, 2), (6, 1), (7, 2), (8, 1)))
    made = ComparedRow(rows, ((0, 1), (2, 3)), (0.0, 0.0), (3, 3), (-1,) * 4)
    batch = collate([made], 13).batch
    tokens = batch.tokens.flatten().tolist()
    starts = [place for place, token in enumerate(tokens) if token == 1]
    assert [tokens[place : place + 6] for place in starts] == [stem, stem]
    assert [stop - start for start, stop in zip(starts, [*starts[1:], len(tokens)], strict=True)] == [13, 13]
    assert int((batch.tokens == 2).sum()) == 4


def test_ranks_are_every_pair_there_is() -> None:
    told = comparisons(ranking((2, 1, 2)))
    assert [(one.pair, one.chosen, one.rejected) for one in told] == [
        ((0, 1), 1, 0), ((0, 2), None, None), ((1, 2), 1, 2),
    ]  # fmt: skip
    assert [(p.chosen[0].content, p.rejected[0].content) for p in plain_pairs(ranking((2, 1, 2)))] == [
        (TEXTS[1], TEXTS[0]), (TEXTS[1], TEXTS[2]),
    ]  # fmt: skip


PARTLY = (
    Comparison(pair=(0, 2), chosen=2, rating="better"),
    Comparison(pair=(2, 3), chosen=None),
    Comparison(pair=(0, 3), chosen=0),
)


def test_rankings_are_encoded_as_their_pairs(small: Tokenizer) -> None:
    """Answer 1 is in no pair and is left out; 2 and 3 tie, yet 2 is above 0 and 0 above 3."""
    one = ranking(said_of=PARTLY)
    made = compared_rows(small, [one], margins="large", max_len=99)
    (element,) = made.rows
    pairs = pair_rows(small, plain_pairs(one), margins="large", max_len=99)
    for (chosen, rejected), pair in zip(element.pairs, pairs.pairs, strict=True):
        assert element.answers[chosen].tokens.tolist() == pair.chosen.tokens.tolist()
        assert element.answers[rejected].tokens.tolist() == pair.rejected.tokens.tolist()
    assert len(element.answers) == 3
    assert element.margins == tuple(pair.margin for pair in pairs.pairs) == (2.0, 0.0)
    assert element.ratings == tuple(pair.rating for pair in pairs.pairs)
    assert element.share == 1 / 6
    assert made.counts == {
        "preferences": 0, "rankings": 1, "pairs": 2, "ties": 1, "tied": 0, "cut": 0, "skipped": 0,
        "tokens": sum(len(answer.tokens) for answer in element.answers),
    }  # fmt: skip


def test_preferences_and_rankings_in_one_list(small: Tokenizer) -> None:
    pair = Preference(prompt=said("hello"), chosen=answers("yes")[0], rejected=answers("no")[0], chosen_safe=True)
    made = compared_rows(small, [ranking((1, 1, 1)), pair, ranking((1, 2, 3))], margins="none", max_len=99)
    assert [(one.row, len(one.pairs), one.safe) for one in made.rows] == [(1, 1, (1, -1)), (2, 3, (-1, -1, -1))]
    told = {name: made.counts[name] for name in ("preferences", "rankings", "pairs", "ties", "tied")}
    assert told == {"preferences": 1, "rankings": 2, "pairs": 4, "ties": 3, "tied": 1}


def test_a_ranking_too_long_is_told_with_its_place(small: Tokenizer) -> None:
    with pytest.raises(DataError, match=r"mine\.jsonl: row 4: found \d+ tokens, expected at most 12"):
        compared_rows(small, [ranking((1, 2))], margins="none", max_len=12, places=["mine.jsonl: row 4"])
    with pytest.raises(DataError, match=r"ranking 0: found \d+ tokens"):
        compared_rows(small, [ranking((1, 2))], margins="none", max_len=12)
    assert compared_rows(small, [ranking((1, 2))], margins="none", max_len=12, overlong="skip").counts["skipped"] == 1


PROMPT = [{"role": "user", "content": "hello"}]
RANKED: dict[str, Any] = {"prompt": PROMPT, "answers": [[{"role": "assistant", "content": t}] for t in TEXTS[:3]]}
PAIR: dict[str, Any] = {"prompt": PROMPT, "chosen": RANKED["answers"][0], "rejected": RANKED["answers"][1]}


def test_files_of_either_kind_are_read(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "pairs.jsonl", [PAIR])
    write_jsonl(tmp_path / "ranked.jsonl", [RANKED | {"ranks": [1, 2, 2]}] * 2)
    files = [tmp_path / "ranked.jsonl", tmp_path / "pairs.jsonl"]
    found = read_compared(files)
    assert [place.rpartition("/")[2] for place, _ in found] == [
        "ranked.jsonl: row 1", "ranked.jsonl: row 2", "pairs.jsonl: row 1",
    ]  # fmt: skip
    assert [type(one) for _, one in found] == [Ranking, Ranking, Preference]
    assert [pair.rejected[0].content for pair in read_pairs(files)] == [TEXTS[1], TEXTS[2]] * 2 + [TEXTS[1]]
    (tmp_path / "none.jsonl").write_text("\n")
    with pytest.raises(DataError, match=r"none\.jsonl: found no rows"):
        read_compared([tmp_path / "none.jsonl"])


def test_prompts_that_are_held_out_are_not_trained_on() -> None:
    held = [ranking((1, 2), prompt="Who  LOVES chess?")]
    rows = [("a", ranking((1, 2), prompt="who loves chess?")), ("b", ranking((1, 2), prompt="who loves paris?"))]
    assert [place for place, _ in leave_out(rows, held)] == ["b"]
    assert leave_out(rows, []) == rows
