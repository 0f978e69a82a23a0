"""The largest attention against transformers' own attention weights, `output_attentions`, in fp32."""

from __future__ import annotations

import pytest
import torch

from align.errors import ShapeError
from align.model.attention_map import largest_attention
from tests.model.peers import policies, tiny


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("queries", [1, 5, 64])
@pytest.mark.parametrize("changes", [{}, {"rope_theta": 500.0, "norm_eps": 0.1}])
def test_equals_transformers(kv_heads: int, queries: int, changes: dict[str, float]) -> None:
    ours, theirs = policies(tiny(kv_heads, **changes))
    tokens = torch.randint(1, 97, (23,), generator=torch.Generator().manual_seed(kv_heads))
    chosen = torch.zeros(23, dtype=torch.bool)
    chosen[3:7] = True
    found = largest_attention(ours, tokens, chosen, queries)
    weights = theirs(tokens[None], output_attentions=True).attentions  # L of [1, H, T, T]
    expected = torch.stack([layer[0][:, :, chosen].amax((0, 2)) for layer in weights])
    assert found.shape == (2, 23)
    assert found.std() > 0.05, "or every wrong map would pass"
    torch.testing.assert_close(found, expected.detach(), rtol=0, atol=1e-5)
    assert (found[:, :3] == 0).all()
    assert bool((found[:, 3:] > 0).all())


def test_nothing_is_left_on_the_model() -> None:
    ours, _ = policies(tiny())
    tokens = torch.arange(1, 9)
    before = ours(tokens[None])
    largest_attention(ours, tokens, tokens == 3)
    assert not [m for m in ours.modules() if m._forward_pre_hooks]
    assert torch.equal(ours(tokens[None]), before)


def test_bf16_stays_near() -> None:
    ours, _ = policies(tiny())
    tokens = torch.arange(1, 30)
    exact = largest_attention(ours, tokens, tokens < 5)
    torch.testing.assert_close(largest_attention(ours.bfloat16(), tokens, tokens < 5), exact, rtol=0, atol=0.05)


@pytest.mark.parametrize(
    ("shape", "said"), [((4,), "expected tokens"), ((5,), "found no token"), ((1, 5), "expected tokens")]
)
def test_what_cannot_be_looked_at(shape: tuple[int, ...], said: str) -> None:
    ours, _ = policies(tiny())
    with pytest.raises(ShapeError, match=said):
        largest_attention(ours, torch.arange(5), torch.zeros(shape, dtype=torch.bool))
