"""What of a layer is kept for the backward, and what is computed again there.

``selective`` keeps what is expensive to compute, such as the outputs of linear layers (LLaMA, arXiv 2302.13971,
section 2.4; attention's output too is ours): norms, rotary embedding, SwiGLU's product and sums are computed again.
``full`` keeps a layer's input alone and computes all of it again. The gradients are those of ``none``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from align.model.config import Checkpointing

# attention's kernels, by device and dtype; one that is not here is computed again, which is correct
_ATTENTION = {
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention",
    "torch_attn::_varlen_attn",
}
_PRODUCTS = {"aten::mm", "aten::addmm"}


def checkpointed(layer: Callable[..., Tensor], x: Tensor, context: Any, mode: Checkpointing) -> Tensor:
    """One layer's forward, ``layer(x, context)``, kept for the backward as ``mode`` says."""
    if mode == "none" or not torch.is_grad_enabled():
        return layer(x, context)
    again = partial(checkpoint, layer, x, context, use_reentrant=False, preserve_rng_state=False)  # there is no dropout
    out: Tensor = again(context_fn=_selectively) if mode == "selective" else again()
    return out


def set_checkpointing(module: nn.Module, mode: Checkpointing) -> int:
    """Set the mode of every transformer in ``module``.

    Returns:
        how many there are.
    """
    from align.model.llama import Backbone

    found = [part for part in module.modules() if isinstance(part, Backbone)]
    for backbone in found:
        backbone.checkpointing = mode
    return len(found)


def _selectively() -> Any:
    return create_selective_checkpoint_contexts(_policy)  # type: ignore[no-untyped-call]


def _policy(ctx: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    name = op.name().split(".")[0]
    # not bmm, attention written out: its scores are larger than all else, and our kernels change them in place
    dear = name in _PRODUCTS or name in _ATTENTION
    return CheckpointPolicy.MUST_SAVE if dear else CheckpointPolicy.PREFER_RECOMPUTE
