"""The exams, one function each: a policy is asked, its answers are graded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from align.rollout.backend import SamplingConfig
from align.stages.exam.ask import Candidate, Row, answer, choose
from align.stages.exam.recipe import Recipe

Exam = Callable[[Candidate, Recipe], tuple[dict[str, Any], list[Row]]]


def taken(recipe: Recipe) -> dict[str, Exam]:
    """The exams of a recipe, in the order of the recipe's fields."""
    every: Mapping[str, Exam] = {
        "truthfulqa": truthfulqa, "winogender": winogender, "gsm8k": gsm8k, "humaneval": humaneval,
    }  # fmt: skip
    return {name: sit for name, sit in every.items() if getattr(recipe, name) is not None}


def headline(exam: str, mark: Mapping[str, Any]) -> float:
    """The one number of an exam."""
    if exam == "humaneval":
        return float(next(iter(mark["pass_at_k"].values()))["value"])
    key = {"truthfulqa": "mc1", "winogender": "accuracy", "gsm8k": "exact_match"}[exam]
    return float(mark[key]["accuracy"])


def truthfulqa(candidate: Candidate, recipe: Recipe) -> tuple[dict[str, Any], list[Row]]:
    """TruthfulQA's MC1 and MC2."""
    from align.exams import truthfulqa as exam

    settings = recipe.truthfulqa
    assert settings is not None
    questions = exam.read(settings.path, settings.primer)[: settings.take]
    scored, counts = choose(candidate, questions, settings.form, settings.normalise, recipe)
    rows = [row | exam.grade(row["scores"], row["true"], row["best"]) for row in scored]
    return counts | exam.summary(rows), rows


def winogender(candidate: Candidate, recipe: Recipe) -> tuple[dict[str, Any], list[Row]]:
    """Winogender's coreference."""
    from align.exams import winogender as exam

    settings = recipe.winogender
    assert settings is not None
    shares = exam.read_shares(settings.occupations) if settings.occupations else None
    questions = exam.read(settings.path, shares)[: settings.take]
    scored, counts = choose(candidate, questions, settings.form, settings.normalise, recipe)
    rows = [row | exam.grade(row["scores"], row["answer"]) for row in scored]
    return counts | exam.summary(rows), rows


def gsm8k(candidate: Candidate, recipe: Recipe) -> tuple[dict[str, Any], list[Row]]:
    """GSM8K's exact match, answers greedy."""
    from align.exams import gsm8k as exam

    settings = recipe.gsm8k
    assert settings is not None
    shots = exam.read(settings.shots.path)[: settings.shots.count] if settings.shots else []
    problems = exam.without(every := exam.read(settings.path)[: settings.take], shots)
    asked = [(problem, exam.ask(problem, shots, settings.form), problem.where) for problem in problems]
    stops = (f"\n{exam.STOP}",) if settings.form == "plain" else ()
    sampling = SamplingConfig(temperature=0.0, max_new_tokens=settings.max_new_tokens)
    answered, counts = answer(candidate, asked, sampling, 1, stops, "gsm8k", recipe)
    rows = [
        {
            "id": p.id,
            "question": p.question,
            "reference": p.reference,
            **said[0],
            **exam.grade(said[0]["answer"], p.reference),
        }
        for p, said in answered
    ]
    told = {"form": settings.form, "shots": len(shots), "shown": len(every) - len(problems)}
    return told | counts | exam.summary(rows), rows


def humaneval(candidate: Candidate, recipe: Recipe) -> tuple[dict[str, Any], list[Row]]:
    """HumanEval's pass@k; this runs what the policy wrote."""
    from align.exams import humaneval as exam
    from align.exams.programs import network, run_all

    settings = recipe.humaneval
    assert settings is not None
    assert settings.run_programs
    asked = [(p, exam.ask(p, settings.form), p.where) for p in exam.read(settings.path)[: settings.take]]
    sampling = SamplingConfig(
        temperature=settings.temperature, top_p=settings.top_p, max_new_tokens=settings.max_new_tokens
    )
    stops = exam.STOPS if settings.form == "plain" else ()
    answered, counts = answer(candidate, asked, sampling, settings.samples, stops, "humaneval", recipe)
    programs = [
        [exam.program(problem, exam.completion(one["answer"], settings.form)) for one in said]
        for problem, said in answered
    ]
    different = list(dict.fromkeys(pair for pairs in programs for pair in pairs))
    ran = dict(zip(different, run_all(different, settings.limits), strict=True)) if different else {}
    rows = [
        {
            "id": problem.id,
            "samples": [
                one | {"result": ran[pair].result, "detail": ran[pair].detail}
                for one, pair in zip(said, pairs, strict=True)
            ],
        }
        for (problem, said), pairs in zip(answered, programs, strict=True)
    ]
    return {"form": settings.form, "network": network()} | counts | exam.summary(rows, settings.k), rows
