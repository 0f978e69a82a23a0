"""Stages for the tests of ``launch``: each process writes a file, one of them fails in a given way."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Literal

from align.config import config
from align.engine import dist, phase
from align.errors import DataError


@config
class Recipe:
    stage: Literal["launched"]
    fail: Literal["no", "data", "bug", "killed", "hang"] = "no"


def run(recipe: Recipe, out: Path) -> None:
    dist.setup()
    total = dist.sum_numbers({"ranks": dist.rank() + 1})["ranks"]
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{dist.rank()}.txt").write_text(f"{total} of {dist.world_size()} {os.getpid()}")
    dist.barrier()
    phase.enter(f"the part that rank {dist.rank()} plays")
    if dist.rank() == 1 and recipe.fail == "data":
        raise DataError("rows.jsonl:3: found nothing")
    if dist.rank() == 1 and recipe.fail == "bug":
        raise ZeroDivisionError("by zero")
    if dist.rank() == 1 and recipe.fail == "killed":
        time.sleep(2)  # as it would be: a phase that is just entered may not have been told yet on a cluster
        os.kill(os.getpid(), signal.SIGKILL)
    if recipe.fail == "hang":
        time.sleep(300)
    print("said on stderr", file=sys.stderr)
    dist.barrier()  # rank 0 waits here for the one that failed
