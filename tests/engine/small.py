"""A small LLaMA and real SFT rows for the engine's tests, and plain torch, one dialogue a row, as their oracle."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from align.data.batches import BatchConfig, packed_batches
from align.data.pack import collate, pack, pad
from align.data.sft import sft_rows
from align.data.tokenizer import Tokenizer
from align.engine.objectives import lm_counts, lm_terms
from align.engine.optim import OptimConfig
from align.engine.step import StepResult, update
from align.engine.zero import Engine, ZeroConfig, wrap
from align.engine.zero_state import state_tensors
from align.model.config import LlamaConfig, LoraConfig
from align.model.llama import Llama
from align.model.lora import adapted
from align.records import Batch, Dialog, Message, Row
from tests.model.peers import randomise

# above 100,000 elements a parameter is really split by ZeRO-3: the embedding, the head and the feed-forward are
CONFIG = LlamaConfig(vocab_size=400, dim=256, n_layers=2, n_heads=4, n_kv_heads=2, ffn_dim=400, max_seq_len=700)
LORA = LoraConfig(rank=4, alpha=8.0, targets=("q_proj", "v_proj", "down_proj"))
OPTIM = OptimConfig(lr=1e-3, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.1, clip=0.0, schedule="constant")
LENGTH = 160


def model(lora: LoraConfig | None = None) -> Llama:
    """The same weights each time, adapters that are not 0 among them."""
    made = Llama(CONFIG)
    randomise(made)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(1.0 if parameter.dim() == 1 else 0.3)
    adapted(made, lora, seed=3)
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    return made


def rows(tokenizer: Tokenizer) -> list[Row]:
    """Twelve dialogues of one to three turns, all answers trained, from 20 tokens to more than a quarter row."""
    dialogs = []
    for number in range(12):
        messages = []
        for turn in range(1 + number % 3):
            question = " ".join(["hello", "the quick fox", "who loves chess"][: 1 + (number + turn) % 3])
            answer = " ".join(["napoleon says"] + ["a lazy dog in paris"] * (number % 4 + turn))
            messages += [Message("user", question), Message("assistant", answer)]
        dialogs.append(Dialog(messages=tuple(messages)))
    made = sft_rows(tokenizer, dialogs, max_len=LENGTH)
    assert made.counts["rows"] == 12
    return made.rows


def layouts(found: Sequence[Row], rank: int = 0, world: int = 1) -> dict[str, list[Batch]]:
    """One and the same update by several lay-outs and numbers of forward passes: this rank's micro-batches."""
    units = packed_batches(found, BatchConfig(rows=1, micro_rows=1, length=LENGTH), seed=0, rank=0, world=1).steps

    def ours(micro: int) -> list[Batch]:
        batch = BatchConfig(rows=units, micro_rows=micro, length=LENGTH)
        return packed_batches(found, batch, seed=0, rank=rank, world=world)(0)

    mine = list(found)[rank::world]
    return {
        "quarter rows, one a pass": ours(1),
        "quarter rows, all in a pass": ours(64),
        "full rows": [collate(pack(mine, LENGTH), LENGTH)],
        "long full rows": [collate(pack(mine, CONFIG.max_seq_len), CONFIG.max_seq_len)],
        "padded": [pad(mine[:2]), pad(mine[2:], multiple=8)],
        "single rows": [pad([row]) for row in mine],
    }


@contextlib.contextmanager
def engine(
    stage: int, dtype: str = "fp32", lora: LoraConfig | None = None, checkpointing: str = "none"
) -> Iterator[Engine]:
    zero = ZeroConfig(stage=stage, dtype=dtype, checkpointing=checkpointing)  # type: ignore[arg-type]
    made = wrap(model(lora), OPTIM, zero, 4)
    try:
        yield made
    finally:
        made.close()


def step(trained: Any, micros: Sequence[Batch]) -> StepResult:
    return update(trained, micros, lm_counts, lm_terms)


def moments(trained: Engine) -> dict[str, Tensor]:
    """The first update's gradient by name: AdamW's first moment is a tenth of it."""
    found = {key.removeprefix("exp_avg/"): 10 * t for key, t in state_tensors(trained) if key.startswith("exp_avg/")}
    assert found
    return found


def oracle(found: Sequence[Row], module: nn.Module) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradient by plain torch: one dialogue at a time, all logits, one mean at the end."""
    total: Any = 0.0
    for row in found:
        tokens = torch.from_numpy(row.tokens.astype("int64"))[None]
        losses = F.cross_entropy(module(tokens)[0, :-1], tokens[0, 1:], reduction="none")
        total = total + losses[torch.from_numpy(row.mask)[1:]].sum()
    loss = total / sum(int(row.mask.sum()) for row in found)
    loss.backward()
    return loss.item(), {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def gap(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest distance of two gradients."""
    assert found.keys() == expected.keys()
    return max(float((found[name] - expected[name]).abs().max()) for name in expected)


def tokenizer_in(folder: Path) -> Path:
    """A tokenizer of the model's vocabulary, trained in ``folder``."""
    from align.data.tokenizer import train_tokenizer
    from tests.data.corpus import corpus

    path = folder / "tokenizer.model"
    train_tokenizer(corpus(), CONFIG.vocab_size, path)
    return path
