"""A question that is asked by the log-probabilities of given answers, as a chat or as plain text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from align.records import Message, Messages

if TYPE_CHECKING:
    from align.data.tokenizer import Tokenizer

Form = Literal["chat", "plain"]
Normalise = Literal["sum", "tokens", "characters"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What stands before the answers, in both forms, and the answers."""

    id: str
    where: str  # file:line
    messages: Messages  # the chat to be answered
    lead: str = ""  # what the assistant's answer begins with in a chat, the same for all options
    plain: str  # the text before an option where there is no chat; no space at its end
    options: tuple[str, ...]
    meta: dict[str, Any] = field(default_factory=dict)  # what grading needs, and what is kept of it in the rows


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of a question and of each of its options."""

    context: tuple[int, ...]
    options: tuple[tuple[int, ...], ...]

    @property
    def length(self) -> int:
        """Tokens of the context with the longest option."""
        return len(self.context) + max(len(option) for option in self.options)


def encode(tokenizer: Tokenizer, question: Question, form: Form) -> Encoded:
    """A question as token ids.

    The text before an option and the option are encoded as one text, with one space between them; the option's
    tokens are those behind what all of the question's texts begin with. An EOS is not asked for: an option is scored as
    the beginning of an answer, as published.

    Args:
        tokenizer: of the policy.
        question: what to ask.
        form: ``chat``: Llama-2's chat format, the option being the assistant's words; ``plain``: BOS and the text.

    Raises:
        TemplateError: ``chat``, and the question has a tag of the format in it.
    """
    from align.data.template import encode_prompt

    if form == "chat":
        head, before = encode_prompt(tokenizer, question.messages, question.where), question.lead
    else:
        head, before = [tokenizer.bos], question.plain
    base = tokenizer.encode(before) if before else []
    whole = [tokenizer.encode(f"{before} {option}" if before else option) for option in question.options]
    shared = min(_alike(base, tokens) for tokens in whole)
    return Encoded((*head, *base[:shared]), tuple(tuple(tokens[shared:]) for tokens in whole))


def normalised(logprobs: Sequence[float], encoded: Encoded, options: Sequence[str], how: Normalise) -> list[float]:
    """Scores of options of different length.

    Args:
        logprobs: of each option, summed over its tokens, nats.
        encoded: the question.
        options: their texts.
        how: ``sum`` leaves them; ``tokens`` divides by tokens (the order is that of perplexity); ``characters``
            divides by characters, which two tokenizers have in common.

    Returns:
        Nats an option, a token or a character.
    """
    if how == "sum":
        return list(logprobs)
    sizes = [len(ids) for ids in encoded.options] if how == "tokens" else [len(option) for option in options]
    return [value / size for value, size in zip(logprobs, sizes, strict=True)]


def user(text: str) -> Message:
    """A message to be answered."""
    return Message("user", text)


def assistant(text: str) -> Message:
    """An answer that was given."""
    return Message("assistant", text)


def _alike(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens both begin with."""
    size = min(len(first), len(second))
    return next((i for i in range(size) if first[i] != second[i]), size)
