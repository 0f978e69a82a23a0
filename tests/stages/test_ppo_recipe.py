"""What PPO's recipe refuses, the bounds at which a run stops, and that the defaults are the published loop."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import pytest

from align.config import to_plain
from align.errors import RecipeError
from align.losses.kl import adapted_beta
from align.stages.ppo.bounds import broken
from align.stages.ppo.learn import shuffled
from tests.stages import ppo_toy as toy

FOLDERS = {name: Path(name) for name in ("policy", "helpful", "safety")}


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        ({"reward/helpful": math.nan}, "reward/helpful is nan; a reward model gave it"),
        ({"kl/answer": math.inf}, "log-probs are broken"),
        ({"kl/answer": 101.0}, r"KL to the reference is 101 nats.*ppo.max_kl"),
        ({"kl/answer": -5.5}, r"-5.5 nats.*no KL is below 0.*temperature"),
        ({"gap": 0.6}, r"0.6 nats a token.*ppo.max_gap"),
        ({"answer/tokens": 1.2}, r"1.2 tokens on average.*collapsed"),
    ],
)
def test_a_broken_bound_is_told_with_its_number(seen: dict[str, float], said: str) -> None:
    recipe = toy.recipe(FOLDERS, ppo={"min_length": 1.5})
    fine = {"kl/answer": 100.0, "gap": 0.5, "answer/tokens": 1.5, "reward/helpful": -3.0}
    assert broken(recipe, fine) is None
    assert broken(recipe, {}) is None
    assert re.search(said, str(broken(recipe, fine | seen)))
    ahead = dataclasses.replace(recipe, pool={"kind": "ray"}, ahead=True)  # type: ignore[arg-type]
    assert broken(ahead, fine | {"gap": 9.0}) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sampling": {"temperature": 0.0}}, "temperature"),
        ({"sampling": {"top_p": 0.9}}, "top_p must be 1"),
        ({"ahead": True}, "needs pool.kind ray"),
        ({"ahead": True, "pool": {"kind": "local"}}, "needs pool.kind ray"),
        ({"ppo": {"critic_warmup": 1}}, "leave none"),
        ({"ppo": {"min_length": 9.0}}, "every run would stop"),
        ({"launch": {"processes": 5}}, "do not divide among 5"),
        ({"launch": {"processes": 3}}, "one of 2 answers does not reach 3"),
        ({"launch": {"kind": "ray"}, "pool": {"kind": "ray", "address": "auto"}}, "leave it out"),
        ({"ptx": {"rows": 1, "micro_rows": 1, "length": 16}}, "give data"),
    ],
)
def test_what_does_not_fit_is_refused_when_the_recipe_is_read(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        toy.recipe(FOLDERS, **changes)


def test_the_defaults_change_nothing() -> None:
    """Each addition to the published loop is off unless the recipe asks for it."""
    values = to_plain(toy.recipe(FOLDERS))
    off = {
        "ptx": None, "held_out": None, "pool": None, "ahead": False, "lora": None, "critic_lora": None,
        "keep_rollouts": 0,
    }  # fmt: skip
    assert values.items() >= off.items()
    inner = {
        "adaptive_kl": None, "critic_warmup": 0, "entropy_weight": 0.0, "score_clip": None, "epochs": 1,
        "shuffle": "answers",
    }  # fmt: skip
    assert values["ppo"].items() >= inner.items()


def test_beta_follows_the_kl() -> None:
    """By hand: a fifth at most, times answers over horizon."""
    assert adapted_beta(0.1, kl=12.0, target=6.0, horizon=1000, answers=50) == pytest.approx(0.1 * 1.01)
    assert adapted_beta(0.1, kl=6.6, target=6.0, horizon=1000, answers=50) == pytest.approx(0.1 * 1.005)
    assert adapted_beta(0.1, kl=0.0, target=6.0, horizon=1000, answers=50) == pytest.approx(0.1 * 0.99)
    assert adapted_beta(0.1, kl=6.0, target=6.0, horizon=1000, answers=50) == 0.1


def test_answers_are_shuffled_each_by_itself_or_with_their_prompt() -> None:
    alone, together = shuffled(12, 1, 0, 5), shuffled(12, 3, 0, 5)
    assert sorted(alone) == sorted(together) == list(range(12))
    blocks = [together[start : start + 3] for start in range(0, 12, 3)]
    assert all(block == list(range(block[0], block[0] + 3)) and block[0] % 3 == 0 for block in blocks)
    assert shuffled(12, 3, 1, 5) != together
    assert alone == shuffled(12, 1, 0, 5) != list(range(12))
