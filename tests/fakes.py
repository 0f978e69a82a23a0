"""Stand-ins: a backend whose answers are plain arithmetic, well or ill behaved, and tiny random models.

Torch is imported where it is used: an actor around a fake is up in no time.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from align.model.config import LlamaConfig
from align.records import Request, Rollout
from align.rollout.backend import SamplingConfig

if TYPE_CHECKING:
    from align.model.heads import Scorer
    from align.model.llama import Llama
    from align.rollout.backend import OnResult, Weights

TINY = LlamaConfig(vocab_size=64, dim=32, n_layers=2, n_heads=4, n_kv_heads=2, ffn_dim=64, max_seq_len=96)


def tiny_llama(seed: int = 0, config: LlamaConfig = TINY, std: float = 0.3) -> Llama:
    """A random policy, its weights wide enough for its answers to differ."""
    from align.model.llama import Llama, init_weights

    model = Llama(config)
    init_weights(model, seed, std=std)
    return model.requires_grad_(False)


def tiny_scorer(seed: int = 0, config: LlamaConfig = TINY) -> Scorer:
    """A random reward model."""
    from align.model.heads import Scorer
    from align.model.llama import init_weights

    scorer = Scorer(config)
    init_weights(scorer, seed, std=0.3)
    return scorer.requires_grad_(False)


class FakeBackend:
    """Answers a request with its own address, and says which weights it holds."""

    def __init__(self) -> None:
        self.version = "0"

    def generate(
        self, requests: Sequence[Request], sampling: SamplingConfig, on_result: OnResult | None = None
    ) -> list[Rollout]:
        rollouts = [self.answer(request) for request in requests]
        for rollout in rollouts:
            if on_result:
                on_result(rollout)
        return rollouts

    def answer(self, request: Request) -> Rollout:
        tokens = (*request.tokens, request.prompt, request.sample, request.seed, request.step)
        return Rollout(request.prompt, request.sample, tokens, (-1.0,) * len(tokens), "stop", self.version)

    def load_weights(self, weights: Weights, version: str | None = None) -> None:
        if isinstance(weights, Path):
            self.version = version or weights.name
        else:
            self.version = f"{version}: {sum(float(tensor.sum()) for tensor in weights.values()):g}"


class UnluckyBackend(FakeBackend):
    """Does ``what`` at a prompt: as often as there are files missing in ``folder``, or always without one.

    ``what``: ``kill`` its own process, ``hang``, or ``raise``.
    """

    def __init__(self, what: str, prompt: int, folder: Path | None = None, times: int = 1) -> None:
        super().__init__()
        self.what, self.prompt, self.folder, self.times = what, prompt, folder, times

    def answer(self, request: Request) -> Rollout:
        if request.prompt == self.prompt and self._due():
            if self.what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif self.what == "hang":
                time.sleep(600)
            raise ArithmeticError("the fake was told to fail")
        return super().answer(request)

    def _due(self) -> bool:
        if self.folder is None:
            return True
        for number in range(self.times):
            mark = self.folder / f"{self.what}-{number}"
            if not mark.exists():
                mark.touch()
                return True
        return False


def unmakeable() -> FakeBackend:
    """Always fails to be made."""
    raise FileNotFoundError("no such weights")


class LetterTokenizer:
    """A token is a letter's code point; 1 begins and 2 ends, and neither is text."""

    bos, eos = 1, 2

    def encode_many(self, texts: Iterable[str]) -> dict[str, list[int]]:
        return {text: [ord(letter) for letter in text] for text in texts}

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(token) for token in ids if token > 2)
