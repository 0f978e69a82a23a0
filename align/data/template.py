"""Dialogue -> token ids and loss mask, exactly Meta's chat format, both built in the same appends.

A turn is BOS + enc("[INST] user [/INST]") + enc("answer ") + EOS; a system message stands inside the first
user message. Turns are encoded one by one: encoding the answer apart from its prompt gives the joint
encoding, because sentencepiece's dummy prefix is the space between them (for stripped answers; never put a
space before one). Source: ``chat_completion`` in Meta's llama repository.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from align.errors import TemplateError
from align.records import Messages, Row

if TYPE_CHECKING:
    from rich.text import Text

    from align.data.tokenizer import Tokenizer

TAGS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")
Train = Literal["all", "last"]
Encoded = dict[str, list[int]]  # text -> ids, each text encoded once


def check_messages(messages: Messages, where: str, ends: Literal["user", "assistant"] = "assistant") -> None:
    """Refuse what the chat format cannot say.

    Args:
        messages: optional system, then user, assistant, user, …
        where: named in the message, e.g. ``file:line: messages``.
        ends: role of the last message: assistant to learn from, user to be answered.

    Raises:
        TemplateError: roles out of order, an empty message, a tag within a message (format injection).
    """
    rest = messages[1:] if messages and messages[0].role == "system" else messages
    first = len(messages) - len(rest)
    for index, message in enumerate(messages):
        expected = ("user", "assistant")[(index - first) % 2] if index >= first else "system"
        if message.role != expected:
            start = "system or user" if index == 0 else expected
            raise TemplateError(f"{where}: message {index}: found role {message.role!r}, expected {start!r}")
        if not message.content.strip():
            raise TemplateError(f"{where}: message {index}: found an empty {message.role} message, expected text")
        for tag in TAGS:
            if tag in message.content:
                raise TemplateError(
                    f"{where}: message {index}: found the tag {tag} in a {message.role} message; "
                    "tags of the chat format are refused within content"
                )
    if not rest or rest[-1].role != ends:
        found = f"last role {rest[-1].role!r}" if rest else "no user message"
        raise TemplateError(f"{where}: found {found}, expected a dialogue that ends with {ends!r}")


def sayable(text: str) -> bool:
    """Whether the format can hold a sampled text as a message: not empty, and no tag in it."""
    return bool(text.strip()) and not any(tag in text for tag in TAGS)


def turns(messages: Messages) -> list[tuple[str, str | None]]:
    """Texts of each turn's prompt part and answer part (None where it is still to be answered)."""
    system = ""
    if messages[0].role == "system":
        system, messages = f"<<SYS>>\n{messages[0].content}\n<</SYS>>\n\n", messages[1:]
    found: list[tuple[str, str | None]] = []
    for start in range(0, len(messages), 2):
        user = (system if start == 0 else "") + messages[start].content
        answer = messages[start + 1].content.strip() + " " if start + 1 < len(messages) else None
        found.append((f"[INST] {user.strip()} [/INST]", answer))
    return found


def encode_texts(tokenizer: Tokenizer, dialogs: Iterable[Messages]) -> Encoded:
    """Every different text of many dialogues, encoded once."""
    texts = (text for messages in dialogs for turn in turns(messages) for text in turn if text is not None)
    return tokenizer.encode_many(texts)


def assemble(tokenizer: Tokenizer, messages: Messages, encoded: Encoded, train: Train = "all") -> Row:
    """The row of a checked dialogue from its encoded texts."""
    tokens: list[int] = []
    mask: list[bool] = []
    spoken = turns(messages)
    for index, (prompt, answer) in enumerate(spoken):
        ids = encoded[prompt]
        tokens += [tokenizer.bos, *ids]
        mask += [False] * (1 + len(ids))
        if answer is not None:
            ids = encoded[answer]
            tokens += [*ids, tokenizer.eos]
            mask += [train == "all" or index == len(spoken) - 1] * (len(ids) + 1)
    return Row(np.array(tokens, dtype=np.int32), np.array(mask, dtype=np.bool_))


def encode_dialog(tokenizer: Tokenizer, messages: Messages, train: Train = "all", where: str = "dialogue") -> Row:
    """A dialogue to learn from.

    Args:
        tokenizer: of the model.
        messages: ends with assistant.
        train: which answers count: ``all``, or the ``last`` only (its EOS counts too).
        where: named in errors.

    Returns:
        tokens [T] and mask [T], True on answers and the EOS that ends them.

    Raises:
        TemplateError: see :func:`check_messages`.
    """
    check_messages(messages, where)
    return assemble(tokenizer, messages, encode_texts(tokenizer, [messages]), train)


def encode_prompt(tokenizer: Tokenizer, messages: Messages, where: str = "prompt") -> list[int]:
    """A dialogue to be answered, as token ids: no EOS and no trailing space after the last ``[/INST]``.

    Raises:
        TemplateError: see :func:`check_messages`.
    """
    check_messages(messages, where, ends="user")
    return assemble_prompt(tokenizer, messages, encode_texts(tokenizer, [messages]))


def assemble_prompt(tokenizer: Tokenizer, messages: Messages, encoded: Encoded) -> list[int]:
    """The ids of a checked prompt from its encoded texts."""
    ids: list[int] = []
    for prompt, answer in turns(messages):
        ids += [tokenizer.bos, *encoded[prompt]]
        if answer is not None:
            ids += [*encoded[answer], tokenizer.eos]
    return ids


def render(tokenizer: Tokenizer, row: Row) -> Text:
    """A row for the terminal: counted tokens green, the others grey, tokens set apart by ``·``."""
    from rich.text import Text

    text = Text()
    for index, (piece, counts) in enumerate(zip(tokenizer.pieces(_ints(row.tokens)), row.mask, strict=True)):
        if index and row.tokens[index] == tokenizer.bos:
            text.append("\n")
        text.append(piece.replace("▁", " "), style="bold green" if counts else "bright_black")
        text.append("·", style="dim")
    return text


def _ints(tokens: Sequence[int] | np.ndarray[tuple[int], np.dtype[np.int32]]) -> list[int]:
    return [int(token) for token in tokens]
