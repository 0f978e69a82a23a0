"""What this process is at, told on to whoever would have to explain it if the process died."""

from __future__ import annotations

from collections.abc import Callable

_tell: Callable[[str], object] | None = None


def enter(phase: str) -> None:
    """From now on this process is at ``phase``, as a person would say it: ``step 3 of 10``."""
    if _tell is not None:
        _tell(phase)


def tell_to(tell: Callable[[str], object] | None) -> None:
    """Who is told each phase from now on; None: nobody."""
    global _tell
    _tell = tell
