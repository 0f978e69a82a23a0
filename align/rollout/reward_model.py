"""A reward model by its folder, ready to score dialogues."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from align.data.schema import messages_of
from align.data.template import TAGS, encode_dialog
from align.data.tokenizer import Tokenizer
from align.errors import ArtifactError, DataError, nearest
from align.model.config import Dtype, read_hf
from align.model.weights import load_scorer
from align.records import Message, Messages
from align.rollout.scorer import score_rows

Dialogue = Messages | Sequence[Message] | Sequence[Mapping[str, str]]
Layout: TypeAlias = Literal["llama2", "chat", "pair"]
LAYOUTS: tuple[Layout, ...] = ("llama2", "chat", "pair")
OURS = "LlamaForSequenceClassification"


class RewardModel(Protocol):
    """A reward model held open, whoever runs it."""

    context: int  # tokens of the longest dialogue that it can read

    def size(self, messages: Messages) -> int:
        """How many tokens a dialogue is."""

    def score(self, dialogs: Sequence[Dialogue], batch_tokens: int = 8192) -> list[float]:
        """How good the last answer of each dialogue is, logits."""

    def read(self, dialogs: Sequence[Dialogue], batch_tokens: int = 8192) -> tuple[list[float], list[int]]:
        """The same, and the length of each last answer, tokens."""


class LlamaRewardModel:
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

    def size(self, messages: Messages) -> int:
        """How many tokens a dialogue is."""
        return len(encode_dialog(self.tokenizer, messages).tokens)

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
        return self.read(dialogs, batch_tokens)[0]

    def read(self, dialogs: Sequence[Dialogue], batch_tokens: int = 8192) -> tuple[list[float], list[int]]:
        """As :meth:`score`, and the tokens of each last answer, its EOS included."""
        rows, sizes = [], []
        for number, dialog in enumerate(dialogs):
            where = f"dialogue {number}"
            row = encode_dialog(self.tokenizer, records(dialog), train="last", where=where)
            rows.append(row.tokens.tolist())
            sizes.append(int(row.mask.sum()))
            check_size(len(rows[-1]), self.context, where)
        return score_rows(self.scorer, rows, batch_tokens), sizes


def load_reward_model(
    folder: Path | str, dtype: Dtype = "fp32", device: str = "cpu", layout: Layout | None = None
) -> RewardModel:
    """Open a reward model: an artifact of ``reward``, or any Hugging Face sequence classifier with one label.

    A LlamaForSequenceClassification with a ``tokenizer.model`` is run by this library; every other architecture by
    transformers, which must be installed for it (``pip install align[transformers]``).

    Args:
        folder: config.json, safetensors and the tokenizer.
        dtype: of the weights.
        device: where they go.
        layout: how a dialogue is written: ``llama2``, the Llama-2 chat format, by this library; ``chat``, the chat
            template of the folder's tokenizer; ``pair``, prompt and answer as the tokenizer's two texts, for dialogues
            of one turn. None: ``llama2`` where this library runs the model, else ``chat``.

    Raises:
        ArtifactError: no such folder, one that does not hold such a model, or transformers is needed and missing.
    """
    folder = Path(folder)
    values = read_hf(folder)
    _check_head(values, str(folder / "config.json"))
    known = (values.get("architectures") or [OURS])[0] == OURS and (folder / "tokenizer.model").is_file()
    if layout is None and known and _other_format(folder):
        warnings.warn(
            f"{folder}: read in the Llama-2 chat format, though its tokenizer has a chat template of its own; layout "
            "chat reads it through that, layout llama2 says that this is meant",
            stacklevel=2,
        )
    if layout == "llama2" or (layout is None and known):
        return LlamaRewardModel(folder, dtype, device)
    from align.rollout.transformers_reward import TransformersRewardModel

    return TransformersRewardModel(folder, dtype, device, "chat" if layout is None else layout)


def check_layout(name: str | None) -> Layout | None:
    """A layout by its name.

    Raises:
        DataError: there is none of that name.
    """
    for layout in LAYOUTS:
        if name == layout:
            return layout
    if name is None:
        return None
    raise DataError(f"layout: found {name!r}, expected one of {', '.join(LAYOUTS)}{nearest(name, LAYOUTS)}")


def check_size(found: int, context: int, where: str) -> None:
    """Refuse a dialogue that the model cannot read whole.

    Raises:
        DataError: it has more tokens than the context.
    """
    if found > context:
        raise DataError(f"{where}: {found} tokens, and the reward model reads {context}")


def records(dialog: Dialogue) -> Messages:
    """A dialogue as records."""
    return messages_of([m if isinstance(m, Mapping) else {"role": m.role, "content": m.content} for m in dialog])


def _other_format(folder: Path) -> bool:
    """Whether the tokenizer's chat template is plainly another one than Llama 2's."""
    settings, apart = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    try:
        template = json.loads(settings.read_text(encoding="utf-8")).get("chat_template") if settings.is_file() else None
    except (ValueError, AttributeError) as error:
        raise ArtifactError(f"{settings}: expected a JSON object: {error}") from error
    if apart.is_file():
        template = apart.read_text(encoding="utf-8")
    return bool(template) and TAGS[0] not in str(template)


def _check_head(values: Mapping[str, Any], where: str) -> None:
    """Refuse what is no classifier, or one with several labels."""
    found = (values.get("architectures") or [OURS])[0]
    if not str(found).endswith("ForSequenceClassification"):
        raise ArtifactError(
            f"{where}: architectures: found {found}, expected a reward model: {OURS} "
            "or another …ForSequenceClassification"
        )
    labels = values.get("id2label")
    count = len(labels) if isinstance(labels, Mapping) else values.get("num_labels")
    if count not in (None, 1):
        named = f" ({', '.join(map(str, list(labels.values())[:4]))})" if isinstance(labels, Mapping) else ""
        raise ArtifactError(
            f"{where}: found {count} labels{named}, expected 1: a reward model gives an answer one score"
        )
