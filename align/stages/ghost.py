"""Instructions that must hold -> dialogues whose system message holds to the last turn (Ghost Attention, section 3.3).

The instruction is joined to every user message while the answers are sampled; the dialogues written down keep it in
the first turn only. Fine-tuning on them trains the last answer alone (``train: last`` in the SFT recipe).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic

from align.config import config, to_plain
from align.errors import DataError
from align.rollout.backend import SamplingConfig
from align.rollout.pool import PoolConfig

if TYPE_CHECKING:
    from align.data.ghost import Plan

Count = Annotated[int, pydantic.Field(ge=1)]
Keeps = Callable[["Plan", list[str]], bool]


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
    form: Literal["system", "plain", "either"] = "system"  # of the instruction in the first turn, to be trained on
    sampled_form: Literal["system", "plain"] = (
        "plain"  # in the first turn to sample from; before the others it is plain
    )
    judge: str | None = None  # "package.module:function" as of evaluate: what breaks its instruction is left out
    sampling: SamplingConfig
    pool: PoolConfig = PoolConfig()


def run(recipe: Recipe, out: Path) -> None:
    """Draw instructions and users' turns, sample the answers turn by turn, publish the dialogues at ``out``."""
    from align.artifacts import building, publish, work_dir, write_jsonl
    from align.data.ghost import draw, every_turn, first_turn_only
    from align.data.schema import read_constraints, to_json
    from align.data.tokenizer import Tokenizer
    from align.model.config import read_config
    from align.records import Dialog
    from align.rollout.converse import converse
    from align.rollout.pool import open_pool

    policy = Path(recipe.policy)
    tokenizer = Tokenizer(policy / "tokenizer.model")
    turns = users_turns(recipe.prompts)
    keeps = keeper(recipe, turns)
    plans = draw(
        list(read_constraints(recipe.constraints)), list(turns), dialogs=recipe.dialogs, lengths=recipe.turns,
        combine=recipe.combine, short_share=recipe.short_share, form=recipe.form, seed=recipe.seed,
    )  # fmt: skip
    with open_pool(policy, recipe.pool) as pool:
        answered = converse(
            pool, tokenizer, [len(plan.users) for plan in plans],
            lambda d, said: every_turn(plans[d], said, recipe.sampled_form), recipe.sampling, seed=recipe.seed,
            journal=work_dir(out) / "answers", context=read_config(policy).max_seq_len, whole=True,
        )  # fmt: skip

    begun, counts = beginnings(plans, answered, sorted(set(recipe.turns)) if recipe.prefixes else None, keeps)
    if not begun:
        raise DataError(f"{out.name}: found no dialogue to train on: {counts}")
    dialogs = [Dialog(messages=first_turn_only(plan, said), source=f"ghost/{plan.kinds}") for plan, said in begun]
    with building(out) as folder:
        write_jsonl(folder / "dialogs.jsonl", (to_json(dialog) for dialog in dialogs))
        publish(
            folder, out, stage="ghost", name=out.name, recipe=to_plain(recipe), seed=recipe.seed, parents=[policy],
            inputs=[Path(recipe.prompts), Path(recipe.constraints)], metrics=counts,
        )  # fmt: skip


def users_turns(prompts: str) -> dict[str, Mapping[str, Any]]:
    """What users say in a file's single-turn helpful prompts, each with the prompt's ``meta``.

    Raises:
        DataError: the file has none.
    """
    from align.data.schema import read_prompts

    rows = list(read_prompts(prompts))
    turns = {p.messages[0].content: p.meta for p in rows if p.kind == "helpful" and len(p.messages) == 1}
    if not turns:
        raise DataError(f"{prompts}: found no prompt of kind helpful with one message among {len(rows)} rows")
    return turns


def keeper(recipe: Recipe, turns: Mapping[str, Mapping[str, Any]]) -> Keeps | None:
    """Whether the last of a dialogue's answers obeys, by the recipe's judge; None where none is named.

    The judge is shown the dialogue as it was sampled; ``meta`` is that of the user's last message, with the
    constraints as ``rules``.

    Raises:
        RecipeError: no such judge.
    """
    if recipe.judge is None:
        return None
    from align.data.ghost import every_turn
    from align.records import Prompt
    from align.stages.judges import load_judge

    judge = load_judge(recipe.judge)

    def keeps(plan: Plan, answers: list[str]) -> bool:
        turn = len(answers) - 1
        meta = {**turns[plan.users[turn]], "rules": [dict(rule) for rule in plan.metas]}
        messages = every_turn(plan, answers[:turn], recipe.sampled_form)
        return bool(judge(Prompt(id=f"turn {turn + 1}", messages=messages, meta=meta), answers[turn]).kept)

    return keeps


def beginnings(
    plans: Sequence[Plan], answered: Sequence[list[str]], lengths: Sequence[int] | None, keeps: Keeps | None
) -> tuple[list[tuple[Plan, list[str]]], dict[str, Any]]:
    """The dialogues to be trained on, and what became of the others.

    A dialogue that was not answered to its end is left out, and of the others every beginning in which some answer
    breaks the instruction: what is learned is to go on as before.

    Args:
        plans: of the dialogues.
        answered: their answers.
        lengths: of the beginnings that are wanted, those that a dialogue has; None: the whole dialogue.
        keeps: whether the last answer obeys; None: all do.

    Returns:
        (plan, answers) of each, and counts: ``dialogs`` returned, ``broken_off`` dialogues, beginnings ``left_out`` by
        kind of constraint where somebody judged.
    """
    found: list[tuple[Plan, list[str]]] = []
    left_out: Counter[str] = Counter()
    broken_off = 0
    for plan, said in zip(plans, answered, strict=True):
        if len(said) < len(plan.users):
            broken_off += 1
            continue
        obeyed = len(said) if keeps is None else _obeyed(plan, said, keeps)
        for length in [len(said)] if lengths is None else lengths:
            if length <= obeyed:
                found.append((plan, said[:length]))
            elif length <= len(said):
                left_out[plan.kinds] += 1
    counts: dict[str, Any] = {"dialogs": len(found), "planned": len(plans), "broken_off": broken_off}
    if keeps is not None:
        counts |= {"left_out": left_out.total(), "left_out_by_kind": dict(sorted(left_out.items()))}
    return found, counts


def _obeyed(plan: Plan, said: list[str], keeps: Keeps) -> int:
    """How many answers obey before the first that does not."""
    for turn in range(len(said)):
        if not keeps(plan, said[: turn + 1]):
            return turn
    return len(said)
