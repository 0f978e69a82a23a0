"""Dialogues turn by turn, with a sampler that tells what it was asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from align.records import Message, Messages, Request, Rollout
from align.rollout.backend import SamplingConfig
from align.rollout.converse import converse
from tests.fakes import LetterTokenizer

NEW = 5  # tokens of an answer at most


class Scripted:
    """Says what is written for (dialogue, turn), else ``d.t``; "cut" did not end. Keeps every batch it was asked."""

    def __init__(self, script: dict[tuple[int, int], str] | None = None) -> None:
        self.script = script or {}
        self.batches: list[list[Request]] = []

    def generate(
        self,
        requests: Sequence[Request],
        sampling: SamplingConfig,
        on_result: Callable[[Rollout], None] | None = None,
    ) -> list[Rollout]:
        self.batches.append(list(requests))
        rollouts = []
        for request in requests:
            text = self.script.get((request.prompt, request.step), f"{request.prompt}.{request.step}")
            tokens = (*(ord(letter) for letter in text), 2)
            finish = "length" if text == "cut" else "stop"
            rollouts.append(Rollout(request.prompt, request.sample, tokens, (-1.0,) * len(tokens), finish, "0"))
            if on_result:
                on_result(rollouts[-1])
        return rollouts


def ask(dialogue: int, answers: list[str]) -> Messages:
    messages = [Message("user", f"q{dialogue}")]
    for answer in answers:
        messages += [Message("assistant", answer), Message("user", "and")]
    return tuple(messages)


def talk(
    sampler: Scripted,
    turns: list[int],
    folder: Path,
    context: int = 1000,
    question: Callable[[int, list[str]], Messages] = ask,
) -> list[list[str]]:
    return converse(
        sampler, LetterTokenizer(), turns, question, SamplingConfig(max_new_tokens=NEW),  # type: ignore[arg-type]
        seed=9, journal=folder / "said", context=context,
    )  # fmt: skip


def text(request: Request) -> str:
    """A prompt as a person reads it, with | where a dialogue's turn begins and $ where an answer ends."""
    return "".join({1: "|", 2: "$"}.get(token) or chr(token) for token in request.tokens)


def test_each_turn_is_one_batch_with_the_policys_own_answers(tmp_path: Path) -> None:
    sampler = Scripted()
    assert talk(sampler, [1, 3, 2], tmp_path) == [["0.0"], ["1.0", "1.1", "1.2"], ["2.0", "2.1"]]
    asked = [[(r.prompt, r.sample, r.seed, r.step) for r in batch] for batch in sampler.batches]
    assert asked == [[(0, 0, 9, 0), (1, 0, 9, 0), (2, 0, 9, 0)], [(1, 0, 9, 1), (2, 0, 9, 1)], [(1, 0, 9, 2)]]
    assert text(sampler.batches[0][2]) == "|[INST] q2 [/INST]"
    assert text(sampler.batches[2][0]) == "|[INST] q1 [/INST]1.0 $|[INST] and [/INST]1.1 $|[INST] and [/INST]"


def test_the_context_ends_a_dialogue_at_the_first_turn_without_room(tmp_path: Path) -> None:
    first, second = len("|[INST] q0 [/INST]"), len("0.0 $|[INST] and [/INST]")
    room = first + second + NEW
    for context, expected in ((room, ["0.0", "0.1"]), (room - 1, ["0.0"]), (first + NEW - 1, [])):
        sampler = Scripted()
        folder = tmp_path / str(context)
        folder.mkdir()
        assert talk(sampler, [3], folder, context) == [expected]
        assert max((len(r.tokens) + NEW for batch in sampler.batches for r in batch), default=0) <= context


def test_an_ended_dialogue_is_not_taken_up_again(tmp_path: Path) -> None:
    """Not even where a later prompt would have room."""

    def long_second(dialogue: int, answers: list[str]) -> Messages:
        return (Message("user", "q" * (500 if len(answers) == 1 and dialogue == 0 else 1)),)

    sampler = Scripted()
    assert talk(sampler, [4, 2], tmp_path, 100, long_second) == [["0.0"], ["1.0", "1.1"]]
    assert [[r.prompt for r in batch] for batch in sampler.batches] == [[0, 1], [1]]


@pytest.mark.parametrize("nothing", ["", "  \n"])
def test_an_empty_answer_ends_its_dialogue(tmp_path: Path, nothing: str) -> None:
    sampler = Scripted({(0, 1): nothing, (1, 0): " word "})
    assert talk(sampler, [3, 3], tmp_path) == [["0.0"], ["word", "1.1", "1.2"]]
    assert [[r.prompt for r in batch] for batch in sampler.batches] == [[0, 1], [0, 1], [1]]


@pytest.mark.parametrize(("whole", "expected"), [(False, ["0.0", "cut", "0.2"]), (True, ["0.0"])])
def test_a_dialogue_goes_on_from_a_cut_answer_unless_whole_ones_are_asked_for(
    tmp_path: Path, whole: bool, expected: list[str]
) -> None:
    found = converse(
        Scripted({(0, 1): "cut"}), LetterTokenizer(), [3], ask, SamplingConfig(max_new_tokens=NEW),  # type: ignore[arg-type]
        seed=9, journal=tmp_path / "said", context=1000, whole=whole,
    )  # fmt: skip
    assert found == [expected]


def test_a_killed_conversation_goes_on_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    whole = talk(Scripted(), [3, 3], tmp_path / "other")

    class Dies(Scripted):
        def generate(
            self,
            requests: Sequence[Request],
            sampling: SamplingConfig,
            on_result: Callable[[Rollout], None] | None = None,
        ) -> list[Rollout]:
            if requests[0].step == 1:
                super().generate(requests[1:], sampling, on_result)
                raise KeyboardInterrupt
            return super().generate(requests, sampling, on_result)

    with pytest.raises(KeyboardInterrupt):
        talk(Dies(), [3, 3], tmp_path)
    again = Scripted()
    assert talk(again, [3, 3], tmp_path) == whole
    assert [[(r.prompt, r.step) for r in batch] for batch in again.batches] == [[(0, 1)], [(0, 2), (1, 2)]]


def test_no_dialogues(tmp_path: Path) -> None:
    assert talk(Scripted(), [], tmp_path) == []
    assert talk(Scripted(), [0], tmp_path) == [[]]
