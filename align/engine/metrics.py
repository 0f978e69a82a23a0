"""What a run says while it goes: files for machines, a bar or a line now and then for people.

``metrics.jsonl`` holds values that a run and its resumption share to the last byte; times go to ``timings.jsonl``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from align.engine import dist
from align.errors import ArtifactError, RecipeError
from align.progress import LINE_EVERY, bar, clock

if TYPE_CHECKING:
    from rich.progress import Progress


WANDB = "ALIGN_WANDB"  # names a project on Weights & Biases; the values go there too where it is set


class Metrics:
    """Open for one run of a stage. Only rank 0 writes and talks; on the others every call does nothing.

    Args:
        folder: where ``metrics.jsonl``, ``timings.jsonl`` and ``tensorboard/`` go.
        total: steps of the run.
        label: in front of every line.
        start: steps already done. Later rows, of a run that died after its last checkpoint, are cut off.
    """

    def __init__(self, folder: Path, total: int, label: str, start: int = 0) -> None:
        self.total = total
        self.label = label
        self.start = start
        self.writes = dist.is_main()
        self._began = time.monotonic()
        self._said = self._began
        self._bar: Progress | None = None
        if not self.writes:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._mirror = _wandb_run(folder, label)
        for name in ("metrics.jsonl", "timings.jsonl"):
            _truncate(folder / name, start)
        self._metrics = (folder / "metrics.jsonl").open("a")
        self._timings = (folder / "timings.jsonl").open("a")
        self._events = _event_writer(folder / "tensorboard", start)
        if sys.stderr.isatty():
            self._bar, self._task = bar(label, total, start)

    def __enter__(self) -> Metrics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Deterministic values of update ``step`` (from 0)."""
        if not self.writes:
            return
        self._metrics.write(json.dumps({"step": step, **values}) + "\n")
        self._metrics.flush()
        for name, value in values.items():
            self._events.add_scalar(name, value, step)
        if self._mirror is not None:
            self._mirror.log(dict(values), step=step)
        self._say(step, values)

    def timing(self, step: int, **values: float) -> None:
        """Seconds, rates and bytes of update ``step``: what another run of the same recipe may have otherwise."""
        if not self.writes:
            return
        self._timings.write(json.dumps({"step": step, **values}) + "\n")
        self._timings.flush()
        for name, value in values.items():
            self._events.add_scalar(f"time/{name}", value, step)
        if self._mirror is not None:
            self._mirror.log({f"time/{name}": value for name, value in values.items()}, step=step)

    def sync(self) -> None:
        """Put what was logged on the disk, before a checkpoint that counts on it."""
        if self.writes:
            for file in (self._metrics, self._timings):
                file.flush()
                os.fsync(file.fileno())
            self._events.flush()

    def close(self) -> None:
        """End the bar and close the files."""
        if not self.writes:
            return
        if self._bar is not None:
            self._bar.stop()
        self._metrics.close()
        self._timings.close()
        self._events.close()
        if self._mirror is not None:
            self._mirror.finish()
        self.writes = False

    def _say(self, step: int, values: Mapping[str, float]) -> None:
        now = time.monotonic()
        done = step + 1
        shown = ", ".join(f"{name} {value:.4g}" for name, value in list(values.items())[:3])
        if self._bar is not None:
            self._bar.update(self._task, completed=done, shown=shown)
        elif now - self._said >= LINE_EVERY or done == self.total:
            rate = (done - self.start) / max(now - self._began, 1e-9)
            left = (self.total - done) / rate
            print(
                f"{self.label}: step {done}/{self.total}, {shown}, {rate:.3g} steps/s, {clock(left)} left",
                file=sys.stderr,
                flush=True,
            )
            self._said = now


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Rows of a ``metrics.jsonl`` or ``timings.jsonl``.

    Raises:
        ArtifactError: a line that is not JSON.
    """
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ArtifactError(f"{path}:{number}: not JSON: {error}") from error
    return rows


def _truncate(path: Path, start: int) -> None:
    """Keep the rows of steps before ``start``; a last line torn by a kill goes with the rest."""
    if not path.exists():
        return
    kept = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n") or json.loads(line)["step"] >= start:
                break
            kept += len(line)
    os.truncate(path, kept)


def _event_writer(folder: Path, start: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=start or None, max_queue=100)


def use_wandb(project: str) -> None:
    """Have every stage that starts from now on, in this process or below it, log to a project too.

    Raises:
        RecipeError: the package is not installed.
    """
    if importlib.util.find_spec("wandb") is None:
        raise RecipeError("--wandb: the package wandb is not installed; `pip install 'align[wandb]'` brings it")
    os.environ[WANDB] = project


def _wandb_run(folder: Path, label: str) -> Any:
    """A run of the project that the environment names, the same one after a resume; None where it names none."""
    project = os.environ.get(WANDB)
    if not project:
        return None
    use_wandb(project)
    import wandb

    digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
    return wandb.init(project=project, name=label, id=f"{label}-{digest}", resume="allow", dir=str(folder))
