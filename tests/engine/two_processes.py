"""What the tests run under torchrun; see ``test_two_processes.py``. Rank 0 writes its findings as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from align.engine import checkpoint, dist
from align.engine.step import update
from align.engine.zero_state import copy_weights, gathered, state_tensors
from tests.engine.toy import Toy, counts, deal, engine, oracle, rows, terms

# Rows per micro-batch on each rank: different numbers of micro-batches, rows and counted tokens.
DEALS = {"uneven": ([1, 3, 1, 1], [2]), "ragged": ([1], [3, 1, 3])}


def differences() -> dict[str, float]:
    """Largest distance of weights, losses and norms from plain torch, for every stage and deal."""
    expected, losses, norms = oracle(2)
    found = {}
    for stage in (0, 1, 2, 3):
        for name, (first, second) in DEALS.items():
            if stage in (1, 2) and name == "ragged":
                continue
            with engine(stage) as trained:
                gap = 0.0
                for step in range(2):
                    own = rows(step)[: sum(first)] if dist.rank() == 0 else rows(step)[sum(first) :]
                    result = update(trained, deal(own, first if dist.rank() == 0 else second), counts, terms)
                    gap = max(gap, abs(result.losses["loss"] - losses[step]))
                    # torch sums the squares in fp32, DeepSpeed in part in fp64: 5e-6 apart
                    gap = max(gap, abs(result.grad_norm / norms[step] - 1) / 10)
                for key, tensor in gathered(trained):
                    gap = max(gap, float((tensor - expected[key]).abs().max()))
                plain = Toy()
                copy_weights(trained, plain)
                for key, parameter in plain.named_parameters():
                    gap = max(gap, float((parameter.detach() - expected[key]).abs().max()))
            found[f"zero{stage} {name}"] = gap
    return found


def bf16_gradients() -> dict[str, float]:
    """Relative distance of the accumulated gradient from the fp32 sum of bf16 micro-gradients, 32
    micro-batches.
    """
    model = Toy().bfloat16()
    pieces = [piece for step in range(4) for piece in rows(step)]
    total = sum(int(piece.mask.sum()) for piece in pieces)
    expected = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in model.named_parameters()}
    for piece in pieces:
        model.zero_grad()
        (terms(model, piece)["loss"].values.where(piece.mask, 0.0).sum() / total).backward()
        for name, p in model.named_parameters():
            expected[name] += p.grad.float()
    found = {}
    for stage in (0, 1, 2, 3):
        from tests.engine.toy import OPTIM

        settings = {**{f: getattr(OPTIM, f) for f in OPTIM.__dataclass_fields__}, "clip": 0.0}
        with engine(stage, "bf16", type(OPTIM)(**settings)) as trained:
            update(trained, pieces[dist.rank() :: dist.world_size()], counts, terms)
            gap = 0.0
            for key, tensor in state_tensors(trained):
                kind, _, name = key.partition("/")
                if kind == "exp_avg":
                    gap = max(gap, float((tensor * 10 - expected[name]).norm() / expected[name].norm()))
            found[f"zero{stage}"] = gap
    return found


def resumed(folder: Path) -> dict[str, bool]:
    """One more step after loading the one-process checkpoints, at several stages; saved for one process to go
    on.
    """
    found = {}
    for stage in (0, 3):
        with engine(stage) as trained:
            step, _ = checkpoint.load(folder / "one", {"engine": trained}) or (0, {})
            halves = rows(step)[dist.rank() :: 2]
            update(trained, deal(halves, [4]), counts, terms)
            checkpoint.save(folder / f"two-{stage}", step + 1, {"engine": trained}, {"note": "é"})
            found[f"zero{stage}"] = trained.steps == step + 1
    return found


def main(folder: Path) -> None:
    dist.setup()
    findings = {"differences": differences(), "bf16": bf16_gradients(), "resumed": resumed(folder)}
    if dist.is_main():
        (folder / "findings.json").write_text(json.dumps(findings))
    dist.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
