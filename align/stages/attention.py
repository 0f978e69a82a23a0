"""Policies and a dialogue -> how much each token still looks at the system message (Ghost Attention, section 3.3).

Every policy reads the same dialogues, as they are written in the file, so that the maps may be laid beside each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic

from align.config import config, to_plain
from align.errors import DataError

if TYPE_CHECKING:
    from align.records import Messages

Count = Annotated[int, pydantic.Field(ge=1)]
COLUMNS = 128  # of a map, at most, where no number of tokens a column is given


@config
class Recipe:
    """Which policies read which dialogues."""

    stage: Literal["attention"]
    seed: int = 0  # of the run: nothing is drawn
    policies: Annotated[dict[str, str], pydantic.Field(min_length=1)]  # name -> artifact
    dialogues: str  # dialogues or prompts that begin with a system message
    take: Count = 1  # so many of the file's first
    bin: Count | None = None  # tokens a column of the figures, the mean of theirs; so many that 128 columns hold all


def run(recipe: Recipe, out: Path) -> None:
    """Map every dialogue by every policy; publish ``attention.json`` and ``figures.json`` at ``out``."""
    from align.artifacts import building, publish, write_json

    dialogues = read_dialogues(recipe.dialogues, recipe.take)
    folders = {name: Path(path) for name, path in recipe.policies.items()}
    maps = [
        attention_map(folders, messages, f"{recipe.dialogues}: row {number}", recipe.bin)
        for number, messages in enumerate(dialogues, start=1)
    ]
    means = {name: mean_by_turn([m["policies"][name]["by_turn"] for m in maps]) for name in folders}
    with building(out) as folder:
        write_json(folder / "attention.json", {"dialogues": maps, "by_turn": means})
        write_json(folder / "figures.json", figures(maps[0], means))
        publish(
            folder, out, stage="attention", name=out.name, recipe=to_plain(recipe), seed=recipe.seed,
            parents=list(dict.fromkeys(folders.values())), inputs=[Path(recipe.dialogues)],
            metrics={"dialogues": len(maps), "by_turn": means},
        )  # fmt: skip


def read_dialogues(path: str, take: int, first: int = 0) -> list[Messages]:
    """Messages of rows ``first`` to ``first + take`` of a file of dialogues or of prompts.

    Raises:
        DataError: the file has no such rows.
    """
    import itertools

    from align.data.conversations import read_conversations

    found = list(itertools.islice(read_conversations(path), first, first + take))
    if len(found) < take:
        raise DataError(f"{path}: found fewer than {first + take} rows, expected at least so many")
    return found


def attention_map(
    policies: Mapping[str, Path], messages: Messages, where: str, width: int | None = None
) -> dict[str, Any]:
    """What policies look at while they read one dialogue.

    Args:
        policies: name -> artifact.
        messages: begin with a system message.
        where: named in errors.
        width: tokens of a column.

    Returns:
        JSON values: ``tokens``, the pieces; ``system``, ``prompts``, ``answers``, spans [first, end) of them; ``bin``;
        and by policy ``layers`` [L][T], the largest attention weight to any token of the system message over the
        heads of a layer; ``largest`` [T], over the layers too; ``binned`` [columns], its means over ``bin`` tokens;
        ``by_turn``, its mean over the answer's tokens of each turn that has one, by turn.

    Raises:
        DataError: a dialogue longer than a policy's context, or policies of different tokenizers.
        TemplateError: no system message.
    """
    import torch

    from align.data.spans import spans
    from align.data.tokenizer import Tokenizer
    from align.model.attention_map import largest_attention
    from align.model.config import read_config
    from align.model.weights import load_policy

    told: dict[str, Any] = {}
    for name, folder in policies.items():
        tokenizer = Tokenizer(folder / "tokenizer.model")
        found, context = spans(tokenizer, messages, where), read_config(folder).max_seq_len
        if len(found.tokens) > context:
            raise DataError(f"{where}: found {len(found.tokens)} tokens, expected at most {context}, what {name} reads")
        pieces = tokenizer.pieces(found.tokens)
        if not told:
            told = {
                "tokens": pieces, "system": found.system, "prompts": found.prompts, "answers": found.answers,
                "bin": width or -(-len(pieces) // COLUMNS), "policies": {},
            }  # fmt: skip
        elif told["tokens"] != pieces:
            raise DataError(
                f"{where}: {name} cuts it in other tokens than {next(iter(policies))}: maps of one tokenizer"
            )
        chosen = torch.zeros(len(pieces), dtype=torch.bool)
        chosen[slice(*found.system)] = True
        layers = largest_attention(load_policy(folder), torch.tensor(found.tokens), chosen)
        largest = layers.amax(0).tolist()
        told["policies"][name] = {
            "layers": layers.tolist(),
            "largest": largest,
            "binned": means_of(largest, [(a, a + told["bin"]) for a in range(0, len(pieces), told["bin"])]),
            "by_turn": {
                str(turn): mean
                for turn, (span, mean) in enumerate(
                    zip(found.answers, means_of(largest, found.answers), strict=True), start=1
                )
                if span[1] > span[0]
            },
        }
    return told


def means_of(values: Sequence[float], places: Sequence[tuple[int, int]]) -> list[float]:
    """The mean of the values in each span, 0 in an empty one."""
    parts = [values[first:end] for first, end in places]
    return [sum(part) / len(part) if part else 0.0 for part in parts]


def mean_by_turn(told: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """By turn: the mean over the dialogues that have it, its standard error, and their number."""
    from align.stats import mean_se

    turns = sorted({turn for by_turn in told for turn in by_turn}, key=int)
    found = {}
    for turn in turns:
        values = [by_turn[turn] for by_turn in told if turn in by_turn]
        mean, error = mean_se(values)
        found[turn] = {"mean": mean, "se": error, "n": len(values)}
    return found


def figures(told: Mapping[str, Any], means: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For the report's page: the first dialogue along its tokens, and all by turn."""
    along = [
        {"name": name, "points": [[told["bin"] * (column + 0.5), value] for column, value in enumerate(m["binned"])]}
        for name, m in told["policies"].items()
    ]
    by_turn = [
        {"name": name, "points": [[int(turn), cell["mean"]] for turn, cell in turns.items()]}
        for name, turns in means.items()
    ]
    value = "largest attention to the system message"
    return [
        {"name": "along", "title": "Attention to the system message along a dialogue", "x": "token", "y": value,
         "series": along},
        {"name": "by-turn", "title": "Attention to the system message by turn", "x": "turn", "y": value,
         "series": by_turn},
    ]  # fmt: skip
