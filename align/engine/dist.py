"""Processes of one training job: who am I, wait, sum over all. The only file that names ``torch.distributed``.

Every function also works with no process group at all: the one process is then rank 0 of 1.
"""

from __future__ import annotations

import json
import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

# A rank that waits longer than this for the others gives up: a job that says so beats one that hangs.
TIMEOUT = timedelta(minutes=30)


def setup() -> None:
    """Join the process group, once; a second call does nothing.

    Under torchrun the environment says rank and size. Without it this process is alone, and needs no port, no
    file and no environment for that.
    """
    import torch
    import torch.distributed as group

    if group.is_initialized():
        return
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed reads its device's index here
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        group.init_process_group(backend, timeout=TIMEOUT)
    else:
        group.init_process_group(backend, store=_store(), rank=0, world_size=1, timeout=TIMEOUT)


def shutdown() -> None:
    """Leave the process group, so that a process ends without complaints."""
    import torch.distributed as group

    if group.is_initialized():
        group.destroy_process_group()


def rank() -> int:
    """This process' number among all, from 0."""
    import torch.distributed as group

    return group.get_rank() if group.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    import torch.distributed as group

    return group.get_world_size() if group.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the process that writes files and talks."""
    return rank() == 0


def block(count: int) -> slice:
    """This process' part of ``count`` things, neighbours together: the parts of all ranks, in their order, are all."""
    here, size = rank(), world_size()
    return slice(count * here // size, count * (here + 1) // size)


def barrier() -> None:
    """Wait for all processes."""
    import torch.distributed as group

    if world_size() > 1:
        group.barrier()


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum of ``x`` over all processes, in place; every process holds the result."""
    import torch.distributed as group

    if world_size() > 1:
        group.all_reduce(x)
    return x


def sum_numbers(values: dict[str, float]) -> dict[str, float]:
    """Sums over all processes of named numbers; the same names everywhere. Exact for integers below 2**53."""
    import torch

    if world_size() == 1:
        return dict(values)
    names = sorted(values)
    total = all_reduce_sum(torch.tensor([values[name] for name in names], dtype=torch.float64, device=_device()))
    return dict(zip(names, total.tolist(), strict=True))


def max_number(value: float) -> float:
    """The largest of the processes' numbers."""
    import torch
    import torch.distributed as group

    if world_size() == 1:
        return value
    x = torch.tensor([value], dtype=torch.float64, device=_device())
    group.all_reduce(x, op=group.ReduceOp.MAX)
    return float(x.item())


def broadcast(x: Tensor, source: int = 0) -> Tensor:
    """``x`` of process ``source``, in place, to all."""
    import torch.distributed as group

    if world_size() > 1:
        group.broadcast(x, source)
    return x


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error is what a process meets in a collective when another one has gone."""
    import torch.distributed as group

    said = str(error)
    gone = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Connection refused")
    return isinstance(error, group.DistBackendError) or (
        isinstance(error, RuntimeError) and "gloo" in said and any(words in said for words in gone)
    )


def _store() -> Any:
    import torch.distributed as group

    return group.HashStore()  # type: ignore[attr-defined]  # exported, but not in __all__


def all_gather_json(value: Any) -> list[Any]:
    """Every process' value, in the order of ranks, on every process. JSON on the way, so nothing is unpickled."""
    import torch
    import torch.distributed as group

    if world_size() == 1:
        return [value]
    data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(_device())
    longest = int(max_number(len(data)))
    sizes = [torch.zeros(1, dtype=torch.int64, device=data.device) for _ in range(world_size())]
    group.all_gather(sizes, torch.tensor([len(data)], device=data.device))
    parts = [torch.zeros(longest, dtype=torch.uint8, device=data.device) for _ in range(world_size())]
    group.all_gather(parts, torch.nn.functional.pad(data, (0, longest - len(data))))
    return [json.loads(bytes(part[: int(size)].tolist())) for part, size in zip(parts, sizes, strict=True)]


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
