"""A small model and data for the engine's tests, and plain torch as the oracle of an update."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from align.engine.optim import OptimConfig
from align.engine.step import Term
from align.engine.zero import Engine, ZeroConfig, wrap

STEPS = 6
OPTIM = OptimConfig(
    lr=1e-3,
    betas=(0.9, 0.95),
    eps=1e-5,
    weight_decay=0.1,
    clip=0.3,
    schedule="cosine",
    warmup_steps=2,
    final_lr_ratio=0.1,
)


class Toy(nn.Module):
    """Embedding, norm, two matrices. Above 100,000 elements a parameter is really split by ZeRO-3, so two
    are.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.embed = nn.Embedding(400, 256)
        self.inner = nn.Linear(256, 256, bias=False)
        self.norm = nn.LayerNorm(256, bias=False)
        self.head = nn.Linear(256, 400, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        return self.head(self.norm(x + torch.tanh(self.inner(x)))).float()


@dataclass(frozen=True)
class Micro:
    tokens: Tensor  # [B, T]
    mask: Tensor  # [B, T]


def rows(step: int) -> list[Micro]:
    """Eight one-row pieces of a step, with 0 to 11 counted tokens each."""
    generator = torch.Generator().manual_seed(step)
    pieces = []
    for row in range(8):
        tokens = torch.randint(0, 400, (1, 12), generator=generator)
        mask = torch.rand(1, 12, generator=generator) < row / 7.5
        pieces.append(Micro(tokens, mask))
    return pieces


def join(pieces: list[Micro]) -> Micro:
    return Micro(torch.cat([p.tokens for p in pieces]), torch.cat([p.mask for p in pieces]))


def deal(pieces: list[Micro], sizes: list[int]) -> list[Micro]:
    """The pieces joined into micro-batches of the given numbers of rows."""
    assert sum(sizes) == len(pieces)
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [join(pieces[start : start + size]) for start, size in zip(starts, sizes, strict=True)]


def values(logits: Tensor, micro: Micro) -> Tensor:
    """A token-wise loss: the next of the same token is to be told."""
    return F.cross_entropy(logits.flatten(0, 1), micro.tokens.flatten(), reduction="none").view(micro.tokens.shape)


def counts(micro: Micro) -> dict[str, int]:
    return {"loss": int(micro.mask.sum())}


def terms(engine: Engine, micro: Micro) -> dict[str, Term]:
    return {"loss": Term(values(engine(micro.tokens), micro), micro.mask)}


@contextlib.contextmanager
def engine(
    stage: int, dtype: str = "fp32", optim: OptimConfig = OPTIM, module: nn.Module | None = None
) -> Iterator[Engine]:
    made = wrap(module or Toy(), optim, ZeroConfig(stage=stage, dtype=dtype), STEPS)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        made.close()


def oracle(steps: int, optim: OptimConfig = OPTIM) -> tuple[dict[str, Tensor], list[float], list[float]]:
    """Plain torch on the whole batch: weights, losses and gradient norms. The schedule is written out by
    hand.
    """
    model = Toy()
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), eps=1e-5)
    # 1e-3 after two steps of warm-up, then half a cosine from 1e-3 to 1e-4 over four steps
    rates = [5e-4, 1e-3, 8.681980515339464e-4, 5.5e-4, 2.3180194846605365e-4, 1e-4]
    losses, norms = [], []
    for step in range(steps):
        whole = join(rows(step))
        loss = values(model(whole.tokens), whole)[whole.mask].mean()
        adam.zero_grad()
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), optim.clip)))
        for group in adam.param_groups:
            group["lr"] = rates[step]
        adam.step()
        losses.append(loss.item())
    return {name: p.detach().clone() for name, p in model.named_parameters()}, losses, norms


def weights(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy({name: p.detach() for name, p in model.named_parameters()})
