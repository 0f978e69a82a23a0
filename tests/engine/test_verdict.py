"""Which error is told, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from align.engine.verdict import Heard, verdict
from align.errors import DataError, LaunchError


def words(state: str, time: float = 0.0, kind: str = "RuntimeError", message: str = "gloo: closed") -> dict[str, Any]:
    return {"state": state, "time": time, "kind": kind, "message": message}


@pytest.mark.parametrize(
    ("heard", "kind", "told"),
    [
        (
            Heard(2, {0: words("lost")}, {0: "step 4 of 9", 1: "step 3 of 9"}, {1: "SIGKILL"}),
            LaunchError,
            "rank 1 of 2 was killed in step 3 of 9 (SIGKILL); rank 0 lost its connection in step 4 of 9; "
            "the same command goes on from the last checkpoint",
        ),
        (
            Heard(3, {0: words("stopped"), 2: words("failed", 1.0)}, {}, {1: "memory"}),
            LaunchError,
            "rank 1 of 3 was killed (memory); the same command goes on from the last checkpoint",
        ),
        (
            Heard(3, {0: words("lost", 1.0), 1: words("failed", 9.0, "DataError", "a:3"), 2: words("failed", 9.5)}),
            DataError,
            "rank 1 of 3: a:3",
        ),
        (
            Heard(2, {0: words("failed", 1.0, "ZeroDivisionError", "by zero")}, {0: "step 1 of 2"}),
            LaunchError,
            "rank 0 of 2: by zero in step 1 of 2",
        ),
        (Heard(2, {0: words("lost"), 1: words("stopped")}), LaunchError, "rank 0 of 2: gloo: closed"),
        (Heard(2), LaunchError, "2 processes could not be started: no room"),
    ],
)  # fmt: skip
def test_the_first_cause_is_told(heard: Heard, kind: type[Exception], told: str) -> None:
    error = verdict(heard, "no room")
    assert type(error) is kind
    assert str(error) == told
