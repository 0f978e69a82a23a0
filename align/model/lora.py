"""Low-rank adapters by peft: only they train, and the untouched base stays at hand as frozen reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from align.errors import WeightsError
from align.model.config import LoraConfig
from align.model.heads import Scorer
from align.model.llama import Llama

M = TypeVar("M", Llama, Scorer)
_BASE, _DOWN, _UP = ".base_layer.weight", ".lora_A.default.weight", ".lora_B.default.weight"
_HEAD = "score.weight"  # of a scorer: new, so it trains in full


def add_lora(model: M, lora: LoraConfig, seed: int) -> M:
    """Put adapters on the targeted linear layers, in place, and freeze everything else.

    The adapted model starts equal to the base (B = 0). A scorer's scalar head, which is new, trains in full.

    Args:
        model: changed in place.
        lora: rank, alpha, targets.
        seed: of the adapters' start, N(0, 1/rank²) for A.

    Returns:
        The same model.
    """
    import peft

    settings = peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.targets), lora_dropout=0.0)
    peft.inject_adapter_in_model(settings, model)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.endswith((_DOWN, _UP)) or name == _HEAD
        if name.endswith(_DOWN):
            start = torch.randn(parameter.shape, generator=generator) / lora.rank
            parameter.data.copy_(start)
    return model


def adapted(model: M, lora: LoraConfig | None, seed: int) -> M:
    """The model as a recipe's ``lora`` wants it: with adapters, or as it is where that is null."""
    return model if lora is None else add_lora(model, lora, seed)


class CriticOnReward(nn.Module):
    """A critic made of a reward model and adapters, with the reward model still at hand: one body for both."""

    def __init__(self, critic: Scorer, head: Tensor) -> None:
        """Take over an adapted critic.

        Args:
            critic: a scorer after :func:`add_lora`, on the reward model's body.
            head: [1, D] the reward model's own scalar head.
        """
        super().__init__()
        self.critic = critic
        self.reward = nn.Linear(critic.config.dim, 1, bias=False)
        self.reward.weight = nn.Parameter(head, requires_grad=False)

    def forward(self, *args: Any, at: Tensor, reward: bool = False, **kwargs: Any) -> Tensor:
        """The critic's values, or the reward model's scores: [N] at flat indices; see :meth:`Scorer.forward`."""
        if not reward:
            values: Tensor = self.critic(*args, at=at, **kwargs)
            return values
        with without_adapters(self.critic):
            scores: Tensor = self.reward(self.critic.model(*args, at=at, **kwargs))
        return scores.squeeze(-1).float()


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """Within: the model computes as the frozen base does. That is PPO's reference, at no cost of memory."""
    from peft.tuners.lora import LoraLayer

    # not enable_adapters(): that freezes the adapters too, under an optimizer's feet
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def merged(
    named: Iterable[tuple[str, Tensor]], lora: LoraConfig, base_of: Callable[[str], Tensor] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """The weights of an adapted model with W + (alpha / rank) B A in place of W and its adapters.

    A stream in, a stream out, so that weights gathered from a partitioned model are saved as they come. The
    order is that of an adapted model's ``named_parameters``: base, A, B of each layer.

    Args:
        named: the adapted model's weights.
        lora: its adapters' settings.
        base_of: a frozen weight by its name in the plain model, as it was before training rounded it to its dtype;
            None: those of ``named``.

    Raises:
        WeightsError: an adapter without its base, or a base without its adapter.
    """
    base: tuple[str, Tensor] | None = None  # of the layer whose adapter comes next
    down: Tensor | None = None
    for name, tensor in named:
        if name.endswith(_BASE):
            if base is not None:
                raise WeightsError(f"{base[0]}: no adapter follows this layer")
            layer = name.removesuffix(_BASE)
            base, down = (layer, base_of(f"{layer}.weight") if base_of else tensor), None
        elif name.endswith(_DOWN):
            down = tensor
        elif name.endswith(_UP):
            if base is None or down is None or name.removesuffix(_UP) != base[0]:
                raise WeightsError(f"{name}: an adapter without its layer or its other half before it")
            product = (tensor.float() @ down.float()) * (lora.alpha / lora.rank)
            yield f"{base[0]}.weight", (base[1].float() + product).to(base[1].dtype)
            base = None
        else:
            yield name, base_of(name) if base_of and name != _HEAD else tensor
    if base is not None:
        raise WeightsError(f"{base[0]}: no adapter follows this layer")
