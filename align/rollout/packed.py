"""A policy's weights as a CPU decodes fastest: packed matrices, fused steps, interleaved rotary pairs.

A matrix packed by oneDNN is read without being laid out anew each time, up to twice as fast where few rows meet
it, and its rows' results do not depend, to the bit, on how many rows there are (PyTorch's plain product does
not promise that). Query, key and value projections are one product; SiLU and the gate's product, and the
residual sums, are done while a product's result is written.

The copy is made from the weights as they are and lives as long as a call: a trainer may change them between two.
Where a processor does not multiply bf16, the copy of bf16 weights is fp32: emulated, their products take tens of times
as long.

Dims: N rows of any kind, D width, H query heads, K key/value heads, E head width, F feed-forward width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from align.model.attention import rope_table
from align.model.llama import Block, Llama

ROWS = 64  # that a matrix is laid out for; any number may meet it


@dataclass(frozen=True, slots=True)
class Matrix:
    """x -> x Wᵀ, and what may follow while the result is written. All take and give [N, …] in W's dtype."""

    plain: Callable[[Tensor], Tensor]
    silu: Callable[[Tensor], Tensor]
    times: Callable[[Tensor, Tensor], Tensor]  # (x, other) -> x Wᵀ * other
    plus: Callable[[Tensor, Tensor], Tensor]  # (x, other) -> x Wᵀ + other


@dataclass(frozen=True, slots=True)
class Layer:
    """One transformer block."""

    before_attention: Tensor  # [D] fp32, the norm's weight
    qkv: Matrix  # D -> (H + 2K) E, components i and i + E/2 of each query and key side by side
    out: Matrix
    before_mlp: Tensor
    gate: Matrix
    up: Matrix
    down: Matrix


class Packed:
    """The whole policy; ``layers`` are walked by whoever keeps keys and values."""

    def __init__(self, model: Llama) -> None:
        config = model.config
        self.config = config
        body = model.model
        self.dtype = _arithmetic(body.embed_tokens.weight)
        self.embedding = body.embed_tokens.weight.to(self.dtype)
        self.layers = [_layer(cast(Block, block), self.dtype) for block in body.layers]
        self.norm = body.norm.weight.float()
        self.head = matrix(linear_map(model.lm_head).to(self.dtype))
        self.eps = torch.tensor(config.norm_eps)
        cos, sin = rope_table(config.head_dim, config.rope_theta, config.max_seq_len, self.embedding.device)
        self.turns = torch.complex(cos, sin)  # [T, E/2]

    def normed(self, x: Tensor, weight: Tensor) -> Tensor:
        """x / rms(x) * weight: [N, D] -> [N, D], worked out in fp32."""
        y = x.to(torch.float32, copy=True)
        length = torch.linalg.vector_norm(y, dim=-1, keepdim=True)
        y.mul_(torch.rsqrt(torch.addcmul(self.eps, length, length, value=1 / y.shape[-1])))
        return y.mul_(weight).to(x.dtype)

    def qkv(self, layer: Layer, x: Tensor, turns: Tensor) -> Tensor:
        """Queries, keys and values of residual rows, the former two rotated.

        Args:
            layer: whose.
            x: [N, D].
            turns: [N, 1, E/2] complex64, of the rows' positions.

        Returns:
            [N, H + 2K, E] fp32; a head's components are in another order than the model's, keys like queries.
        """
        config = self.config
        found = layer.qkv.plain(self.normed(x, layer.before_attention)).float()
        found = found.view(len(x), -1, config.head_dim)
        pairs = torch.view_as_complex(found.view(*found.shape[:2], -1, 2))
        pairs[:, : config.n_heads + config.n_kv_heads].mul_(turns)
        return found

    def rest(self, layer: Layer, x: Tensor, mixed: Tensor) -> Tensor:
        """What follows attention: [N, D] residual and [N, H E] fp32 mixed values -> [N, D]."""
        x = layer.out.plus(mixed.to(self.dtype), x)
        y = self.normed(x, layer.before_mlp)
        return layer.down.plus(layer.up.times(y, layer.gate.silu(y)), x)

    def logits(self, x: Tensor) -> Tensor:
        """[N, D] residual after the last layer -> fp32 [N, V]."""
        return self.head.plain(self.normed(x, self.norm)).float()


def matrix(weight: Tensor) -> Matrix:
    """Pack [out, in] where oneDNN can, else (another dtype, another processor) multiply plainly."""
    if not _packable(weight):
        return Matrix(
            plain=lambda x: F.linear(x, weight),
            silu=lambda x: F.silu(F.linear(x, weight)),
            times=lambda x, other: F.linear(x, weight).mul_(other),
            plus=lambda x, other: F.linear(x, weight).add_(other),
        )
    ops = torch.ops.mkldnn
    packed = ops._reorder_linear_weight(weight.contiguous(), ROWS)
    unary, binary = ops._linear_pointwise, ops._linear_pointwise.binary
    return Matrix(
        plain=lambda x: unary(x, packed, None, "none", [], ""),
        silu=lambda x: unary(x, packed, None, "swish", [], ""),
        times=lambda x, other: binary(x, other, packed, None, "mul"),
        plus=lambda x, other: binary(x, other, packed, None, "add"),
    )


def linear_map(module: nn.Module) -> Tensor:
    """The matrix [out, in] of a linear layer, with its adapters where it bears some."""
    if type(module) is nn.Linear:
        return module.weight.detach()
    parameter = next(module.parameters())  # every basis vector in turn: no need to know the adapter
    basis = torch.eye(cast(int, module.in_features), dtype=parameter.dtype, device=parameter.device)
    return cast(Tensor, module(basis)).T.detach()


def _layer(block: Block, dtype: torch.dtype) -> Layer:
    attention, mlp = block.self_attn, block.mlp
    E = attention.head_dim
    q, k, v = (linear_map(m).to(dtype) for m in (attention.q_proj, attention.k_proj, attention.v_proj))
    return Layer(
        before_attention=block.input_layernorm.weight.float(),
        qkv=matrix(torch.cat((_interleaved(q, E), _interleaved(k, E), v))),
        out=matrix(linear_map(attention.o_proj).to(dtype)),
        before_mlp=block.post_attention_layernorm.weight.float(),
        gate=matrix(linear_map(mlp.gate_proj).to(dtype)),
        up=matrix(linear_map(mlp.up_proj).to(dtype)),
        down=matrix(linear_map(mlp.down_proj).to(dtype)),
    )


def _interleaved(weight: Tensor, head_dim: int) -> Tensor:
    """Rows i and i + E/2 of each head side by side: a pair is then a complex number, a rotation one product."""
    return weight.view(-1, 2, head_dim // 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def _arithmetic(weight: Tensor) -> torch.dtype:
    """What products with a weight run in."""
    emulated = weight.dtype == torch.bfloat16 and weight.device.type == "cpu" and not _packable(weight)
    return torch.float32 if emulated else weight.dtype


def _packable(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not torch._C._has_mkldnn:
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32
