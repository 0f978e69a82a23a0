"""Runs of ``fit`` that a test kills, as jobs of ``tests.forked``, again and again until they end."""

from __future__ import annotations

import time
from pathlib import Path

from safetensors.torch import save_file

from align.engine.fit import fit
from align.engine.zero_state import gathered
from tests.engine.toy import STEPS, Micro, counts, deal, engine, rows, terms

RUNS = ((0, "fp32"), (0, "bf16"), (3, "fp32"), (3, "bf16"))


def ready() -> None:
    """What a run imports, beside what this file does."""
    import torch.utils.tensorboard

    import align.engine.step
    from align.engine.zero import _deepspeed

    _deepspeed()
    assert all((torch, align))


def job(into: str, pause: float) -> None:
    """Every run one after the other, each into a folder of its own."""

    def batches(step: int) -> list[Micro]:
        time.sleep(pause)  # so that the kill falls anywhere
        return deal(rows(step), [5, 3])

    for stage, dtype in RUNS:
        work = Path(into) / f"{stage}-{dtype}"
        with engine(stage, dtype) as trained:
            fit(trained, batches, counts, terms, STEPS, work=work, label=work.name, save_every=2)
            save_file(dict(gathered(trained)), work / "weights.safetensors")
