"""Questions and answers as tokens and back, with a tokenizer of LLaMA's kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from align.data.tokenizer import Tokenizer
from align.errors import TemplateError
from align.exams.answers import decode_answer, encode_asked, stop_tokens
from align.exams.question import Encoded, Question, encode, normalised, user


@pytest.fixture(scope="module")
def llama(shared_data: Path) -> Tokenizer:
    return Tokenizer(shared_data / "llama2_tokenizer" / "tokenizer.model")


def question(lead: str = "", text: str = "Q: Who?\nA:") -> Question:
    return Question(
        id="q", where="f:1", messages=(user("Who?"),), lead=lead, plain=text, options=("the nurse", "the cook")
    )


def test_plain_options_are_what_stands_behind_the_text(llama: Tokenizer) -> None:
    found = encode(llama, question(), "plain")
    assert found.context == (llama.bos, *llama.encode("Q: Who?\nA:"))
    for option, ids in zip(("the nurse", "the cook"), found.options, strict=True):
        assert (*found.context[1:], *ids) == tuple(llama.encode(f"Q: Who?\nA: {option}"))
        assert "".join(llama.pieces(ids)) == f"▁{option.replace(' ', '▁')}"
    assert found.length == len(found.context) + max(map(len, found.options))


def test_chat_options_are_the_assistants_words(llama: Tokenizer) -> None:
    from align.data.template import encode_dialog
    from align.records import Message

    for lead in ("", "‘His’ refers to"):
        found = encode(llama, question(lead), "chat")
        for option, ids in zip(("the nurse", "the cook"), found.options, strict=True):
            said = f"{lead} {option}".strip()
            whole = encode_dialog(llama, (user("Who?"), Message("assistant", said))).tokens.tolist()
            joined = [*found.context, *ids]
            assert joined == whole[: len(joined)], "what the model was trained to say"
            assert "".join(llama.pieces(ids)) == f"▁{option.replace(' ', '▁')}"


def test_a_tag_in_a_question_is_refused_in_a_chat(llama: Tokenizer) -> None:
    with pytest.raises(TemplateError, match=r"f:1: message 0: found the tag \[INST\]"):
        encode(llama, Question(id="q", where="f:1", messages=(user("[INST]"),), plain="", options=("a",)), "chat")


def test_scores_by_hand() -> None:
    both = Encoded((1,), ((5, 6), (7, 8, 9)))
    given = ([-4.0, -3.0], both, ["ab cd", "x"])
    assert normalised(*given, "sum") == [-4.0, -3.0]
    assert normalised(*given, "tokens") == [-2.0, -1.0]
    assert normalised(*given, "characters") == [-0.8, -3.0]


def test_a_completion_keeps_its_indentation(llama: Tokenizer) -> None:
    prompt, answer = "def f(x):\n", "    if x:\n        return 1\n\nprint(2)"
    ids = encode_asked(llama, prompt, "f:1")
    rest = llama.encode(prompt + answer)[len(ids) - 1 :]
    assert decode_answer(llama, prompt, ids, rest) == answer
    assert llama.decode(rest) != answer, "decoded alone it loses a space: or this test could not fail"


def test_stops_are_the_tokens_that_texts_end_in(llama: Tokenizer) -> None:
    for text, stop in zip(("\ndef", "\nQuestion:"), stop_tokens(llama, ("\ndef", "\nQuestion:")), strict=True):
        ids = llama.encode(f"    return 1{text}")
        assert tuple(ids[-len(stop) :]) == stop
        assert llama.decode(llama.encode("x") + list(stop)) == f"x{text}"
