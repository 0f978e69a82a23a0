"""`align attention`: a map of the largest attention to the system message over a dialogue, by one or more policies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from align.errors import RecipeError


def draw_attention(
    dialogues: Path, policies: Sequence[Path], row: int, width: int | None, out: Path | None, json: Path | None
) -> str:
    """Look at one dialogue by every policy.

    Args:
        dialogues: a file of dialogues or prompts.
        policies: artifacts.
        row: of the file, from 1.
        width: tokens of a column; None: so many that 128 columns hold the dialogue.
        out: the map, SVG.
        json: the map as data.

    Returns:
        A table to print: by turn, the mean over the answer's tokens of the largest attention.

    Raises:
        AlignError: no such row, no system message, policies whose tokens differ.
    """
    from align.artifacts import write_json, write_text
    from align.report.heat import heat_map
    from align.report.tables import table
    from align.stages.attention import attention_map, read_dialogues

    if out is not None and out.suffix != ".svg":
        raise RecipeError(
            f"--out: found {out}, expected a name that ends in .svg (docs/ghost.md says how to have a PNG)"
        )
    (messages,) = read_dialogues(str(dialogues), 1, row - 1)
    told = attention_map(_named(policies), messages, f"{dialogues}: row {row}", width)
    if json:
        write_json(json, told)
    if out:
        write_text(out, heat_map(told))
    first = next(iter(told["policies"].values()))
    rows = [[turn, *(f"{m['by_turn'][turn]:.3f}" for m in told["policies"].values())] for turn in first["by_turn"]]
    title = f"Largest attention to the system message, mean over each answer ({len(told['tokens'])} tokens)"
    return table(title, ["turn", *told["policies"]], rows)


def _named(policies: Sequence[Path]) -> dict[str, Path]:
    """Policies by their folders' names, by whole paths where two are alike."""
    names = [policy.resolve().name for policy in policies]
    if len(set(names)) < len(names):
        names = [str(policy) for policy in policies]
    if len(set(names)) < len(names):
        raise RecipeError(f"policies: found {', '.join(names)}, expected each once")
    return dict(zip(names, policies, strict=True))
