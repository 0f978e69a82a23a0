"""A stream of weights poured into a model: each in its place, and what does not fit is told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from align.errors import WeightsError
from align.rollout.sync import pour
from tests.fakes import tiny_llama


def stream(seed: int = 1) -> Iterator[tuple[str, Tensor]]:
    yield from tiny_llama(seed).named_parameters()


def test_every_weight_comes_to_its_place() -> None:
    model, expected = tiny_llama(0), dict(stream())
    pour(stream(), model)
    assert all(torch.equal(parameter, expected[name]) for name, parameter in model.named_parameters())


def test_what_is_missing_left_over_or_of_another_shape_is_told() -> None:
    with pytest.raises(WeightsError, match=r"missing lm_head.weight"):
        pour(((name, tensor) for name, tensor in stream() if name != "lm_head.weight"), tiny_llama(0))
    with pytest.raises(WeightsError, match=r"lm_hat.weight: left over.*lm_head.weight"):
        pour(iter([("lm_hat.weight", torch.zeros(1))]), tiny_llama(0))
    with pytest.raises(WeightsError, match=r"expected shape \[32\], found \[31\]"):
        pour(iter([("model.norm.weight", torch.zeros(31))]), tiny_llama(0))
