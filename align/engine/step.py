"""Micro-batches -> one update. The only file that averages.

Every term is the sum over its counted values divided by the step's global count, over all micro-batches and all
processes. So how tokens are dealt to micro-batches, packs or processes changes nothing but rounding.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from align.engine import dist
from align.errors import ShapeError, TrainingError, nearest

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from align.engine.zero import Engine

M = TypeVar("M")
SHOWN = 8  # rows that a message names


@dataclass(frozen=True, slots=True)
class Term:
    """One summand of the loss, or with weight 0 a metric: values before any averaging."""

    values: Tensor  # any shape
    mask: Tensor | None = None  # bool of the same shape, True = counts; None = all count
    weight: float = 1.0
    rows: Tensor | None = (
        None  # int64 of the same shape: the row of the data of each value, told where it is not finite
    )


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one update did."""

    losses: dict[str, float]  # mean of each term over its counted values, all processes
    grad_norm: float  # before clipping
    lr: float
    counts: dict[str, int]  # counted values of each term, all processes


def update(
    engine: Engine,
    micros: Sequence[M],
    counts: Callable[[M], Mapping[str, int]],
    terms: Callable[[Engine, M], Mapping[str, Term]],
    places: Sequence[str] | None = None,
) -> StepResult:
    """One update of ``engine`` from this process' micro-batches.

    Args:
        engine: the wrapped module.
        micros: this process' share of the step, at least one; processes may hold different numbers of them.
        counts: counted values of a micro-batch by term, known before any forward. Names of weight-0 terms may be
            left out: those are counted as they come.
        terms: forward of one micro-batch, its tensors on the engine's device.
        places: of the rows of the data that ``Term.rows`` counts, for errors; their numbers where None.

    Raises:
        TrainingError: nothing counted, a count that differs from the mask, a value that is not finite.
    """
    totals, rounds = _totals(micros, counts)
    if not any(totals.values()):
        raise TrainingError(f"step {engine.steps}: no counted token in any of {len(micros)} micro-batches")
    sums: dict[str, Tensor] = {}
    seen: dict[str, int] = {}
    weights: dict[str, float] = {}
    held: list[Mapping[str, Term]] = []  # to find a value that is not finite, once the step has come out so
    for index in range(rounds):
        # A process with fewer micro-batches runs its last again for nothing: with split weights every forward and
        # backward is a collective, and the others would wait for it.
        real = index < len(micros)
        micro = to_device(micros[min(index, len(micros) - 1)], engine.device)
        loss: Tensor | float = 0.0
        made = terms(engine, micro)
        for name, term in made.items():
            total, count = _masked_sum(name, term)
            weights[name] = term.weight
            if term.weight:
                if name not in totals:
                    raise TrainingError(f"the term {name!r} has no count{nearest(name, totals)}")
                if totals[name]:
                    loss = loss + total * (term.weight / totals[name] if real else 0.0)
            if real:
                sums[name] = sums[name] + total.detach() if name in sums else total.detach()
                seen[name] = seen.get(name, 0) + count
        if real:
            held.append({name: dataclasses.replace(term, values=term.values.detach()) for name, term in made.items()})
        if isinstance(loss, float):
            raise TrainingError(f"step {engine.steps}: no counted token in any term that is trained: {totals}")
        engine.backward(loss)
    losses, counted = _means(sums, seen)
    for name, value in losses.items():
        if not math.isfinite(value):
            raise TrainingError(f"step {engine.steps}: the term {name!r} is {value}{_where(name, held, places)}")
    for name, weight in weights.items():
        if weight and counted[name] != totals[name]:
            raise TrainingError(
                f"the term {name!r} was said to count {totals[name]} values, its mask counts {counted[name]}"
            )
    engine.step()
    return StepResult(losses, engine.grad_norm, engine.lr, counted)


def _totals(micros: Sequence[M], counts: Callable[[M], Mapping[str, int]]) -> tuple[dict[str, int], int]:
    """Counts of the whole step by term, and how many rounds of forward and backward it takes."""
    if not micros:
        raise TrainingError(f"rank {dist.rank()} got no micro-batch; every process needs one at each step")
    own: dict[str, float] = {}
    for micro in micros:
        for name, count in counts(micro).items():
            own[name] = own.get(name, 0) + count
    totals = {name: round(total) for name, total in dist.sum_numbers(own).items()}
    return totals, int(dist.max_number(len(micros)))


def _masked_sum(name: str, term: Term) -> tuple[Tensor, int]:
    values = term.values
    if term.mask is None:
        return values.sum(), values.numel()
    if term.mask.shape != values.shape:
        raise ShapeError(f"the term {name!r}: mask {list(term.mask.shape)} for values {list(values.shape)}")
    # Not a product: a value that does not count may be infinite.
    return values.where(term.mask, 0.0).sum(), int(term.mask.sum())


def _means(sums: Mapping[str, Tensor], seen: Mapping[str, int]) -> tuple[dict[str, float], dict[str, int]]:
    """Mean and count of each term over all processes, in one collective."""
    flat = {f"sum/{name}": float(value) for name, value in sums.items()}
    flat |= {f"count/{name}": float(count) for name, count in seen.items()}
    total = dist.sum_numbers(flat)
    counted = {name: round(total[f"count/{name}"]) for name in sums}
    return {name: total[f"sum/{name}"] / counted[name] for name in sums if counted[name]}, counted


def _where(name: str, held: Sequence[Mapping[str, Term]], places: Sequence[str] | None) -> str:
    """How many values of a term are not finite, over all processes, and of which rows of the data where it is known."""
    number, rows = 0, set()
    for term in (made[name] for made in held if name in made):
        wrong = ~term.values.isfinite() if term.mask is None else ~term.values.isfinite() & term.mask
        number += int(wrong.sum())
        if term.rows is not None:
            rows |= set(term.rows[wrong].tolist())
    told = dist.all_gather_json({"number": number, "rows": sorted(rows)})
    total = sum(one["number"] for one in told)
    every = sorted({row for one in told for row in one["rows"]})
    few = ", ".join(places[row] if places else str(row) for row in every[:SHOWN])
    which = f", of the rows {few}{', …' * (len(every) > SHOWN)}" if every else ""
    return f": {total} of its values are not finite{which}" if total else ""


def to_device(micro: Any, device: torch.device) -> Any:
    """A record with its tensors on ``device``; the record itself where they are already there."""
    import torch

    if isinstance(micro, torch.Tensor):
        return micro.to(device, non_blocking=True)
    if device.type == "cpu":
        return micro
    if dataclasses.is_dataclass(micro) and not isinstance(micro, type):
        moved = {f.name: to_device(getattr(micro, f.name), device) for f in dataclasses.fields(micro)}
        return dataclasses.replace(micro, **moved)
    if isinstance(micro, tuple | list):
        return type(micro)(to_device(part, device) for part in micro)
    if isinstance(micro, dict):
        return {key: to_device(part, device) for key, part in micro.items()}
    return micro
