"""An update is the same however its tokens are dealt; what cannot be averaged is refused."""

from __future__ import annotations

import gc
import itertools
import math
import weakref

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from align.engine.step import Term, update
from align.engine.zero import Engine
from align.engine.zero_state import gathered
from align.errors import ShapeError, TrainingError
from tests.engine.toy import Micro, Toy, counts, deal, engine, oracle, rows, terms, values


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_one_process_equals_plain_torch(stage: int) -> None:
    expected, losses, norms = oracle(4)
    deals = ([8], [1] * 8, [2, 5, 1], [4, 4])
    with engine(stage) as trained:
        for step, sizes in enumerate(deals):
            result = update(trained, deal(rows(step), sizes), counts, terms)
            assert result.losses["loss"] == pytest.approx(losses[step], abs=1e-6)
            assert result.grad_norm == pytest.approx(norms[step], rel=1e-5)
            assert result.counts == {"loss": sum(int(row.mask.sum()) for row in rows(step))}
        assert trained.steps == 4
        for name, tensor in gathered(trained):
            torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)


@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(cuts=st.sets(st.integers(1, 7)))
def test_any_split_into_micro_batches_gives_the_same_loss(cuts: set[int]) -> None:
    edges = [0, *sorted(cuts), 8]
    sizes = [b - a for a, b in itertools.pairwise(edges)]
    fake = Fake()
    whole = update(fake, deal(rows(3), [8]), counts, terms)
    gradient = fake.module.head.weight.grad
    split = update(Fake(), deal(rows(3), sizes), counts, terms)
    assert split.counts == whole.counts
    assert split.losses["loss"] == pytest.approx(whole.losses["loss"], rel=1e-6)
    again = Fake()
    update(again, deal(rows(3), sizes), counts, terms)
    torch.testing.assert_close(again.module.head.weight.grad, gradient, rtol=1e-5, atol=1e-7)


def test_weights_of_terms_and_metrics() -> None:
    """By hand: 2 · mean(1, 3) + 0.5 · mean(10) is trained; the metric's mean is over its own mask only."""
    fake = Fake()
    scale = fake.module.norm.weight[0]

    def parts(_: Engine, micro: int) -> dict[str, Term]:
        if micro == 0:
            return {
                "a": Term(scale * torch.tensor([1.0, 7.0]), torch.tensor([True, False]), weight=2.0),
                "b": Term(scale * torch.tensor([10.0]), weight=0.5),
                "seen": Term(torch.tensor([1.0, 0.0, math.inf]), torch.tensor([True, True, False]), weight=0.0),
            }
        return {
            "a": Term(scale * torch.tensor([[3.0]]), weight=2.0),
            "b": Term(scale * torch.tensor([]), weight=0.5),
            "seen": Term(torch.tensor([1.0]), weight=0.0),
        }

    result = update(fake, [0, 1], lambda micro: {"a": 1, "b": 1 - micro}, parts)
    assert result.losses == {"a": 2.0, "b": 10.0, "seen": pytest.approx(2 / 3)}
    assert result.counts == {"a": 2, "b": 1, "seen": 3}
    assert fake.module.norm.weight.grad[0] == pytest.approx(2 * 2.0 + 0.5 * 10.0)


def test_a_term_that_counts_nowhere_in_the_step_is_left_out() -> None:
    def parts(engine: Engine, micro: Micro) -> dict[str, Term]:
        return terms(engine, micro) | {"rare": Term(torch.zeros(0), weight=1.0)}

    result = update(Fake(), [rows(0)[5]], lambda micro: counts(micro) | {"rare": 0}, parts)
    assert set(result.losses) == {"loss"}


def test_mistakes_are_told() -> None:
    empty = Micro(rows(0)[0].tokens, torch.zeros(1, 12, dtype=torch.bool))
    with pytest.raises(TrainingError, match="step 0: no counted token in any of 2 micro-batches"):
        update(Fake(), [empty, empty], counts, terms)
    with pytest.raises(TrainingError, match="rank 0 got no micro-batch"):
        update(Fake(), [], counts, terms)
    with pytest.raises(TrainingError, match=r"the term 'loss' has no count \(did you mean 'los'\?\)"):
        update(Fake(), rows(0), lambda micro: {"los": 3}, terms)
    with pytest.raises(TrainingError, match="was said to count 24 values, its mask counts"):
        update(Fake(), rows(0), lambda micro: {"loss": 3}, terms)
    with pytest.raises(ShapeError, match=r"mask \[1, 11\] for values \[1, 12\]"):
        update(Fake(), rows(0), counts, lambda e, m: {"loss": Term(values(e(m.tokens), m), m.mask[:, 1:])})


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_nan_stops_before_the_weights_are_touched(stage: int) -> None:
    def poisoned(trained: Engine, micro: Micro) -> dict[str, Term]:
        return {"loss": Term(terms(trained, micro)["loss"].values * math.nan, micro.mask)}

    def poisoned_gradient(trained: Engine, micro: Micro) -> dict[str, Term]:
        loss = terms(trained, micro)["loss"].values
        return {"loss": Term(loss + (loss - loss.detach()).sqrt(), micro.mask)}  # finite, its slope is not

    with engine(stage) as trained, pytest.raises(TrainingError, match="step 0: the term 'loss' is nan"):
        update(trained, rows(0), counts, poisoned)
    with engine(stage) as trained:
        with pytest.raises(TrainingError, match="step 0: the gradient norm is"):
            update(trained, rows(0), counts, poisoned_gradient)
        start = {name: p.detach() for name, p in Toy().named_parameters()}
        for name, tensor in gathered(trained):
            assert torch.equal(tensor, start[name])


def test_rows_whose_values_are_not_finite_are_named() -> None:
    """Micro-batch 1 holds data rows 10, 11, 12; the second and third have NaN, the fourth value does not count."""

    def broken(_: Engine, micro: int) -> dict[str, Term]:
        bad = math.nan if micro else 0.0
        values = torch.tensor([1.0, bad, bad, math.inf], requires_grad=True)
        return {"loss": Term(values, torch.tensor([True] * 3 + [False]), rows=torch.arange(4) + 10 * micro)}

    with pytest.raises(TrainingError) as told:
        update(Fake(), [0, 1], lambda micro: {"loss": 3}, broken)
    assert str(told.value) == "step 0: the term 'loss' is nan: 2 of its values are not finite, of the rows 11, 12"
    names = [f"p.jsonl: row {i}" for i in range(20)]
    with pytest.raises(TrainingError, match=r"of the rows p\.jsonl: row 11, p\.jsonl: row 12$"):
        update(Fake(), [0, 1], lambda micro: {"loss": 3}, broken, names)
    inf = Term(torch.full((40,), math.inf, requires_grad=True), rows=torch.arange(40))
    with pytest.raises(TrainingError, match=r"'loss' is inf: 40 of its .*of the rows 0, 1, 2, 3, 4, 5, 6, 7, …$"):
        update(Fake(), [0], lambda micro: {"loss": 40}, lambda e, m: {"loss": inf})


def test_a_closed_engine_is_freed() -> None:
    for stage in (0, 1, 3):
        module = Toy()
        alive = weakref.ref(module)
        with engine(stage, module=module) as trained:
            update(trained, rows(0), counts, terms)
        del module, trained
        gc.collect()
        assert alive() is None, f"stage {stage} keeps the module"


class Fake:
    """An engine that is not one: forward and plain gradients, for what has nothing to do with DeepSpeed."""

    def __init__(self) -> None:
        self.module = Toy()
        self.steps = 0
        self.device = torch.device("cpu")
        self.grad_norm = self.lr = 0.0

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.module(tokens)

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def step(self) -> None:
        self.steps += 1
