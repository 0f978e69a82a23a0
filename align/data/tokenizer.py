"""The sentencepiece tokenizer: train, encode, decode. Text never becomes a control token.

Sentencepiece encodes ``<s>`` in a text as ordinary characters; BOS and EOS are added by the template alone.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from align.errors import ArtifactError, DataError

BATCH = 4096  # texts handed to sentencepiece at once


class Tokenizer:
    """A sentencepiece model.

    Args:
        path: its ``tokenizer.model``.

    Attributes:
        path: of the model file, to be copied beside weights.
        vocab_size: number of pieces.
        bos: id that begins every turn.
        eos: id that ends every finished answer.

    Raises:
        ArtifactError: no such file, not a sentencepiece model, or one without BOS and EOS.
    """

    def __init__(self, path: Path | str) -> None:
        from sentencepiece import SentencePieceProcessor

        self.path = Path(path)
        if not self.path.is_file():
            raise ArtifactError(f"{path}: no such tokenizer; expected a sentencepiece model file")
        try:
            self._pieces = SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError) as error:
            raise ArtifactError(f"{path}: not a sentencepiece model") from error
        self.vocab_size: int = self._pieces.vocab_size()
        self.bos: int = self._pieces.bos_id()
        self.eos: int = self._pieces.eos_id()
        if min(self.bos, self.eos) < 0:
            raise ArtifactError(f"{path}: found bos {self.bos}, eos {self.eos}; the chat format needs both")

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without BOS and EOS."""
        return list(self._pieces.encode(text))

    def encode_many(self, texts: Iterable[str]) -> dict[str, list[int]]:
        """Token ids of each different text, each encoded once however often it comes."""
        found = dict.fromkeys(texts)
        names = list(found)
        encoded: list[list[int]] = []
        for start in range(0, len(names), BATCH):
            encoded += self._pieces.encode(names[start : start + BATCH])
        return dict(zip(names, encoded, strict=True))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; control tokens have none.

        Raises:
            DataError: an id outside the vocabulary, as a model with a padded vocabulary may give.
        """
        plain = [int(i) for i in ids]
        if plain and not 0 <= min(plain) <= max(plain) < self.vocab_size:
            wrong = next(i for i in plain if not 0 <= i < self.vocab_size)
            raise DataError(f"token {wrong}: outside the vocabulary of {self.vocab_size} of {self.path}")
        return str(self._pieces.decode(plain))

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The piece of each id as it is stored, ``▁`` for a space, for looking at rows."""
        return [str(self._pieces.id_to_piece(int(i))) for i in ids]


def train_tokenizer(texts: Iterable[str], vocab_size: int, out: Path) -> None:
    """Train a tokenizer of LLaMA's kind and write its model to ``out``, whole or not at all.

    BPE with byte fallback, numbers split into digits, identity normalisation, dummy prefix, extra whitespace
    kept; unk 0, bos 1, eos 2, no pad (the settings stored in LLaMA's own model). The same texts give the same
    bytes.

    Args:
        texts: documents; lines are learned from, so that a newline stays a byte as it is in LLaMA's.
        vocab_size: pieces, the 3 controls and 256 bytes among them.
        out: the file to write.

    Raises:
        DataError: no text, or a vocabulary that the text cannot fill.
    """
    from sentencepiece import SentencePieceTrainer

    from align.files import replacing

    lines = (line for text in texts for line in text.split("\n") if line.strip())
    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=lines,
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            split_digits=True,
            character_coverage=0.99995,
            normalization_rule_name="identity",
            add_dummy_prefix=True,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            unk_surface=" ⁇ ",
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            num_threads=1,  # with more the order of ties is not the same in every run
            max_sentence_length=1 << 24,  # longer lines would be left out silently
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise DataError(f"tokenizer of {vocab_size} pieces: {_reason(str(error))}") from error
    with replacing(out) as stream:
        stream.write(model.getvalue())


def _reason(message: str) -> str:
    """Sentencepiece's message without the C++ condition and line before it."""
    most = re.search(r"set it to a value <= (\d+)", message)
    if most:
        return f"found text for {most[1]} at most; lower vocab_size or give more text"
    least = re.search(r"smaller than required_chars\. (\d+) vs (\d+)", message)
    if least:
        return f"the text's characters, bytes and controls alone need {least[2]}; raise vocab_size"
    if "sentences_.empty()" in message:
        return "found no text to learn from"
    return " ".join(message.split())
