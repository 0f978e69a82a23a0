"""A round of rejection sampling run whole on random models: who answers, how it is scored, who wins, how hot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from align.artifacts import folder_digest
from align.data.schema import read_rollouts
from align.errors import RecipeError
from align.losses import combine_rewards
from align.model.weights import load_policy
from align.rollout.curves import curves as curves_of
from align.rollout.experience import logprob_reader, over_answers
from align.rollout.judge import RewardModels
from tests.stages.rounds import Runner, drawn, only, prompt_tokens, recipe, told


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"samples": 5}, r"temperature\.samples must be at least samples \(5\)"),
        ({"sampler": "big"}, "policies: give the versions that sample, or a sampler"),
        ({"policies": []}, "policies: give the versions that sample, or a sampler"),
        (
            {"prompts": None, "max_new_tokens": None},
            "prompts, max_new_tokens: must be given where policies are sampled",
        ),
        ({"selection": "last"}, r"selection: expected 'all_past' or 'latest'.*did you mean 'latest'"),
    ],
)
def test_recipes_that_do_not_say_who_samples_and_how_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=rf"reject\.yaml.*{said}"):
        recipe(**changes)
    assert recipe(samples=4).samples == 4
    assert recipe(policies=[], sampler="big", prompts=None, samples=None, temperature=None, max_new_tokens=None).sampler


def test_policies_of_one_folder_name_answer_for_themselves(go: Runner, models: Path) -> None:
    """Their journals once had the folder's name: the second policy was given the first one's answers."""
    shelf = ["one/policy", "two/policy"]
    rows, _ = go("round", shelf, "first.jsonl")
    digests = [folder_digest(models / name) for name in shelf]
    assert told(rows) == {(f"p{i}", digest): 3 for i in range(5) for digest in digests}
    assert {row["policy"] for row in rows} == {f"policy-{digest[:8]}" for digest in digests}
    for name, digest in zip(shelf, digests, strict=True):
        read = logprob_reader(load_policy(models / name), 0.5)
        for one in (row for row in rows if row["policy_sha256"] == digest):
            tokens = over_answers(read, [prompt_tokens(models, one)], [one["tokens"]], 999)
            assert float(tokens[0].sum()) == pytest.approx(one["logprob"], abs=1e-4)


def test_scores_are_the_models_own_joined_as_in_ppo_and_the_best_wins(go: Runner, models: Path) -> None:
    rows, best = go("round", ["one/policy", "two/policy"], "first.jsonl", samples=6, temperature=only(0.5, 6))
    flags = [int(row["prompt_id"][1:]) % 3 == 0 for row in rows]
    expected = RewardModels(models / "helpful", models / "safety", 0.15).score(
        [prompt_tokens(models, row) for row in rows], [row["tokens"] for row in rows], flags
    )
    for number, name in enumerate(("helpful", "safety", "combined")):
        found = [row["scores"][name] for row in rows]
        assert found == pytest.approx(expected[number].tolist(), abs=1e-5)
    helpful, safety = (torch.tensor([row["scores"][name] for row in rows]) for name in ("helpful", "safety"))
    combined = combine_rewards(helpful, safety, torch.tensor(flags), 0.15).tolist()
    assert [row["scores"]["combined"] for row in rows] == combined
    decided = [c == s != h for c, s, h in zip(combined, safety.tolist(), helpful.tolist(), strict=True)]
    assert 0 < sum(decided) < len(rows), "each model decides somewhere"
    assert len(best) == len({row["prompt_id"] for row in rows if row["finish"] == "stop" and row["answer"]}) > 0
    for one in best:
        mine = [row for row in rows if row["prompt_id"] == one["meta"]["prompt_id"]]
        top = max((r for r in mine if r["finish"] == "stop" and r["answer"]), key=lambda r: r["scores"]["combined"])
        assert one["messages"] == [*top["prompt"], {"role": "assistant", "content": top["answer"]}]
        assert one["source"] == top["source"] == f"of/{top['meta']['number'] % 2}"
        kept = {key: one["meta"][key] for key in ("policy", "temperature", "score", "rank", "sample", "of")}
        assert kept == {
            "policy": top["policy"], "temperature": 0.5, "score": top["scores"]["combined"], "rank": top["rank"],
            "sample": top["sample"], "of": 12,
        }  # fmt: skip
        assert top["rank"] == 1 + sum(r["scores"]["combined"] > top["scores"]["combined"] for r in mine)


def test_the_latest_alone_competes_where_the_recipe_says_so(go: Runner, models: Path, home: Path) -> None:
    shelf = ["one/policy", "two/policy"]
    settings: dict[str, Any] = {"samples": 12, "temperature": only(0.5, 12)}
    pooled, _ = go("pooled", shelf, "first.jsonl", **settings)
    settings |= {"history": [str(home / "pooled")], "selection": "latest"}
    latest, best = go("latest", shelf, "first.jsonl", **settings)
    digest = folder_digest(models / "two/policy")
    assert go.asked == []
    assert drawn(latest, digest) == drawn(pooled, digest)
    assert {row["policy_sha256"] for row in latest} == {digest} == {one["meta"]["policy_sha256"] for one in best}
    assert sum(won["share"] for won in go.metrics("pooled")["winners"]) == pytest.approx(1.0)
    assert [won["share"] for won in go.metrics("latest")["winners"]] == [1.0]


def test_temperature_is_sought_on_prompts_that_no_round_trains_on(go: Runner, models: Path, home: Path) -> None:
    grid = {"grid": [0.3, 0.6, 1.2], "prompts": 2, "samples": 4}
    rows, _ = go("round", ["one/policy", "two/policy"], "first.jsonl", temperature=grid)
    assert {row["prompt_id"] for row in rows} == {"p0", "p1", "p2"}
    probes = list(read_rollouts(home / "round" / "probes.jsonl"))
    two = folder_digest(models / "two/policy")
    assert told(probes) == {("p3", two): 12, ("p4", two): 12}
    found = go.metrics("round")["temperature"]
    assert [point["temperature"] for point in found["curve"]] == grid["grid"]
    assert found["chosen"] == max(found["curve"], key=lambda point: point["expected_best"])["temperature"]
    assert {row["temperature"] for row in rows} == {found["chosen"]}
    curves = json.loads((home / "round" / "curves.json").read_text())
    assert [(c["temperature"], len(c["points"])) for c in curves["temperatures"]] == [(t, 4) for t in grid["grid"]]
    assert [(c["policy_sha256"], len(c["points"])) for c in curves["samples"]] == [
        (folder_digest(models / name), 3) for name in ("one/policy", "two/policy")
    ]
    assert curves["winners"] == go.metrics("round")["winners"]
    # a later round keeps the curve of the version that was the latest, and samples its own alone
    go("next", ["two/policy", "one/policy"], "first.jsonl", temperature=grid, history=[str(home / "round")])
    assert {name for name, _ in go.asked} == {f"probe-{t}.jsonl" for t in grid["grid"]}
    later = json.loads((home / "next" / "curves.json").read_text())["temperatures"]
    assert [c["policy_sha256"] for c in later] == 3 * [two] + 3 * [folder_digest(models / "one/policy")]
    kept = list(read_rollouts(home / "next" / "probes.jsonl"))
    assert [row for row in kept if row["policy_sha256"] == two] == probes
    assert later == curves_of(kept)
