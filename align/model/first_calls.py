"""PyTorch's elementwise functions on a CPU, each called once before threads call it.

MKL settles which kernel serves a function when it is first called. Where two threads make that call at once, one may
run a kernel of low accuracy for its share of it (https://github.com/pytorch/pytorch/issues/188792): on an Intel
processor one process in some twenty had other rotary cosines than its siblings, and so trained to other bits.
"""

from __future__ import annotations

import torch

# those that PyTorch hands to MKL and a model, a loss or a sampler may call
FUNCTIONS = (
    torch.cos, torch.sin, torch.tan, torch.acos, torch.asin, torch.atan, torch.exp, torch.expm1, torch.log,
    torch.log2, torch.log10, torch.log1p, torch.sqrt, torch.tanh, torch.erf, torch.erfc, torch.erfinv,
)  # fmt: skip


def settle_first_calls() -> None:
    """Call each function on one number, which one thread does alone, in fp32 and in fp64."""
    with torch.inference_mode():
        for dtype in (torch.float32, torch.float64):
            number = torch.full((1,), 0.5, dtype=dtype)
            for function in FUNCTIONS:
                function(number)
