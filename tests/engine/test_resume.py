"""A run that is killed with SIGKILL goes on to the same bytes; one that is asked to stop saves first."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from align.engine import checkpoint
from align.engine.fit import fit
from align.errors import TrainingError
from tests.engine import killed_run
from tests.engine.toy import STEPS, Micro, counts, deal, engine, rows, terms
from tests.forked import Forks


def test_killed_at_random_moments_it_ends_in_the_same_bytes(tmp_path: Path) -> None:
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    seed = int.from_bytes(os.urandom(4))
    chance = random.Random(seed)
    with Forks("tests.engine.killed_run") as runs:
        runs.start(str(undisturbed), 0.0)
        assert runs.ended() == 0
        # Once at stage 0 and once at stage 3, each after a random step and a random part of the next.
        for stage, dtype in (chance.choice(killed_run.RUNS[:2]), chance.choice(killed_run.RUNS[2:])):
            log = disturbed / f"{stage}-{dtype}" / "metrics.jsonl"
            after = chance.randint(1, STEPS - 1)
            child = runs.start(str(disturbed), 0.05)
            while not (log.exists() and log.read_bytes().count(b"\n") >= after):
                os.kill(child, 0)  # an error where it ended by itself
                time.sleep(0.005)
            time.sleep(chance.random() * 0.1)
            os.kill(child, signal.SIGKILL)
            assert runs.ended() == -signal.SIGKILL, f"it ended by itself, seed {seed}"
        runs.start(str(disturbed), 0.0)
        assert runs.ended() == 0
    for stage, dtype in killed_run.RUNS:
        for name in ("metrics.jsonl", "weights.safetensors"):
            expected = (undisturbed / f"{stage}-{dtype}" / name).read_bytes()
            assert (disturbed / f"{stage}-{dtype}" / name).read_bytes() == expected, (stage, dtype, name, seed)


def test_sigterm_saves_and_the_same_call_goes_on(tmp_path: Path) -> None:
    def batches(step: int) -> list[Micro]:
        if step == 2 and checkpoint.latest(tmp_path / "checkpoints") is None:
            signal.raise_signal(signal.SIGTERM)
        return deal(rows(step), [8])

    def run() -> dict[str, float]:
        with engine(0) as trained:
            return fit(trained, batches, counts, terms, STEPS, work=tmp_path, label="toy", save_every=0)

    with pytest.raises(TrainingError, match=r"stopped by SIGTERM at step 3 of 6; saved"):
        run()
    assert checkpoint.latest(tmp_path / "checkpoints") == 3
    metrics = run()
    with engine(0) as straight:
        again = fit(
            straight, lambda step: deal(rows(step), [8]), counts, terms, STEPS,
            work=tmp_path / "straight", label="toy", save_every=0,
        )  # fmt: skip
    assert metrics == again
    assert (tmp_path / "metrics.jsonl").read_bytes() == (tmp_path / "straight" / "metrics.jsonl").read_bytes()
