"""Dialogues, preferences and prompts as rows: masks, lengths, cutting, mixing."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from align.data.preference import MARGINS, collate_pairs, held_out, mix, pair_rows
from align.data.prompts import encode_prompts, fit_prompts, requests
from align.data.sft import sft_rows
from align.data.template import encode_dialog, encode_prompt
from align.data.tokenizer import Tokenizer
from align.errors import DataError, TemplateError
from align.records import Dialog, Message, Messages, Preference, Prompt
from tests.data.test_template import said

ANSWER = (Message("assistant", "a lazy dog"),)
OTHER = (Message("assistant", "no fox, and nothing quick"),)


def dialog(*texts: str, system: str = "") -> Dialog:
    return Dialog(messages=said(*texts, system=system))


def test_rows_equal_one_by_one(small: Tokenizer) -> None:
    dialogs = [dialog("hello", "the fox"), dialog("a", "b", "c", "d", system="be kind"), dialog("hello", "a")]
    for train in ("all", "last"):
        made = sft_rows(small, dialogs, train=train, max_len=200)  # type: ignore[arg-type]
        for row, one in zip(made.rows, dialogs, strict=True):
            alone = encode_dialog(small, one.messages, train=train)  # type: ignore[arg-type]
            assert np.array_equal(row.tokens, alone.tokens)
            assert np.array_equal(row.mask, alone.mask)
    assert made.counts == {
        "dialogs": 3, "rows": 3, "joined": 0, "cut": 0, "skipped": 0,
        "tokens": sum(len(row.tokens) for row in made.rows), "counted": sum(int(row.mask.sum()) for row in made.rows),
    }  # fmt: skip


def test_overlong(small: Tokenizer) -> None:
    short = dialog("hello", "fox")
    long = dialog("hello", "the quick brown fox", "and", "a lazy dog", system="be kind")
    cut = said("and", "a lazy dog", system="be kind")
    room = len(encode_dialog(small, cut).tokens)
    full = len(encode_dialog(small, long.messages).tokens)
    with pytest.raises(DataError, match=rf"dialogue 1: found {full} tokens, expected at most {full - 1}"):
        sft_rows(small, [short, long], max_len=full - 1)
    assert sft_rows(small, [short, long], max_len=full).counts["rows"] == 2
    skipped = sft_rows(small, [short, long], max_len=full - 1, overlong="skip")
    assert (len(skipped.rows), skipped.counts["skipped"], skipped.counts["cut"]) == (1, 1, 0)
    for max_len in (full - 1, room):
        made = sft_rows(small, [short, long], max_len=max_len, overlong="cut")
        assert made.rows[1].tokens.tolist() == encode_dialog(small, cut).tokens.tolist(), "system kept"
        assert (made.counts["cut"], made.counts["skipped"]) == (1, 0)
    made = sft_rows(small, [short, long], max_len=room - 1, overlong="cut")
    assert (made.counts["cut"], made.counts["skipped"], len(made.rows)) == (0, 1, 1), "an answer is never cut"


@settings(max_examples=60, deadline=None)
@given(turns=st.integers(1, 5), max_len=st.integers(20, 120), system=st.booleans())
def test_cut_keeps_as_much_as_fits(small: Tokenizer, turns: int, max_len: int, system: bool) -> None:
    texts = [f"{'the quick fox ' * (i % 3 + 1)}{i}" for i in range(2 * turns)]
    head = "be kind" if system else ""
    expected = None
    for start in range(0, 2 * turns, 2):  # the longest end of the dialogue that fits, found by trying them all
        alone = encode_dialog(small, said(*texts[start:], system=head))
        if len(alone.tokens) <= max_len:
            expected = alone
            break
    made = sft_rows(small, [dialog(*texts, system=head)], max_len=max_len, overlong="cut")
    assert len(made.rows) == (expected is not None)
    if expected is not None:
        assert made.rows[0].tokens.tolist() == expected.tokens.tolist()


def test_bad_dialogue_is_named(small: Tokenizer) -> None:
    bad = Dialog(messages=said("hi [INST]", "yes"), source="mine")
    with pytest.raises(TemplateError, match=r"dialogue 1 \(mine\): message 0: found the tag"):
        sft_rows(small, [dialog("a", "b"), bad], max_len=99)


def preference(prompt: Messages, **rest: object) -> Preference:
    return Preference(prompt=prompt, chosen=ANSWER, rejected=OTHER, **rest)  # type: ignore[arg-type]


def test_pairs_train_on_the_last_answer_only(small: Tokenizer) -> None:
    prompt = said("hello", "the fox", "and", system="be kind")
    made = pair_rows(small, [preference(prompt, rating="better", chosen_safe=True)], margins="large", max_len=200)
    (pair,) = made.pairs
    ids = encode_prompt(small, prompt)
    for row, answer in ((pair.chosen, ANSWER), (pair.rejected, OTHER)):
        ending = [*small.encode(answer[0].content + " "), small.eos]
        assert row.tokens.tolist() == ids + ending
        assert row.mask.tolist() == [False] * len(ids) + [True] * len(ending)
    assert (pair.margin, pair.rating, pair.safe) == (2.0, 1, (1, -1))


def test_margins_are_the_papers() -> None:
    # table 27; the third of "small" is written 1/3
    ratings = ("significantly", "better", "slightly", "negligibly")
    assert [MARGINS["small"][r] for r in ratings] == [1, 2 / 3, 1 / 3, 0]
    assert [MARGINS["large"][r] for r in ratings] == [3, 2, 1, 0]
    assert [MARGINS["none"][r] for r in ratings] == [0, 0, 0, 0]


def test_pairs_are_cut_alike(small: Tokenizer) -> None:
    prompt = said("hello", "the quick brown fox", "and", "a dog", "so", system="be kind")
    longer = len(encode_dialog(small, (*prompt, *OTHER)).tokens)
    made = pair_rows(small, [preference(prompt)], margins="none", max_len=longer - 1, overlong="cut")
    (pair,) = made.pairs
    cut = said("and", "a dog", "so", system="be kind")
    assert pair.chosen.tokens.tolist() == encode_dialog(small, (*cut, *ANSWER)).tokens.tolist()
    assert pair.rejected.tokens.tolist() == encode_dialog(small, (*cut, *OTHER)).tokens.tolist()
    assert made.counts["cut"] == 1
    with pytest.raises(DataError, match=f"preference 0: found {longer} tokens, expected at most {longer - 1}"):
        pair_rows(small, [preference(prompt)], margins="none", max_len=longer - 1)
    least = len(encode_dialog(small, (*said("so", system="be kind"), *OTHER)).tokens)
    made = pair_rows(small, [preference(prompt)], margins="none", max_len=least - 1, overlong="cut")
    assert (made.pairs, made.counts["skipped"]) == ([], 1)


def test_pair_batch_from_pairs(small: Tokenizer) -> None:
    prefs = [preference(said("hello"), rating="slightly"), preference(said("a", "b", "c"), chosen_safe=True)]
    made = pair_rows(small, prefs, margins="small", max_len=99)
    batch = collate_pairs(made.pairs, 99)
    assert batch.batch.tokens.flatten()[batch.ends].tolist() == [small.eos] * 4
    assert batch.safe.tolist() == [-1, 1, -1, -1]
    assert batch.margin.tolist() == pytest.approx([1 / 3, 0])
    assert batch.rating.tolist() == [2, 3]


@settings(max_examples=200, deadline=None)
@given(main=st.integers(1, 60), other=st.integers(0, 200), share=st.floats(0.05, 1), seed=st.integers(0, 99))
def test_mix(main: int, other: int, share: float, seed: int) -> None:
    ours, theirs = [f"m{i}" for i in range(main)], [f"o{i}" for i in range(other)]
    assume(abs((main / share - main) % 1 - 0.5) > 1e-9)  # a tie is rounded as the last bit falls
    wanted = round(main / share - main)
    if wanted > other or (other and not wanted):
        with pytest.raises(DataError, match="mix: main_share"):
            mix(ours, theirs, share, seed)
        return
    mixed = mix(ours, theirs, share, seed)
    assert [x for x in mixed if x[0] == "m"] == ours
    drawn = [x for x in mixed if x[0] == "o"]
    assert len(drawn) == len(set(drawn)) == wanted
    assert mixed == mix(ours, theirs, share, seed), "deterministic"


def test_mix_as_the_papers_models() -> None:
    helpful, safety = list(range(900)), list(range(1000, 2000))
    assert len(mix(helpful, safety, 0.5, 0)) == 1800
    assert len(mix(helpful, safety, 0.9, 0)) == 1000
    assert mix(helpful, safety, 0.9, 0) != mix(helpful, safety, 0.9, 1)
    assert mix(helpful, [], 1.0, 0) == helpful


def test_mix_says_which_share_is_possible() -> None:
    with pytest.raises(DataError, match=r"takes 90 of other, which has 30; expected main_share of at least 0\.2500"):
        mix([0] * 10, [1] * 30, 0.1, 0)
    with pytest.raises(DataError, match="main has no rows"):
        mix([], [1], 0.5, 0)


def test_held_out_by_opening() -> None:
    opening = said("How do I  bake\nBread?")
    longer = said("how do i bake bread?", "Slowly.", "And then?", system="be kind")
    sides = {held_out(opening, 0.5, str(salt)) == held_out(longer, 0.5, str(salt)) for salt in range(50)}
    assert sides == {True}, "case, spacing, system message and later turns do not matter"
    assert {held_out(opening, 0.5, str(salt)) for salt in range(50)} == {True, False}
    share = np.mean([held_out(said(f"prompt {i}"), 0.1) for i in range(20_000)])
    assert abs(share - 0.1) < 4 * np.sqrt(0.09 / 20_000)
    assert not any(held_out(said(f"prompt {i}"), 0.0) for i in range(100))
    nested = [i for i in range(500) if held_out(said(str(i)), 0.1)]
    assert all(held_out(said(str(i)), 0.2) for i in nested), "a larger share holds out more, not others"


def test_prompts(small: Tokenizer) -> None:
    prompts = [Prompt(id="a", messages=said("hello")), Prompt(id="b", messages=said("x", "y", "z", system="be kind"))]
    encoded = encode_prompts(small, prompts)
    assert encoded == [encode_prompt(small, prompt.messages) for prompt in prompts]
    asked = requests(encoded, samples=2, seed=5, step=3)
    assert [(r.prompt, r.sample, r.seed, r.step) for r in asked] == [
        (0, 0, 5, 3),
        (0, 1, 5, 3),
        (1, 0, 5, 3),
        (1, 1, 5, 3),
    ]
    assert [list(r.tokens) for r in asked] == [encoded[0], encoded[0], encoded[1], encoded[1]]
    with pytest.raises(TemplateError, match="prompt c: message 0"):
        encode_prompts(small, [Prompt(id="c", messages=(Message("assistant", "x"),))])


def test_prompts_that_leave_room(small: Tokenizer) -> None:
    short = Prompt(id="a", messages=said("hello"))
    long = Prompt(id="b", messages=said("x" * 30, "y" * 30, "z", system="be kind"), kind="safety", meta={"k": 1})
    cut = said("z", system="be kind")
    room = len(encode_prompt(small, cut))
    kept, counts = fit_prompts(small, [short, long], room, "cut")
    assert [p.messages for p in kept] == [short.messages, cut]
    assert (kept[1].id, kept[1].kind, kept[1].meta) == ("b", "safety", {"k": 1})
    assert counts == {"prompts": 2, "kept": 2, "cut": 1, "skipped": 0}
    assert fit_prompts(small, [short, long], room, "skip") == (
        [short],
        {"prompts": 2, "kept": 1, "cut": 0, "skipped": 1},
    )
    with pytest.raises(DataError, match="prompt b: found"):
        fit_prompts(small, [short, long], room, "error")


def test_five_thousand_dialogues_take_seconds(llama: Tokenizer) -> None:
    text = "Do you know why turkeys became the official food of thanksgiving? " * 3
    dialogs = [dialog(f"{text}{i}", text, f"{i} and?", f"{text} {i}") for i in range(5000)]
    start = time.process_time()
    made = sft_rows(llama, dialogs, max_len=4096)
    assert made.counts["rows"] == 5000
    # processor time; about 1.5 s where this was written, 20 s would be a turn encoded anew for every use
    assert time.process_time() - start < 15
