"""What a policy is asked to answer freely, as token ids, and its answer as text, in a chat and in plain text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from align.data.tokenizer import Tokenizer
    from align.records import Messages


def encode_asked(tokenizer: Tokenizer, asked: Messages | str, where: str) -> list[int]:
    """Token ids of a chat to be answered, or BOS and a text to go on with.

    Raises:
        TemplateError: the chat format refuses it.
    """
    from align.data.template import encode_prompt

    return (
        [tokenizer.bos, *tokenizer.encode(asked)] if isinstance(asked, str) else encode_prompt(tokenizer, asked, where)
    )


def decode_answer(tokenizer: Tokenizer, asked: Messages | str, prompt: Sequence[int], answer: Sequence[int]) -> str:
    """An answer as text: an assistant's message, stripped, or what follows the text to the letter.

    Decoded alone, an answer would lose the space that it begins with, and a program its indentation: so a text is
    decoded whole.
    """
    if not isinstance(asked, str):
        return tokenizer.decode(answer).strip()
    return tokenizer.decode([*prompt, *answer])[len(tokenizer.decode(prompt)) :]


def stop_tokens(tokenizer: Tokenizer, texts: Iterable[str]) -> tuple[tuple[int, ...], ...]:
    """The tokens that these texts have behind others, to stop sampling at.

    They save time only: a policy may write the same text in other tokens, and answers are cut as text too.
    """
    before = tokenizer.encode("a")
    whole = [tokenizer.encode(f"a{text}") for text in texts]
    return tuple(tuple(ids[len(before) :]) for ids in whole if ids[: len(before)] == before)
