"""The schedule by hand, and which parameters decay."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from align.config import parse
from align.engine.optim import OptimConfig, param_groups
from align.errors import RecipeError

VALUES = {"lr": 1e-5, "betas": [0.9, 0.95], "eps": 1e-5, "weight_decay": 0.1, "clip": 1.0, "schedule": "cosine"}


def config(**values: object) -> OptimConfig:
    return parse(OptimConfig, VALUES | values, "optim")


def test_reward_models_schedule_of_the_paper() -> None:
    """Section 3.2.2: cosine to 10 % of the peak, warm-up over 3 % of the steps and at least 5."""
    optim = config(warmup_ratio=0.03, warmup_min=5, final_lr_ratio=0.1)
    assert [optim.warmup(total) for total in (3, 100, 166, 200, 1000)] == [3, 5, 5, 6, 30]
    rates = [optim.lr_at(step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(1e-5 / 30)
    assert rates[29] == rates[14] * 2 == 1e-5 == max(rates)
    assert rates[29 + 485] == pytest.approx(1e-5 * (0.1 + 0.9 / 2))  # half-way down
    assert rates[999] == pytest.approx(1e-6)
    assert rates[29:] == sorted(rates[29:], reverse=True)


def test_cosine_equals_torchs_after_warmup() -> None:
    optim = config(final_lr_ratio=0.1)
    parameter = nn.Parameter(torch.zeros(1))
    sgd = torch.optim.SGD([parameter], lr=1e-5)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, T_max=50, eta_min=1e-6)
    for step in range(50):
        sgd.step()
        cosine.step()
        assert optim.lr_at(step, 50) == pytest.approx(cosine.get_last_lr()[0], rel=1e-9)


def test_linear_and_constant() -> None:
    linear = config(schedule="linear", warmup_steps=2, final_lr_ratio=0.2)
    assert [linear.lr_at(s, 6) / 1e-5 for s in range(6)] == pytest.approx([0.5, 1.0, 0.8, 0.6, 0.4, 0.2])
    constant = config(schedule="constant", warmup_steps=2)
    assert [constant.lr_at(s, 4) / 1e-5 for s in range(4)] == pytest.approx([0.5, 1.0, 1.0, 1.0])
    assert all(math.isfinite(config().lr_at(s, 1)) for s in (0, 1, 5))  # a run of one step, and beyond its end


def test_matrices_decay_vectors_do_not_and_frozen_parameters_are_left_out() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 3))
    module[2].weight.requires_grad_(False)
    groups = param_groups(module, 0.1)
    assert [(group["weight_decay"], [p.dim() for p in group["params"]]) for group in groups] == [
        (0.1, [2]),
        (0.0, [1, 1, 1, 1]),
    ]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"lr": -1}, "lr: "),
        ({"betas": [0.9, 1.0]}, "betas.1: "),
        ({"final_lr_ratio": 1.5}, "final_lr_ratio: "),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"warmup": 3}, "warmup: unknown key"),
    ],
)
def test_mistakes_name_their_key(values: dict[str, object], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        config(**values)
