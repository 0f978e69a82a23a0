"""A dialogue's parts among its tokens, read back as text."""

from __future__ import annotations

import pytest

from align.data.spans import covering, spans
from align.data.template import encode_dialog, encode_prompt
from align.data.tokenizer import Tokenizer
from align.errors import TemplateError
from align.records import Message, Messages


def dialogue(system: str, *contents: str) -> Messages:
    rest = [Message("assistant" if i % 2 else "user", content) for i, content in enumerate(contents)]
    return (Message("system", system), *rest)


SYSTEMS = ["the fox", "Always act as Zoë, the 漢 queen.", "  spaces  around  ", "two\nlines", "x", "SYS"]


@pytest.mark.parametrize("system", SYSTEMS)
def test_each_part_reads_back(small: Tokenizer, system: str) -> None:
    messages = dialogue(system, "a dog?", "in paris", "system?", "the fox")
    found = spans(small, messages, "here")
    assert found.tokens == encode_dialog(small, messages).tokens.tolist()
    text = small.decode(found.tokens[slice(*found.system)])
    assert text.strip() == system.strip()
    assert [small.decode(found.tokens[a:b]).strip() for a, b in found.answers] == ["in paris", "the fox"]
    assert small.decode(found.tokens[slice(*found.prompts[1])]) == "[INST] system? [/INST]"
    places = [place for pair in zip(found.prompts, found.answers, strict=True) for place in pair]
    assert [a for a, _ in places] == [0, *(b for _, b in places[:-1])]
    assert places[-1][1] == len(found.tokens)


def test_with_llamas_own_tokenizer(llama: Tokenizer) -> None:
    messages = dialogue("Always act as Napoleon 漢.", "Who?")
    found = spans(llama, messages, "here")
    assert found.tokens == encode_prompt(llama, messages)
    pieces = llama.pieces(found.tokens[slice(*found.system)])
    assert "".join(pieces) == "Always▁act▁as▁Napoleon▁漢."
    assert found.answers == [(len(found.tokens), len(found.tokens))]


def test_covering_by_hand() -> None:
    pieces = ["▁[INST]", "<0x0A>", "ab", "c▁d", "e"]  # the text is "[INST]\nabc de"
    assert covering(pieces, 7, 9) == (2, 3)
    assert covering(pieces, 8, 10) == (2, 4)
    assert covering(pieces, 0, 13) == (0, 5)


def test_without_a_system_message() -> None:
    with pytest.raises(TemplateError, match="here: found no system message"):
        spans(None, dialogue("x", "u", "a")[1:], "here")  # type: ignore[arg-type]
