"""What every benchmark shares: runs in processes of their own, the machine's limits, the ``ratio`` lines."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Ratio:
    """One goal: ours over theirs."""

    name: str
    value: float
    goal: float


def conclude(ratios: Sequence[Ratio]) -> int:
    """Print ``ratio NAME 3.4 (goal 5.0)`` for each; the exit code is 1 where one falls short."""
    for ratio in ratios:
        print(f"ratio {ratio.name} {ratio.value:.2f} (goal {ratio.goal})", flush=True)
    return int(any(ratio.value < ratio.goal for ratio in ratios))


def in_a_process(script: str, *args: object) -> dict[str, Any]:
    """Run ``python script args`` and give the JSON object of its last line; its errors are shown and end this."""
    done = subprocess.run([sys.executable, script, *map(str, args)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{Path(script).name} {' '.join(map(str, args))}: exit code {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def in_turn(runs: int, script: str, rivals: Sequence[Sequence[object]]) -> list[list[dict[str, Any]]]:
    """Each rival's arguments run ``runs`` times, A B A B …: drift and neighbours meet them alike."""
    found: list[list[dict[str, Any]]] = [[] for _ in rivals]
    for _ in range(runs):
        for results, args in zip(found, rivals, strict=True):
            results.append(in_a_process(script, *args))
    return found


def median(results: Sequence[dict[str, Any]], key: str) -> float:
    return statistics.median(result[key] for result in results)


def peak_memory() -> float:
    """MB that this process has held at most."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage counts what the parent held before exec
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held / (1e6 if sys.platform == "darwin" else 1e3)


def tokenizer_of(words: int, padding_side: str = "right") -> Any:
    """What trainers of transformers and TRL ask for where documents are token ids already: 0 pads, 1 begins, 2 ends."""
    import tokenizers
    import transformers

    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({f"t{i}": i for i in range(words)}, unk_token="t0"))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="t0", bos_token="t1", eos_token="t2", pad_token="t0",
        padding_side=padding_side,
    )  # fmt: skip


def arithmetic_limit(dtype: str, seconds: float = 2.0) -> float:
    """Operations a second of this machine's best of several matrix products, all threads: [1024, D] x [D, D]."""
    import torch

    best = 0.0
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        for D in (1024, 2048):
            a, b = torch.randn(1024, D).to(getattr(torch, dtype)), torch.randn(D, D).to(getattr(torch, dtype))
            began = time.perf_counter()
            torch.nn.functional.linear(a, b)
            best = max(best, 2 * 1024 * D * D / (time.perf_counter() - began))
    return best


def bandwidth_limit(seconds: float = 2.0) -> float:
    """Bytes a second that all threads read from memory, the best of several sums over 512 MB."""
    import torch

    block = torch.ones(128 * 2**20, dtype=torch.float32)
    best = 0.0
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        block.sum()
        best = max(best, 4 * block.numel() / (time.perf_counter() - began))
    return best
