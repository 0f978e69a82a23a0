"""Workers on this machine, started by torchrun; each leaves its last words and its phase in a file (``worker.py``)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from align.engine.verdict import Heard, verdict

# torchrun's own report of a failure: the error is told once, by us.
_NOISE = re.compile(r"torch[./]distributed[./]elastic|^={10,}|^-{10,}|torchrun|ChildFailedError")
_SIGNAL = re.compile(r"Signal \d+ \((SIG\w+)\) received")


def run_here(module: str, recipe: Mapping[str, Any], out: Path, processes: int) -> None:
    """Run a stage in several processes; see :func:`align.engine.launch.launch`."""
    with tempfile.TemporaryDirectory(prefix="align-launch-") as folder:
        spec = Path(folder) / "spec.json"
        spec.write_text(
            json.dumps({"module": module, "recipe": dict(recipe), "out": str(out), "launcher": os.getpid()})
        )
        code, log = _torchrun(spec, processes)
        if code != 0:
            raise verdict(_heard(Path(folder), processes, log), (log.strip().splitlines() or [f"exit code {code}"])[-1])


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


def _heard(folder: Path, processes: int, log: str) -> Heard:
    heard = Heard(processes)
    for rank in range(processes):
        record, phase = folder / f"rank-{rank}.json", folder / f"rank-{rank}.phase"
        if phase.exists():
            heard.phases[rank] = phase.read_text().strip()
        if record.exists():
            heard.records[rank] = json.loads(record.read_text())
        elif phase.exists():
            # It had no chance to leave a record; what the others met (a closed connection) came of that.
            heard.dead[rank] = "by hand, or by the system when memory ran out"
    signals = _SIGNAL.findall(log)
    if signals and heard.dead:
        first = min(heard.dead)
        heard.dead[first] = f"{signals[0]}: {heard.dead[first]}" if signals[0] == "SIGKILL" else signals[0]
    return heard
