"""All that a run needs to go on, written whole or not at all: safetensors and JSON, never a pickle.

    FOLDER/step-00000200/state.json                     step, extra, engines and their files; written last
    FOLDER/step-00000200/ENGINE-00000.safetensors …     fp32 masters and moments, whole tensors

Whole tensors, not a process' share: a run may go on at another ZeRO stage or number of processes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.engine import dist
from align.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor

    from align.engine.zero import Engine

FORMAT = 1
SHARD_BYTES = 2 * 1024**3
_NAME = re.compile(r"step-(\d{8})")


def save(folder: Path, step: int, engines: Mapping[str, Engine], extra: Mapping[str, Any], keep: int = 2) -> None:
    """Write a checkpoint; keep the ``keep`` newest. All processes must call; rank 0 writes.

    A kill at any moment leaves the checkpoints before it, and at most a ``.partial`` folder that the next save removes.

    Args:
        folder: of all checkpoints of this run.
        step: updates done.
        engines: by name.
        extra: whatever else the run needs, as JSON.
        keep: at least 1.
    """
    partial = folder / f"step-{step:08d}.partial"
    if dist.is_main():
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob("*.partial"):
            shutil.rmtree(stale)
        partial.mkdir()
    described = {name: _write(partial, name, engine) for name, engine in engines.items()}
    if dist.is_main():
        state = {"format": FORMAT, "step": step, "engines": described, "extra": dict(extra)}
        _write_synced(partial / "state.json", json.dumps(state, indent=1).encode())
        whole = folder / f"step-{step:08d}"
        if whole.exists():
            shutil.rmtree(whole)
        partial.rename(whole)
        _sync_folder(folder)
        for old in _steps(folder)[:-keep]:
            # Renamed first: a half-deleted folder must not look like a checkpoint.
            shutil.rmtree(old.rename(old.with_suffix(".partial")))
    dist.barrier()


def latest(folder: Path) -> int | None:
    """The newest checkpoint's step, or None."""
    found = _steps(folder)
    return _step(found[-1]) if found else None


def load(folder: Path, engines: Mapping[str, Engine], step: int | None = None) -> tuple[int, dict[str, Any]] | None:
    """Put the engines where the checkpoint left them.

    Args:
        folder: of all checkpoints of this run.
        engines: by the names they were saved under.
        step: which one; the newest where None.

    Returns:
        its step and ``extra``, or None where there is no checkpoint.

    Raises:
        ArtifactError: other engines, a file or tensor missing, another shape.
    """
    from align.engine.zero_state import load_state

    step = latest(folder) if step is None else step
    if step is None:
        return None
    whole = folder / f"step-{step:08d}"
    state = read_state(whole)
    if sorted(state["engines"]) != sorted(engines):
        raise ArtifactError(f"{whole}: holds engines {sorted(state['engines'])}, the run has {sorted(engines)}")
    for name, engine in engines.items():
        described = state["engines"][name]
        load_state(engine, _Reader(whole, described["tensors"]), described["steps"])
    dist.barrier()
    return int(state["step"]), state["extra"]


def read_state(whole: Path) -> dict[str, Any]:
    """``state.json`` of one checkpoint.

    Raises:
        ArtifactError: missing, not JSON, or of another format.
    """
    path = whole / "state.json"
    try:
        state = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: missing; the checkpoint is incomplete") from error
    except json.JSONDecodeError as error:
        raise ArtifactError(f"{path}: not JSON: {error}") from error
    if state.get("format") != FORMAT:
        raise ArtifactError(f"{path}: format {state.get('format')}, this version reads {FORMAT}")
    assert isinstance(state, dict)
    return state


class _Reader:
    """Tensors by key out of several files, each opened once."""

    def __init__(self, folder: Path, files: Mapping[str, str]) -> None:
        self.folder = folder
        self.files = files
        self.open: dict[str, Any] = {}

    def __call__(self, key: str) -> Tensor:
        from safetensors import SafetensorError, safe_open

        if key not in self.files:
            raise ArtifactError(f"{self.folder}: no tensor {key}; the checkpoint is of another model")
        file = self.files[key]
        try:
            if file not in self.open:
                self.open[file] = safe_open(self.folder / file, framework="pt")
            tensor: Tensor = self.open[file].get_tensor(key)
        except (OSError, SafetensorError) as error:
            raise ArtifactError(f"{self.folder / file}: {key}: {error}") from error
        return tensor


def _write(partial: Path, name: str, engine: Engine) -> dict[str, Any]:
    """The engine's tensors in shards; which file holds which. Collective: every process walks, rank 0 writes."""
    from align.engine.zero_state import state_tensors

    files: dict[str, str] = {}
    shard: dict[str, Tensor] = {}
    size, number = 0, 0
    for key, tensor in state_tensors(engine):
        if not dist.is_main():
            continue
        shard[key] = tensor.contiguous()
        files[key] = f"{name}-{number:05d}.safetensors"
        size += tensor.nbytes
        if size >= SHARD_BYTES:
            _write_shard(partial / files[key], shard)
            shard, size, number = {}, 0, number + 1
    if shard:
        _write_shard(partial / f"{name}-{number:05d}.safetensors", shard)
    return {"steps": engine.steps, "tensors": files}


def _write_shard(path: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    save_file(tensors, path)
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _steps(folder: Path) -> list[Path]:
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=_step)


def _step(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match
    return int(match[1])
