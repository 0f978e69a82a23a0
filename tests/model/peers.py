"""The peer of every parity test: transformers' own LLaMA with the same weights."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn

from align.model.config import LlamaConfig
from align.model.heads import Scorer
from align.model.llama import Llama

TINY = {"vocab_size": 97, "dim": 32, "n_layers": 2, "n_heads": 4, "ffn_dim": 56, "max_seq_len": 64}


def tiny(n_kv_heads: int = 2, **changes: Any) -> LlamaConfig:
    """A config of a few thousand weights; odd sizes where a mix-up would otherwise go unseen."""
    return LlamaConfig(**(TINY | {"n_kv_heads": n_kv_heads} | changes))


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Every weight random, norms too, large enough that a mistake moves the logits far beyond rounding."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.3 * noise if parameter.dim() == 1 else 0.15 * noise)


def hf_config(config: LlamaConfig, **more: Any) -> transformers.LlamaConfig:
    return transformers.LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.dim,
        intermediate_size=config.ffn_dim,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        num_key_value_heads=config.n_kv_heads,
        max_position_embeddings=config.max_seq_len,
        rms_norm_eps=config.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        tie_word_embeddings=config.tie_embeddings,
        attn_implementation="eager",
        **more,
    )


def policies(config: LlamaConfig, seed: int = 0) -> tuple[Llama, transformers.LlamaForCausalLM]:
    """Ours and theirs with the same random weights."""
    ours = Llama(config)
    randomise(ours, seed)
    theirs = transformers.LlamaForCausalLM(hf_config(config)).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


def scorers(
    config: LlamaConfig, seed: int = 0, pad: int = 0
) -> tuple[Scorer, transformers.LlamaForSequenceClassification]:
    """Ours and theirs with the same random weights."""
    ours = Scorer(config)
    randomise(ours, seed)
    theirs = transformers.LlamaForSequenceClassification(hf_config(config, num_labels=1, pad_token_id=pad)).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs
