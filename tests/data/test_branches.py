"""Answers as trees: what each token sees and predicts is what it would alone with its prompt."""

from __future__ import annotations

import pytest
import torch

from align.data.batches import predictors
from align.data.branches import EVEN, Tree, collate, ends, plant
from align.model.attention import packed_mask
from tests.fakes import tiny_llama

PROMPTS = [(1, 5, 6, 7)] * 3 + [(1, 8)]
ANSWERS = [(9, 2), (4, 4, 2), (9,), (3, 2)]
EVERY = range(4)


def test_a_tree_by_hand():
    trees = plant(PROMPTS, ANSWERS, EVERY, 100)
    assert trees == [Tree((0, 1, 2), 3, 3 + 3 + 4 + 2), Tree((3,), 0, 4)]
    batch = collate(PROMPTS, ANSWERS, [trees])
    assert batch.tokens.tolist() == [[1, 5, 6, 7, 9, 2, 7, 4, 4, 2, 7, 9, 1, 8, 3, 2]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 3, 4, 0, 1, 2, 3]]
    assert batch.segments is not None
    assert batch.stems is not None
    assert batch.segments.tolist() == [[1] * 3 + [2] * 3 + [3] * 4 + [4] * 2 + [5] * 4]
    assert batch.stems.tolist() == [[-1] * 3 + [1] * 9 + [-1] * 4]
    assert batch.tokens[batch.mask].tolist() == [token for answer in ANSWERS for token in answer]
    assert batch.tokens.flatten()[predictors(batch.mask)].tolist() == [7, 9, 7, 4, 4, 7, 8, 3]
    assert ends(batch.mask, [2, 3, 1, 2]).tolist() == [5, 9, 11, 15]


def test_a_tree_is_no_longer_than_told_and_one_answer_is_taken_whatever_its_length():
    assert [tree.rows for tree in plant(PROMPTS, ANSWERS, EVERY, 10)] == [(0, 1), (2,), (3,)]
    assert [tree.rows for tree in plant(PROMPTS, ANSWERS, EVERY, 1)] == [(0,), (1,), (2,), (3,)]


def test_long_answers_to_a_short_prompt_stand_apart_and_those_to_a_long_one_do_not():
    """Two documents of n tokens or a tree of nearly 2 n: n (1 + n / EVEN) twice against once 2 n (1 + 2 n / EVEN)."""
    long, short = (2,) * EVEN, (2,) * 10
    assert [tree.rows for tree in plant([(1, 5)] * 2, [long] * 2, range(2), 10**6)] == [(0,), (1,)]
    assert [tree.rows for tree in plant([(1,) * EVEN] * 2, [short] * 2, range(2), 10**6)] == [(0, 1)]


def test_a_prompt_of_one_token_is_no_stem():
    assert [tree.stem for tree in plant([(1,)] * 2, [(3,)] * 2, range(2), 100)] == [0, 0]


@pytest.mark.parametrize("most", [9, 60])
def test_logits_and_gradients_are_those_of_each_answer_alone(most):
    model = tiny_llama(0).requires_grad_(True)
    generator = torch.Generator().manual_seed(most)

    def some(size):
        return torch.randint(3, model.config.vocab_size, (size,), generator=generator).tolist()

    shared = [[1, *some(number)] for number in (0, 1, 3, 4)]
    which = [3, 0, 2, 2, 0, 3, 1, 3, 2]
    prompts, answers = [shared[number] for number in which], [some(1 + row % 4) for row in range(len(which))]
    trees = plant(prompts, answers, range(len(which)), most)
    assert any(tree.stem for tree in trees)
    packs = [trees[::2], trees[1::2]]
    batch = collate(prompts, answers, packs)
    together = model(batch.tokens, batch.positions, batch.segments, at=predictors(batch.mask), stems=batch.stems)
    together.square().sum().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    alone = []
    for row in (row for pack in packs for tree in pack for row in tree.rows):
        logits = model(torch.tensor([[*prompts[row], *answers[row]]]))[0]
        alone.append(logits[len(prompts[row]) - 1 : -1])
    torch.cat(alone).square().sum().backward()
    assert len(torch.cat(alone)) == sum(map(len, answers))
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)
    for name, parameter in model.named_parameters():
        scale = float(parameter.grad.abs().max())
        assert float((gradients[name] - parameter.grad).abs().max()) <= 1e-5 * max(scale, 1e-3), name


def test_a_branch_sees_its_stem_and_itself_alone():
    batch = collate(PROMPTS, ANSWERS, [plant(PROMPTS, ANSWERS, EVERY, 100)])
    assert batch.segments is not None
    seen = packed_mask(batch.segments, torch.float32, batch.stems)[0, 0] == 0
    assert seen[8].nonzero().flatten().tolist() == [0, 1, 2, 6, 7, 8]
    assert seen[13].nonzero().flatten().tolist() == [12, 13]


@pytest.mark.parametrize("most", [1, 100])
def test_the_mask_counts_every_answer_token_once(most):
    trees = plant(PROMPTS, ANSWERS, EVERY, most)
    assert int(collate(PROMPTS, ANSWERS, [[tree] for tree in trees]).mask.sum()) == 8
