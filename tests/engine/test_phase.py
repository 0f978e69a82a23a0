"""Who explains a death is told each phase, with the iteration it is of."""

from __future__ import annotations

from align.engine import phase
from align.engine.clock import Clock


def test_phases_are_told_while_somebody_listens() -> None:
    told: list[str] = []
    phase.tell_to(told.append)
    try:
        phase.enter("step 1 of 2")
        clock = Clock("iteration 3 of 4")
        assert clock.time("update", lambda: told[-1]) == "iteration 3 of 4, update"
        Clock().time("save", lambda: None)
    finally:
        phase.tell_to(None)
    phase.enter("nobody hears this")
    assert told == ["step 1 of 2", "iteration 3 of 4, update", "save"]
