"""A stage in one process, or in several that train together. Whatever fails first is what the user reads."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from align import errors
from align.allocator import keep_freed_memory
from align.config import config, parse
from align.errors import AlignError, LaunchError


@config
class LaunchConfig:
    """How many processes train together, and who starts them."""

    processes: Annotated[int, pydantic.Field(ge=1)] = 1
    kind: Literal["local", "ray"] = "local"

    def __post_init__(self) -> None:
        if self.kind == "ray":
            raise ValueError("launch.kind ray is not there yet; use local, which starts its processes on this machine")


def launch(module: str, recipe: Mapping[str, Any], out: Path, settings: LaunchConfig) -> None:
    """Run a stage: ``module.run(parse(module.Recipe, recipe), out)``, in this process where one is enough.

    Args:
        module: a stage's import path; it offers ``Recipe`` and ``run``.
        recipe: plain values.
        out: the artifact's folder.
        settings: processes.

    Raises:
        AlignError: what the first failing process raised, of its own class, its rank in front.
        LaunchError: a process died, or failed with an error that is not one of ours.
    """
    if settings.processes == 1:
        run_stage(module, recipe, out)
        return
    with tempfile.TemporaryDirectory(prefix="align-launch-") as folder:
        spec = Path(folder) / "spec.json"
        spec.write_text(
            json.dumps({"module": module, "recipe": dict(recipe), "out": str(out), "launcher": os.getpid()})
        )
        code, log = _torchrun(spec, settings.processes)
        if code != 0:
            raise _first_error(Path(folder), settings.processes, code, log)


def run_stage(module: str, recipe: Mapping[str, Any], out: Path) -> None:
    """Import a stage, check its recipe and run it here."""
    keep_freed_memory()
    stage = importlib.import_module(module)
    stage.run(parse(stage.Recipe, recipe, module), out)


def _torchrun(spec: Path, processes: int) -> tuple[int, str]:
    """Exit code of torchrun and what it and the workers said on stderr, which is passed on as it comes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", "align.engine.worker", str(spec)]
    environment = dict(os.environ)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    # Each process would otherwise take every core.
    environment.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // processes, 1)))
    said: list[str] = []
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr
        try:
            for line in child.stderr:
                said.append(line)
                if not _NOISE.search(line):
                    print(line, end="", file=sys.stderr, flush=True)
        except BaseException:
            child.terminate()  # torchrun ends its workers in turn
            raise
    return child.returncode, "".join(said[-200:])


# torchrun's own report of a failure: the error is told once, by us.
_NOISE = re.compile(r"torch[./]distributed[./]elastic|^={10,}|^-{10,}|torchrun|ChildFailedError")


def _first_error(folder: Path, processes: int, code: int, log: str) -> AlignError:
    """The error to show out of the workers' records (see ``worker.py``)."""
    records = {rank: folder / f"rank-{rank}.json" for rank in range(processes)}
    told = {rank: json.loads(path.read_text()) for rank, path in records.items() if path.exists()}
    failed = sorted((record["time"], rank) for rank, record in told.items() if record["state"] == "failed")
    silent = [rank for rank in records if rank not in told]
    if told and silent:
        # It had no chance to leave a record; what the others met (a closed connection) came of that.
        return LaunchError(
            f"rank {silent[0]} of {processes} was killed (by hand, or by the system when memory ran out); "
            "the run goes on from its last checkpoint when started again"
        )
    if not failed:
        tail = log.strip().splitlines()[-1:] or [f"exit code {code}"]
        return LaunchError(f"{processes} processes could not be started: {tail[0]}")
    record = told[failed[0][1]]
    message = f"rank {failed[0][1]} of {processes}: {record['message']}"
    kind = getattr(errors, record["kind"], None)
    if isinstance(kind, type) and issubclass(kind, AlignError):
        return kind(message)
    return LaunchError(message)
