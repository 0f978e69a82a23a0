"""The scalar head against transformers' LlamaForSequenceClassification."""

from __future__ import annotations

import pytest
import torch

from align.model.heads import scorer_from_policy
from align.model.llama import Llama, init_weights
from tests.model.peers import policies, scorers, tiny

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("left", [False, True])
def test_score_at_the_last_real_token_equals_transformers(kv_heads: int, left: bool) -> None:
    """Rows with padding too: their reading is the last token that is not the pad (0), which never is text."""
    ours, theirs = scorers(tiny(kv_heads))
    lengths = [9, 1, 5]
    tokens, mask = torch.zeros(3, 9, dtype=torch.int64), torch.zeros(3, 9, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    ends = []
    for row, length in enumerate(lengths):
        start = 9 - length if left else 0
        tokens[row, start : start + length] = torch.randint(1, 97, (length,), generator=generator)
        mask[row, start : start + length] = 1
        ends.append(9 * row + start + length - 1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    expected = theirs(tokens, attention_mask=mask, position_ids=positions).logits[:, 0]
    scores = ours(tokens, positions, segments=mask)
    assert scores.shape == (3, 9)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.flatten()[ends], expected, **CLOSE)
    torch.testing.assert_close(ours(tokens, positions, mask, at=torch.tensor(ends)), expected, **CLOSE)
    assert expected.std() > 0.05


def test_a_policys_backbone_is_taken_over() -> None:
    policy, _ = policies(tiny())
    policy.to(torch.bfloat16)
    tokens = torch.arange(1, 9)[None]
    hidden = policy.model(tokens)
    scorer = scorer_from_policy(policy, seed=3)
    assert scorer.model is policy.model
    assert scorer.score.weight.dtype == torch.bfloat16
    assert all(parameter.requires_grad and not parameter.is_meta for parameter in scorer.parameters())
    expected = (hidden @ scorer.score.weight.T)[..., 0].float()
    torch.testing.assert_close(scorer(tokens), expected, rtol=0, atol=0)


def test_the_head_starts_by_its_seed_and_spread() -> None:
    config = tiny(dim=4096, n_layers=1, n_heads=32, n_kv_heads=32, ffn_dim=8, vocab_size=3)
    policy = Llama(config)
    init_weights(policy, 0)
    torch.manual_seed(0)
    first = scorer_from_policy(policy, seed=1).score.weight
    torch.manual_seed(9)
    assert torch.equal(scorer_from_policy(policy, seed=1).score.weight, first)
    assert not torch.equal(scorer_from_policy(policy, seed=2).score.weight, first)
    assert abs(first.std().item() * 4097**0.5 - 1) < 0.04
    assert (scorer_from_policy(policy, seed=1, std=0.0).score.weight == 0).all()
