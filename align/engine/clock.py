"""Where an iteration's time goes, and how much memory it took."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from align.engine.phase import enter

P = ParamSpec("P")
R = TypeVar("R")


class Clock:
    """Seconds by phase of one iteration, which is named wherever a phase is told on."""

    def __init__(self, iteration: str = "") -> None:
        self.iteration = iteration
        self.seconds: dict[str, float] = {}

    def time(self, phase: str, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call, and add the seconds it took to the phase."""
        enter(f"{self.iteration}, {phase}" if self.iteration else phase)
        began = time.perf_counter()
        result = call(*args, **kwargs)
        _wait_for_device()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - began
        return result


def memory() -> dict[str, float]:
    """Bytes at their highest so far: ``host`` (this process' resident set) and, with a GPU, ``device``."""
    import resource

    import torch

    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    peaks = {"host": float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)}
    if torch.cuda.is_available():
        peaks["device"] = float(torch.cuda.max_memory_allocated())
    return peaks


def _wait_for_device() -> None:
    """A GPU works on after a call returns; what it still does belongs to the phase that asked for it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()
