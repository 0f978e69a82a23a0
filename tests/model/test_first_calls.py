from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from align.model.first_calls import FUNCTIONS, settle_first_calls

TABLE = """
import zlib, torch
from align.model.attention import rope_table
torch.set_num_threads(2)
cos, sin = rope_table(8, 10000.0, 640, torch.device("cpu"))
print(zlib.crc32(cos.numpy().tobytes()), zlib.crc32(sin.numpy().tobytes()))
"""


def test_each_function_takes_one_number_of_either_width() -> None:
    settle_first_calls()
    half = torch.full((1,), 0.5, dtype=torch.float64)
    assert all(function(half).isfinite().all() for function in FUNCTIONS)
    assert len(set(FUNCTIONS)) == len(FUNCTIONS)


@pytest.mark.slow  # without the calls one process in twenty differed, on a processor that MKL has such kernels for
@pytest.mark.timeout(900)
def test_every_process_has_the_same_rotary_table() -> None:
    found = {
        subprocess.run([sys.executable, "-c", TABLE], capture_output=True, text=True, check=True).stdout
        for _ in range(80)
    }
    assert len(found) == 1
