"""The planted skill: its pipeline run whole, and the temperature search against brute force on its three policies."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path

import pytest

from align.artifacts import read_manifest, work_dir
from align.data.prompts import encode_prompts, requests
from align.data.schema import read_prompts
from align.data.template import sayable
from align.data.tokenizer import Tokenizer
from align.pipeline import load_pipeline
from align.pipeline import run as run_pipeline
from align.records import Prompt
from align.report.sources import helpful_by_source
from align.rollout.backend import SamplingConfig
from align.rollout.judge import RewardModels
from align.rollout.pool import PoolConfig, open_pool
from align.stages import rejection
from align.world.language import VALUES
from tests.stages.rounds import recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # the pipeline is run within the first test

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "planted" / "pipeline.yaml"
GRID = [0.3, 0.6, 1.0, 1.5, 2.2]
N, PROBED = 8, 48
# a policy without the skill at its best: the form of a false answer counts 0.2, and one guess in so many values
# of an attribute is right (align/world/oracle.py, align/world/language.py)
GUESSED = 0.2 + 0.8 * max(1 / len(values) for values in VALUES.values())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole pipeline, minutes of training: both tests stand on it."""
    out = tmp_path_factory.mktemp("runs") / "planted"
    run_pipeline(load_pipeline(RECIPE, [f"out={out}"]))
    return out


def skill(run: Path, source: str) -> dict[str, tuple[float, float]]:
    """Mean helpfulness of each policy on the test prompts of a source, and its standard error."""
    sources = {prompt.id: prompt.source for prompt in read_prompts(run / "data" / "prompts_test.jsonl")}
    found: dict[str, list[float]] = {}
    for line in (run / "evaluation" / "answers.jsonl").read_text().splitlines():
        row = json.loads(line)
        if sources[row["prompt_id"]] == source:
            found.setdefault(row["policy"], []).append(row["helpful"])
    return {
        policy: (statistics.fmean(values), statistics.stdev(values) / len(values) ** 0.5)
        for policy, values in found.items()
    }


def test_all_past_keeps_the_skill_that_latest_loses(run: Path) -> None:
    (first, _), (second, _), (of_all, error), (of_latest, other) = skill(run, "world/fact").values()
    assert first > 0.4, "the first version has it"
    assert second < GUESSED, "the second has not"
    assert of_all > 0.4, "it is kept"
    assert of_latest < GUESSED, "it stays lost"
    assert of_all - of_latest > 5 * math.hypot(error, other)
    # the other skills, which both pools hold, differ little: the pool made the difference
    others = [skill(run, f"world/{name}").values() for name in ("copy", "count", "reverse", "sort")]
    here, there = (statistics.fmean(list(values)[place][0] for values in others) for place in (2, 3))
    assert abs(here - there) < 0.1
    table = helpful_by_source(run / "evaluation")
    assert table is not None
    assert f"{of_all:.2f} ±" in str(table.rows)


def test_both_rounds_choose_among_the_same_samples_of_the_latest(run: Path) -> None:
    def drawn(folder: str) -> list[tuple[str, int, list[int]]]:
        digest = read_manifest(run / "reject-latest").metrics["policies"][0]["sha256"]
        lines = (json.loads(line) for line in (run / folder / "rollouts.jsonl").read_text().splitlines())
        return [(r["prompt_id"], r["sample"], r["tokens"]) for r in lines if r["policy_sha256"] == digest]

    assert drawn("reject-all") == drawn("reject-latest") != []
    assert not list((run / "work" / "reject-latest").glob("*-v2-*.jsonl")), "nothing was sampled for it"
    winners = read_manifest(run / "reject-all").metrics["winners"]
    assert min(winner["share"] for winner in winners) > 0.1, "both versions win prompts"


@pytest.mark.parametrize("policy", ["v1", "v2", "v3-all"])
def test_the_temperature_found_is_within_a_step_of_the_best_by_brute_force(
    policy: str, run: Path, tmp_path: Path
) -> None:
    """Brute force: best of N drawn many times, at every temperature, on prompts that the search never saw."""
    out = tmp_path / "search"
    work_dir(out).mkdir(parents=True)
    reward = str(run / "reward")
    prompts = run / "data" / "prompts.jsonl"
    search = {"grid": GRID, "prompts": PROBED, "samples": 2 * N}
    settings = {"policies": [str(run / policy)], "helpful": reward, "safety": reward, "prompts": str(prompts)}
    rejection.run(recipe(**settings, take=1, samples=N, temperature=search, max_new_tokens=40), out)
    chosen = read_manifest(out).metrics["temperature"]["chosen"]
    others = list(read_prompts(prompts))[:-PROBED][-2 * PROBED :]
    drawn = {temperature: draw(run, policy, others, temperature, draws=4) for temperature in GRID}
    # an answer that cannot be learnt from counts as the worst of its prompt that can
    worst = [
        min(score for answers in drawn.values() for score, may_win in answers[place] if may_win)
        for place in range(len(others))
    ]
    means = {
        temperature: statistics.fmean(
            max(score if may_win else worst[place] for score, may_win in answers[place][start : start + N])
            for place in range(len(others))
            for start in range(0, len(answers[place]), N)
        )
        for temperature, answers in drawn.items()
    }
    best = max(means, key=lambda temperature: means[temperature])
    assert abs(GRID.index(chosen) - GRID.index(best)) <= 1, (chosen, means)


def draw(
    run: Path, policy: str, prompts: list[Prompt], temperature: float, draws: int
) -> list[list[tuple[float, bool]]]:
    """For each prompt the scores of N fresh answers, ``draws`` times, each with whether it may win."""
    tokenizer = Tokenizer(run / policy / "tokenizer.model")
    encoded = encode_prompts(tokenizer, prompts)
    with open_pool(run / policy, PoolConfig()) as pool:
        sampling = SamplingConfig(temperature=temperature, max_new_tokens=40)
        rollouts = pool.generate(requests(encoded, samples=draws * N, seed=99), sampling)
    judge = RewardModels(run / "reward", run / "reward", 0.15)
    flags = [prompts[r.prompt].kind == "safety" for r in rollouts]
    scores = judge.score([encoded[r.prompt] for r in rollouts], [r.tokens for r in rollouts], flags).combined.tolist()
    found: list[list[tuple[float, bool]]] = [[] for _ in prompts]
    for rollout, score in zip(rollouts, scores, strict=True):
        text = tokenizer.decode(rollout.tokens).strip()
        found[rollout.prompt].append((score, rollout.finish == "stop" and sayable(text)))
    return found
