"""Ghost Attention (paper section 3.3): an instruction in every user message to sample, in the first to train.

Training on what :func:`first_turn_only` gives with the mask on the last answer alone (``train: last`` in the
SFT recipe) zeroes the loss of every earlier turn, answers included.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from align.data.template import assemble, check_messages, encode_texts
from align.data.tokenizer import Tokenizer
from align.errors import DataError
from align.records import Constraint, Message, Messages, Row

Form = Literal["system", "plain"]
Forms = Literal["system", "plain", "either"]


@dataclass(frozen=True, slots=True)
class Plan:
    """A dialogue to be sampled: what must hold, and what the user says."""

    instruction: str
    kinds: str  # of its constraints, "figure+hobby"
    users: tuple[str, ...]
    metas: tuple[Mapping[str, Any], ...] = ()  # of its constraints, for a judge: what each says, and its own meta
    form: Form = "system"  # of the instruction where it is trained on, in the first turn


def draw(
    constraints: Sequence[Constraint],
    turns: Sequence[str],
    *,
    dialogs: int,
    lengths: Sequence[int],
    combine: int = 1,
    short_share: float = 0.5,
    form: Forms = "system",
    seed: int,
) -> list[Plan]:
    """Random combinations of constraints over random users' turns.

    Args:
        constraints: to choose from.
        turns: what users say; none twice in a dialogue while there are enough.
        dialogs: how many plans.
        lengths: user turns of a dialogue; each length comes equally often.
        combine: up to so many constraints of different kinds at once.
        short_share: chance of the shortened form (the paper: half the time).
        form: of every plan; ``either`` gives each of the two even chances.
        seed: plan ``d`` follows from (seed, d) alone.

    Raises:
        DataError: no constraint or no turn to draw from.
    """
    if not constraints or not turns:
        raise DataError(
            f"ghost: found {len(constraints)} constraints and {len(turns)} user turns, expected some of each"
        )
    by_kind: dict[str, list[Constraint]] = {}
    for constraint in constraints:
        by_kind.setdefault(constraint.kind, []).append(constraint)
    plans = []
    for number in range(dialogs):
        rng = random.Random(f"ghost {seed} {number}")
        kinds = rng.sample(sorted(by_kind), rng.randint(1, min(combine, len(by_kind))))
        picked = [rng.choice(by_kind[kind]) for kind in kinds]
        short = rng.random() < short_share
        length = lengths[number % len(lengths)]
        said = rng.sample(turns, length) if length <= len(turns) else rng.choices(turns, k=length)
        plans.append(
            Plan(
                instruction=" ".join(_sentence(c.short if short else c.instruction) for c in picked),
                kinds="+".join(sorted(kinds)),
                users=tuple(said),
                metas=tuple({"kind": c.kind, "instruction": c.instruction, **c.meta} for c in picked),
                form=_form(form, seed, number),
            )
        )
    return plans


def join(instruction: str, user: str) -> str:
    """An instruction before what the user says, in one message."""
    return f"{_sentence(instruction)} {user}"


def every_turn(plan: Plan, answers: Sequence[str], form: Form = "plain") -> Messages:
    """What is sampled from: the instruction joined to every user message so far.

    Args:
        plan: of the dialogue.
        answers: those already sampled, fewer than ``plan.users``.
        form: ``system`` states it in the first turn as a system message instead.

    Returns:
        Messages up to the next user message.
    """
    assert len(answers) < len(plan.users)
    users = [join(plan.instruction, user) for user in plan.users[: len(answers) + 1]]
    if form == "system":
        users[0] = plan.users[0]
        return (Message("system", plan.instruction), *_alternate(users, answers))
    return _alternate(users, answers)


def first_turn_only(plan: Plan, answers: Sequence[str]) -> Messages:
    """What is trained on: the instruction in the first turn alone, then the dialogue as it went.

    Args:
        plan: of the dialogue; its form says whether the instruction is a system message or stands before the first
            user message.
        answers: one to each of its first user messages; the dialogue ends with the last.
    """
    assert 0 < len(answers) <= len(plan.users)
    users = list(plan.users[: len(answers)])
    if plan.form == "system":
        return (Message("system", plan.instruction), *_alternate(users, answers))
    users[0] = join(plan.instruction, users[0])
    return _alternate(users, answers)


def ghost_row(tokenizer: Tokenizer, plan: Plan, answers: Sequence[str]) -> Row:
    """The training row: instruction in the first turn only, mask on the last answer and its EOS only.

    Raises:
        TemplateError: an answer that the chat format refuses.
    """
    messages = first_turn_only(plan, answers)
    check_messages(messages, f"ghost dialogue ({plan.kinds})")
    return assemble(tokenizer, messages, encode_texts(tokenizer, [messages]), "last")


def _form(form: Forms, seed: int, number: int) -> Form:
    if form == "either":
        return random.Random(f"ghost form {seed} {number}").choice(("system", "plain"))
    return form


def _alternate(users: Sequence[str], answers: Sequence[str]) -> Messages:
    messages: list[Message] = []
    for turn, user in enumerate(users):
        messages.append(Message("user", user))
        if turn < len(answers):
            messages.append(Message("assistant", answers[turn]))
    return tuple(messages)


def _sentence(text: str) -> str:
    """The text with an end, so that what follows does not run into it: "Figure: Napoleon" has none."""
    text = text.strip()
    return text if text.endswith((".", "!", "?", ":", ";")) else text + "."
