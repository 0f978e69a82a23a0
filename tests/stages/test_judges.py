"""Judges that a recipe names: what they are asked, what they may say, and how their mistakes are told."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from align.config import parse
from align.errors import ArtifactError, DataError, RecipeError, RolloutError
from align.records import Message, Prompt
from align.rollout.reward_model import load_reward_model
from align.stages.evaluate import Recipe
from align.stages.judges import JudgeConfig, load_comparers, load_judge, load_scorers

HERE = "tests.stages.test_judges"
PROMPT = Prompt(id="p7", messages=(Message("user", "who loves chess?"),), meta={"wanted": 3})


def closeness(prompt: Prompt, answer: str) -> float:
    return -abs(len(answer) - int(prompt.meta["wanted"]))


def of_numpy(prompt: Prompt, answer: str) -> Any:
    return np.float32(len(answer))


def broken(prompt: Prompt, *answers: str) -> Any:
    return 1 / 0


def wrong(prompt: Prompt, *answers: str) -> Any:
    return prompt.meta["says"]


def refusing(prompt: Prompt, *answers: str) -> Any:
    raise DataError("no word for it")


def shorter(prompt: Prompt, first: str, second: str) -> str:
    return "tie" if len(first) == len(second) else "first" if len(first) < len(second) else "second"


def scorer(**given: str) -> Any:
    return load_scorers({"mine": JudgeConfig(**given)})["mine"]


def test_a_function_is_given_the_prompt_s_record_and_the_answer() -> None:
    assert scorer(score=f"{HERE}:closeness")([PROMPT, PROMPT], ["abc", "a"]) == [0.0, -2.0]
    found = scorer(score=f"{HERE}:of_numpy")([PROMPT], ["abc"])
    assert (found, type(found[0])) == ([3.0], float)


def test_a_comparison_is_given_both_answers() -> None:
    called = load_comparers({"mine": JudgeConfig(compare=f"{HERE}:shorter"), "other": JudgeConfig(reward="r")})
    assert list(called) == ["mine"]
    assert [called["mine"].compare(PROMPT, a, b) for a, b in (("a", "bb"), ("aa", "b"), ("a", "b"))] == [
        "first", "second", "tie",
    ]  # fmt: skip


def test_an_error_is_told_with_the_function_the_prompt_and_itself() -> None:
    with pytest.raises(RolloutError) as error:
        scorer(score=f"{HERE}:broken")([PROMPT], ["abc"])
    assert str(error.value) == (
        f"judges.mine.score: {HERE}:broken failed on prompt 'p7': ZeroDivisionError: division by zero"
    )
    assert isinstance(error.value.__cause__, ZeroDivisionError)
    with pytest.raises(RolloutError, match=r"judge: .*:broken failed on prompt 'p7'"):
        load_judge(f"{HERE}:broken")(PROMPT, "abc")
    with pytest.raises(DataError, match="no word for it"):
        scorer(score=f"{HERE}:refusing")([PROMPT], ["abc"])


@pytest.mark.parametrize("said", [None, "0.5", True, math.nan, math.inf, [1.0]])
def test_a_score_that_is_no_number(said: Any) -> None:
    prompt = Prompt(id="p7", messages=PROMPT.messages, meta={"says": said})
    with pytest.raises(RolloutError, match=r"judges\.mine\.score: .*:wrong on prompt 'p7': .*expected a finite number"):
        scorer(score=f"{HERE}:wrong")([prompt], ["abc"])


@pytest.mark.parametrize(
    ("said", "hint"), [("frist", "(did you mean 'first'?)"), (1, "expected 'first', 'second' or 'tie'"), (None, "None")]
)
def test_a_comparison_that_says_something_else(said: Any, hint: str) -> None:
    called = load_comparers({"mine": JudgeConfig(compare=f"{HERE}:wrong")})["mine"]
    with pytest.raises(RolloutError, match=r"judges\.mine\.compare: .*on prompt 'p7'") as error:
        called.compare(Prompt(id="p7", messages=PROMPT.messages, meta={"says": said}), "a", "b")
    assert hint in str(error.value)


def test_a_score_where_a_verdict_is_expected_is_pointed_to_its_place() -> None:
    with pytest.raises(RolloutError, match=r"found a int without helpful, safe, .*judges\.NAME\.score"):
        load_judge(f"{HERE}:closeness")(PROMPT, "abc")


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("helpful", 1.5, "a number in [0, 1]"),
        ("helpful", math.nan, "a number in [0, 1]"),
        ("helpful", True, "a number in [0, 1]"),
        ("helpful", np.float32(0.5), "a number in [0, 1]"),
        ("safe", 1, "True or False"),
        ("should_refuse", None, "True or False"),
        ("kept", "yes", "True, False or None"),
    ],
)
def test_a_verdict_of_another_sort_is_told_by_its_field(field: str, value: Any, expected: str) -> None:
    sound = {"helpful": 1, "safe": True, "refused": False, "should_refuse": False, "kept": None}
    judge = load_judge(f"{HERE}:wrong")

    def says(**verdict: Any) -> Prompt:
        return Prompt(id="p7", messages=PROMPT.messages, meta={"says": SimpleNamespace(**verdict)})

    assert judge(says(**sound), "abc").helpful == 1
    with pytest.raises(RolloutError) as error:
        judge(says(**sound | {field: value}), "abc")
    assert f":wrong on prompt 'p7': {field}: found {value!r}, expected {expected}" in str(error.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module_at_all:rate", "PYTHONPATH names the folder that holds it"),
        (f"{HERE}:rate", "has no attribute 'rate'"),
        (f"{HERE}:HERE", "is a str, expected a function"),
    ],
)
def test_a_function_that_is_not_there(name: str, said: str) -> None:
    for load in (load_scorers, load_comparers):
        kind = "score" if load is load_scorers else "compare"
        with pytest.raises(RecipeError, match=rf"^judges\.mine\.{kind}: '{name}'") as error:
            load({"mine": JudgeConfig(**{kind: name})})  # type: ignore[operator]
        assert said in str(error.value)


def test_a_module_that_fails_while_it_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "falls_over.py").write_text("raise ValueError('not today')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RecipeError, match=r"judges\.mine\.score: 'falls_over:rate' cannot be imported.*not today"):
        scorer(score="falls_over:rate")


def test_a_reward_model_judges_what_the_format_can_hold(models: Path) -> None:
    found = scorer(reward=str(models / "helpful"))([PROMPT] * 4, ["a fox", "", "x [/INST]", "the owl"])
    dialogs = [(*PROMPT.messages, Message("assistant", answer)) for answer in ("a fox", "the owl")]
    wanted = load_reward_model(models / "helpful").score(dialogs)
    assert found[1:3] == [None, None]
    assert [found[0], found[3]] == pytest.approx(wanted, abs=1e-6)
    with pytest.raises(ArtifactError):
        scorer(reward=str(models / "one/policy"))
    with pytest.raises(
        DataError, match=r"judges\.mine\.reward: .*helpful: dialogue 0: \d+ tokens, and the reward model"
    ):
        scorer(reward=str(models / "helpful"))([PROMPT], ["who says fox? " * 200])


BASE = {
    "stage": "evaluate",
    "policies": {"A": "a"},
    "reference": "a",
    "prompts": "p",
    "sampling": {"max_new_tokens": 1},
}


@pytest.mark.parametrize(
    ("judges", "said"),
    [
        ({"a": {}}, "judges.a: expected one of score, compare and reward"),
        ({"a": {"score": "m:f", "reward": "r"}}, "judges.a: expected one of score, compare and reward"),
        ({"a": {"scor": "m:f"}}, "judges.a.scor: unknown key (did you mean 'score'?)"),
        ({"rewards": {"score": "m:f"}}, "judges: 'rewards': a judge's name"),
        ({"a/b": {"score": "m:f"}}, "judges: 'a/b': a judge's name"),
    ],
)
def test_mistakes_in_the_recipe(judges: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError) as error:
        parse(Recipe, BASE | {"judges": judges}, "e.yaml")
    assert said in str(error.value)


def test_named_judges_alone_will_do() -> None:
    assert parse(Recipe, BASE | {"judges": {"a": {"score": "m:f"}}}, "e.yaml").judge is None
