"""The transformer against transformers' LlamaForCausalLM: fp32, 1e-5, every way rows can be laid out."""

from __future__ import annotations

import cmath

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from align.errors import ShapeError
from align.model.attention import _attend_plainly, attend, packed_mask, rope_table
from align.model.llama import KVCache, Llama, init_weights, rotate
from tests.model.peers import policies, randomise, tiny

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
KV_HEADS = pytest.mark.parametrize("kv_heads", [4, 2, 1])


def tokens_of(B: int, T: int, seed: int = 0) -> Tensor:
    return torch.randint(1, 97, (B, T), generator=torch.Generator().manual_seed(seed))


@KV_HEADS
@pytest.mark.parametrize("changes", [{}, {"tie_embeddings": True}, {"rope_theta": 500.0}, {"norm_eps": 0.1}])
def test_logits_equal_transformers(kv_heads: int, changes: dict[str, object]) -> None:
    ours, theirs = policies(tiny(kv_heads, **changes))
    tokens = tokens_of(3, 64)
    logits = ours(tokens)
    assert logits.dtype == torch.float32
    assert logits.std() > 0.3  # far from the constant answer that any wrong model could share
    torch.testing.assert_close(logits, theirs(tokens).logits, **CLOSE)


@KV_HEADS
def test_gradients_equal_transformers(kv_heads: int) -> None:
    ours, theirs = policies(tiny(kv_heads))
    tokens = tokens_of(2, 17)
    for model, logits in ((ours, ours(tokens)), (theirs, theirs(tokens).logits)):
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        model.zero_grad()
        loss.backward()
    peers = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, peers[name].grad, rtol=1e-4, atol=1e-6, msg=name)


@KV_HEADS
@settings(max_examples=8)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    left=st.booleans(),
    fill=st.integers(0, 96),
)
def test_padding_on_either_side_changes_nothing(kv_heads: int, lengths: list[int], left: bool, fill: int) -> None:
    ours, theirs = policies(tiny(kv_heads))
    T = max(lengths) + 2
    tokens = torch.full((len(lengths), T), fill)
    mask = torch.zeros_like(tokens)
    rows = [tokens_of(1, length, seed)[0] for seed, length in enumerate(lengths)]
    for row, ids in enumerate(rows):
        where = slice(T - len(ids), T) if left else slice(0, len(ids))
        tokens[row, where], mask[row, where] = ids, 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = ours(tokens, positions, segments=mask)
    assert logits.isfinite().all()
    padded = theirs(tokens, attention_mask=mask, position_ids=positions).logits
    for row, ids in enumerate(rows):
        here = logits[row, mask[row] == 1]
        torch.testing.assert_close(here, theirs(ids[None]).logits[0], **CLOSE)
        torch.testing.assert_close(here, padded[row, mask[row] == 1], **CLOSE)


def test_right_padding_needs_no_segments() -> None:
    ours, theirs = policies(tiny())
    tokens = tokens_of(2, 20)
    tokens[0, 7:] = 0
    torch.testing.assert_close(ours(tokens)[0, :7], theirs(tokens[:1, :7]).logits[0], **CLOSE)


@KV_HEADS
def test_packed_documents_do_not_see_each_other(kv_heads: int) -> None:
    ours, theirs = policies(tiny(kv_heads))
    sizes = [(9, 1, 14), (5, 20)]
    documents = [[tokens_of(1, n, seed=10 * row + n)[0] for n in parts] for row, parts in enumerate(sizes)]
    T = 30
    tokens, positions, segments = (torch.zeros(2, T, dtype=torch.int64) for _ in range(3))
    for row, parts in enumerate(documents):
        start = 0
        for number, ids in enumerate(parts, start=1):
            here = slice(start, start + len(ids))
            tokens[row, here], segments[row, here] = ids, number
            positions[row, here] = torch.arange(len(ids))
            start += len(ids)
    packed = ours(tokens, positions, segments)
    without_positions = ours(tokens, None, segments)  # rotary angles are relative, so only documents matter
    for row, parts in enumerate(documents):
        for number, ids in enumerate(parts, start=1):
            alone = theirs(ids[None]).logits[0]
            torch.testing.assert_close(packed[row, segments[row] == number], alone, **CLOSE)
            torch.testing.assert_close(without_positions[row, segments[row] == number], alone, **CLOSE)


@KV_HEADS
@torch.no_grad()
def test_cached_decoding_equals_the_whole_row(kv_heads: int) -> None:
    ours, theirs = policies(tiny(kv_heads))
    tokens = tokens_of(3, 20)
    cache = KVCache(ours.config, rows=3, slots=24)
    steps = [ours(tokens[:, :6], cache=cache)]
    positions = torch.arange(20).expand(3, 20)
    steps.append(ours(tokens[:, 6:11], positions[:, 6:11], cache=cache))  # a chunk on top of what is cached
    steps += [ours(tokens[:, t : t + 1], positions[:, t : t + 1], cache=cache) for t in range(11, 20)]
    torch.testing.assert_close(torch.cat(steps, 1), theirs(tokens).logits, **CLOSE)


@KV_HEADS
@torch.no_grad()
def test_cache_rows_are_refilled_without_clearing(kv_heads: int) -> None:
    """Rows at different positions decode together; one is overwritten by a shorter new sequence meanwhile."""
    ours, theirs = policies(tiny(kv_heads))
    first, second, third = tokens_of(1, 14, 1), tokens_of(1, 9, 2), tokens_of(1, 6, 3)
    cache = KVCache(ours.config, rows=4, slots=16)
    for row, ids in ((2, first), (0, second)):
        cache.rows = torch.tensor([row])
        ours(ids[:, :-1], cache=cache)
    cache.rows, cache.length = torch.tensor([2, 0]), 16
    last = torch.cat((first[:, -1:], second[:, -1:]))
    both = ours(last, torch.tensor([[13], [8]]), cache=cache)[:, 0]
    torch.testing.assert_close(both[0], theirs(first).logits[0, -1], **CLOSE)
    torch.testing.assert_close(both[1], theirs(second).logits[0, -1], **CLOSE)

    cache.rows, cache.length = torch.tensor([2]), None
    ours(third[:, :4], cache=cache)
    cache.rows = torch.tensor([0, 2])
    pair = torch.cat((torch.tensor([[7]]), third[:, 4:5]))
    step = ours(pair, torch.tensor([[9], [4]]), cache=cache)[:, 0]
    extended = torch.cat((second, torch.tensor([[7]])), 1)
    torch.testing.assert_close(step[0], theirs(extended).logits[0, -1], **CLOSE)
    torch.testing.assert_close(step[1], theirs(third[:, :5]).logits[0, -1], **CLOSE)


@torch.no_grad()
def test_cached_left_padding_goes_to_the_bin() -> None:
    ours, theirs = policies(tiny())
    row = tokens_of(1, 5)
    tokens = torch.cat((torch.zeros(1, 3, dtype=torch.int64), row), 1)
    mask = (torch.arange(8) >= 3)[None].long()
    cache = KVCache(ours.config, rows=1, slots=10)
    logits = ours(tokens, (mask.cumsum(1) - 1).clamp(min=0), segments=mask, cache=cache)
    torch.testing.assert_close(logits[:, 3:], theirs(row).logits, **CLOSE)
    fresh = KVCache(ours.config, rows=1, slots=10)
    ours(row, cache=fresh)
    torch.testing.assert_close(cache.k[..., :10, :], fresh.k[..., :10, :], **CLOSE)


@torch.no_grad()
def test_attended_length_bounds_work_not_result() -> None:
    ours, _ = policies(tiny())
    tokens = tokens_of(2, 6)
    found = []
    for length in (None, 6, 11, 30):
        cache = KVCache(ours.config, rows=2, slots=30)
        ours(tokens[:, :5], cache=cache)
        cache.length = length
        found.append(ours(tokens[:, 5:], torch.full((2, 1), 5), cache=cache))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], **CLOSE)


def test_bf16_keeps_angles_and_logits_in_fp32() -> None:
    """Angles rounded to bf16 would confuse neighbouring positions from 256 on."""
    cos, sin = rope_table(8, 10000.0, 4096, torch.device("cpu"))
    positions = torch.arange(4096, dtype=torch.float64)
    for pair in range(4):
        angle = positions * 10000.0 ** (-2 * pair / 8)
        torch.testing.assert_close(cos[:, pair].double(), angle.cos(), rtol=0, atol=3e-4)
        torch.testing.assert_close(sin[:, pair].double(), angle.sin(), rtol=0, atol=3e-4)
    config = tiny(max_seq_len=4096)
    ours, _ = policies(config)
    exact = ours(tokens_of(1, 8), 4000 + torch.arange(8)[None])
    ours.to(torch.bfloat16)
    rough = ours(tokens_of(1, 8), 4000 + torch.arange(8)[None])
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0, atol=0.08)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_attention_written_out_equals_the_fused_kernel(kv_heads: int, packed: bool) -> None:
    draws = torch.Generator().manual_seed(3)
    given = [torch.randn(2, heads, 19, 8, generator=draws) for heads in (4, kv_heads, kv_heads)]
    mask = packed_mask(tokens_of(2, 19, seed=1).sort().values // 20, torch.float32) if packed else None
    upstream = torch.randn(2, 4, 19, 8, generator=draws)
    found = []
    for attention in (attend, _attend_plainly):
        q, k, v = (one.clone().requires_grad_() for one in given)
        out = attention(q, k, v, mask)
        found.append((out, *torch.autograd.grad(out, (q, k, v), upstream)))
    for fused, written in zip(*found, strict=True):
        torch.testing.assert_close(written, fused, **CLOSE)


def test_rotation_pairs_i_with_i_plus_half() -> None:
    """The definition, one complex number at a time (Su et al. 2021, equation 34)."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 5, 1, 8, generator=generator, dtype=torch.float32)
    cos, sin = rope_table(8, 100.0, 16, torch.device("cpu"))
    rotated = rotate(x, cos[None, :5, None], sin[None, :5, None])
    for t in range(5):
        for i in range(4):
            angle = t * 100.0 ** (-2 * i / 8)
            turned = complex(x[0, t, 0, i], x[0, t, 0, i + 4]) * cmath.exp(1j * angle)
            assert abs(rotated[0, t, 0, i].item() - turned.real) < 1e-6
            assert abs(rotated[0, t, 0, i + 4].item() - turned.imag) < 1e-6


def test_table_made_while_sampling_serves_training() -> None:
    rope_table.cache_clear()
    ours, _ = policies(tiny())
    with torch.inference_mode():
        ours(tokens_of(1, 4))
    ours(tokens_of(1, 4)).sum().backward()


@pytest.mark.parametrize("tied", [False, True])
def test_weights_are_read_only_in_their_own_modules_forward(tied: bool) -> None:
    """What ZeRO-3 needs: outside a module's forward its parameters are not there."""
    model = Llama(tiny(tie_embeddings=tied))
    randomise(model)
    tokens = tokens_of(2, 7)
    expected = model(tokens)
    whole = {parameter: parameter.data for parameter in model.parameters()}

    def gather(module: nn.Module, _: object) -> None:
        for parameter in module.parameters(recurse=False):
            parameter.data = whole[parameter]

    def release(module: nn.Module, *_: object) -> None:
        for parameter in module.parameters(recurse=False):
            parameter.data = torch.empty(0)

    for module in model.modules():
        module.register_forward_pre_hook(gather)
        module.register_forward_hook(release)
        release(module)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), expected, rtol=0, atol=0)


def test_initial_weights_follow_the_seed_alone() -> None:
    a, b, c = Llama(tiny(dim=128)), Llama(tiny(dim=128)), Llama(tiny(dim=128))
    torch.manual_seed(1)
    init_weights(a, 5)
    torch.manual_seed(2)
    init_weights(b, 5)
    init_weights(c, 6)
    for name, parameter in a.named_parameters():
        assert torch.equal(parameter, b.get_parameter(name))
        if parameter.dim() == 2:
            assert not torch.equal(parameter, c.get_parameter(name))
            assert abs(parameter.std().item() - 0.02) < 0.001
            assert abs(parameter.mean().item()) < 0.001
        else:
            assert (parameter == 1).all()


def test_impossible_shapes_are_refused() -> None:
    ours, _ = policies(tiny())
    tokens = tokens_of(2, 8)
    with pytest.raises(ShapeError, match=r"positions: expected \(2, 8\) like tokens, found \(1, 8\)"):
        ours(tokens, torch.arange(8)[None])
    with pytest.raises(ShapeError, match=r"segments: expected \(2, 8\) like tokens, found \(2, 7\)"):
        ours(tokens, segments=torch.ones(2, 7, dtype=torch.int64))
    with pytest.raises(ShapeError, match="a row of 65 tokens does not fit: the model and its cache hold 64"):
        ours(tokens_of(1, 65))
    with pytest.raises(ShapeError, match="a row of 8 tokens does not fit: the model and its cache hold 7"):
        ours(tokens, cache=KVCache(ours.config, rows=2, slots=7))
    with pytest.raises(ShapeError, match="position 8 does not fit a cache of 8 slots"):  # slot 8 is the bin
        ours(tokens[:, :1], torch.tensor([[3], [8]]), cache=KVCache(ours.config, rows=2, slots=8))
