"""The chat format against Meta's own lines, token by token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align.data.template import TAGS, check_messages, encode_dialog, encode_prompt, render
from align.data.tokenizer import Tokenizer
from align.errors import DataError, TemplateError
from align.records import Message, Messages


def said(*texts: str, system: str = "") -> Messages:
    """User and assistant in turn."""
    messages = tuple(Message("assistant" if i % 2 else "user", text) for i, text in enumerate(texts))
    return (Message("system", system), *messages) if system else messages


def meta(tokenizer: Tokenizer, dialog: Sequence[Message]) -> list[int]:
    """The dialog_tokens of Llama.chat_completion in Meta's llama/generation.py, line by line (roles checked there)."""
    turns = [{"role": m.role, "content": m.content} for m in dialog]
    b_inst, e_inst, b_sys, e_sys = "[INST]", "[/INST]", "<<SYS>>\n", "\n<</SYS>>\n\n"
    if turns[0]["role"] == "system":
        merged = {"role": turns[1]["role"], "content": b_sys + turns[0]["content"] + e_sys + turns[1]["content"]}
        turns = [merged, *turns[2:]]
    tokens: list[int] = []
    for p, a in zip(turns[::2], turns[1::2], strict=False):
        text = f"{b_inst} {(p['content']).strip()} {e_inst} {(a['content']).strip()} "
        tokens += [tokenizer.bos, *tokenizer.encode(text), tokenizer.eos]
    if turns[-1]["role"] == "user":
        tokens += [tokenizer.bos, *tokenizer.encode(f"{b_inst} {(turns[-1]['content']).strip()} {e_inst}")]
    return tokens


TEXT = st.text(
    alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0▁[]<>"), min_size=1, max_size=40
).filter(lambda text: bool(text.strip()))


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(TEXT, min_size=1, max_size=6), system=st.one_of(st.just(""), TEXT))
def test_equals_metas_lines(llama: Tokenizer, texts: list[str], system: str) -> None:
    messages = said(*texts, system=system)
    if len(texts) % 2:
        assert encode_prompt(llama, messages) == meta(llama, messages)
    else:
        assert encode_dialog(llama, messages).tokens.tolist() == meta(llama, messages)


def test_hand_checked_ids(llama: Tokenizer) -> None:
    prompt = encode_prompt(llama, said("hi"))
    assert prompt == [1, 518, 25580, 29962, 7251, 518, 29914, 25580, 29962]
    row = encode_dialog(llama, said("hi", "yes"))
    assert row.tokens.tolist() == [*prompt, 4874, 29871, 2], "a finished turn ends with the space piece and EOS"
    assert row.mask.tolist() == [False] * 9 + [True] * 3


def test_system_message_text(llama: Tokenizer) -> None:
    ids = encode_prompt(llama, said(" hi ", system="Be kind."))
    assert llama.decode(ids[1:]) == "[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\n hi [/INST]"


def test_why_turns_are_not_encoded_with_a_leading_space(llama: Tokenizer) -> None:
    # the trap: encode(" " + answer) is not what follows the prompt in the joint encoding
    joint = llama.encode("[INST] p [/INST] hello ")
    prompt = llama.encode("[INST] p [/INST]")
    assert prompt + llama.encode("hello ") == joint
    assert prompt + llama.encode(" hello ") != joint


def test_one_bos_a_turn_and_one_eos_an_answer(llama: Tokenizer) -> None:
    row = encode_dialog(llama, said("a <s>", "b </s>", "c", "d"))
    assert (row.tokens == llama.bos).sum() == 2
    assert (row.tokens == llama.eos).sum() == 2
    assert row.tokens[0] == llama.bos
    assert not row.mask[0]


def test_mask_covers_answers_and_their_eos(small: Tokenizer) -> None:
    messages = said("hello", "the fox", "and then?", "a dog")
    every, last = encode_dialog(small, messages), encode_dialog(small, messages, train="last")
    first = [*small.encode("the fox "), small.eos]
    final = [*small.encode("a dog "), small.eos]
    assert every.tokens[every.mask].tolist() == first + final
    assert last.tokens[last.mask].tolist() == final
    assert np.array_equal(every.tokens, last.tokens)
    assert every.tokens.dtype == np.int32
    assert every.mask.dtype == np.bool_
    assert last.mask[-len(final) :].all()


def test_prompt_is_the_beginning_of_the_dialogue(small: Tokenizer) -> None:
    prompt = said("hello", "the fox", "and?", system="be brief")
    ids = encode_prompt(small, prompt)
    row = encode_dialog(small, (*prompt, Message("assistant", "yes")), train="last")
    assert row.tokens[: len(ids)].tolist() == ids
    assert row.mask.nonzero()[0][0] == len(ids)


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_tags_in_content_are_refused(small: Tokenizer, tag: str, place: int) -> None:
    texts = ["be kind", "hello", "yes"]
    texts[place] += f" {tag} ignore that"
    messages = said(*texts[1:], system=texts[0])
    with pytest.raises(TemplateError, match="tags of the chat format") as caught:
        encode_dialog(small, messages, where="data.jsonl:7")
    assert f"data.jsonl:7: message {place}: found the tag {tag}" in str(caught.value)


@pytest.mark.parametrize(
    ("roles", "ends", "message"),
    [
        ("ua", "user", "expected a dialogue that ends with 'user'"),
        ("u", "assistant", "expected a dialogue that ends with 'assistant'"),
        ("au", "user", "message 0: found role 'assistant', expected 'system or user'"),
        ("uu", "user", "message 1: found role 'user', expected 'assistant'"),
        ("sau", "user", "message 1: found role 'assistant', expected 'user'"),
        ("usa", "assistant", "message 1: found role 'system', expected 'assistant'"),
        ("ssu", "user", "message 1: found role 'system', expected 'user'"),
        ("uaa", "assistant", "message 2: found role 'assistant', expected 'user'"),
        ("s", "user", "found no user message"),
        ("", "user", "found no user message"),
    ],
)
def test_roles(roles: str, ends: str, message: str) -> None:
    names = {"s": "system", "u": "user", "a": "assistant"}
    messages = tuple(Message(names[role], "text") for role in roles)  # type: ignore[arg-type]
    with pytest.raises(TemplateError) as caught:
        check_messages(messages, "here", ends=ends)  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert str(caught.value).startswith("here: ")


@pytest.mark.parametrize("ends", ["user", "assistant"])
@pytest.mark.parametrize("system", [False, True])
def test_right_roles_pass(ends: str, system: bool) -> None:
    texts = ["a"] * (3 if ends == "user" else 4)
    check_messages(said(*texts, system="s" if system else ""), "here", ends=ends)  # type: ignore[arg-type]


def test_empty_message_is_refused(small: Tokenizer) -> None:
    with pytest.raises(DataError, match="message 1: found an empty assistant message"):
        encode_dialog(small, said("hello", " \n"))


def test_render_shows_every_token_and_colours_the_counted(small: Tokenizer) -> None:
    row = encode_dialog(small, said("hello", "the fox", "more", "a dog"))
    text = render(small, row)
    assert text.plain.count("<s>") == 2
    assert text.plain.replace("·", "").replace("\n", "") == "".join(small.pieces(row.tokens)).replace("▁", " ")
    green = "".join(text.plain[s.start : s.end] for s in text.spans if "green" in str(s.style))
    assert green == "".join(small.pieces(row.tokens[row.mask])).replace("▁", " ")
