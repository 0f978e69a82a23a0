"""LLaMA-2, top to bottom. Modules and parameters bear Hugging Face's names, so its folders need no mapping.

Dims: B rows, T tokens, N gathered positions, V vocabulary, D width, H query heads, K key/value heads, E head
width, L layers, S cached slots. No dropout anywhere. Every weight is read in its own module's forward
only, as ZeRO-3's gathering hooks need; a tied head is one Parameter owned by two modules, which they allow.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from align.errors import ShapeError
from align.model import documents, fused
from align.model.attention import Mask, attend, attend_documents, rope_table, visible
from align.model.attention import rotate as rotate
from align.model.cache import KVCache as KVCache  # offered here too: a forward's argument
from align.model.checkpointing import checkpointed
from align.model.config import Checkpointing, LlamaConfig
from align.model.lm_head import LMHead


class RMSNorm(nn.Module):
    """x / rms(x) * weight: normalised in fp32, cast to the input's dtype, then scaled."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        if fused.usable(x) and self.weight.dtype == x.dtype:
            return fused.rms_norm(x, self.weight, self.eps)
        return self.weight * F.rms_norm(x.float(), x.shape[-1:], None, self.eps).to(x.dtype)


@dataclass(frozen=True, slots=True)
class Context:
    """What every layer of one forward needs to know, worked out once."""

    cos: Tensor  # [B or 1, T, 1, E/2] fp32
    sin: Tensor
    mask: Mask  # [B, 1, T, T or S], added to the attention logits; None: plainly causal; or a long row's documents
    cache: KVCache | None = None
    rows: Tensor | None = None  # [B, 1] where the cache is written
    slots: Tensor | None = None  # [B or 1, T]
    length: int = 0  # cached slots attended; 0: a fresh prefill, which attends to its own keys alone
    groups: list[documents.Group] | None = None  # attention goes document by document, and no mask is made
    turns: fused.Turns | None = None
    at: Tensor | None = None  # [N], of the last layer: positions, flat, that anything is still computed for
    kept: documents.Kept | None = None  # tokens that are not padding, in one row: all that the layers see


class Attention(nn.Module):
    """Causal self-attention; each key/value head serves H/K consecutive query heads."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        D, E = config.dim, config.head_dim
        self.layer = layer
        self.head_dim = E
        self.q_proj = nn.Linear(D, config.n_heads * E, bias=False)
        self.k_proj = nn.Linear(D, config.n_kv_heads * E, bias=False)
        self.v_proj = nn.Linear(D, config.n_kv_heads * E, bias=False)
        self.o_proj = nn.Linear(config.n_heads * E, D, bias=False)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """[B, T, D] -> [B, T, D], or [N, D] where the context says ``at``."""
        B, T, _ = x.shape
        q, k, v = (project(x).view(B, T, -1, self.head_dim) for project in (self.q_proj, self.k_proj, self.v_proj))
        if context.groups is not None and context.turns is not None:
            mixed = attend_documents(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), context.turns, context.groups)
            apart: Tensor = self.o_proj(wanted(mixed.view(B, T, -1), context.at))
            return apart
        q, k = rotate(q, context.cos, context.sin), rotate(k, context.cos, context.sin)
        if context.cache is not None:
            assert context.rows is not None
            assert context.slots is not None
            context.cache.write(self.layer, k, v, context.rows, context.slots)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if context.cache is not None and context.length:
            k, v = context.cache.read(self.layer, B, context.length)
            q = q.to(k.dtype)
        mixed = attend(q, k, v, context.mask).transpose(1, 2).reshape(B, T, -1)
        out: Tensor = self.o_proj(wanted(mixed, context.at).to(x.dtype))
        return out


class MLP(nn.Module):
    """SwiGLU: down(silu(gate x) * up x)."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.dim, config.ffn_dim, bias=False)
        self.up_proj = nn.Linear(config.dim, config.ffn_dim, bias=False)
        self.down_proj = nn.Linear(config.ffn_dim, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        gate, up = self.gate_proj(x), self.up_proj(x)
        out: Tensor = self.down_proj(fused.swiglu(gate, up) if fused.usable(gate) else F.silu(gate) * up)
        return out


class Block(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """[B, T, D] -> [B, T, D], or [N, D] where the context says ``at``."""
        x = wanted(x, context.at) + self.self_attn(self.input_layernorm(x), context)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


def wanted(x: Tensor, at: Tensor | None) -> Tensor:
    """[B, T, W] -> [N, W], the positions ``at``, flat in B*T; None: ``x`` as it is."""
    return x if at is None else x.flatten(0, 1)[at]


class Backbone(nn.Module):
    """Tokens -> hidden states: everything but the head."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpointing: Checkpointing = "none"
        self.embed_tokens = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        segments: Tensor | None = None,
        cache: KVCache | None = None,
        stems: Tensor | None = None,
        at: Tensor | None = None,
    ) -> Tensor:
        """Hidden states after the last norm; see :meth:`Llama.forward` for the arguments.

        Returns:
            [B, T, D] in the weights' dtype, or [N, D] with ``at``: the last layer, behind its attention, then computes
            these positions alone.
        """
        context = self._context(tokens, positions, segments, cache, stems, self.embed_tokens.weight.dtype)
        kept = context.kept
        x = self.embed_tokens(tokens if kept is None else wanted(tokens, kept.places)[None])
        for layer in self.layers[:-1]:
            x = checkpointed(layer, x, context, self.checkpointing)
        last = at if at is None or kept is None else kept.among[at]
        x = checkpointed(self.layers[-1], x, replace(context, at=last), self.checkpointing)
        out: Tensor = self.norm(x)
        return out if at is not None or kept is None else kept.spread(out[0]).view(*tokens.shape, -1)

    def _context(
        self,
        tokens: Tensor,
        positions: Tensor | None,
        segments: Tensor | None,
        cache: KVCache | None,
        stems: Tensor | None,
        dtype: torch.dtype,
    ) -> Context:
        B, T = tokens.shape
        for name, given in (("positions", positions), ("segments", segments), ("stems", stems)):
            if given is not None and given.shape != tokens.shape:
                raise ShapeError(f"{name}: expected {tuple(tokens.shape)} like tokens, found {tuple(given.shape)}")
        longest = self.config.max_seq_len if cache is None else min(self.config.max_seq_len, cache.slots)
        if longest < T and (positions is None or cache is not None):
            raise ShapeError(f"a row of {T} tokens does not fit: the model and its cache hold {longest}")
        if positions is not None and positions.device.type == "cpu" and positions.numel():
            low, high = (int(bound) for bound in positions.aminmax())
            if low < 0 or high >= self.config.max_seq_len:
                raise ShapeError(f"positions: found {low} to {high}, expected 0 to {self.config.max_seq_len - 1}")

        cos, sin = rope_table(self.config.head_dim, self.config.rope_theta, self.config.max_seq_len, tokens.device)
        if cache is None and dtype in fused.NAMES and fused.usable(cos):
            groups = documents.rows(B, T) if segments is None else documents.groups(segments, stems)
            if groups is not None:
                turns = (torch.arange(T).expand(B, T) if positions is None else positions).long().flatten()
                kept, groups = documents.without_padding(groups, segments)
                turns = turns if kept is None else turns[kept.places]
                return Context(cos, sin, None, groups=groups, turns=fused.Turns(turns, cos, sin), kept=kept)
        if positions is None:
            cos, sin = cos[None, :T, None], sin[None, :T, None]
        else:
            cos, sin = cos[positions].unsqueeze(2), sin[positions].unsqueeze(2)
        if cache is None:
            return Context(cos, sin, None if segments is None else visible(segments, dtype, stems))

        rows = torch.arange(B, device=tokens.device) if cache.rows is None else cache.rows
        slots = torch.arange(T, device=tokens.device)[None] if positions is None else positions
        if positions is None and segments is None:
            return Context(cos, sin, None, cache, rows[:, None], slots)
        length = cache.length or int(slots.max()) + 1
        if length > cache.slots:
            raise ShapeError(f"position {length - 1} does not fit a cache of {cache.slots} slots")
        unseen = torch.arange(length, device=tokens.device) > slots[:, :, None]
        mask = torch.zeros(unseen.shape, dtype=cache.k.dtype, device=tokens.device)
        mask.masked_fill_(unseen, float("-inf"))
        if segments is not None:
            slots = torch.where(segments > 0, slots, cache.slots)
        return Context(cos, sin, mask[:, None], cache, rows[:, None], slots, length)


class Llama(nn.Module):
    """The language model: a :class:`Backbone` and the output head."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Backbone(config)
        self.lm_head = LMHead(config.dim, config.vocab_size)
        self.tie()

    def tie(self) -> None:
        """Make the head the embedding's Parameter if the config says so; call again after replacing one."""
        if self.config.tie_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        segments: Tensor | None = None,
        cache: KVCache | None = None,
        at: Tensor | None = None,
        stems: Tensor | None = None,
        targets: Tensor | None = None,
        temperature: float = 1.0,
    ) -> Any:
        """Logits of the token that follows each token, or the log-probs of given tokens without holding all logits.

        Args:
            tokens: [B, T] int64.
            positions: [B, T] int64, position of each token in its own document; None: 0, 1, … in each row.
            segments: [B, T] int64, documents of a row, 0 is padding; a token sees its own document's past.
                None: a row is one document (padding on its right is harmless: nothing before looks at it).
            cache: keys and values are written to it at each token's position. Without positions and segments
                the rows are new and attend to themselves alone; otherwise to their cached slots up to their
                position, and ``segments`` only tells padding (0) from tokens.
            at: [N] int64, flat indices into B*T, none of padding; the head, and all of the last layer behind its
                attention, runs on these positions only.
            stems: [B, T] int64, a second document each token sees, before its own in the row (-1: none): answers to
                one prompt may share its tokens. Its positions go on from there. Without a cache only.
            targets: [N] int64, the tokens that follow the positions ``at``.
            temperature: that the log-probs of ``targets`` are of.

        Returns:
            fp32 [B, T, V], or [N, V] with ``at``. With ``targets``: their log-probs [N] fp32, nats, and [N] bool,
            whether no token is more probable.

        Raises:
            ShapeError: positions or segments are not shaped like tokens, or a row is longer than the context.
        """
        hidden = self.model(tokens, positions, segments, cache, stems, at)
        return self.head(hidden) if targets is None else self.lm_head(hidden, targets, temperature)

    def head(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., D] -> fp32 logits [..., V]."""
        logits: Tensor = self.lm_head(hidden)
        return logits.float()


@torch.no_grad()
def init_weights(module: nn.Module, seed: int, std: float = 0.02) -> None:
    """Fill every matrix with N(0, std²) and every norm with ones, the same for a seed on any machine."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.dim() == 1:
            parameter.fill_(1.0)
        else:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)


@contextmanager
def on_meta() -> Iterator[None]:
    """Within: modules are made without memory or initial values, to be filled or counted."""
    with torch.device("meta"):
        yield
