"""Adapters: W + (alpha / rank) B A by hand, a frozen base that stays the reference, and merging as a stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from align.errors import WeightsError
from align.model.config import LoraConfig
from align.model.heads import Scorer, scorer_from_policy
from align.model.llama import Llama
from align.model.lora import add_lora, merged, without_adapters
from align.model.memory import lora_parameters
from tests.model.peers import policies, randomise, tiny

TOKENS = torch.randint(1, 97, (2, 11), generator=torch.Generator().manual_seed(0))
LORA = LoraConfig(rank=3, alpha=7.0, targets=("q_proj", "v_proj", "down_proj"))


def adapted(seed: int = 1) -> tuple[Llama, Llama]:
    """A base and the same base with adapters whose B is no longer 0."""
    base, other = Llama(tiny()), Llama(tiny())
    randomise(base)
    randomise(other)
    add_lora(other, LORA, seed)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return base, other


def by_hand(base: Llama, model: Llama) -> Llama:
    """The base with (alpha / rank) B A added to each targeted weight, entry by entry of the definition."""
    state = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    trained = dict(model.named_parameters())
    for name in state:
        if name.split(".")[-2] in LORA.targets:
            layer = name.removesuffix(".weight")
            a, b = trained[f"{layer}.lora_A.default.weight"], trained[f"{layer}.lora_B.default.weight"]
            state[name] = state[name] + 7.0 / 3 * torch.einsum("or,ri->oi", b, a)
    out = Llama(base.config)
    out.load_state_dict(state)
    return out


def test_starts_equal_to_the_base_and_trains_adapters_only() -> None:
    base, _ = policies(tiny())
    expected = base(TOKENS)
    add_lora(base, LORA, seed=0)
    assert torch.equal(base(TOKENS), expected)
    base(TOKENS).square().sum().backward()
    trained = {name for name, p in base.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in trained)
    assert len(trained) == 2 * 3 * base.config.n_layers
    for name, parameter in base.named_parameters():
        assert (parameter.grad is not None) == (name in trained)
    assert sum(base.get_parameter(name).numel() for name in trained) == lora_parameters(base.config, LORA)


def test_adapted_forward_is_the_definition() -> None:
    base, model = adapted()
    expected = by_hand(base, model)(TOKENS)
    assert (expected - base(TOKENS)).abs().max() > 0.1
    torch.testing.assert_close(model(TOKENS), expected, rtol=1e-5, atol=1e-5)


def test_without_adapters_is_the_base_to_the_bit() -> None:
    base, model = adapted()
    before = model(TOKENS)
    with without_adapters(model):
        assert torch.equal(model(TOKENS), base(TOKENS))
    assert torch.equal(model(TOKENS), before)
    with pytest.raises(KeyError), without_adapters(model):
        raise KeyError
    assert torch.equal(model(TOKENS), before)
    trained = [p for name, p in model.named_parameters() if "lora_" in name]
    assert all(p.requires_grad for p in trained)


def test_merged_stream_is_a_plain_model_that_computes_the_same() -> None:
    base, model = adapted()
    tensors = dict(merged(model.named_parameters(), LORA))
    assert tensors.keys() == dict(base.named_parameters()).keys()
    plain = Llama(base.config)
    plain.load_state_dict(tensors)
    torch.testing.assert_close(plain(TOKENS), model(TOKENS), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(plain(TOKENS), by_hand(base, model)(TOKENS), rtol=1e-5, atol=1e-5)


def test_adapters_follow_their_seed() -> None:
    _, first = adapted(seed=1)
    torch.manual_seed(77)
    _, again = adapted(seed=1)
    _, other = adapted(seed=2)
    name = "model.layers.0.self_attn.q_proj.lora_A.default.weight"
    assert torch.equal(first.get_parameter(name), again.get_parameter(name))
    assert not torch.equal(first.get_parameter(name), other.get_parameter(name))


def test_a_scorers_new_head_trains_in_full() -> None:
    policy, _ = policies(tiny())
    scorer = scorer_from_policy(policy, seed=0)
    add_lora(scorer, LORA, seed=0)
    assert isinstance(scorer, Scorer)
    assert scorer.score.weight.requires_grad
    assert not scorer.model.embed_tokens.weight.requires_grad
    assert "score.weight" in dict(merged(scorer.named_parameters(), LORA))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n: [x for x in n if "layers.0.self_attn.q_proj.lora" not in x[0]], "no adapter follows"),
        (lambda n: [x for x in n if "layers.0.self_attn.q_proj.base" not in x[0]], "without its layer"),
        (lambda n: [x for x in n if "layers.0.self_attn.q_proj.lora_A" not in x[0]], "without its layer"),
        (lambda n: [x for x in n if "layers.1.mlp.down_proj.lora" not in x[0]], "no adapter follows"),
    ],
)
def test_half_an_adapter_is_refused(change: Callable[..., Any], message: str) -> None:
    _, model = adapted()
    named: list[tuple[str, Tensor]] = change(list(model.named_parameters()))
    with pytest.raises(WeightsError, match=message):
        list(merged(named, LORA))
