"""Choosing among answers: who may win, what is expected of the best of K, and the temperature it is found at."""

from __future__ import annotations

import itertools
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from align.config import parse
from align.data.schema import read_rollouts
from align.data.template import encode_prompt
from align.data.tokenizer import Tokenizer
from align.errors import RecipeError
from align.model.weights import load_policy
from align.records import Message, Prompt, Rollout
from align.rollout.experience import logprob_reader, over_answers
from align.rollout.judge import Scores
from align.stages import rejection
from align.stages.rejection import Recipe, as_dialog, by_prompt, choose, curve, expected_best, find_temperature, scored
from tests.fakes import LetterTokenizer


def row(prompt: str, score: float, answer: str = "yes", finish: str = "stop", policy: str = "sft") -> dict[str, Any]:
    return {
        "prompt_id": prompt, "prompt": [{"role": "user", "content": prompt}], "answer": answer, "finish": finish,
        "policy": policy, "temperature": 0.9, "scores": {"helpful": 0.0, "safety": 0.0, "combined": score},
    }  # fmt: skip


def recipe(**changes: Any) -> Recipe:
    values = {
        "stage": "rejection", "policies": ["a"], "helpful": "h", "safety": "s", "threshold": 0.15, "prompts": "p.jsonl",
        "samples": 2, "temperature": {"grid": [0.7, 1.0], "prompts": 3, "samples": 4}, "max_new_tokens": 8,
    }  # fmt: skip
    return parse(Recipe, values | changes, "reject.yaml")


def test_unfinished_and_empty_answers_never_win() -> None:
    rows = [
        row("p", 9.0, finish="length"),
        row("p", 8.0, answer=""),
        row("p", -3.0, answer="poor"),
        row("q", 1.0, finish="length"),
        row("q", 2.0, answer=""),
        row("r", 0.0),
    ]
    best, unanswered = choose(rows)
    assert [(b["prompt_id"], b["scores"]["combined"]) for b in best] == [("p", -3.0), ("r", 0.0)]
    assert unanswered == 1


def test_ties_keep_the_first_and_policies_compete_for_each_prompt() -> None:
    rows = [row("p", 1.0, policy="v1"), row("q", 0.5, policy="v1"), row("p", 1.0, policy="v2")]
    best, unanswered = choose([*rows, row("q", 0.75, policy="v2"), row("p", 0.9, policy="v3")])
    assert [(b["prompt_id"], b["policy"]) for b in best] == [("p", "v1"), ("q", "v2")]
    assert unanswered == 0
    assert choose([]) == ([], 0)


@given(
    st.lists(
        st.tuples(st.sampled_from("pqr"), st.integers(-2, 2), st.sampled_from(["", "a", "b"]), st.booleans()),
        max_size=12,
    )
)
def test_choose_is_a_stable_sort_of_the_usable(drawn: list[tuple[str, int, str, bool]]) -> None:
    rows = [row(prompt, score, answer, "stop" if done else "length") for prompt, score, answer, done in drawn]
    best, unanswered = choose(rows)
    chosen = {b["prompt_id"]: b for b in best}
    assert len(chosen) == len(best)
    for prompt in "pqr":
        usable = [r for r in rows if r["prompt_id"] == prompt and r["answer"] and r["finish"] == "stop"]
        ranked = sorted(usable, key=lambda r: -r["scores"]["combined"])
        assert (chosen.get(prompt) is ranked[0]) if ranked else prompt not in chosen
    assert unanswered == len({r["prompt_id"] for r in rows}) - len(best)


def brute(scores: list[float], k: int) -> float:
    """The best of k, averaged over every draw of k there is."""
    return statistics.fmean(max(draw) for draw in itertools.combinations(scores, k))


SCORES = {"p": [0.3, -1.0, 2.0, 0.3], "q": [5.0, 4.0, -2.5, 0.0], "r": [-0.1, -0.2, -0.3, -0.4]}
ROWS = [row(prompt, scores[i]) for i in range(4) for prompt, scores in SCORES.items()]


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_expected_best_is_the_mean_over_every_draw(k: int) -> None:
    each = [brute(scores, k) for scores in SCORES.values()]
    mean, error = expected_best(ROWS, k)
    assert mean == pytest.approx(statistics.fmean(each), abs=1e-13)
    assert error == pytest.approx(statistics.stdev(each) / 3**0.5, abs=1e-13)
    assert by_prompt(ROWS) == SCORES


def test_more_draws_than_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="k = 5"):
        expected_best(ROWS, 5)


def test_the_curve_of_figure_7() -> None:
    """Maxima grow with N from the mean to the largest; the median does not depend on N."""
    found = curve(ROWS, 4)
    assert [point["n"] for point in found] == [1, 2, 3, 4]
    median = (0.3 + 2.0 - 0.25) / 3
    for point in found:
        expected = statistics.fmean(brute(scores, point["n"]) for scores in SCORES.values())
        assert point["max"] == pytest.approx(expected, abs=1e-13)
        assert point["median"] == pytest.approx(median, abs=1e-13)
    assert found[3]["max"] == pytest.approx((2.0 + 5.0 - 0.1) / 3, abs=1e-13)


def test_too_few_probes_for_best_of_k_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"reject\.yaml.*temperature\.samples must be at least samples \(5\)"):
        recipe(samples=5)
    assert recipe(samples=4).samples == 4


def test_the_temperature_is_that_of_the_best_expected_maximum_not_of_the_best_mean(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scores = {0.7: [1.0, 1.0, 1.0, 1.0], 1.0: [-4.0, 3.0, -4.0, 3.0]}
    journals = []

    def sample(pool, tokenizer, prompts, samples, sampling, seed, step, journal):  # type: ignore[no-untyped-def]
        assert (samples, step, sampling.max_new_tokens) == (4, -1, 8)
        journals.append(journal.name)
        return sampling.temperature

    def judge(judge, tokenizer, prompts, temperature, policy, told):  # type: ignore[no-untyped-def]
        assert told == temperature
        return [row("p", score) for score in scores[temperature]]

    monkeypatch.setattr(rejection, "sample", sample)
    monkeypatch.setattr(rejection, "scored", judge)
    nothing: Any = None
    found = find_temperature(recipe(), nothing, nothing, nothing, [], Path("work"))
    assert found["chosen"] == 1.0
    assert [point["temperature"] for point in found["curve"]] == [0.7, 1.0]
    assert [point["expected_best"] for point in found["curve"]] == pytest.approx(
        [1.0, brute(scores[1.0], 2)], abs=1e-13
    )
    assert len(set(journals)) == 2, "a journal holds one temperature"


def test_a_single_temperature_needs_no_probe() -> None:
    nothing: Any = None
    only = recipe(temperature={"grid": [0.8], "prompts": 3, "samples": 2})
    assert find_temperature(only, nothing, nothing, nothing, [], Path()) == {"chosen": 0.8, "curve": []}


def test_rollouts_are_told_with_their_own_scores() -> None:
    """Answers of two prompts out of order: each keeps its prompt, its flag and its score."""
    prompts = [
        Prompt(id="h1", messages=(Message("user", "hi"),)),
        Prompt(id="s1", messages=(Message("user", "harm"),), kind="safety"),
    ]
    rollouts = [
        Rollout(1, 0, (ord(" "), ord("n"), ord("o"), 2), (-0.5, -0.25, -1.0, -0.125), "stop", "v"),
        Rollout(0, 1, (ord("y"),), (-0.75,), "length", "v"),
    ]

    class Judge:
        def score(self, asked: list[list[int]], answers: list[tuple[int, ...]], flags: list[bool]) -> Scores:
            assert ["".join(map(chr, ids[1:])) for ids in asked] == ["[INST] harm [/INST]", "[INST] hi [/INST]"]
            assert answers == [r.tokens for r in rollouts]
            assert flags == [True, False]
            return Scores(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]), torch.tensor([5.0, 6.0]))

    first, second = scored(Judge(), LetterTokenizer(), prompts, rollouts, "v3", 0.9)  # type: ignore[arg-type]
    assert first == {
        "prompt_id": "s1", "prompt": [{"role": "user", "content": "harm"}], "answer": "no", "policy": "v3",
        "sample": 0, "temperature": 0.9, "tokens": [32, 110, 111, 2], "logprob": -1.875, "finish": "stop",
        "scores": {"helpful": 1.0, "safety": 3.0, "combined": 5.0},
    }  # fmt: skip
    assert (second["prompt_id"], second["sample"], second["finish"]) == ("h1", 1, "length")
    assert second["scores"] == {"helpful": 2.0, "safety": 4.0, "combined": 6.0}
    assert as_dialog(first) == {
        "messages": [{"role": "user", "content": "harm"}, {"role": "assistant", "content": "no"}],
        "source": "v3 T=0.9 score=5.000",
    }


def test_policies_of_one_folder_name_answer_for_themselves(models: Path, tmp_path: Path) -> None:
    """Their journals once had the folder's name: the second policy was given the first one's answers."""
    out = tmp_path / "reject"
    (tmp_path / "work" / "reject").mkdir(parents=True)
    shelf = [str(models / "one/policy"), str(models / "two/policy")]
    judges = {"helpful": str(models / "helpful"), "safety": str(models / "safety")}
    only = {"grid": [0.8], "prompts": 1, "samples": 3}
    rejection.run(
        recipe(policies=shelf, **judges, prompts=str(models / "prompts.jsonl"), samples=3, temperature=only), out
    )
    rows = list(read_rollouts(out / "rollouts.jsonl"))
    assert [(r["prompt_id"], r["sample"]) for r in rows] == 2 * [(p, s) for p in ("p0", "p1") for s in range(3)]
    for path, mine in zip(shelf, (rows[:6], rows[6:]), strict=True):
        for one in mine:
            read = logprob_reader(load_policy(Path(path)), 0.8)
            tokens = over_answers(read, [prompt_tokens(models, one)], [one["tokens"]], 999)
            assert float(tokens[0].sum()) == pytest.approx(one["logprob"], abs=1e-4)


def prompt_tokens(models: Path, rollout: dict[str, Any]) -> list[int]:
    messages = tuple(Message(m["role"], m["content"]) for m in rollout["prompt"])
    return encode_prompt(Tokenizer(models / "tokenizer.model"), messages)
