from __future__ import annotations

import math
from collections import defaultdict
from itertools import permutations
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from align.errors import ShapeError
from align.losses import kwise_ranking_loss, ranking_loss, safety_loss
from tests.oracles import losses as oracle


def draw(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def test_ranking_by_hand() -> None:
    loss = ranking_loss(torch.tensor([1.0, 3.0, 0.0]), torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0.0, 3.0, 0.0]))
    # a tie is a coin flip, so is a gap of exactly the margin; the wrong way round costs more
    torch.testing.assert_close(loss, torch.tensor([math.log(2), math.log(2), math.log(1 + math.e)]))


def test_ranking_oracle_pair_by_pair() -> None:
    chosen, rejected, margin = draw(20, seed=1), draw(20, seed=2), draw(20, seed=3).abs()
    loss = ranking_loss(chosen, rejected, margin)
    for i in range(20):
        expected = oracle.ranking_loss(chosen[i].item(), rejected[i].item(), margin[i].item())
        assert loss[i].item() == pytest.approx(expected, abs=1e-13)
        assert ranking_loss(chosen[i : i + 1], rejected[i : i + 1], margin[i : i + 1]).item() == loss[i].item()


@pytest.mark.parametrize(
    "margin", [[1.0, 2 / 3, 1 / 3, 0.0], [3.0, 2.0, 1.0, 0.0], None], ids=["small", "large", "none"]
)
def test_ranking_equals_trl(margin: list[float] | None) -> None:
    """TRL's own RewardTrainer.compute_loss, run on a model that returns given scores."""
    from trl.trainer.reward_trainer import RewardTrainer

    def gather(x: Tensor) -> Tensor:
        return x

    trainer = SimpleNamespace(
        args=SimpleNamespace(center_rewards_coefficient=None),
        accelerator=SimpleNamespace(gather=gather, gather_for_metrics=gather),
        model=SimpleNamespace(training=True),
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    theirs = draw(8, 1, seed=4).requires_grad_()
    ours = theirs.detach().squeeze(1).requires_grad_()

    class Model:
        training = True

        def __call__(self, **inputs: object) -> SimpleNamespace:
            return SimpleNamespace(logits=theirs)

    inputs: dict[str, object] = {"attention_mask": torch.ones(8, 3)}
    if margin is not None:
        inputs["margin"] = torch.tensor(margin, dtype=torch.float64)
    peer = RewardTrainer.compute_loss(trainer, Model(), inputs)
    chosen, rejected = ours.chunk(2)
    loss = ranking_loss(chosen, rejected, torch.tensor(margin or [0.0] * 4, dtype=torch.float64))
    torch.testing.assert_close(loss.mean(), peer, rtol=0, atol=1e-15)
    loss.mean().backward()
    peer.backward()
    torch.testing.assert_close(ours.grad, theirs.grad.squeeze(1), rtol=0, atol=1e-15)


def test_ranking_gradcheck() -> None:
    inputs = tuple(draw(5, seed=s).requires_grad_() for s in range(3))
    assert torch.autograd.gradcheck(ranking_loss, inputs)


def test_ranking_extremes() -> None:
    chosen = torch.tensor([1e30, -1e30, 1e4, -1e4], requires_grad=True)
    loss = ranking_loss(chosen, -chosen.detach(), torch.zeros(4))
    torch.testing.assert_close(loss, torch.tensor([0.0, 2e30, 0.0, 2e4]))
    loss.sum().backward()
    torch.testing.assert_close(chosen.grad, torch.tensor([0.0, -1.0, 0.0, -1.0]))  # saturates at 1, never NaN


def test_ranking_refuses_broadcasting() -> None:
    with pytest.raises(ShapeError, match=r"chosen \[4\], rejected \[4\], margin \[1\]"):
        ranking_loss(torch.zeros(4), torch.zeros(4), torch.zeros(1))
    with pytest.raises(ShapeError, match=r"chosen \[4\], rejected \[4, 1\]"):
        ranking_loss(torch.zeros(4), torch.zeros(4, 1), torch.zeros(4))


def test_kwise_by_hand() -> None:
    scores = torch.tensor([[2.0, 1.0, 0.0]])
    pair, far = math.log(1 + math.exp(-1)), math.log(1 + math.exp(-2))
    assert kwise_ranking_loss(scores, torch.tensor([[1, 2, 3]])).item() == pytest.approx((2 * pair + far) / 3)
    # the last two tied: two comparisons are left, and the divisor stays 3
    assert kwise_ranking_loss(scores, torch.tensor([[1, 2, 2]])).item() == pytest.approx((pair + far) / 3)


def test_kwise_of_two_is_the_plain_ranking_loss() -> None:
    scores = draw(6, 2, seed=7)
    loss = kwise_ranking_loss(scores, torch.tensor([[1, 2]] * 6))
    torch.testing.assert_close(loss, ranking_loss(scores[:, 0], scores[:, 1], torch.zeros(6)), rtol=0, atol=1e-14)


@pytest.mark.parametrize("K", [2, 4, 9])
def test_kwise_oracle_prompt_by_prompt(K: int) -> None:
    scores = draw(12, K, seed=K)
    rank = torch.randint(1, K + 1, (12, K), generator=torch.Generator().manual_seed(K))  # ties among them
    loss = kwise_ranking_loss(scores, rank)
    for b in range(12):
        assert loss[b].item() == pytest.approx(
            oracle.kwise_ranking_loss(scores[b].tolist(), rank[b].tolist()), abs=1e-12
        )
        torch.testing.assert_close(
            kwise_ranking_loss(scores[b : b + 1], rank[b : b + 1])[0], loss[b], rtol=0, atol=1e-15
        )


def test_kwise_knows_ranks_only_by_their_order_and_answers_by_no_order() -> None:
    scores, rank = draw(1, 4, seed=9), torch.tensor([[3, 1, 2, 2]])
    loss = kwise_ranking_loss(scores, rank)
    torch.testing.assert_close(kwise_ranking_loss(scores, rank * 10 - 3), loss, rtol=0, atol=0)
    for order in permutations(range(4)):
        torch.testing.assert_close(kwise_ranking_loss(scores[:, order], rank[:, order]), loss, rtol=0, atol=1e-14)


def test_kwise_gradcheck_and_ties_carry_no_gradient() -> None:
    rank = torch.tensor([[1, 2, 2, 3], [2, 1, 4, 3]])
    assert torch.autograd.gradcheck(lambda s: kwise_ranking_loss(s, rank), (draw(2, 4).requires_grad_(),))
    scores = draw(1, 3).requires_grad_()
    loss = kwise_ranking_loss(scores, torch.tensor([[1, 1, 1]]))
    loss.sum().backward()
    assert loss.item() == 0
    assert (scores.grad == 0).all()


def test_kwise_extremes() -> None:
    scores = torch.tensor([[1e30, 0.0, -1e30]], requires_grad=True)
    right = kwise_ranking_loss(scores, torch.tensor([[1, 2, 3]]))
    wrong = kwise_ranking_loss(scores, torch.tensor([[3, 2, 1]]))
    assert right.item() == 0
    assert wrong.item() == pytest.approx(4e30 / 3)
    (right + wrong).sum().backward()
    torch.testing.assert_close(scores.grad, torch.tensor([[2 / 3, 0.0, -2 / 3]]))


def test_kwise_refuses_what_is_no_ranking() -> None:
    with pytest.raises(ShapeError, match=r"scores \[2, 4\], rank \[1, 4\]"):
        kwise_ranking_loss(torch.zeros(2, 4), torch.ones(1, 4, dtype=torch.long))
    with pytest.raises(ShapeError, match="K at least 2"):
        kwise_ranking_loss(torch.zeros(2, 1), torch.ones(2, 1, dtype=torch.long))


def test_safety_by_hand_and_oracle() -> None:
    loss = safety_loss(torch.tensor([0.0, 0.0, math.log(3.0)]), torch.tensor([True, False, False]))
    torch.testing.assert_close(loss, torch.tensor([math.log(2), math.log(2), math.log(4)]))
    scores, safe = draw(20, seed=3), torch.arange(20) % 3 == 0
    found = safety_loss(scores, safe)
    for i in range(20):
        assert found[i].item() == pytest.approx(oracle.safety_loss(scores[i].item(), bool(safe[i])), abs=1e-12)
        assert safety_loss(scores[i : i + 1], safe[i : i + 1]).item() == found[i].item()


def test_safety_gradcheck_and_extremes() -> None:
    safe = torch.tensor([True, False, True, False])
    assert torch.autograd.gradcheck(lambda s: safety_loss(s, safe), (draw(4).requires_grad_(),))
    scores = torch.tensor([1e30, 1e30, -1e30, -1e30], requires_grad=True)
    loss = safety_loss(scores, safe)
    torch.testing.assert_close(loss, torch.tensor([0.0, 1e30, 1e30, 0.0]))
    loss.sum().backward()
    torch.testing.assert_close(scores.grad, torch.tensor([0.0, 1.0, -1.0, 0.0]))


def test_safety_refuses_labels_of_minus_one() -> None:
    with pytest.raises(TypeError, match=r"is_safe is torch\.int64"):
        safety_loss(torch.zeros(2), torch.tensor([1, -1]))
    with pytest.raises(ShapeError, match="safety_loss"):
        safety_loss(torch.zeros(2), torch.tensor([True]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_fp32(dtype: torch.dtype) -> None:
    scores = draw(3, 4).to(dtype)
    rank = torch.tensor([[1, 2, 3, 4]] * 3)
    found = kwise_ranking_loss(scores, rank)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, kwise_ranking_loss(scores.float(), rank), rtol=0, atol=0)
    a, b = scores[:, 0], scores[:, 1]
    assert ranking_loss(a, b, torch.zeros(3)).equal(ranking_loss(a.float(), b.float(), torch.zeros(3)))
    assert safety_loss(a, a > 0).equal(safety_loss(a.float(), a > 0))
