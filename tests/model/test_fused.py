"""The CPU kernels against plain PyTorch, forward and backward."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from align.errors import ShapeError
from align.model import documents, fused, native
from align.model.attention import attend_documents, packed_mask, rope_table, rotate
from align.model.config import LlamaConfig
from align.model.llama import Llama, init_weights

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}  # relative to the largest value
DTYPES = tuple(TOLERANCE)


def close(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    error = (found.double() - expected.double()).abs().max()
    assert error <= TOLERANCE[found.dtype] * expected.double().abs().max().clamp(min=1), float(error)


def leaf(*shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype).requires_grad_()


def compare(found: Tensor, expected: Tensor, leaves: tuple[Tensor, ...]) -> None:
    """Values, and the gradients of every leaf for one upstream gradient."""
    close(found, expected)
    upstream = torch.randn(found.shape, generator=torch.Generator().manual_seed(99)).to(found.dtype)
    grads = [torch.autograd.grad(y, leaves, upstream) for y in (found, expected)]
    for mine, theirs in zip(*grads, strict=True):
        close(mine, theirs)


@pytest.fixture(autouse=True)
def _compiled() -> None:
    assert native.kernels() is not None, "the tests' machine has a C++ compiler: DeepSpeed needs one"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1, 8), (3, 5, 33), (2, 300, 96)])
def test_rms_norm(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, weight = leaf(*shape, dtype=dtype, seed=0), leaf(shape[-1], dtype=dtype, seed=1)
    plain = weight * F.rms_norm(x.float(), x.shape[-1:], None, 1e-5).to(dtype)
    compare(fused.rms_norm(x, weight, 1e-5), plain, (x, weight))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 5, 33), (2, 300, 96)])
def test_swiglu(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    gate, up = leaf(*shape, dtype=dtype, seed=0), leaf(*shape, dtype=dtype, seed=1)
    compare(fused.swiglu(gate, up), F.silu(gate) * up, (gate, up))


def test_swiglu_where_the_exponential_ends() -> None:
    gate = torch.tensor([-1e30, -200.0, -88.0, -87.5, -1e-30, 0.0, 87.5, 88.0, 200.0, 1e30])
    close(fused.swiglu(gate, torch.ones_like(gate)), F.silu(gate))


def plain_attention(q: Tensor, k: Tensor, v: Tensor, turns: fused.Turns, mask: Tensor | None) -> Tensor:
    """PyTorch's own over whole rows, [B, T, heads, E]."""
    cos, sin = (table[turns.positions.view(q.shape[:2])].unsqueeze(2) for table in (turns.cos, turns.sin))
    q, k, v = (x.transpose(1, 2) for x in (rotate(q, cos, sin), rotate(k, cos, sin), v))
    out = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=q.shape[1] != k.shape[1]
    )
    return out.transpose(1, 2)


def table(positions: Tensor, E: int) -> fused.Turns:
    return fused.Turns(positions.flatten(), *rope_table(E, 10_000.0, 512, torch.device("cpu")))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "heads", "kv_heads"), [(1, 2, 2), (17, 4, 4), (70, 6, 2), (33, 8, 1), (300, 4, 2)])
def test_attention_of_whole_rows(tokens: int, heads: int, kv_heads: int, dtype: torch.dtype) -> None:
    B, E = 3, 16
    q = leaf(B, tokens, heads, E, dtype=dtype, seed=0)
    k, v = (leaf(B, tokens, kv_heads, E, dtype=dtype, seed=seed) for seed in (1, 2))
    turns = table(torch.arange(tokens).repeat(B), E)
    found = attend_documents(*(x.flatten(0, 1) for x in (q, k, v)), turns, documents.rows(B, tokens))
    compare(found.view(q.shape), plain_attention(q, k, v, turns, None), (q, k, v))


def packed(lengths: list[list[int]], tokens: int) -> tuple[Tensor, Tensor]:
    """Segments and positions of rows of documents, padded to ``tokens``."""
    segments, positions = torch.zeros(2, len(lengths), tokens, dtype=torch.int64)
    for row, sizes in enumerate(lengths):
        start = 0
        for number, size in enumerate(sizes, 1):
            segments[row, start : start + size] = number
            positions[row, start : start + size] = torch.arange(size)
            start += size
    return segments, positions


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("lengths", [[[5, 17, 3], [25]], [[1, 1, 1], [300, 20], [7]], [[280, 270], [10, 9, 8]]])
def test_attention_of_packed_rows(lengths: list[list[int]], kv_heads: int, dtype: torch.dtype) -> None:
    E, H, B = 16, 4, len(lengths)
    tokens = max(map(sum, lengths)) + 2
    segments, positions = packed(lengths, tokens)
    q = leaf(B, tokens, H, E, dtype=dtype, seed=0)
    k, v = (leaf(B, tokens, kv_heads, E, dtype=dtype, seed=seed) for seed in (1, 2))
    groups = documents.groups(segments)
    assert groups is not None
    found = attend_documents(*(x.flatten(0, 1) for x in (q, k, v)), table(positions, E), groups).view(q.shape)
    real = (segments > 0)[:, :, None, None]
    assert not found.masked_fill(real, 0).any()
    plain = plain_attention(q, k, v, table(positions, E), packed_mask(segments, dtype))
    compare(found.where(real, 0), plain.where(real, 0), (q, k, v))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stem", [1, 9, 200])
def test_attention_of_trees(stem: int, dtype: torch.dtype) -> None:
    """Stems with two branches and with four, beside a plain document, in one row; the next has one tree and padding."""
    E, H = 16, 4
    parts = [[(1, stem, -1), (2, 6, 1), (3, 11, 1), (4, 8, -1), (5, 2, -1), *((n, 30, 5) for n in (6, 7, 8, 9))],
             [(1, 3, -1), (2, 1, 1), (3, 90, 1)]]  # fmt: skip
    tokens = max(sum(size for _, size, _ in row) for row in parts) + 1
    segments, stems, positions = (torch.zeros(2, tokens, dtype=torch.int64) for _ in range(3))
    stems.fill_(-1)
    for line, row in enumerate(parts):
        start = 0
        sizes = {number: size for number, size, _ in row}
        for number, size, trunk in row:
            place = slice(start, start + size)
            segments[line, place], stems[line, place] = number, trunk
            positions[line, place] = torch.arange(size) + (sizes[trunk] if trunk > 0 else 0)
            start += size
    q, k, v = (leaf(2, tokens, H, E, dtype=dtype, seed=seed) for seed in range(3))
    groups = documents.groups(segments, stems)
    assert groups is not None
    found = attend_documents(*(x.flatten(0, 1) for x in (q, k, v)), table(positions, E), groups).view(q.shape)
    real = (segments > 0)[:, :, None, None]
    plain = plain_attention(q, k, v, table(positions, E), packed_mask(segments, dtype, stems))
    compare(found.where(real, 0), plain.where(real, 0), (q, k, v))


@pytest.mark.parametrize(
    ("segments", "stems"),
    [
        ([1, 2, 1], None),  # in two pieces
        ([1, 2, 3], [-1, 1, 2]),  # behind another's branch
        ([1, 2, 3], [-1, 1, 7]),  # a stem that is not there
    ],
)
def test_rows_that_are_no_documents_keep_their_mask(segments: list[int], stems: list[int] | None) -> None:
    given = torch.tensor([segments])
    assert documents.groups(given, None if stems is None else torch.tensor([stems])) is None
    config = LlamaConfig(vocab_size=32, dim=16, n_layers=2, n_heads=2, n_kv_heads=1, ffn_dim=24, max_seq_len=16)
    model = Llama(config)
    init_weights(model, seed=0, std=0.2)
    tokens = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        found = model(tokens, segments=given, stems=None if stems is None else torch.tensor([stems]))
        model.double()  # PyTorch's own
        plain = model(tokens, segments=given, stems=None if stems is None else torch.tensor([stems]))
    torch.testing.assert_close(found, plain.float(), rtol=1e-5, atol=1e-5)


def test_a_position_beyond_the_context_is_refused() -> None:
    config = LlamaConfig(vocab_size=32, dim=16, n_layers=1, n_heads=2, n_kv_heads=1, ffn_dim=24, max_seq_len=16)
    model = Llama(config)
    for bad in (16, -1):
        with pytest.raises(ShapeError, match="expected 0 to 15"):
            model(torch.tensor([[3, 4]]), positions=torch.tensor([[0, bad]]))


def test_strided_inputs_and_gradients() -> None:
    wide = torch.randn(4, 6, 64, requires_grad=True)
    x, weight = wide[:, ::2, 16:48], torch.rand(32, requires_grad=True)
    found = fused.rms_norm(x, weight, 1e-6).transpose(0, 1)
    plain = (weight * F.rms_norm(x, (32,), None, 1e-6)).transpose(0, 1)
    compare(found, plain, (wide, weight))


def test_nan_is_not_hidden() -> None:
    bad = torch.tensor([[1.0, float("nan"), 2.0, 3.0]])
    assert fused.rms_norm(bad, torch.ones(4), 1e-5).isnan().any()
    assert fused.swiglu(bad, torch.ones_like(bad)).isnan().any()
    q, k, v = (torch.randn(3, 1, 4) for _ in range(3))
    k[0, 0, 0] = float("nan")
    assert fused.attention(q, k, v, table(torch.arange(3), 4), documents.rows(1, 3)).isnan().any()


def test_the_same_to_the_bit_again_and_in_any_company() -> None:
    x, weight = torch.randn(64, 300, 40).bfloat16(), torch.rand(40).bfloat16()
    whole = fused.rms_norm(x, weight, 1e-5)
    assert torch.equal(whole, fused.rms_norm(x, weight, 1e-5))
    assert torch.equal(whole[7:8], fused.rms_norm(x[7:8], weight, 1e-5))


def model_gradients(kernels: str) -> str:
    """A digest-like line of a whole model's loss and gradients in a process of its own."""
    script = Path(__file__).with_name("fused_model.py")
    root = Path(__file__).parents[2]
    env = {**os.environ, "ALIGN_KERNELS": kernels, "PYTHONPATH": str(root)}
    return subprocess.run([sys.executable, script], env=env, capture_output=True, text=True, check=True).stdout


def test_a_model_computes_the_same_without_them() -> None:
    with_kernels, without = ([float(value) for value in model_gradients(kernels).split()] for kernels in ("1", "0"))
    assert len(with_kernels) > 10
    for mine, plain in itertools.zip_longest(with_kernels, without):
        assert mine == pytest.approx(plain, rel=1e-5, abs=1e-6)


def test_tensors_that_are_no_memory_of_a_cpu_are_left_alone() -> None:
    assert fused.usable(torch.zeros(3))
    assert not fused.usable(torch.zeros(3, dtype=torch.float64))
    assert not fused.usable(torch.zeros(3, device="meta"))
    config = LlamaConfig(vocab_size=32, dim=16, n_layers=1, n_heads=2, n_kv_heads=1, ffn_dim=24, max_seq_len=16)
    model = Llama(config)
    init_weights(model, seed=0)
    doubled = model.double()(torch.arange(8)[None])  # in fp64 all is PyTorch's
    assert doubled.isfinite().all()


class TestCompiling:
    def test_a_compiler_that_fails_is_told_and_training_goes_on(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        broken = tmp_path / "broken"
        broken.write_text("#!/bin/sh\n[ $1 = --version ] && exit 0\necho 'it broke' >&2\nexit 1\n")
        broken.chmod(0o755)
        monkeypatch.setenv("CXX", str(broken))
        native.kernels.cache_clear()
        try:
            with pytest.warns(RuntimeWarning, match="could not be compiled .it broke"):
                assert native.kernels() is None
            assert not fused.usable(torch.zeros(3))
            assert list((tmp_path / "align").iterdir()) == []  # nothing half written
        finally:
            monkeypatch.undo()
            native.kernels.cache_clear()

    def test_compiled_once(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        first = native.compiled()
        made = first.stat().st_mtime_ns
        assert native.compiled() == first
        assert first.stat().st_mtime_ns == made
        assert [path.name for path in first.parent.iterdir()] == [first.name]
        assert first.parent.stat().st_mode & 0o077 == 0

    def test_a_folder_that_others_write_to_is_not_trusted(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        (tmp_path / "align").mkdir()
        (tmp_path / "align").chmod(0o777)
        with pytest.raises(PermissionError, match="not this user's alone"):
            native.compiled()

    def test_switched_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ALIGN_KERNELS", "0")
        native.kernels.cache_clear()
        try:
            assert native.kernels() is None
        finally:
            monkeypatch.undo()
            native.kernels.cache_clear()
