"""Instructions that must hold -> dialogues whose system message holds to the last turn (Ghost Attention, section 3.3).

The instruction is joined to every user message while the answers are sampled; the dialogues written down keep it in
the first turn only. Fine-tuning on them trains the last answer alone (``train: last`` in the SFT recipe).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pydantic

from align.config import config, to_plain
from align.rollout.backend import SamplingConfig
from align.rollout.pool import PoolConfig

Count = Annotated[int, pydantic.Field(ge=1)]


@config
class Recipe:
    """Ghost Attention data from the latest policy."""

    stage: Literal["ghost"]
    seed: int = 0
    policy: str  # the latest
    prompts: str  # its single-turn helpful prompts become the users' turns
    constraints: str
    dialogs: Count
    turns: Annotated[list[Count], pydantic.Field(min_length=1)]  # lengths, drawn evenly
    prefixes: bool = False  # of a dialogue train each beginning that has one of these lengths, not the whole alone
    combine: Count = 1  # up to so many constraints of different kinds at once
    short_share: Annotated[float, pydantic.Field(ge=0, le=1)] = 0.5  # of instructions, shortened (section 3.3)
    sampling: SamplingConfig
    pool: PoolConfig = PoolConfig()


def run(recipe: Recipe, out: Path) -> None:
    """Draw instructions and users' turns, sample the answers turn by turn, publish the dialogues at ``out``."""
    from align.artifacts import building, publish, work_dir, write_jsonl
    from align.data.ghost import draw, every_turn, first_turn_only
    from align.data.schema import read_constraints, read_prompts, to_json
    from align.data.tokenizer import Tokenizer
    from align.model.config import read_config
    from align.records import Dialog
    from align.rollout.converse import converse
    from align.rollout.pool import open_pool

    policy = Path(recipe.policy)
    tokenizer = Tokenizer(policy / "tokenizer.model")
    constraints = list(read_constraints(recipe.constraints))
    turns = [
        p.messages[0].content for p in read_prompts(recipe.prompts) if p.kind == "helpful" and len(p.messages) == 1
    ]
    plans = draw(
        constraints, turns, dialogs=recipe.dialogs, lengths=recipe.turns, combine=recipe.combine,
        short_share=recipe.short_share, seed=recipe.seed,
    )  # fmt: skip
    with open_pool(policy, recipe.pool) as pool:
        answered = converse(
            pool, tokenizer, [len(plan.users) for plan in plans], lambda d, said: every_turn(plans[d], said),
            recipe.sampling, seed=recipe.seed, journal=work_dir(out) / "answers",
            context=read_config(policy).max_seq_len,
        )  # fmt: skip

    whole = [(plan, said) for plan, said in zip(plans, answered, strict=True) if len(said) == len(plan.users)]
    dialogs = [
        Dialog(messages=first_turn_only(plan, said[:length]), source=f"ghost/{plan.kinds}")
        for plan, said in whole
        for length in (sorted(set(recipe.turns)) if recipe.prefixes else [len(said)])
        if length <= len(said)
    ]
    with building(out) as folder:
        write_jsonl(folder / "dialogs.jsonl", (to_json(dialog) for dialog in dialogs))
        publish(
            folder, out, stage="ghost", name=out.name, recipe=to_plain(recipe), seed=recipe.seed, parents=[policy],
            inputs=[Path(recipe.prompts), Path(recipe.constraints)],
            metrics={"dialogs": len(dialogs), "broken_off": len(plans) - len(dialogs)},
        )  # fmt: skip
