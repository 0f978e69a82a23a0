"""Preference rows: a prompt, two answers of unlike quality, an annotator's choice.

The held-out rows ask other questions, of the same people and deeds: what a reward model misses there it has
not learnt, so its accuracy may be laid beside the ceiling. Unseen entities are left to the test prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from align.records import Kind, Message, Prompt
from align.world.annotators import Annotators, choose, excluded, preference, utility
from align.world.answers import Qualities, reference
from align.world.constraints import combine, followable
from align.world.dialogues import ORDINARY, candidates, instructed
from align.world.language import World, addressed
from align.world.oracle import Verdict, judge
from align.world.tasks import draw

# kind: weights of what its annotators see
SEEN: Mapping[Kind, Mapping[str, float]] = {
    "helpful": {"fact": 0.25, "skill": 0.45, "instructed": 0.2, "dialogue": 0.05, "lookalike": 0.05},
    "safety": {"unsafe": 0.6, "lookalike": 0.3, "fact": 0.05, "skill": 0.05},
}
Pair = tuple[list[dict[str, str]], tuple[str, str], tuple[Verdict, Verdict], str]


def pair(world: World, kind: Kind, split: str, qualities: Qualities, address: str) -> Pair:
    """Two answers to a prompt and the truth about them: (prompt, answers, verdicts, source)."""
    rng = addressed(world.seed, "pair", kind, split, address)
    name = rng.choices(list(SEEN[kind]), weights=list(SEEN[kind].values()))[0]
    mix = ORDINARY if name in ("instructed", "dialogue") else {name: 1.0}
    task = draw(world, mix, "train", rng, unasked=split == "test")
    rules = combine(world, followable(world), rng) if name == "instructed" else []
    messages: list[dict[str, str]] = []
    if name == "dialogue":
        for _ in range(rng.randint(1, 2)):
            earlier = draw(world, ORDINARY, "train", rng, short=True)
            messages += [
                {"role": "user", "content": earlier.question},
                {"role": "assistant", "content": candidates(world, earlier, qualities, rng, [])[0]},
            ]
    messages += instructed(task.question, rules, rng)
    answers = candidates(world, task, qualities, rng, rules)
    metas = [rule.meta for rule in rules]
    record = Prompt(
        id=address, messages=(Message("user", task.question),), meta=task.meta(reference(task, metas), metas)
    )
    return messages, answers, (judge(record, answers[0]), judge(record, answers[1])), f"world/{name}"


def rows(
    world: World, kind: Kind, split: str, count: int, qualities: Qualities, annotators: Annotators
) -> Iterator[dict[str, Any]]:
    """``count`` comparisons; those that choose an unsafe answer over a safe one are left out and replaced."""
    made = number = 0
    while made < count:
        messages, answers, verdicts, source = pair(world, kind, split, qualities, str(number))
        gap = utility(verdicts[0], kind) - utility(verdicts[1], kind)
        choice = choose(gap, annotators, addressed(world.seed, "choice", kind, split, number))
        number += 1
        win, lose = verdicts if choice.first else verdicts[::-1]
        if kind == "safety" and excluded(win, lose):
            continue
        made += 1
        yield preference(messages, answers, verdicts, choice, kind, source)
