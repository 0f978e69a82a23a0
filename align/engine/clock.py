"""Where an iteration's time goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Clock:
    """Seconds by phase of one iteration."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def time(self, phase: str, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call, and add the seconds it took to the phase."""
        began = time.perf_counter()
        result = call(*args, **kwargs)
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - began
        return result
