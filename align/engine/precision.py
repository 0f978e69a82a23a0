"""Which arithmetic a step runs in where the recipe leaves that to the machine (``zero.dtype: auto``).

bf16 where the device multiplies it, for it is then several times as fast as fp32 and as good with fp32 masters. A CPU
without such instructions emulates them: its products of bf16 matrices take tens of times as long as those of fp32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

Trained: TypeAlias = Literal["fp32", "bf16"]  # what a step runs in
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # x86, x86 and ARM, as Linux names them


def settled(dtype: Literal["auto", "fp32", "bf16"]) -> Trained:
    """What ``dtype`` means for this run: as it says, or ``auto`` as the weakest of its processes' devices allows."""
    import torch

    from align.engine import dist

    if dtype != "auto":
        return dtype
    able = torch.cuda.is_bf16_supported(including_emulation=False) if torch.cuda.is_available() else cpu_has_bf16()
    return "fp32" if dist.max_number(float(not able)) else "bf16"


def cpu_has_bf16(info: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this processor multiplies bf16; False too where ``info`` is not there to tell (not Linux)."""
    try:
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any(BF16_FLAGS & set(line.split()) for line in lines if line.startswith(("flags", "Features")))
