"""Workers on this machine, started by torchrun; each leaves its last words and its phase in a file (``worker.py``)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from align.engine.verdict import Heard, verdict

SAID = "said"  # the pipe for the workers' stderr, beside the spec
JOIN = 5.0  # seconds to wait for their last lines
_SIGNAL = re.compile(r"Signal \d+ \((SIG\w+)\) received")


def run_here(module: str, recipe: Mapping[str, Any], out: Path, processes: int) -> None:
    """Run a stage in several processes; see :func:`align.engine.launch.launch`."""
    with tempfile.TemporaryDirectory(prefix="align-launch-") as name:
        folder = Path(name)
        spec = folder / "spec.json"
        spec.write_text(
            json.dumps({"module": module, "recipe": dict(recipe), "out": str(out), "launcher": os.getpid()})
        )
        with _printed(folder / SAID):
            code, log = _torchrun(spec, processes)
        if code != 0:
            heard = _heard(folder, processes, log)
            if not heard.phases:  # nobody came up to say why
                print(log, end="", file=sys.stderr, flush=True)
            raise verdict(heard, (log.strip().splitlines() or [f"exit code {code}"])[-1])


@contextmanager
def _printed(pipe: Path) -> Iterator[None]:
    """Print what the workers write on stderr: through a pipe of theirs, since torchrun has a say of its own."""
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(pipe, os.O_WRONLY)  # so that there is no end before the last worker's
    os.set_blocking(reader, True)

    def pump() -> None:
        with os.fdopen(reader, errors="backslashreplace") as lines:
            for line in lines:
                print(line, end="", file=sys.stderr, flush=True)

    thread = threading.Thread(target=pump, name="align-stderr", daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.close(writer)
        thread.join(JOIN)


def _torchrun(spec: Path, processes: int) -> tuple[int, str]:
    """Exit code of torchrun and its own report, which is for us: the error is told once."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", "align.engine.worker", str(spec)]
    environment = dict(os.environ)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    # Each process would otherwise take every core.
    environment.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // processes, 1)))
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr
        try:
            said = deque(child.stderr, maxlen=200)
        except BaseException:
            child.terminate()  # torchrun ends its workers in turn
            raise
    return child.returncode, "".join(said)


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
