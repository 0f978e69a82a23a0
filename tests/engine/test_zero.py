"""Weights in and out of engines, several engines in one process, and what bf16 must not lose."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from align.config import parse
from align.engine.optim import OptimConfig
from align.engine.step import Term, update
from align.engine.zero import Engine, ZeroConfig
from align.engine.zero_state import copy_weights, gathered, load_state, state_tensors
from align.errors import RecipeError, WeightsError
from tests.engine.toy import Micro, Toy, counts, deal, engine, oracle, rows, terms

EVERY = [(stage, dtype) for stage in (0, 1, 2, 3) for dtype in ("fp32", "bf16")]


@pytest.mark.parametrize(("stage", "dtype"), EVERY)
def test_weights_leave_as_they_came(stage: int, dtype: str) -> None:
    start = {name: p.detach() for name, p in Toy().named_parameters()}
    with engine(stage, dtype) as trained:
        for name, tensor in gathered(trained):
            assert tensor.dtype == torch.float32
            assert torch.equal(tensor, start.pop(name))
        plain = Toy()
        nn.init.zeros_(plain.head.weight)
        copy_weights(trained, plain)
    assert not start
    for name, parameter in Toy().named_parameters():
        used = parameter.to(torch.bfloat16).float() if dtype == "bf16" else parameter
        assert torch.equal(plain.get_parameter(name), used)


@pytest.mark.parametrize("stage", [0, 3])
def test_a_wrong_target_is_refused(stage: int) -> None:
    with engine(stage) as trained:
        plain = Toy()
        plain.head = nn.Linear(256, 399, bias=False)
        with pytest.raises(WeightsError, match=r"head\.weight is \[400, 256\], the target's is \[399, 256\]"):
            copy_weights(trained, plain)
        plain.heads = plain.__dict__["_modules"].pop("head")
        with pytest.raises(WeightsError, match=r"no head\.weight \(did you mean 'heads\.weight'\?\)"):
            copy_weights(trained, plain)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_bf16_loses_no_small_update(stage: int) -> None:
    """60 updates of 1e-6 each: bf16 near 1 cannot hold one of them, the masters must hold them all."""
    optim = OptimConfig(
        lr=1e-6, betas=(0.0, 0.0), eps=1e-30, weight_decay=0.0, clip=0.0, schedule="constant"
    )  # betas 0: AdamW moves by lr times the gradient's sign
    with engine(stage, "bf16", optim) as trained:
        before = {name: tensor for name, tensor in gathered(trained) if name == "norm.weight"}["norm.weight"]
        micro = rows(0)[7]
        for _ in range(60):
            update(trained, [micro], counts, terms)
        after = {name: tensor for name, tensor in gathered(trained) if name == "norm.weight"}["norm.weight"]
        moved = (after - before).abs()
        # Most entries keep their gradient's sign throughout and so move by 60 lr, up to fp32's own rounding
        # near 1.
        assert int((moved > 1e-7).sum()) > 200
        assert float(moved.median()) == pytest.approx(6e-5, rel=0.05)


def test_state_moves_between_stages_without_a_bit_lost() -> None:
    with engine(0) as source:
        update(source, rows(0), counts, terms)
        state = dict(state_tensors(source))
    assert set(state) == {
        f"{kind}/{name}" for kind in ("weight", "exp_avg", "exp_avg_sq") for name, _ in Toy().named_parameters()
    }
    for stage in (1, 2, 3):
        with engine(stage) as other:
            load_state(other, state.__getitem__, 1)
            for key, tensor in state_tensors(other):
                assert torch.equal(tensor, state[key]), (stage, key)


class Critic(nn.Module):
    """A second model of another shape, as a critic beside a policy."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(11)
        self.embed = nn.Embedding(400, 300)
        self.score = nn.Linear(300, 1, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.score(torch.tanh(self.embed(tokens))).squeeze(-1).float()


def critic_terms(critic: Engine, micro: Micro) -> dict[str, Term]:
    return {"loss": Term((critic(micro.tokens) - micro.tokens / 400) ** 2, micro.mask)}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_policy_and_critic_under_zero3_in_one_process(dtype: str) -> None:
    """As PPO uses them: forwards without gradients in between, weights copied out, updates in turn (pitfall
    4).
    """
    found = {}
    for stage in (0, 3):
        with engine(stage, dtype) as policy, engine(stage, dtype, module=Critic()) as critic:
            rollout, seen = Toy(), []
            for step in range(2):
                copy_weights(policy, rollout)
                micros = deal(rows(step), [3, 5])
                with torch.no_grad():
                    for micro in micros:
                        seen.append(policy(micro.tokens))
                        seen.append(critic(micro.tokens))
                        if dtype == "fp32":
                            torch.testing.assert_close(rollout(micro.tokens), seen[-2], rtol=0, atol=1e-6)
                for micro in micros:
                    update(critic, [micro], counts, critic_terms)
                    update(policy, [micro], counts, terms)
            found[stage] = [*seen, *dict(gathered(policy)).values(), *dict(gathered(critic)).values()]
    for a, b in zip(found[0], found[3], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6 if dtype == "fp32" else 0.02)


class Tied(nn.Module):
    """One matrix at both ends, and a frozen one, as with tied heads and LoRA."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.embed = nn.Embedding(400, 256)
        self.base = nn.Linear(256, 512, bias=False)
        self.base.weight.requires_grad_(False)
        self.back = nn.Linear(512, 256, bias=False)
        self.head = nn.Linear(256, 400, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        return self.head(x + self.back(F.silu(self.base(x)))).float()


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_tied_and_frozen_weights(stage: int) -> None:
    found = {}
    for each in (0, stage):
        with engine(each, module=Tied()) as trained:
            for step in range(2):
                update(trained, deal(rows(step), [4, 4]), counts, terms)
            found[each] = dict(gathered(trained))
            state = dict(state_tensors(trained))
        assert "exp_avg/base.weight" not in state
        with engine(each, module=Tied()) as again:
            load_state(again, state.__getitem__, 2)
            assert all(torch.equal(tensor, found[each][name]) for name, tensor in gathered(again))
    assert "head.weight" not in found[0]
    assert torch.equal(found[stage]["base.weight"], Tied().base.weight)
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[stage][name], tensor, rtol=0, atol=1e-6)


class Spared(nn.Module):
    """Two matrices, of which the forward reads one."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.spared = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.used(x)
        return out


@pytest.mark.parametrize(("stage", "dtype"), EVERY)
def test_a_weight_that_no_forward_read_decays_as_the_others_do(stage: int, dtype: str) -> None:
    optim = OptimConfig(lr=0.01, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.1, clip=1.0, schedule="constant")
    module = Spared()
    start = module.spared.weight.detach().clone()
    with engine(stage, dtype, optim, module) as trained:
        for _ in range(2):
            trained.backward(trained(torch.ones(1, 8, dtype=module.used.weight.dtype)).float().sum())
            trained.step()
        after = dict(gathered(trained))["spared.weight"]
    torch.testing.assert_close(after, start * (1 - 0.01 * 0.1) ** 2, rtol=1e-5, atol=0)


@pytest.mark.parametrize("stage", [2, 3])
def test_offload_changes_nothing(stage: int) -> None:
    from align.engine.zero import wrap
    from tests.engine.toy import OPTIM, STEPS

    zero = ZeroConfig(stage=stage, dtype="fp32", offload_optimizer=True, offload_params=stage == 3)  # type: ignore[arg-type]
    expected, _, _ = oracle(2)
    trained = wrap(Toy(), OPTIM, zero, STEPS)
    for step in range(2):
        update(trained, deal(rows(step), [8]), counts, terms)
    for name, tensor in gathered(trained):
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)
    trained.close()


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    for stage, dtype in ((0, "bf16"), (3, "fp32")):
        with engine(stage, dtype) as trained:
            update(trained, rows(0), counts, terms)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_combinations_that_cannot_be_are_refused_with_the_recipe() -> None:
    with pytest.raises(RecipeError, match="offload_params needs stage 3"):
        parse(ZeroConfig, {"stage": 2, "dtype": "fp32", "offload_params": True}, "zero")
    with pytest.raises(RecipeError, match="offload_optimizer needs stage 1, 2 or 3"):
        parse(ZeroConfig, {"stage": 0, "dtype": "bf16", "offload_optimizer": True}, "zero")
