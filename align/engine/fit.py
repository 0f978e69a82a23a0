"""The loop that pretraining, SFT and reward models share: batches by step, update, log, save, resume."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from align.engine import checkpoint, dist, phase
from align.engine.metrics import Metrics
from align.errors import TrainingError

if TYPE_CHECKING:
    from align.engine.step import Term
    from align.engine.zero import Engine

M = TypeVar("M")


def fit(
    engine: Engine,
    batches: Callable[[int], Sequence[M]],
    counts: Callable[[M], Mapping[str, int]],
    terms: Callable[[Engine, M], Mapping[str, Term]],
    steps: int,
    *,
    work: Path,
    label: str,
    save_every: int,
    measure: Callable[[int], Mapping[str, float]] | None = None,
    places: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Train for ``steps`` updates, going on from ``work/checkpoints`` where there is one.

    Args:
        engine: freshly wrapped; a checkpoint's state replaces its own.
        batches: this process' micro-batches of a step. Addressed by the step alone, so a resumed run sees the same.
        counts: see :func:`align.engine.step.update`.
        terms: see :func:`align.engine.step.update`.
        steps: of the whole run.
        work: folder of checkpoints and metrics.
        label: the run's name in its progress lines.
        save_every: updates between checkpoints; 0 saves only when stopped.
        measure: called on every process with the number of updates done; what it tells is logged with the update.
        places: see :func:`align.engine.step.update`.

    Returns:
        every term of the last update, ``steps``, and each term's mean over the last tenth of the run as ``NAME_late``.

    Raises:
        TrainingError: see ``update``; or SIGTERM came: the state is saved and the same call goes on from there.
    """
    from align.engine.step import update

    folder = work / "checkpoints"
    resumed = checkpoint.load(folder, {"engine": engine})
    start, extra = resumed if resumed else (0, {})
    late: dict[str, list[float]] = extra.get("late", {})
    last: dict[str, float] = extra.get("last", {})
    with Metrics(work, steps, label, start) as metrics, stop_signal() as stopped:
        for step in range(start, steps):
            phase.enter(f"step {step + 1} of {steps}")
            began = time.perf_counter()
            result = update(engine, batches(step), counts, terms, places)
            last = {**result.losses, "grad_norm": result.grad_norm, "lr": result.lr}
            if step >= steps - max(steps // 10, 1):
                for name, value in result.losses.items():
                    late.setdefault(name, []).append(value)
            seconds = time.perf_counter() - began
            metrics.log(step, last | dict(measure(step + 1) if measure else {}))
            counted = max(result.counts.values())
            metrics.timing(step, seconds=seconds, counted_per_second=counted / seconds)
            stop = dist.max_number(float(stopped())) > 0 and step + 1 < steps
            if stop or (save_every and (step + 1) % save_every == 0 and step + 1 < steps):
                phase.enter(f"saving after step {step + 1} of {steps}")
                metrics.sync()
                checkpoint.save(folder, step + 1, {"engine": engine}, {"late": late, "last": last})
            if stop:
                raise TrainingError(
                    f"{label}: stopped by SIGTERM at step {step + 1} of {steps}; saved, run again to go on"
                )
    means = {f"{name}_late": sum(values) / len(values) for name, values in late.items()}
    return {"steps": steps, **last, **means}


@contextmanager
def stop_signal() -> Iterator[Callable[[], bool]]:
    """Within: SIGTERM does not kill, it makes the yielded function true. Elsewhere than in the main thread: never."""
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield came.is_set
        return
    before = signal.signal(signal.SIGTERM, lambda *_: came.set())
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
