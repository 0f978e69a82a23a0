"""A model's memory, allocated once, and the checks that every tensor of a checkpoint has its place."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

import torch
from torch import nn

from align.errors import WeightsError, nearest
from align.model.config import Dtype, LlamaConfig
from align.model.heads import Scorer
from align.model.llama import Llama, on_meta

M = TypeVar("M", Llama, Scorer)
DTYPES: dict[Dtype, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def allocate(make: Callable[[LlamaConfig], M], config: LlamaConfig, dtype: Dtype, device: str) -> M:
    """A model whose weights are allocated but not yet filled; a tied head is tied."""
    with on_meta():
        module = make(config)
    module.to(DTYPES[dtype]).to_empty(device=device)
    if isinstance(module, Llama):
        module.tie()
    return module


def places(module: nn.Module) -> dict[str, nn.Parameter]:
    """Every weight by name, each once (a tied head goes by the embedding's name)."""
    return dict(module.named_parameters())


def check_name(name: str, expected: Collection[str], where: str) -> None:
    """Refuse a tensor that the model has no place for.

    Raises:
        WeightsError: with the nearest name that it has.
    """
    if name not in expected:
        raise WeightsError(f"{where}: {name}: left over, the model has no such tensor{nearest(name, expected)}")


def check_shape(name: str, found: Sequence[int], expected: Sequence[int], where: str) -> None:
    """Refuse a tensor of another shape.

    Raises:
        WeightsError: with both shapes.
    """
    if list(found) != list(expected):
        raise WeightsError(f"{where}: {name}: expected shape {list(expected)}, found {list(found)}")


def check_complete(seen: Collection[str], expected: Collection[str], where: str) -> None:
    """Refuse a checkpoint that leaves a weight unfilled.

    Raises:
        WeightsError: naming the first few.
    """
    missing = [name for name in expected if name not in seen]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise WeightsError(f"{where}: missing {', '.join(missing[:3])}{more}")
