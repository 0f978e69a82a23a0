"""The practice world, written to the same files as real data (docs/world.md)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from align.artifacts import building, publish, write_json, write_jsonl, write_text
from align.config import config, to_plain
from align.records import Kind
from align.world.annotators import Annotators, ceilings
from align.world.answers import Qualities
from align.world.comparisons import pair, rows
from align.world.constraints import constraints, followable
from align.world.dialogues import (
    DemonstrationShares,
    demonstration,
    ghost_dialogue,
    long_rules,
    prompt,
    short_prompt,
)
from align.world.language import World, addressed, build
from align.world.open import open_prompts
from align.world.preprompts import heeding, preprompts
from align.world.text import TextSizes, documents

Count = Annotated[int, pydantic.Field(ge=1)]
Share = Annotated[float, pydantic.Field(ge=0, le=1)]
KINDS: tuple[Kind, ...] = ("helpful", "safety")


@config
class PairSizes:
    """Comparisons of one kind."""

    train: Count
    test: Count


@config
class PromptCounts:
    """Prompts of each sort."""

    fact: int
    skill: int
    instructed: int
    dialogue: int
    unsafe: int
    lookalike: int


@config
class Recipe:
    """Sizes and temper of the practice world."""

    stage: Literal["world"]
    seed: int = 0
    people: Count
    lands: Count
    held_out: Share  # of people and lands that no training question names
    wide: bool = False  # thirty-three kinds of instruction instead of four, with more names; more deeds
    fresh: Share = 0.0  # of test prompts that are new questions about what training questions ask after
    held_phrasing: Share  # of the other test prompts, asked in a phrasing that no training question has
    text: TextSizes
    demonstrations: Count
    demonstration_shares: DemonstrationShares
    preprompted: Count  # further demonstrations, each under a safety preprompt
    demonstrators: Qualities
    candidates: Qualities  # the answers that annotators compare
    annotators: Annotators
    preferences: dict[Kind, PairSizes]
    ceiling_pairs: Count  # simulated for each kind's ceiling
    prompts: PromptCounts
    prompts_test: PromptCounts
    ghost_prompts: Count
    ghost_test: Count
    ghost_turns: Count  # of a test dialogue

    def __post_init__(self) -> None:
        """Refuse a recipe that lacks a kind of annotators."""
        if set(self.preferences) != set(KINDS):
            raise ValueError(f"preferences: expected helpful and safety, found {sorted(self.preferences)}")


def run(recipe: Recipe, out: Path) -> None:
    """Write the world at ``out`` as one artifact of text, JSONL and ``ceilings.json``."""
    world = build(recipe.seed, recipe.people, recipe.lands, recipe.held_out, recipe.wide)
    with building(out) as folder:
        text = list(documents(world, recipe.text))
        write_text(folder / "pretrain.txt", "\n".join(text) + "\n")
        counts = {"pretrain": len(text)}
        for name, made in _files(world, recipe).items():
            counts[name] = write_jsonl(folder / f"{name}.jsonl", made)
        best = {kind: _ceilings(world, kind, recipe) for kind in KINDS}
        write_json(folder / "ceilings.json", {"simulated_pairs": recipe.ceiling_pairs, **best})
        publish(
            folder, out, stage="world", name=out.name, recipe=to_plain(recipe), seed=recipe.seed, parents=[],
            inputs=[], metrics={"rows": counts, "ceilings": best},
        )  # fmt: skip


def _files(world: World, recipe: Recipe) -> Mapping[str, Iterator[dict[str, Any]]]:
    files = {
        "sft": _demonstrations(world, recipe),
        "sft_preprompted": _preprompted(world, recipe),
        "prompts": _prompts(world, recipe.prompts, "train", recipe),
        "prompts_test": _prompts(world, recipe.prompts_test, "test", recipe),
        "prompts_open": open_prompts(),
        "preprompts": preprompts(),
        "constraints": _constraints(world, "train"),
        "constraints_test": _constraints(world, "test"),
        "ghost_prompts": _ghost_prompts(world, recipe.ghost_prompts),
        "ghost_test": _ghost_test(world, recipe),
    }
    for kind in KINDS:
        for split, suffix in (("train", ""), ("test", "_test")):
            count = getattr(recipe.preferences[kind], split)
            made = rows(world, kind, split, count, recipe.candidates, recipe.annotators)
            files[f"preferences_{kind}{suffix}"] = made
    return files


def _demonstrations(world: World, recipe: Recipe) -> Iterator[dict[str, Any]]:
    for number in range(recipe.demonstrations):
        rng = addressed(world.seed, "sft", number)
        yield demonstration(world, recipe.demonstration_shares, recipe.demonstrators, rng)


def _preprompted(world: World, recipe: Recipe) -> Iterator[dict[str, Any]]:
    for number in range(recipe.preprompted):
        yield heeding(world, recipe.demonstrators, addressed(world.seed, "preprompted", number))


def _prompts(world: World, counts: PromptCounts, split: str, recipe: Recipe) -> Iterator[dict[str, Any]]:
    """Prompts in shuffled order. Test: new questions about what is known, or about what is held out.

    A wide world's train prompts instruct with the held-out kind too, as its demonstrations do: two rounds of samples
    that never obey it where it stands unlearn to.
    """
    names = [name for name in PromptCounts.__annotations__ for _ in range(getattr(counts, name))]
    addressed(world.seed, "prompt order", split).shuffle(names)
    rules = followable(world) if world.wide and split == "train" else constraints(world, split)
    for number, name in enumerate(names):
        rng = addressed(world.seed, "prompt", split, number)
        if split == "test" and rng.random() < recipe.fresh:
            yield prompt(world, name, "train", f"fresh-{number}", rng, 0.0, constraints(world, "train"), unasked=True)
            continue
        seen = split == "test" and name == "fact" and rng.random() < 0.5
        held = recipe.held_phrasing if split == "test" else 0.0
        if seen and name == "fact":
            held = 1.0  # a known entity in an unknown phrasing
        yield prompt(world, name, "train" if seen else split, f"{split}-{number}", rng, held, rules)


def _constraints(world: World, split: str) -> Iterator[dict[str, Any]]:
    for rule in constraints(world, split):
        yield {
            "kind": rule.kind,
            "instruction": rule.instruction,
            "short": rule.short,
            "meta": dict(rule.meta),
        }


def _ghost_prompts(world: World, count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        yield short_prompt(world, f"ghost-{number}", addressed(world.seed, "ghost prompt", number))


def _ghost_test(world: World, recipe: Recipe) -> Iterator[dict[str, Any]]:
    rules = long_rules(world, recipe.ghost_test)
    for number in range(recipe.ghost_test):
        rng = addressed(world.seed, "ghost test", number)
        yield ghost_dialogue(world, recipe.ghost_turns, rules[number], f"ghost-test-{number}", rng)


def _ceilings(world: World, kind: Kind, recipe: Recipe) -> dict[str, dict[str, float]]:
    pairs = (
        pair(world, kind, "test", recipe.candidates, f"ceiling {number}")[2] for number in range(recipe.ceiling_pairs)
    )
    return ceilings(pairs, kind, recipe.annotators)
