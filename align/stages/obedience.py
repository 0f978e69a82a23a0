"""Long dialogues under an instruction given once: for how many turns a policy obeys it (paper section 3.3)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from align.data.tokenizer import Tokenizer
    from align.records import Message, Messages, Prompt
    from align.rollout.local import LocalEngine
    from align.stages.evaluate import Recipe
    from align.stages.judges import Judge


def obedience(
    sampler: LocalEngine, tokenizer: Tokenizer, dialogues: Sequence[Prompt], judge: Judge, recipe: Recipe,
    journal: Path, context: int,
) -> dict[int, dict[str, list[bool]]]:  # fmt: skip
    """By turn and source, whether each dialogue's answer kept the instruction; one that ended early did not.

    Dialogues that have no such turn, or whose context ends before it, are left out there.
    """
    from align.data.template import encode_prompt
    from align.rollout.converse import converse

    assert recipe.dialogues is not None
    last, sampling = max(recipe.dialogues.turns), recipe.dialogues.sampling or recipe.sampling

    def ask(number: int, answers: list[str]) -> Messages:
        return asked(dialogues[number], answers)

    turns = [min(last, len(users(dialogue))) for dialogue in dialogues]
    said = converse(sampler, tokenizer, turns, ask, sampling, seed=recipe.seed, journal=journal, context=context)
    kept: dict[int, dict[str, list[bool]]] = {turn: defaultdict(list) for turn in recipe.dialogues.turns}
    room = context - sampling.max_new_tokens
    for number, (dialogue, answers) in enumerate(zip(dialogues, said, strict=True)):
        whole = len(answers) == turns[number]
        outgrown = not whole and len(encode_prompt(tokenizer, ask(number, answers))) > room
        for turn in recipe.dialogues.turns:
            if turn > (len(answers) if outgrown else turns[number]):
                continue
            obeyed = len(answers) >= turn and judge(at_turn(dialogue, answers, turn), answers[turn - 1]).kept
            kept[turn][dialogue.source].append(bool(obeyed))
    return kept


def users(dialogue: Prompt) -> list[Message]:
    """The users' messages of a dialogue."""
    return [message for message in dialogue.messages if message.role == "user"]


def asked(dialogue: Prompt, answers: Sequence[str]) -> Messages:
    """The dialogue up to its next user turn, the policy's own answers in place of those written there."""
    from align.records import Message

    messages = [message for message in dialogue.messages[:1] if message.role == "system"]
    for turn, user in enumerate(users(dialogue)[: len(answers) + 1]):
        messages.append(user)
        if turn < len(answers):
            messages.append(Message("assistant", answers[turn]))
    return tuple(messages)


def at_turn(dialogue: Prompt, answers: Sequence[str], turn: int) -> Prompt:
    """What the judge is shown of one turn (from 1): the dialogue so far, and that turn's ``meta.turns`` where given."""
    from dataclasses import replace

    metas = dialogue.meta.get("turns")
    meta = dialogue.meta if metas is None else metas[turn - 1]
    return replace(dialogue, messages=asked(dialogue, answers[: turn - 1]), meta=meta)
