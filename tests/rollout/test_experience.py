"""PPO's experience against the slow definitions, row by row and token by token."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from align.data.batches import predictors
from align.data.branches import Tree
from align.rollout.experience import (
    answer_batch,
    answer_mask,
    build,
    groups,
    over_answers,
    rows_of,
    scaled_scores,
    select,
    table,
)
from tests.oracles import losses as slow

PROMPTS = [(1, 5, 6), (1, 7), (1, 5, 6, 7, 8)]
ANSWERS = [(9, 2), (4, 4, 9, 2), (3,)]
LOGPROBS = [[-0.5, -0.1], [-1.0, -2.0, -0.3, -0.2], [-0.7]]
REF = [[-0.6, -0.3], [-0.9, -2.5, -0.3, -0.1], [-0.2]]
VALUES = [[0.3, -0.1], [0.0, 0.2, 0.4, -0.2], [0.5]]


def alone(packs):
    """Each answer a document."""
    return [[Tree((row,), 0, len(PROMPTS[row]) + len(ANSWERS[row])) for row in pack] for pack in packs]


def experience():
    return build(
        PROMPTS, ANSWERS, logprobs=table(LOGPROBS), ref_logprobs=table(REF), values=table(VALUES),
        scores=torch.tensor([1.0, -2.0, 0.5]), beta=0.1, gamma=0.9, lam=0.8,
    )  # fmt: skip


def test_rewards_advantages_and_returns_are_the_slow_definitions():
    made = experience()
    scores, raw = [1.0, -2.0, 0.5], []
    for row in range(3):
        kl = [a - b for a, b in zip(LOGPROBS[row], REF[row], strict=True)]
        rewards = slow.token_rewards(scores[row], kl, 0.1)
        advantages, returns = slow.gae(rewards, VALUES[row], 0.9, 0.8)
        length = len(ANSWERS[row])
        assert made.rewards[row, :length].tolist() == pytest.approx(rewards, abs=1e-6)
        assert made.returns[row, :length].tolist() == pytest.approx(returns, abs=1e-6)
        raw += advantages
    assert made.advantages[made.mask].tolist() == pytest.approx(slow.whiten(raw, shift_mean=True), abs=1e-5)
    assert made.advantages[~made.mask].abs().sum() == 0


def test_an_answer_batch_joins_prompt_and_answer_and_counts_the_answer():
    batch = answer_batch(PROMPTS, ANSWERS, alone([[0], [1], [2]]))
    assert batch.segments is None
    assert batch.tokens.tolist() == [[1, 5, 6, 9, 2, 0], [1, 7, 4, 4, 9, 2], [1, 5, 6, 7, 8, 3]]
    assert batch.tokens[batch.mask].tolist() == [9, 2, 4, 4, 9, 2, 3]
    before = batch.tokens.flatten()[predictors(batch.mask)]
    assert before.tolist() == [6, 9, 7, 4, 4, 9, 8]


def test_select_keeps_each_token_with_its_own_numbers():
    part = select(experience(), alone([[2, 1]]))
    assert part.batch.tokens.tolist() == [[1, 5, 6, 7, 8, 3, 1, 7, 4, 4, 9, 2]]
    assert part.batch.segments is not None
    assert part.batch.segments.tolist() == [[1] * 6 + [2] * 6]
    assert part.batch.tokens[part.batch.mask].tolist() == [3, 4, 4, 9, 2]
    assert part.logprobs.tolist() == pytest.approx(LOGPROBS[2] + LOGPROBS[1])
    assert part.values.tolist() == pytest.approx(VALUES[2] + VALUES[1])


def test_readings_come_back_to_their_rows_whatever_the_batches():
    def read(batch):
        return (batch.tokens * 10 + batch.positions)[batch.mask].float()

    whole = over_answers(read, PROMPTS, ANSWERS, 1000)
    expected = table([[p * 10 + len(q) + i for i, p in enumerate(a)] for q, a in zip(PROMPTS, ANSWERS, strict=True)])
    assert torch.equal(whole, expected)
    assert torch.equal(over_answers(read, PROMPTS, ANSWERS, 6), expected)


def test_groups_hold_every_row_once_within_the_budget():
    found = list(groups(PROMPTS, ANSWERS, 12))
    assert sorted(r for packs in found for r in rows_of(packs)) == [0, 1, 2]
    lengths = [len(p) + len(a) for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    assert all(len(packs) * max(sum(lengths[r] for r in rows_of([pack])) for pack in packs) <= 12 for packs in found)
    assert [rows_of(packs) for packs in groups(PROMPTS, ANSWERS, 3, [2, 0])] == [[0], [2]]


def test_rows_of_several_answers_are_no_wider_than_the_context():
    """Packed to 128 tokens, a model of a shorter context could not read them."""
    prompts = [(1,) * 9 + (number,) for number in range(9)]
    found = list(groups(prompts, [(2,) * 10] * 9, 4096, widest=64))
    assert {sum(20 for _ in pack) for packs in found for pack in packs} == {60}
    wide = list(groups(prompts, [(2,) * 10] * 9, 4096))
    assert max(sum(20 for _ in pack) for packs in wide for pack in packs) == 120


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(1, 150), st.integers(1, 40)), min_size=1, max_size=40), st.integers(1, 999))
def test_any_groups_hold_every_row_once_within_the_budget(sizes, budget):
    prompts, answers = [(1,) * p for p, _ in sizes], [(2,) * a for _, a in sizes]
    found = list(groups(prompts, answers, budget))
    assert sorted(r for packs in found for r in rows_of(packs)) == list(range(len(sizes)))
    for packs in found:
        batch = answer_batch(prompts, answers, packs)
        assert batch.tokens.numel() <= budget or len(rows_of(packs)) == 1


def test_the_mask_goes_by_length_not_by_token_id():
    assert answer_mask([(0, 0), (2,)]).tolist() == [[True, True], [True, False]]


def test_scores_are_scaled_clipped_and_replaced_where_the_answer_did_not_end():
    scores, finished = torch.tensor([1.0, 3.0, 8.0]), torch.tensor([True, True, False])
    mixed = torch.tensor([True, False, False])
    white = scaled_scores(scores, finished, mixed, how="whiten", clip=1.0, no_eos=-1.0)
    spread = math.sqrt(((1 - 4) ** 2 + (3 - 4) ** 2 + (8 - 4) ** 2) / 3)
    assert white.tolist() == pytest.approx([-1.0, -1 / spread, -1.0], abs=1e-6)
    kept = scaled_scores(scores, finished, mixed, how="unit_variance", clip=None, no_eos=None)
    assert kept.tolist() == pytest.approx([x / spread + 4 for x in (-3, -1, 4)], abs=1e-6)
    assert scaled_scores(scores, finished, mixed, how="none", clip=None, no_eos=None).tolist() == [1.0, 3.0, 8.0]


def test_scores_of_each_kind_of_prompt_are_scaled_among_themselves():
    scores, every = torch.tensor([100.0, 1.0, 300.0, 2.0, 3.0]), torch.ones(5, dtype=torch.bool)
    safety = torch.tensor([True, False, True, False, False])
    found = scaled_scores(scores, every, safety, how="whiten_by_kind", clip=None, no_eos=None)
    assert found.tolist() == pytest.approx([-1.0, -math.sqrt(1.5), 1.0, 0.0, math.sqrt(1.5)], abs=1e-6)
    alone = scaled_scores(scores, every, every, how="whiten_by_kind", clip=None, no_eos=None)
    torch.testing.assert_close(alone, scaled_scores(scores, every, every, how="whiten", clip=None, no_eos=None))


def test_scores_are_laid_beside_those_of_the_prompts_other_answers():
    """Leave-one-out: an answer's score less the mean of the prompt's others, whatever the prompt's own level."""
    scores, every = torch.tensor([1.0, 2.0, 6.0, 100.0, 100.0, 103.0]), torch.ones(6, dtype=torch.bool)
    found = scaled_scores(scores, every, ~every, how="whiten_by_prompt", clip=None, no_eos=None, samples=3)
    beside = torch.tensor([1 - 4.0, 2 - 3.5, 6 - 1.5, -1.5, -1.5, 3.0])
    torch.testing.assert_close(found, beside / beside.std(correction=0))
    level = scores + torch.tensor([-7.0] * 3 + [50.0] * 3)
    again = scaled_scores(level, every, ~every, how="whiten_by_prompt", clip=None, no_eos=None, samples=3)
    torch.testing.assert_close(again, found)
