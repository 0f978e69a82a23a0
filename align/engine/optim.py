"""AdamW's settings, its parameter groups, and the learning rate as a closed form of the step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import pydantic

from align.config import config

if TYPE_CHECKING:
    from torch import nn

Share: TypeAlias = Annotated[float, pydantic.Field(ge=0, le=1)]
Positive: TypeAlias = Annotated[float, pydantic.Field(gt=0)]
NotNegative: TypeAlias = Annotated[float, pydantic.Field(ge=0)]
Beta: TypeAlias = Annotated[float, pydantic.Field(ge=0, lt=1)]
Steps: TypeAlias = Annotated[int, pydantic.Field(ge=0)]


@config
class OptimConfig:
    """AdamW and its schedule. The paper's values differ by stage, so a recipe states them with their section."""

    lr: NotNegative  # peak
    betas: tuple[Beta, Beta]
    eps: Positive
    weight_decay: NotNegative  # on matrices; norms' vectors are left alone
    clip: NotNegative  # global gradient norm; 0 = no clipping
    schedule: Literal["cosine", "constant", "linear"]
    warmup_steps: Steps = 0
    warmup_ratio: Share = 0.0  # of all steps
    warmup_min: Steps = 0  # at least so many; paper section 3.2.2: 3 % of steps and at least 5
    final_lr_ratio: Share = 0.0  # of the peak, reached at the last step

    def warmup(self, total: int) -> int:
        """Warm-up steps of a run of ``total`` steps: the largest of the three settings, never more than the run."""
        return min(max(self.warmup_steps, math.ceil(self.warmup_ratio * total), self.warmup_min), total)

    def lr_at(self, step: int, total: int) -> float:
        """Learning rate of update ``step`` (from 0) of ``total``.

        It rises in a straight line, reaches the peak at the last warm-up step (no step is spent at 0), and falls
        to ``final_lr_ratio`` of it at the last step.
        """
        warmup = self.warmup(total)
        if step < warmup:
            return self.lr * (step + 1) / warmup
        done = min((step + 1 - warmup) / max(total - warmup, 1), 1.0)
        match self.schedule:
            case "constant":
                return self.lr
            case "linear":
                share = 1.0 - done
            case "cosine":
                share = 0.5 * (1.0 + math.cos(math.pi * done))
        return self.lr * (self.final_lr_ratio + (1.0 - self.final_lr_ratio) * share)


def param_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters as AdamW groups: matrices decay, vectors (norms, biases) do not."""
    trained = [p for p in module.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.dim() >= 2]
    vectors = [p for p in trained if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
