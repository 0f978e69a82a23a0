"""A whole rejection-sampling job on random models of a few kilobytes, and hands that stop its actors on the way."""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from align.artifacts import work_dir, write_jsonl
from align.data.tokenizer import train_tokenizer
from align.model.config import LlamaConfig
from align.model.saving import save_policy, save_scorer
from tests.data.corpus import WORDS, corpus
from tests.fakes import tiny_llama, tiny_scorer

SMALL = LlamaConfig(vocab_size=400, dim=16, n_layers=1, n_heads=2, n_kv_heads=1, ffn_dim=32, max_seq_len=256)
PROMPTS, SAMPLES, CHUNK = 40, 16, 32
CHUNKS = 2 * PROMPTS * SAMPLES // CHUNK  # of a job: two policies


def make_models(root: Path) -> None:
    """Two policies, two reward models and prompts."""
    train_tokenizer(corpus(), SMALL.vocab_size, root / "tokenizer.model")
    for seed, name in enumerate(("v1", "v2", "helpful", "safety")):
        if name.startswith("v"):
            save_policy(tiny_llama(seed, SMALL), SMALL, root / name)
        else:
            save_scorer(tiny_scorer(seed, SMALL), SMALL, root / name)
        shutil.copy(root / "tokenizer.model", root / name / "tokenizer.model")
    rows = [(f"p{i}", " ".join(WORDS[(i + k) % len(WORDS)] for k in range(2 + i % 5))) for i in range(PROMPTS)]
    write_jsonl(
        root / "prompts.jsonl",
        [{"id": i, "prompt": [{"role": "user", "content": text}], "kind": "helpful"} for i, text in rows],
    )


def recipe(root: Path, out: Path, **pool: Any) -> dict[str, Any]:
    """Plain values of the job's recipe, ``out`` among them."""
    settings = {"kind": "ray", "actors": 2, "slots": 32, "chunk": CHUNK, "timeout_s": 120.0} | pool
    return {
        "stage": "rejection",
        "out": str(out),
        "policies": [str(root / "v1"), str(root / "v2")],
        "helpful": str(root / "helpful"),
        "safety": str(root / "safety"),
        "threshold": 0.15,
        "prompts": str(root / "prompts.jsonl"),
        "samples": SAMPLES,
        "temperature": {"grid": [0.8], "prompts": 1, "samples": SAMPLES},
        "max_new_tokens": 48,
        "pool": settings,
    }


def dataset(out: Path) -> dict[str, bytes]:
    """The job's data by name."""
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.jsonl"))}


def journalled(out: Path) -> list[bytes]:
    """The chunks written down so far, whole lines only."""
    files = sorted(work_dir(out).rglob("*.jsonl"), key=lambda path: (path.stat().st_mtime_ns, path.name))
    lines = [line for path in files for line in path.read_bytes().splitlines(keepends=True)]
    return [line for line in lines if re.match(rb"\[\[\d", line) and line.endswith(b"\n")]


def descendants(root: int) -> list[int]:
    """Processes below a process."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    found = [root]
    for pid in found:  # grows while it is walked
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def actors_below(root: int) -> list[int]:
    """The actors among the processes below a process."""
    found = []
    for pid in descendants(root):
        try:
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::Worker") and alive(pid):
                found.append(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def worked(pid: int) -> int:
    """Clock ticks that a process has run."""
    try:
        return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
    except (FileNotFoundError, ProcessLookupError):
        return -1


def until(what: Callable[[], Any], seconds: float = 90.0) -> Any:
    """Wait for something to be true; fails after a while."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.01)
    raise AssertionError(f"not within {seconds} s: {what}")


@contextmanager
def struck(out: Path, root: int, number: int, times: int) -> Iterator[list[int]]:
    """While the block runs, send a signal to an actor, ``times`` times, spread over the job; gives who was struck."""
    hit: list[int] = []

    def strike() -> None:
        for blow in range(times):
            until(lambda blow=blow: len(journalled(out)) >= (blow + 1) * CHUNKS // (times + 2))
            # who has worked most is in the middle of work, not of coming up
            pid = max(until(lambda: [pid for pid in actors_below(root) if pid not in hit]), key=worked)
            os.kill(pid, number)
            hit.append(pid)

    thread = threading.Thread(target=strike, name="striker")
    thread.start()
    try:
        yield hit
    finally:
        thread.join()
        for pid in hit:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
