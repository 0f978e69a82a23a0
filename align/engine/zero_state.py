"""An engine's weights and optimizer state, whole and by name, wherever ZeRO keeps the parts.

Every process must call every function here, and iterate to the end: gathering is a collective.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from align.errors import WeightsError, nearest

if TYPE_CHECKING:
    from torch import Tensor, nn

    from align.engine.zero import Engine


def gathered(engine: Engine) -> Iterator[tuple[str, Tensor]]:
    """Every weight whole, fp32, on the CPU, by name: one at a time, so that a model larger than a device can be saved.

    In bf16 these are the masters. All processes must iterate to the end; all get the tensors.
    """
    for name, parameter in engine.module.named_parameters():
        yield name, _master(engine, parameter).to("cpu", copy=True)


def copy_weights(engine: Engine, target: nn.Module) -> None:
    """The weights that the next forward would use, copied into a plain module of the same names.

    For rollouts: gathered once, then ``target`` samples without a collective in its loop. All processes must call.

    Raises:
        WeightsError: ``target`` lacks a name or has it in another shape.
    """
    import torch

    theirs = dict(target.named_parameters())
    ours = list(engine.module.named_parameters())
    for name, parameter in ours:
        shape = getattr(parameter, "ds_shape", parameter.shape)
        if name not in theirs:
            raise WeightsError(f"copying weights: the target has no {name}{nearest(name, theirs)}")
        if theirs[name].shape != shape:
            found = list(theirs[name].shape)
            raise WeightsError(f"copying weights: {name} is {list(shape)}, the target's is {found}")
    with torch.no_grad():
        for chunk in _chunks(ours):
            with _whole(engine, [parameter for _, parameter in chunk]):
                for name, parameter in chunk:
                    theirs[name].copy_(parameter)


def state_tensors(engine: Engine) -> Iterator[tuple[str, Tensor]]:
    """All that updates change: ``weight/NAME`` (fp32 masters), ``exp_avg/NAME``, ``exp_avg_sq/NAME``.

    Frozen weights are those the run began with, so they are not among them. CPU tensors, whole, one at a time. All
    processes must iterate to the end.
    """
    for name, parameter in _trained(engine):
        yield f"weight/{name}", _master(engine, parameter).to("cpu", copy=True)
        for key in ("exp_avg", "exp_avg_sq"):
            yield f"{key}/{name}", _moment(engine, parameter, key).to("cpu", copy=True)


def load_state(engine: Engine, read: Callable[[str], Tensor], steps: int) -> None:
    """Put an engine where :func:`state_tensors` found another, at any ZeRO stage and number of processes.

    Args:
        engine: of the same module and settings.
        read: a tensor by its key; every process reads the same.
        steps: updates done by then.

    Raises:
        WeightsError: a tensor of another shape.
    """
    import torch

    engine.steps = steps
    with torch.no_grad():
        for state in engine.adam.state.values():
            state["step"].fill_(steps)
        for name, parameter in _trained(engine):
            value = read(f"weight/{name}")
            shape = getattr(parameter, "ds_shape", parameter.shape)
            if value.shape != shape:
                raise WeightsError(f"the checkpoint's {name} is {list(value.shape)}, the run's is {list(shape)}")
            _set_weight(engine, parameter, value)
            for key in ("exp_avg", "exp_avg_sq"):
                _set_moment(engine, parameter, key, read(f"{key}/{name}"))


def _trained(engine: Engine) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in engine.module.named_parameters() if parameter.requires_grad]


def _chunks(
    named: list[tuple[str, nn.Parameter]], limit: int = 500_000_000
) -> Iterator[list[tuple[str, nn.Parameter]]]:
    """Runs of parameters of at most ``limit`` elements each (at least one parameter)."""
    chunk: list[tuple[str, nn.Parameter]] = []
    size = 0
    for name, parameter in named:
        elements = getattr(parameter, "ds_numel", parameter.numel())
        if chunk and size + elements > limit:
            yield chunk
            chunk, size = [], 0
        chunk.append((name, parameter))
        size += elements
    if chunk:
        yield chunk


def _whole(
    engine: Engine, parameters: list[nn.Parameter], write: bool = False
) -> contextlib.AbstractContextManager[Any]:
    """Within: the parameters' data is whole on this process; ``write``: what rank 0 wrote is kept by all."""
    if engine.zero.stage != 3:
        return contextlib.nullcontext()
    import deepspeed

    gather: contextlib.AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(
        parameters, modifier_rank=0 if write else None
    )
    return gather


def _master(engine: Engine, parameter: nn.Parameter) -> Tensor:
    from deepspeed.utils import safe_get_full_fp32_param

    if engine.plain:
        return parameter.detach()
    if not parameter.requires_grad:  # frozen: it has no master
        with _whole(engine, [parameter]):
            return parameter.detach().float().clone()
    whole: Tensor = safe_get_full_fp32_param(parameter)
    return whole.detach()


def _moment(engine: Engine, parameter: nn.Parameter, key: str) -> Tensor:
    from deepspeed.utils import safe_get_full_optimizer_state

    whole: Tensor = engine.adam.state[parameter][key] if engine.plain else safe_get_full_optimizer_state(parameter, key)
    return whole


def _set_weight(engine: Engine, parameter: nn.Parameter, value: Tensor) -> None:
    """Both copies: what the forward uses and, where there is one, the fp32 master."""
    with _whole(engine, [parameter], write=True):
        parameter.data.copy_(value)
    if not engine.plain:
        set_master(parameter, value)


def set_master(parameter: nn.Parameter, value: Tensor) -> None:
    """Set a parameter's fp32 master, which the next update starts from; ``value`` is whole."""
    from deepspeed.utils import safe_set_full_fp32_param

    safe_set_full_fp32_param(parameter, value.float())


def _set_moment(engine: Engine, parameter: nn.Parameter, key: str, value: Tensor) -> None:
    from deepspeed.utils import safe_set_full_optimizer_state

    if engine.plain:
        engine.adam.state[parameter][key].copy_(value)
    else:
        safe_set_full_optimizer_state(parameter, value, key)
