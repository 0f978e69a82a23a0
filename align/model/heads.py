"""A scalar head on a LLaMA: reward models and the critic."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from align.model.config import LlamaConfig
from align.model.llama import Backbone, KVCache, Llama, on_meta


class Scorer(nn.Module):
    """One score a token: a reward model reads it at the last real token, a critic at every answer token.

    Parameter names are those of Hugging Face's LlamaForSequenceClassification with one label.
    """

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Backbone(config)
        self.score = nn.Linear(config.dim, 1, bias=False)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        segments: Tensor | None = None,
        cache: KVCache | None = None,
        at: Tensor | None = None,
        stems: Tensor | None = None,
    ) -> Tensor:
        """Scores in logits; the arguments are those of :meth:`align.model.llama.Llama.forward`.

        Returns:
            fp32 [B, T], or [N] with ``at``.
        """
        hidden = self.model(tokens, positions, segments, cache, stems, at)
        score: Tensor = self.score(hidden)
        return score.squeeze(-1).float()


def scorer_from_policy(llama: Llama, seed: int, std: float | None = None) -> Scorer:
    """A scorer on a policy's backbone, which is taken over, not copied; the language head is dropped.

    Args:
        llama: gives its backbone away.
        seed: of the scalar head's start.
        std: of the scalar head's start; None: 1 / sqrt(D + 1) (the usual start of a critic); 0: all scores 0.
    """
    with on_meta():
        scorer = Scorer(llama.config)
    scorer.model = llama.model
    weight = llama.model.norm.weight
    std = (llama.config.dim + 1) ** -0.5 if std is None else std
    start = torch.randn(1, llama.config.dim, generator=torch.Generator().manual_seed(seed)) * std
    scorer.score.weight = nn.Parameter(start.to(device=weight.device, dtype=weight.dtype))
    return scorer
