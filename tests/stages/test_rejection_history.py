"""Rounds that build on earlier ones: nothing is sampled twice, old answers are scored anew, a smaller model learns."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from align.artifacts import folder_digest, read_manifest, write_jsonl
from align.commands.check import check
from align.config import to_plain
from align.data.schema import messages_of
from align.data.template import encode_dialog, encode_prompt
from align.data.tokenizer import Tokenizer, train_tokenizer
from align.errors import AlignError, ArtifactError, DataError
from align.model.config import LlamaConfig
from align.model.saving import save_policy, save_scorer
from align.records import Message
from align.rollout.judge import RewardModels
from tests.data.corpus import corpus
from tests.fakes import tiny_llama, tiny_scorer
from tests.stages.conftest import SMALL
from tests.stages.rounds import Runner, drawn, only, prompt_tokens, recipe, told


def test_past_policies_answers_come_from_earlier_rounds_and_only_the_missing_are_sampled(
    go: Runner, models: Path, home: Path
) -> None:
    one, two = (folder_digest(models / name) for name in ("one/policy", "two/policy"))
    first, _ = go("first", ["one/policy"], "first.jsonl")
    second, _ = go("second", ["one/policy", "two/policy"], "second.jsonl", history=[str(home / "first")])
    # p4 and p3 were answered by policy one; the file's places of the others are 0 and 3
    assert {(name[0], r.prompt) for name, r in go.asked} == {("0", 0), ("0", 3), *(("1", place) for place in range(4))}
    assert len(go.asked) == 3 * 6
    asked = ("p6", "p4", "p3", "p7")
    assert told(second) == {(prompt, policy): 3 for prompt in asked for policy in (one, two)}
    before, after = drawn(first, one), drawn(second, one)
    assert {key: value for key, value in after.items() if key[0] in ("p3", "p4")} == {
        key: value for key, value in before.items() if key[0] in ("p3", "p4")
    }
    # a new sample is the same whether or not a history spares the others
    alone, _ = go("alone", ["one/policy", "two/policy"], "second.jsonl")
    assert len(go.asked) == 3 * 8
    assert drawn(alone, two) == drawn(second, two)
    assert {k: v for k, v in drawn(alone, one).items() if k[0] in ("p6", "p7")} == {
        k: v for k, v in after.items() if k[0] in ("p6", "p7")
    }
    # the shelf may be gone: what its policies said stays, under a latest version that samples alone
    third, _ = go("third", ["two/policy"], "second.jsonl", history=[str(home / "second")])
    assert go.asked == []
    for row in (*second, *third):
        del row["policy"]  # the names of a round tell its own versions apart
    assert third == second
    assert [policy["sha256"] for policy in go.metrics("third")["policies"]] == [one, two]


def test_more_samples_are_added_to_those_held(go: Runner, models: Path, home: Path) -> None:
    few, _ = go("few", ["one/policy"], "first.jsonl")
    more, _ = go(
        "more", ["one/policy"], "first.jsonl", history=[str(home / "few")], samples=5, temperature=only(0.9, 5)
    )
    assert {(r.prompt, r.sample) for _, r in go.asked} == {(p, s) for p in range(5) for s in (3, 4)}
    digest = folder_digest(models / "one/policy")
    assert drawn(few, digest).items() <= drawn(more, digest).items()
    assert {(row["sample"], row["temperature"]) for row in more} == {(s, 0.5 if s < 3 else 0.9) for s in range(5)}


def test_new_reward_models_score_old_answers_anew_and_nothing_is_sampled(
    go: Runner, models: Path, home: Path, tmp_path: Path
) -> None:
    both = ["one/policy", "two/policy"]
    before, _ = go("before", both, "first.jsonl")
    assert go.metrics("before")["rollouts"]["scored"] == {"helpful": len(before), "safety": len(before)}
    save_scorer(tiny_scorer(7, SMALL), SMALL, tmp_path / "newer")
    shutil.copy(models / "tokenizer.model", tmp_path / "newer" / "tokenizer.model")
    after, _ = go("after", both, "first.jsonl", history=[str(home / "before")], helpful=str(tmp_path / "newer"))
    assert go.asked == []
    assert go.metrics("after")["rollouts"]["scored"] == {"helpful": len(before), "safety": 0}
    assert [row["tokens"] for row in after] == [row["tokens"] for row in before]
    expected = RewardModels(tmp_path / "newer", models / "safety", 0.15).score(
        [prompt_tokens(models, row) for row in after], [row["tokens"] for row in after],
        [row["kind"] == "safety" for row in after],
    )  # fmt: skip
    for number, name in enumerate(("helpful", "safety", "combined")):
        assert [row["scores"][name] for row in after] == pytest.approx(expected[number].tolist(), abs=1e-5)
    assert [row["scores"]["safety"] for row in after] == [row["scores"]["safety"] for row in before]
    assert [row["scores"]["helpful"] for row in after] != [row["scores"]["helpful"] for row in before]
    # the same models again: not an answer is read
    again, _ = go("again", both, "first.jsonl", history=[str(home / "before"), str(home / "after")])
    assert go.metrics("again")["rollouts"]["scored"] == {"helpful": 0, "safety": 0}
    assert again == before


def test_prompts_of_earlier_rounds_compete_too_where_the_recipe_says_so(go: Runner, home: Path) -> None:
    first, _ = go("first", ["one/policy"], "first.jsonl")
    settings: dict[str, Any] = {"history": [str(home / "first")], "history_prompts": "all"}
    rows, _ = go("second", ["two/policy"], "second.jsonl", **settings)
    counts = Counter(row["prompt_id"] for row in rows)
    assert counts == {"p6": 3, "p7": 3, "p3": 6, "p4": 6, "p0": 3, "p1": 3, "p2": 3}
    old = {row["prompt_id"]: row for row in first}
    for row in rows:
        if row["prompt_id"] in ("p0", "p1", "p2"):
            assert {k: row[k] for k in ("kind", "source", "meta")} == {
                k: old[row["prompt_id"]][k] for k in ("kind", "source", "meta")
            }


def test_prompts_alike_have_samples_of_their_own_in_the_next_round_too(go: Runner, home: Path) -> None:
    asked = [{"id": f"t{i}", "prompt": [{"role": "user", "content": "who?"}]} for i in range(3)]
    write_jsonl(home / "twins.jsonl", asked[:2])
    write_jsonl(home / "triplets.jsonl", asked)
    before, _ = go("before", ["one/policy"], "twins.jsonl")
    after, _ = go("after", ["one/policy"], "twins.jsonl", history=[str(home / "before")])
    assert after == before
    rows, _ = go("wider", ["one/policy"], "triplets.jsonl", history=[str(home / "before")])
    assert go.asked == []
    assert Counter(row["prompt_id"] for row in rows) == {"t0": 3, "t1": 3, "t2": 6}


def test_a_smaller_model_takes_all_that_another_model_s_round_holds(go: Runner, models: Path, home: Path) -> None:
    big, best = go("big", ["one/policy", "two/policy"], "first.jsonl")
    settings = {"sampler": str(home / "big"), "samples": None, "temperature": None, "max_new_tokens": None}
    rows, mine = go("small", [], None, **settings)
    assert (go.asked, rows, mine) == ([], big, best)
    some, _ = go("some", [], "second.jsonl", **settings)
    assert {row["prompt_id"] for row in some} == {"p3", "p4"}
    parents = [parent["name"] for parent in read_manifest(home / "small").parents]
    assert parents == ["big", "helpful", "safety"]


def test_another_tokenizer_s_samples_are_handled_by_their_text(go: Runner, models: Path, home: Path) -> None:
    big, _ = go("big", ["one/policy"], "first.jsonl", samples=8, temperature=only(0.5, 8))
    small = LlamaConfig(vocab_size=340, dim=16, n_layers=1, n_heads=2, n_kv_heads=1, ffn_dim=32, max_seq_len=256)
    train_tokenizer(corpus(), small.vocab_size, home / "tokenizer.model")
    save_scorer(tiny_scorer(0, small), small, home / "helps")
    save_scorer(tiny_scorer(1, small), small, home / "safe")
    save_policy(tiny_llama(2, small), small, home / "policy")
    for name in ("helps", "safe", "policy"):
        shutil.copy(home / "tokenizer.model", home / name / "tokenizer.model")
    judges = {"helpful": str(home / "helps"), "safety": str(home / "safe")}
    settings = {"sampler": str(home / "big"), "samples": None, "temperature": None, "max_new_tokens": None}
    rows, best = go("small", [], None, **settings, **judges)
    ended = [row for row in big if row["finish"] == "stop" and row["answer"]]
    assert [row["answer"] for row in rows] == [row["answer"] for row in ended]
    assert len(best) > 0
    tokenizer = Tokenizer(home / "tokenizer.model")
    whole = [
        encode_dialog(tokenizer, (*messages_of(row["prompt"]), Message("assistant", row["answer"]))).tokens.tolist()
        for row in rows
    ]
    asked = [encode_prompt(tokenizer, messages_of(row["prompt"])) for row in rows]
    assert [a + row["tokens"] for a, row in zip(asked, rows, strict=True)] == whole
    flags = [row["kind"] == "safety" for row in rows]
    expected = RewardModels(home / "helps", home / "safe", 0.15).score(asked, [r["tokens"] for r in rows], flags)
    assert [row["scores"]["combined"] for row in rows] == pytest.approx(expected.combined.tolist(), abs=1e-5)
    with pytest.raises(
        ArtifactError, match=r"policy: found another tokenizer than that of .*helps.*as sampler or hist"
    ):
        go("mixed", ["one/policy"], "first.jsonl", **judges)


def test_what_is_no_round_of_this_stage_is_refused(go: Runner, models: Path, home: Path) -> None:
    go("first", ["one/policy"], "first.jsonl")
    wrong: list[tuple[dict[str, Any], type[AlignError], str]] = [
        ({"history": [str(models / "one/policy")]}, ArtifactError, "not an artifact"),
        ({"history": [str(home / "frist")]}, ArtifactError, "frist: no such artifact folder.*did you mean 'first'"),
        ({"skip": 9}, DataError, r"first\.jsonl: found 5 prompts, expected more than the 0 held out .* the 9 of skip"),
    ]
    for number, (changes, kind, said) in enumerate(wrong):
        with pytest.raises(kind, match=said):
            go(f"wrong-{number}", ["two/policy"], "first.jsonl", **changes)
    with pytest.raises(ArtifactError, match=r"found the policy of .*one/policy again, expected each version once"):
        go("twice", ["one/policy", "one/policy"], "first.jsonl")


def test_a_check_tells_whose_answers_a_history_holds(go: Runner, models: Path, home: Path) -> None:
    go("first", ["one/policy"], "first.jsonl")
    plain = to_plain(
        recipe(policies=[str(models / "two/policy")], history=[str(home / "first"), str(models / "safety")])
    )
    path = home / "reject.yaml"
    path.write_text(json.dumps(plain))
    lines = [str(line) for line in check(path, [])]
    assert f"  history.0: {home / 'first'}: rollouts of policy" in lines
    assert [line for line in lines if "history.1" in line and "not an artifact" in line]
