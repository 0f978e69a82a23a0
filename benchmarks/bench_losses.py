"""Token log-probabilities, forward and backward: ours against TRL's and PyTorch's, in one run.

Prints medians of five in turn and, last, a line ``ratio NAME value (goal …)``; exits 1 where a goal is missed.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from trl.trainer.utils import selective_log_softmax

import align  # noqa: F401  # before torch: it sets how OpenMP's threads wait
from align.losses import token_logprobs

ROWS, TOKENS, VOCAB, RUNS, GOAL = 1, 512, 32000, 5, 1.5


def seconds(function: Callable[[Tensor, Tensor], Tensor], logits: Tensor, tokens: Tensor) -> float:
    """One forward and backward."""
    logits.grad = None
    began = time.perf_counter()
    function(logits, tokens).sum().backward()
    return time.perf_counter() - began


def main() -> int:
    torch.manual_seed(0)
    logits = torch.randn(ROWS, TOKENS, VOCAB, requires_grad=True)
    tokens = torch.randint(VOCAB, (ROWS, TOKENS))
    rivals: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "align": token_logprobs,
        "trl": selective_log_softmax,
        "torch": lambda x, y: -F.cross_entropy(x.flatten(0, 1), y.flatten(), reduction="none"),
    }
    values = [f(logits, tokens).flatten() for f in rivals.values()]
    for value in values[1:]:
        torch.testing.assert_close(values[0], value, rtol=0, atol=1e-4)
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for run in range(RUNS + 1):
        for name, function in rivals.items():
            taken = seconds(function, logits, tokens)
            if run:  # the first warms up
                times[name].append(taken)
    for name, taken in times.items():
        print(f"{name:6} {1000 * statistics.median(taken):7.1f} ms  ({1000 * min(taken):.1f}–{1000 * max(taken):.1f})")
    ratio = statistics.median(times["trl"]) / statistics.median(times["align"])
    print(f"ratio token_logprobs/trl {ratio:.1f} (goal {GOAL})")
    return 0 if ratio >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
