"""A reward model by its folder, ready to score dialogues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from align.data.schema import messages_of
from align.data.template import encode_dialog
from align.data.tokenizer import Tokenizer
from align.errors import DataError
from align.model.config import Dtype
from align.model.weights import load_scorer
from align.records import Message, Messages
from align.rollout.scorer import score_rows

Dialogue = Messages | Sequence[Message] | Sequence[Mapping[str, str]]


class RewardModel:
    """A scorer with its tokenizer, held open.

    Attributes:
        scorer: the model, in evaluation mode.
        tokenizer: its tokenizer.
        context: tokens of the longest dialogue that it can read.
    """

    def __init__(self, folder: Path | str, dtype: Dtype = "fp32", device: str = "cpu") -> None:
        """Read the folder; see :func:`load_reward_model`."""
        self.scorer = load_scorer(folder, dtype=dtype, device=device).eval()
        self.tokenizer = Tokenizer(Path(folder) / "tokenizer.model")
        self.context = self.scorer.config.max_seq_len

    def score(self, dialogs: Sequence[Dialogue], batch_tokens: int = 8192) -> list[float]:
        """How good the last answer of each dialogue is.

        Args:
            dialogs: each ends with an assistant message; records, or mappings with ``role`` and ``content``.
            batch_tokens: size of a forward pass, padding included, tokens.

        Returns:
            Logits, in the order of the dialogues; to compare answers to one prompt, not prompts.

        Raises:
            TemplateError: a dialogue that the chat format refuses.
            DataError: one that is longer than the model's context.
        """
        rows = []
        for number, dialog in enumerate(dialogs):
            where = f"dialogue {number}"
            rows.append(encode_dialog(self.tokenizer, _records(dialog), where=where).tokens.tolist())
            if len(rows[-1]) > self.context:
                raise DataError(f"{where}: {len(rows[-1])} tokens, and the reward model reads {self.context}")
        return score_rows(self.scorer, rows, batch_tokens)


def load_reward_model(folder: Path | str, dtype: Dtype = "fp32", device: str = "cpu") -> RewardModel:
    """Open a reward model: an artifact of ``reward``, or a Hugging Face LlamaForSequenceClassification with one label.

    Args:
        folder: config.json, safetensors and tokenizer.model.
        dtype: of the weights.
        device: where they go.

    Raises:
        ArtifactError: no such folder, or one that does not hold such a model.
    """
    return RewardModel(folder, dtype, device)


def _records(dialog: Dialogue) -> Messages:
    return messages_of([m if isinstance(m, Mapping) else {"role": m.role, "content": m.content} for m in dialog])
