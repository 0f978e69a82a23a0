"""What bench_train.py trains on: models, and documents of the lengths that human preferences have."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from align.model.config import LlamaConfig
from align.records import Row

PROMPT = (7, 17, 21, 48, 77, 110, 147, 190, 245, 335, 1045)  # deciles, 0 % to 100 %, as --lengths prints them
CHOSEN = (3, 12, 20, 28, 36, 47, 59, 73, 95, 135, 878)
REJECTED = (1, 10, 15, 21, 27, 34, 44, 55, 72, 101, 522)
LENGTH = 512


@dataclass(frozen=True)
class Case:
    """A model, so many documents (or pairs) an update, so many updates timed."""

    config: LlamaConfig
    documents: int
    updates: int
    goals: dict[str, float]


CASES = {
    "small": Case(  # 8.7M parameters
        LlamaConfig(
            vocab_size=4096, dim=320, n_layers=6, n_heads=10, n_kv_heads=10, ffn_dim=864,
            max_seq_len=LENGTH, tie_embeddings=True,
        ),
        documents=64, updates=4, goals={"sft": 2.0, "reward": 2.0},
    ),
    "base": Case(  # 110M parameters
        LlamaConfig(
            vocab_size=32000, dim=768, n_layers=12, n_heads=12, n_kv_heads=12, ffn_dim=2048,
            max_seq_len=LENGTH, tie_embeddings=True,
        ),
        documents=16, updates=4, goals={"sft": 1.5, "reward": 2.0},
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """A prompt and two answers, token ids."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


def pairs_of(case: Case) -> list[Pair]:
    """The documents: the chosen answers are what supervised fine-tuning learns."""
    rng = random.Random(0)

    def text(deciles: Sequence[int], room: int) -> list[int]:
        place = rng.random() * (len(deciles) - 1)
        low = int(place)
        length = round(deciles[low] + (place - low) * (deciles[low + 1] - deciles[low]))
        return [rng.randrange(3, case.config.vocab_size) for _ in range(min(length, room))]

    return [
        Pair([1, *text(PROMPT, LENGTH // 2)], [*text(CHOSEN, LENGTH // 4), 2], [*text(REJECTED, LENGTH // 4), 2])
        for _ in range(case.documents)
    ]


def work_of(case: Case, task: str) -> tuple[int, float]:
    """Counted tokens (or pairs) of an update, and the operations that nobody can do without: every distinct token
    once through the backbone, the head on what counts, three times for the gradients; attention left out."""
    pairs, config = pairs_of(case), case.config
    tokens = sum(len(p.prompt) + len(p.chosen) + (len(p.rejected) if task == "reward" else 0) for p in pairs)
    counted = sum(len(p.chosen) for p in pairs) if task == "sft" else 0
    body = config.backbone_parameters() - config.vocab_size * config.dim
    return counted or len(pairs), 6.0 * (body * tokens + config.vocab_size * config.dim * counted)


def row(prompt: list[int], answer: list[int]) -> Row:
    mask = np.array([False] * len(prompt) + [True] * len(answer))
    return Row(np.array(prompt + answer, dtype=np.int32), mask)


def lengths(pairs: Path, tokenizer: Path) -> None:
    """Print the deciles above from a file of HH-RLHF."""
    from align.data.tokenizer import Tokenizer

    encode = Tokenizer(tokenizer).encode
    found: dict[str, list[int]] = {"prompt": [], "chosen": [], "rejected": []}
    with gzip.open(pairs, "rt", encoding="utf-8") as lines:
        for line in lines:
            dialog = json.loads(line)
            cut = dialog["chosen"].rfind("\n\nAssistant:")
            found["prompt"].append(len(encode(dialog["chosen"][:cut])))
            for side in ("chosen", "rejected"):
                answer = dialog[side][dialog[side].rfind("\n\nAssistant:") :].removeprefix("\n\nAssistant:")
                found[side].append(len(encode(answer)))
    for name, sizes in found.items():
        print(name, tuple(int(q) for q in np.quantile(sizes, np.linspace(0, 1, 11))))
