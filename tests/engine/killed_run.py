"""Runs of ``fit`` that a test kills: ``python -m tests.engine.killed_run FOLDER``, again and again until it
ends.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from safetensors.torch import save_file

from align.engine.fit import fit
from align.engine.zero_state import gathered
from tests.engine.toy import STEPS, Micro, counts, deal, engine, rows, terms

RUNS = ((0, "fp32"), (0, "bf16"), (3, "fp32"), (3, "bf16"))


def main(folder: Path, pause: float) -> None:
    def batches(step: int) -> list[Micro]:
        time.sleep(pause)  # so that the kill falls anywhere
        return deal(rows(step), [5, 3])

    for stage, dtype in RUNS:
        work = folder / f"{stage}-{dtype}"
        with engine(stage, dtype) as trained:
            fit(trained, batches, counts, terms, STEPS, work=work, label=work.name, save_every=2)
            save_file(dict(gathered(trained)), work / "weights.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), pause=0.05)
