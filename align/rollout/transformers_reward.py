"""Reward models of any architecture, run by transformers: the only file that names it.

Weights are read from safetensors and no code from the folder is run; a chat template is rendered in transformers'
sandbox.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from align.data.template import check_messages
from align.errors import ArtifactError, DataError, TemplateError, WeightsError
from align.model.config import Dtype
from align.model.strict import DTYPES
from align.records import Messages
from align.rollout.reward_model import Dialogue, check_size, records
from align.rollout.scorer import length_batches

Inputs = dict[str, list[int]]  # input_ids and what else the model reads of each token


class TransformersRewardModel:
    """A sequence classifier with one label and its tokenizer, held open.

    Attributes:
        model: transformers' own.
        tokenizer: the folder's.
        context: tokens of the longest dialogue that it can read.
    """

    def __init__(self, folder: Path, dtype: Dtype, device: str, layout: Literal["chat", "pair"]) -> None:
        """Read the folder; see :func:`align.rollout.reward_model.load_reward_model`."""
        transformers = _transformers(folder)
        with _quiet(transformers):
            self.tokenizer = _read(folder, "tokenizer", transformers.AutoTokenizer, {})[0]
            self.model, info = _read(
                folder,
                "model",
                transformers.AutoModelForSequenceClassification,
                {"dtype": DTYPES[dtype], "use_safetensors": True, "output_loading_info": True},
            )
        lost = sorted(map(str, (*info["missing_keys"], *info["mismatched_keys"])))
        if lost:  # transformers would go on with a random head
            raise WeightsError(f"{folder}: {lost[0]}: missing or of another shape, {len(lost)} such tensors")
        if info["unexpected_keys"]:
            warnings.warn(
                f"{folder}: tensors that the model does not have: {sorted(info['unexpected_keys'])}", stacklevel=2
            )
        config = self.model.config.get_text_config()
        if self.model.config.num_labels != 1:  # a config that names no labels has two
            raise ArtifactError(f"{folder}/config.json: found {self.model.config.num_labels} labels, expected 1")
        if layout == "chat" and not self.tokenizer.chat_template:
            raise ArtifactError(
                f"{folder}: its tokenizer has no chat template, so how it reads a dialogue is not known; layout pair "
                "gives it prompt and answer as two texts, llama2 the Llama-2 chat format"
            )
        self.layout = layout
        self.model = self.model.to(device).eval()
        self.pad: int | None = config.pad_token_id
        limits = (getattr(config, "max_position_embeddings", None), self.tokenizer.model_max_length)
        self.context = min(int(limit) for limit in limits if limit is not None)

    def size(self, messages: Messages) -> int:
        """How many tokens a dialogue is."""
        return len(self._encode(messages, "dialogue")["input_ids"])

    def score(self, dialogs: Sequence[Dialogue], batch_tokens: int = 8192) -> list[float]:
        """How good the last answer of each dialogue is; see ``LlamaRewardModel.score``."""
        return self.read(dialogs, batch_tokens)[0]

    def read(self, dialogs: Sequence[Dialogue], batch_tokens: int = 8192) -> tuple[list[float], list[int]]:
        """As :meth:`score`, and the tokens of each last answer as text alone."""
        rows: list[Inputs] = []
        sizes: list[int] = []
        for number, dialog in enumerate(dialogs):
            where = f"dialogue {number}"
            messages = records(dialog)
            check_messages(messages, where)
            rows.append(self._encode(messages, where))
            if not rows[-1]["input_ids"]:
                raise DataError(f"{where}: the model's tokenizer makes no tokens of it; does it belong to the model?")
            check_size(len(rows[-1]["input_ids"]), self.context, where)
            answer = self.tokenizer(messages[-1].content, add_special_tokens=False, verbose=False)
            sizes.append(len(answer["input_ids"]))
        keys = [tuple(map(tuple, row.values())) for row in rows]
        different = dict(zip(keys, rows, strict=True))  # rows that are alike are read once
        scores = dict(zip(different, self._forward(list(different.values()), batch_tokens), strict=True))
        return [scores[key] for key in keys], sizes

    def _encode(self, messages: Messages, where: str) -> Inputs:
        if self.layout == "pair":
            if [message.role for message in messages] != ["user", "assistant"]:
                raise TemplateError(
                    f"{where}: layout pair holds one user message and its answer, found {len(messages)} messages; "
                    "expected a model whose tokenizer has a chat template"
                )
            encoded = self.tokenizer(messages[0].content, messages[1].content, verbose=False)
        else:
            from jinja2 import TemplateError as Refused

            try:
                encoded = self.tokenizer.apply_chat_template(
                    [{"role": m.role, "content": m.content} for m in messages], tokenize=True, return_dict=True
                )
            except Refused as error:
                raise TemplateError(f"{where}: the model's chat template refuses it: {error}") from error
        return {name: list(encoded[name]) for name in encoded if name != "attention_mask"}

    @torch.inference_mode()
    def _forward(self, rows: Sequence[Inputs], batch_tokens: int) -> list[float]:
        scores = [0.0] * len(rows)
        lengths = [len(row["input_ids"]) for row in rows]
        # without a pad token of its own the model reads one row at a time
        for picked in length_batches(lengths, batch_tokens if self.pad is not None else 1):
            width = lengths[picked[0]]
            inputs = {
                name: torch.tensor(
                    [_padded(rows[i][name], width, self.pad if name == "input_ids" else 0) for i in picked]
                )
                for name in rows[picked[0]]
            }
            inputs["attention_mask"] = torch.tensor([_padded([1] * lengths[i], width, 0) for i in picked])
            read = self.model(**{name: tensor.to(self.model.device) for name, tensor in inputs.items()}).logits
            for i, score in zip(picked, read[:, 0].float().tolist(), strict=True):
                scores[i] = score
        return scores


def _padded(values: list[int], width: int, pad: int | None) -> list[int]:
    return values if len(values) == width else values + [pad or 0] * (width - len(values))


def _transformers(folder: Path) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ArtifactError(
            f"{folder}: this model is run by transformers, which is not installed; pip install align[transformers]"
        ) from error
    return transformers


def _read(folder: Path, what: str, auto: Any, settings: dict[str, Any]) -> tuple[Any, Any]:
    """What transformers makes of the folder; its complaint as one of ours."""
    try:
        read = auto.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **settings)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, TypeError, AttributeError) as error:
        told = " ".join(str(error).split())
        raise ArtifactError(f"{folder}: transformers cannot read its {what}: {told[:300]}") from error
    return read if isinstance(read, tuple) else (read, {})


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without progress bars and reports, which would hide our one line of what is wrong."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
