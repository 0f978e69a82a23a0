"""The CPU kernels of ``kernels.cpp``: compiled when first needed, kept under a name that says of what and for what.

The name is a digest of the source, the compiler, its flags and the processor, so another version or another machine
with the same home compiles its own; a finished file takes its place by a rename, so a kill leaves none half written.
``ALIGN_KERNELS=0`` does without them.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("kernels.cpp")
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-std=c++17", "-shared", "-fPIC")
POINTER, COUNT, REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
ARGUMENTS: dict[str, list[Any]] = {
    "rms_norm": [POINTER] * 4 + [COUNT] * 2 + [REAL],
    "rms_norm_backward": [POINTER] * 6 + [COUNT] * 2,
    "swiglu": [POINTER] * 3 + [COUNT],
    "swiglu_backward": [POINTER] * 5 + [COUNT],
    "heads_apart": [POINTER] * 6 + [COUNT] * 4 + [REAL],
    "heads_together": [POINTER] * 6 + [COUNT] * 4 + [REAL],
    "softmax": [POINTER] * 3 + [COUNT] * 3,
    "softmax_backward": [POINTER] * 2 + [COUNT] * 2,
}


@lru_cache(maxsize=1)
def kernels() -> dict[str, Callable[..., None]] | None:
    """Every kernel by name and dtype (``swiglu_bf16``); None where they cannot be compiled, which a warning tells."""
    if os.environ.get("ALIGN_KERNELS", "1") == "0":
        return None
    try:
        library = ctypes.CDLL(str(compiled()))
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        reason = error.stderr.strip().splitlines()[-1] if isinstance(error, subprocess.CalledProcessError) else error
        warnings.warn(
            f"align's CPU kernels could not be compiled ({reason}): training goes on in plain PyTorch, slower",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    found: dict[str, Callable[..., None]] = {}
    for name, arguments in ARGUMENTS.items():
        for dtype in ("fp32", "bf16"):
            kernel = getattr(library, f"{name}_{dtype}")
            kernel.argtypes, kernel.restype = arguments, None
            found[f"{name}_{dtype}"] = kernel
    return found


def compiled() -> Path:
    """The shared library, compiled if it is not there yet.

    Raises:
        OSError: no compiler, or no folder to write to.
        subprocess.CalledProcessError: the compiler refused; its words are in ``stderr``.
    """
    compiler = _compiler()
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    told = "\0".join((SOURCE.read_text(), version, *FLAGS, _processor()))
    library = _folder() / f"kernels-{hashlib.sha256(told.encode()).hexdigest()[:16]}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            made = Path(folder) / library.name
            command = [compiler, *FLAGS, str(SOURCE), "-o", str(made)]
            try:
                subprocess.run([*command, "-fopenmp"], capture_output=True, text=True, check=True)
            except subprocess.CalledProcessError:  # a compiler without OpenMP: one thread
                subprocess.run(command, capture_output=True, text=True, check=True)
            made.replace(library)
    return library


def _compiler() -> str:
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        found = shutil.which(name) if name else None
        if found:
            return found
    raise FileNotFoundError("found no C++ compiler: none of $CXX, c++, g++, clang++ is on PATH")


def _processor() -> str:
    """What ``-march=native`` looks at."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        wanted = ("model name", "flags", "Features")
        return "\n".join(sorted({line for line in info.read_text().splitlines() if line.startswith(wanted)}))
    return f"{platform.machine()} {platform.processor()} {platform.platform()}"


def _folder() -> Path:
    """The user's cache; nobody else may write there, for what lies in it is run."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "align"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    held = folder.stat()
    if hasattr(os, "getuid") and (held.st_uid != os.getuid() or held.st_mode & 0o022):
        raise PermissionError(f"{folder} is not this user's alone to write to")
    return folder
