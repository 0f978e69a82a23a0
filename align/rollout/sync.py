"""Weights handed from the trainer to samplers, by version."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from align.model.strict import check_complete, check_name, check_shape, places

if TYPE_CHECKING:
    from align.rollout.backend import Backend


@dataclass(frozen=True, slots=True)
class Handover:
    """What one hand-over cost."""

    version: str
    size: int  # bytes
    seconds: float


def hand_over(
    named: Iterable[tuple[str, Tensor]], backend: Backend, version: str, dtype: torch.dtype | None = None
) -> Handover:
    """Give a sampler new weights, gathered once.

    Args:
        named: whole parameters by name, for instance as a sharded trainer gathers them one by one.
        backend: an engine or a pool.
        version: what its rollouts will say from now on.
        dtype: to send them in; their own by default.

    Raises:
        WeightsError: a tensor is missing, left over or of another shape.
        RolloutError: an actor does not take them in time.
    """
    start = time.monotonic()
    state = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in named}
    backend.load_weights(state, version)
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    return Handover(version, size, time.monotonic() - start)


@torch.no_grad()
def fill(module: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Copy every tensor into the parameter of its name; nothing is changed where one does not fit.

    Args:
        module: a policy or a scorer.
        weights: whole parameters by name; a tied head may be given or left out.
        where: named in messages.

    Raises:
        WeightsError: a tensor is missing, left over or of another shape.
    """
    own = places(module)
    every = dict(module.named_parameters(remove_duplicate=False))
    for name, tensor in weights.items():
        check_name(name, every, where)
        check_shape(name, tensor.shape, every[name].shape, where)
    check_complete(weights, own, where)
    for name, parameter in own.items():
        parameter.copy_(weights[name])


@torch.no_grad()
def pour(named: Iterable[tuple[str, Tensor]], module: nn.Module) -> None:
    """Copy a stream of weights into a plain module as they come, one in memory at a time.

    Args:
        named: whole parameters by name, each of the module's once.
        module: its dtype and device are kept; half filled where an error is raised.

    Raises:
        WeightsError: a tensor is missing, left over or of another shape.
    """
    own, seen = places(module), set()
    for name, tensor in named:
        check_name(name, own, "weights handed over")
        check_shape(name, tensor.shape, own[name].shape, "weights handed over")
        own[name].copy_(tensor)
        seen.add(name)
    check_complete(seen, own, "weights handed over")
