"""Where parts of a dialogue lie among its tokens: the system message, and each turn."""

from __future__ import annotations

import re
from dataclasses import dataclass

from align.data.template import check_messages, turns
from align.data.tokenizer import Tokenizer
from align.errors import TemplateError
from align.records import Messages

BEFORE = "[INST] <<SYS>>\n"  # what stands before the system message's text
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True, slots=True)
class Spans:
    """A dialogue's tokens, and places among them; a span is [first, end)."""

    tokens: list[int]
    system: tuple[int, int]  # the system message's text, without its tags
    prompts: list[tuple[int, int]]  # of each turn: its BOS and "[INST] … [/INST]"
    answers: list[tuple[int, int]]  # of each turn: the answer and its EOS; empty where it is still to be answered


def spans(tokenizer: Tokenizer, messages: Messages, where: str) -> Spans:
    """The tokens of a dialogue under a system message, answered to its end or not.

    Args:
        tokenizer: of the model.
        messages: begin with a system message.
        where: named in errors.

    Raises:
        TemplateError: no system message, or what :func:`align.data.template.check_messages` refuses.
    """
    check_messages(messages, where, ends="user" if messages and messages[-1].role == "user" else "assistant")
    if messages[0].role != "system":
        raise TemplateError(f"{where}: found no system message, expected one: the attention to it is looked at")
    tokens: list[int] = []
    system = (0, 0)
    prompts, answers = [], []
    for turn, (prompt, answer) in enumerate(turns(messages)):
        first = len(tokens)
        ids = tokenizer.encode(prompt)
        tokens += [tokenizer.bos, *ids]
        prompts.append((first, len(tokens)))
        if turn == 0:
            assert prompt.startswith(BEFORE)
            begin = len(BEFORE)
            low, high = covering(tokenizer.pieces(ids), begin, begin + len(messages[0].content.encode()))
            system = (first + 1 + low, first + 1 + high)
        if answer is not None:
            tokens += [*tokenizer.encode(answer), tokenizer.eos]
        answers.append((prompts[-1][1], len(tokens)))
    return Spans(tokens, system, prompts, answers)


def covering(pieces: list[str], begin: int, end: int) -> tuple[int, int]:
    """The pieces [first, last) that hold the bytes [begin, end) of the text they are of.

    The first piece begins with the dummy prefix, a space that is not of the text.
    """
    ends, at = [], -1
    for piece in pieces:
        at += 1 if _BYTE.fullmatch(piece) else len(piece.replace("▁", " ").encode())
        ends.append(at)
    first = next(index for index, stop in enumerate(ends) if stop > begin)
    last = next(index for index, stop in enumerate(ends) if stop >= end)
    return first, last + 1
