"""A module under DeepSpeed: wrap, run, step. Its weights are read and set by ``zero_state``.

One call trains the same at every ZeRO stage; what differs is where things lie. Arithmetic:

* ``fp32``: everything in fp32.
* ``bf16``: weights and activations in bf16; gradients are summed, and AdamW runs, in fp32 on fp32 master weights,
  so that an update far below bf16's resolution is not lost. DeepSpeed sums in fp32 from stage 1 on, so stage 0 in
  bf16 runs its stage 1: the same numbers, the optimizer's state split over the processes.
* ``auto``: bf16 where the device has it, else fp32 (precision.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import io
import math
import os
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from align.config import config
from align.engine import dist
from align.engine.optim import OptimConfig, param_groups
from align.errors import TrainingError
from align.model.config import Checkpointing

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from align.engine.precision import Trained


@config
class ZeroConfig:
    """Where a step's numbers lie and in which precision."""

    stage: Literal[0, 1, 2, 3]  # split over the processes: 0 nothing, 1 optimizer, 2 and gradients, 3 and weights
    dtype: Literal["auto", "fp32", "bf16"]  # auto: bf16 where the device multiplies it, else fp32
    offload_optimizer: bool = False  # to the host's memory
    offload_params: bool = False
    checkpointing: Checkpointing = "none"  # what the backward computes again: nothing, all that is cheap, everything

    def __post_init__(self) -> None:
        if self.offload_params and self.stage != 3:
            raise ValueError("offload_params needs stage 3")
        if self.offload_optimizer and self.stage == 0:
            raise ValueError("offload_optimizer needs stage 1, 2 or 3")


class Engine:
    """A module in training. ``engine(*args)`` is its forward; ``backward`` may be called any number of times a step.

    Attributes:
        module: the wrapped module. At stage 3 its parameters are empty outside a forward; read weights by
            :func:`align.engine.zero_state.gathered`.
        optim: its settings.
        zero: where its numbers lie; ``auto`` is settled.
        total_steps: length of the run, for the schedule.
        steps: updates done so far.
        lr: learning rate of the last update.
        grad_norm: global gradient norm of the last update, before clipping.
        device: where inputs belong.
    """

    def __init__(self, module: nn.Module, optim: OptimConfig, zero: ZeroConfig, total_steps: int) -> None:
        import torch

        from align.engine.precision import settled
        from align.engine.zero_state import set_master
        from align.model.checkpointing import set_checkpointing

        dist.setup()
        zero = dataclasses.replace(zero, dtype=settled(zero.dtype))
        if not set_checkpointing(module, zero.checkpointing) and zero.checkpointing != "none":
            raise TrainingError(f"checkpointing: {zero.checkpointing}: {type(module).__name__} has no layers for it")
        deepspeed = _deepspeed()
        self.module = module
        self.optim = optim
        self.zero = zero
        self.total_steps = total_steps
        self.steps = 0
        self.lr = 0.0
        self.grad_norm = 0.0
        # Stage 0 in fp32 is the module's own parameters under torch's own AdamW: nothing flat, no second copy.
        self.plain = zero.stage == 0 and zero.dtype == "fp32"
        client = torch.optim.AdamW(
            param_groups(module, optim.weight_decay),
            lr=optim.lr,
            betas=optim.betas,
            eps=optim.eps,
            fused=True,
        )
        if self.plain:
            client.register_step_pre_hook(self._clip)
        # DeepSpeed makes its masters of weights that it has already rounded to bf16.
        unrounded = {
            name: parameter.detach().clone()
            for name, parameter in module.named_parameters()
            if zero.dtype == "bf16" and parameter.requires_grad
        }
        with contextlib.redirect_stdout(io.StringIO()):  # it prints memory gauges, whatever the log level
            self.deepspeed, _, _, _ = deepspeed.initialize(
                model=module, optimizer=client, config=_settings(optim, zero, self.plain)
            )
        self.device: torch.device = self.deepspeed.device
        if dist.world_size() == 1 or hasattr(self.deepspeed.optimizer, "get_grads_for_reduction"):
            self.deepspeed.buffered_allreduce_fallback = self._mean_gradients
        # The AdamW that steps: over the parameters, or over DeepSpeed's flat partitions.
        self.adam: torch.optim.Optimizer = client if self.plain else self.deepspeed.optimizer.optimizer
        self._make_moments()
        for name, parameter in module.named_parameters():
            if name in unrounded:
                set_master(parameter, unrounded.pop(name))

    @property
    def dtype(self) -> Trained:
        """What a step runs in."""
        assert self.zero.dtype != "auto", "settled when the engine was made"
        return self.zero.dtype

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward. Without gradients under ``torch.no_grad()``, at every stage."""
        return self.deepspeed(*args, **kwargs)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of ``loss``. They are summed over calls and over processes, never averaged."""
        # DeepSpeed divides by the number of processes; a single process has nothing to undo.
        processes = dist.world_size()
        with _stack_restored():
            self.deepspeed.backward(loss * processes if processes > 1 else loss, scale_wrt_gas=False)

    def step(self) -> None:
        """One AdamW update from the gradients so far, at this step's learning rate, clipped by the global norm.

        Raises:
            TrainingError: the gradient is not finite.
        """
        self.lr = self.optim.lr_at(self.steps, self.total_steps)
        for group in self.adam.param_groups:
            group["lr"] = self.lr
        self.deepspeed.step()
        if not self.plain:
            self.grad_norm = float(self.deepspeed.get_global_grad_norm())
            self._check_norm()
            if not self.deepspeed.was_step_applied():
                raise TrainingError(f"step {self.steps}: DeepSpeed skipped the update; the gradients overflowed")
        self.steps += 1

    def close(self) -> None:
        """Free weights, gradients and optimizer state. The engine and, at stage 3, the module are of no use after."""
        if self.deepspeed is None:
            return
        self.deepspeed.destroy()
        for hook in (self.deepspeed.module_forward_pre_hook, self.deepspeed.module_forward_post_hook):
            hook.remove()
        if self.zero.stage == 3:
            _forget(self.module)
        del self.deepspeed, self.adam, self.module
        self.deepspeed = None
        gc.collect()

    def _make_moments(self) -> None:
        """Make AdamW's state now instead of at its first update.

        There is then something to save and to load into from the start. And DeepSpeed's stages 1 and 2 tie parameters
        to their state after the first group's first update, when a second group would have none yet.
        """
        import torch

        inner = self.deepspeed.optimizer
        if self.zero.stage == 3:
            partitions = inner.fp32_partitioned_groups_flat
        else:
            partitions = [p for group in self.adam.param_groups for p in group["params"]]
        for partition in partitions:
            self.adam.state[partition] = {
                "step": torch.zeros((), dtype=torch.float32, device=partition.device),
                "exp_avg": torch.zeros_like(partition, requires_grad=False),
                "exp_avg_sq": torch.zeros_like(partition, requires_grad=False),
            }
        if not self.plain and self.zero.stage != 3:
            inner._lazy_init_hp_params_optimizer_state()

    def _mean_gradients(self, **_: Any) -> None:
        """Mean over processes of the gradients, where they lie.

        In place of DeepSpeed's own, which copies all of them into a buffer and back, for a single process as well.
        """
        import torch

        if self.plain:
            for parameter in self.module.parameters():
                if parameter.requires_grad and parameter.grad is None:  # not used this step: it decays all the same
                    parameter.grad = torch.zeros_like(parameter)
        elif (processes := dist.world_size()) > 1:
            for flat in self.deepspeed.optimizer.get_grads_for_reduction()[0]:
                dist.all_reduce_sum(flat).mul_(1.0 / processes)

    def _clip(self, *_: Any) -> None:
        """Clip as torch does, once DeepSpeed has summed the gradients and just before AdamW reads them."""
        import torch

        grads = [p for group in self.adam.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(grads, self.optim.clip or math.inf)
        self.grad_norm = float(norm)
        self._check_norm()

    def _check_norm(self) -> None:
        if not math.isfinite(self.grad_norm):
            raise TrainingError(f"step {self.steps}: the gradient norm is {self.grad_norm}")


def wrap(module: nn.Module, optim: OptimConfig, zero: ZeroConfig, total_steps: int) -> Engine:
    """Put ``module`` under DeepSpeed for a run of ``total_steps`` updates. Its weights are taken over, not copied.

    Every process must hand in the same weights (read from one checkpoint, or made from one seed).
    """
    return Engine(module, optim, zero, total_steps)


def _deepspeed() -> Any:
    """DeepSpeed, imported quietly and without compiling anything."""
    import torch

    # It tells of every setting at INFO, some of it while being imported.
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "warning")
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else it warns that it found no GPU
    warnings.filterwarnings("ignore", message=r".*_tensor` is deprecated", category=FutureWarning, module="torch")
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel("WARNING")
    # Its shared-memory collective serves tensor-parallel inference only, yet is compiled at every first start on a
    # CPU; a kill in the middle of that leaves a lock on which every later start waits for ever.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


@contextlib.contextmanager
def _stack_restored() -> Iterator[None]:
    """Within: a checkpointed layer may be computed again as far as it is needed and no further.

    That leaves it before stage 3's hooks take its modules off the stack, which would grow with every backward.
    """
    from deepspeed.runtime.zero.parameter_offload import FWD_MODULE_STACK

    depth = len(FWD_MODULE_STACK)
    yield
    del FWD_MODULE_STACK[depth:]


def _forget(module: nn.Module) -> None:
    """Take a module out of what DeepSpeed's stage 3 keeps for the life of the process, past ``destroy``."""
    from deepspeed.runtime.zero import parameter_offload
    from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator

    ours = {id(part) for part in module.modules()}
    stack = parameter_offload.FWD_MODULE_STACK
    stack[:] = [part for part in stack if id(part) not in ours]
    # An unbounded cache of a method, keyed by submodules, inside a profiling wrapper.
    cached = PartitionedParameterCoordinator._PartitionedParameterCoordinator__params_to_release
    cached.__closure__[0].cell_contents.cache_clear()


def _settings(optim: OptimConfig, zero: ZeroConfig, plain: bool) -> dict[str, Any]:
    bf16 = zero.dtype == "bf16"
    split: dict[str, Any] = {"stage": max(zero.stage, 1) if bf16 else zero.stage}
    if zero.offload_optimizer:
        split["offload_optimizer"] = {"device": "cpu"}
    if zero.offload_params:
        split["offload_param"] = {"device": "cpu"}
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,  # DeepSpeed's bookkeeping; ours comes from the batches
        "managed_gradient_accumulation": False,  # step() is the boundary: any number of micro-batches before it
        "gradient_clipping": 0.0 if plain else optim.clip,
        "zero_optimization": split,
        "zero_force_ds_cpu_optimizer": False,  # torch's fused AdamW also where the state is offloaded
        "steps_per_print": None,
        "wall_clock_breakdown": False,
    }
    if bf16:
        settings["bf16"] = {"enabled": True, "immediate_grad_update": True}
        settings["communication_data_type"] = "fp32"  # gradients are summed over processes unrounded
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
    return settings
