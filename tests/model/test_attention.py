"""Attention of long packed rows, document by document, beside the mask of the whole row."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from align.model import attention
from align.model.attention import Lengths, Pieces, attend, packed_mask, visible
from align.model.config import LONG, PIECE
from align.model.llama import Llama
from tests.losses.cases import Sizes
from tests.model.peers import randomise, tiny

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def segments_of(rows: list[list[int]]) -> Tensor:
    """Documents of the given lengths, numbered from 1 in each row, and padding up to the longest row."""
    T = max(map(sum, rows))
    return torch.stack(
        [torch.tensor([n for n, size in enumerate(row, 1) for _ in range(size)] + [0] * (T - sum(row))) for row in rows]
    )


def qkv(B: int, T: int, heads: int = 4, kv_heads: int = 2, E: int = 8) -> list[Tensor]:
    draws = torch.Generator().manual_seed(B * T)
    # as they come from a layer: heads within tokens
    return [
        torch.randn(B, T, n, E, generator=draws).transpose(1, 2).requires_grad_() for n in (heads, kv_heads, kv_heads)
    ]


def both_ways(segments: Tensor, stems: Tensor | None = None) -> tuple[Any, list[Tensor], list[Tensor]]:
    """The long row's form, and values and gradients by it and by the mask of the whole row."""
    B, T = segments.shape
    form = visible(segments, torch.float32, stems)
    upstream = torch.randn(B, 4, T, 8, generator=torch.Generator().manual_seed(1))
    found = []
    for mask in (form, packed_mask(segments, torch.float32, stems)):
        q, k, v = qkv(B, T)
        out = attend(q, k, v, mask)
        found.append([out, *torch.autograd.grad(out, (q, k, v), upstream)])
    return form, found[0], found[1]


@settings(max_examples=12, deadline=None)
@given(rows=st.lists(st.lists(st.integers(1, 300), min_size=1, max_size=6), min_size=1, max_size=2))
def test_pieces_equal_the_mask(rows: list[list[int]]) -> None:
    segments = segments_of(rows)
    if segments.shape[1] <= LONG:
        rows = [[*row, LONG] for row in rows]
        segments = segments_of(rows)
    form, ours, plain = both_ways(segments)
    assert isinstance(form, Pieces)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)  # type: ignore[arg-type]
    assert sum(form.sizes) == segments.numel()
    longest = max(max(row) for row in rows)
    padding = max(segments.shape[1] - sum(row) for row in rows)
    assert max(form.sizes) <= max(PIECE, longest, padding)
    for size, mask in zip(form.sizes, form.masks, strict=True):
        assert mask is None or (mask.shape == (1, 1, size, size) and size <= PIECE)


def test_how_a_row_is_cut() -> None:
    """Neighbours share a piece up to PIECE tokens; no piece crosses a row."""
    form = visible(segments_of([[100, 100, 100, 300], [250, 6, 1, 300]]), torch.float32)
    assert isinstance(form, Pieces)
    assert form.sizes == [200, 100, 300, 256, 1, 300, 43]
    assert [mask is None for mask in form.masks] == [False, True, True, False, True, True, True]


def test_trees_are_cut_between_them_only() -> None:
    """A prompt with two answers, thrice and once more alone, as the reward model's rows have them."""
    segments, stems = [], []
    for number, (stem, first, second) in enumerate([(30, 20, 25), (150, 90, 70), (5, 1, 300)]):
        root = 3 * number + 1
        segments += [root] * stem + [root + 1] * first + [root + 2] * second
        stems += [-1] * stem + [root] * (first + second)
    rows, above = (torch.tensor([part + [fill] * 9]) for part, fill in ((segments, 0), (stems, -1)))
    form, ours, plain = both_ways(rows, above)
    assert isinstance(form, Pieces)
    assert form.sizes == [75, 310, 306, 9]
    assert [mask is None for mask in form.masks] == [False, False, False, True]
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("segments", "stems"),
    [
        ([1] * 300 + [2] * 300 + [1] * 3, None),  # a document in two places
        ([1] * 300 + [2] * 200 + [3] * 103, [-1] * 300 + [1] * 200 + [2] * 103),  # an answer that goes on from another
    ],
)
def test_a_row_that_cannot_be_cut_keeps_its_mask(segments: list[int], stems: list[int] | None) -> None:
    rows, above = torch.tensor([segments]), None if stems is None else torch.tensor([stems])
    form, ours, plain = both_ways(rows, above)
    assert isinstance(form, Tensor)
    assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))


def test_a_long_packed_row_makes_nothing_of_its_length_squared() -> None:
    """4,096 tokens of documents up to 700: forward and backward of a model, every tensor watched."""
    model = Llama(tiny(max_seq_len=4096, dim=16, ffn_dim=24))
    randomise(model)
    sizes = [700, 12, 300, 90, 660, 5, 5, 401, 256, 257, 640, 770]
    segments = segments_of([sizes])
    T = segments.shape[1]
    assert T == 4096
    tokens = torch.randint(1, 97, (1, T), generator=torch.Generator().manual_seed(0))
    positions = torch.cat([torch.arange(size) for size in sizes])[None]
    with Sizes(T * T) as seen:
        hidden = model.model(tokens, positions, segments)
        hidden.square().sum().backward()
    assert not seen.seen
    with Sizes(T * T) as seen:
        packed_mask(segments, torch.float32)
    assert seen.seen, "the mask of the whole row would have been seen"
    start = 0
    for size in sizes:
        alone = model.model(tokens[:, start : start + size])
        torch.testing.assert_close(hidden[:, start : start + size], alone, **CLOSE)  # type: ignore[arg-type]
        start += size


def fake_kernel(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The variable-length kernel's contract (torch.nn.attention.varlen), written out; what it was called with."""
    called: list[tuple[Any, ...]] = []

    def varlen_attn(q: Tensor, k: Tensor, v: Tensor, q_starts: Tensor, k_starts: Tensor, q_most: int, k_most: int,
                    *, window_size: tuple[int, int], enable_gqa: bool) -> Tensor:  # fmt: skip
        assert torch.equal(q_starts, k_starts)
        assert q_starts.dtype == torch.int32
        assert q_most == k_most == int(q_starts.diff().max())
        assert window_size == (-1, 0), "causal"
        called.append((q_starts, enable_gqa))
        out = torch.empty_like(q)
        for a, b in zip(q_starts[:-1].tolist(), q_starts[1:].tolist(), strict=True):
            parts = (x[a:b].transpose(0, 1)[None] for x in (q, k, v))
            out[a:b] = F.scaled_dot_product_attention(*parts, is_causal=True, enable_gqa=enable_gqa)[0].transpose(0, 1)
        return out

    fake = types.ModuleType("torch.nn.attention.varlen")
    fake.varlen_attn = varlen_attn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", fake)
    monkeypatch.setattr(attention, "_has_kernel", lambda device, dtype: True)
    return called


def test_the_variable_length_kernel_is_told_the_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    called = fake_kernel(monkeypatch)
    form, ours, plain = both_ways(segments_of([[300, 1, 299], [600], [7, 500]]))
    assert isinstance(form, Lengths)
    assert called[0][0].tolist() == [0, 300, 301, 600, 1200, 1207, 1707, 1800]
    assert called[0][1] is True
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)  # type: ignore[arg-type]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu_the_kernel_equals_the_mask() -> None:
    segments = segments_of([[300, 1, 299], [600], [7, 500]]).cuda()
    form = visible(segments, torch.bfloat16)
    assert isinstance(form, Lengths)
    given = [x.detach().cuda().bfloat16() for x in qkv(3, 600, E=64)]
    upstream = torch.randn(3, 4, 600, 64, device="cuda", dtype=torch.bfloat16)
    found = []
    for mask in (form, packed_mask(segments, torch.bfloat16)):
        q, k, v = (x.clone().requires_grad_() for x in given)
        out = attend(q, k, v, mask)
        found.append([out, *torch.autograd.grad(out, (q, k, v), upstream)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.05)
