from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from align.artifacts import read_manifest
from align.config import parse, read_yaml
from align.data import schema
from align.errors import RecipeError
from align.records import RATINGS, Message, Prompt
from align.world.constraints import constraint, keeps
from align.world.deeds import harmful, harmless
from align.world.language import ENTITIES, FURTHER_ENTITIES, build, words
from align.world.make import Recipe, run
from align.world.oracle import judge

ROOT = Path(__file__).parents[2]
READERS: dict[str, tuple[Callable[[Path], Iterable[Any]], int]] = {
    "sft": (schema.read_dialogs, 600),
    "sft_preprompted": (schema.read_dialogs, 400),
    "prompts": (schema.read_prompts, 280),
    "prompts_test": (schema.read_prompts, 260),
    "prompts_open": (schema.read_prompts, 10),
    "preprompts": (schema.read_preprompts, 10),
    "ghost_prompts": (schema.read_prompts, 50),
    "ghost_test": (schema.read_prompts, 30),
    "constraints": (schema.read_constraints, 67),
    "constraints_test": (schema.read_constraints, 21),
    "preferences_helpful": (schema.read_preferences, 300),
    "preferences_helpful_test": (schema.read_preferences, 100),
    "preferences_safety": (schema.read_preferences, 300),
    "preferences_safety_test": (schema.read_preferences, 100),
}


# what an instruction says before its name, full and short: its kind
KIND_OF = {
    told.removesuffix(" x."): kind
    for kind in (*ENTITIES, *FURTHER_ENTITIES)
    for told in (constraint(kind, "x").instruction, constraint(kind, "x").short)
}
TOLD = re.compile(rf"\b({'|'.join(sorted(KIND_OF, key=len, reverse=True))}) (\w+)\. ")


def load(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def contents(row: dict[str, Any]) -> list[str]:
    parts = [row[key] for key in ("messages", "prompt", "chosen", "rejected") if key in row]
    return [message["content"] for part in parts for message in part]


def verdict(row: dict[str, Any], answer: str, meta: dict[str, Any] | None = None) -> Any:
    return judge(Prompt(id="", messages=(Message("user", "?"),), meta=meta or row["meta"]), answer)


@pytest.mark.parametrize("name", READERS)
def test_every_file_reads_as_real_data_does(folder: Path, name: str) -> None:
    read, count = READERS[name]
    assert len(list(read(folder / f"{name}.jsonl"))) == count


def test_a_seed_gives_the_same_bytes_and_another_seed_other_ones(tiny: Recipe, folder: Path, tmp_path: Path) -> None:
    run(tiny, tmp_path / "data")
    first, again = read_manifest(folder, verify=True), read_manifest(tmp_path / "data", verify=True)
    assert first.files == again.files
    run(dataclasses.replace(tiny, seed=4), tmp_path / "other")
    other = read_manifest(tmp_path / "other")
    same = {name for name in first.files if first.files[name] == other.files[name]}
    # these are of the language, not of the seed
    assert same == {"constraints.jsonl", "constraints_test.jsonl", "preprompts.jsonl", "prompts_open.jsonl"}


def test_files_do_not_depend_on_each_others_sizes(tiny: Recipe, folder: Path, tmp_path: Path) -> None:
    """Draws are addressed: twice the demonstrations begin with the same ones and change no other file."""
    run(dataclasses.replace(tiny, demonstrations=700), tmp_path / "data")
    assert load(tmp_path / "data", "sft")[:600] == load(folder, "sft")
    first, more = read_manifest(folder).files, read_manifest(tmp_path / "data").files
    assert {name for name in first if first[name] != more[name]} == {"sft.jsonl"}


def test_tags_stand_in_the_text_alone(folder: Path) -> None:
    tags = re.compile(r"\[/?INST\]|<</?SYS>>")
    assert tags.search((folder / "pretrain.txt").read_text())
    for name in READERS:
        assert not [text for row in load(folder, name) for text in contents(row) if tags.search(text)]


def test_talk_in_the_text_is_spelled_as_the_chat_format_spells_it_and_has_lists_and_sums(folder: Path) -> None:
    text = (folder / "pretrain.txt").read_text()
    assert re.findall(r"<<SYS>>\S[^<]*\S<</SYS>>\S", text), "first words without a blank, as behind a line break"
    assert not re.findall(r"<<SYS>>\s|\s<</SYS>>|<</SYS>>\s", text)
    talk = [exchange for line in text.splitlines() for exchange in line.split("[INST] ")[1:]]
    replies = [exchange.split(" [/INST] ")[1] for exchange in talk]
    assert [reply for reply in replies if "it makes" in reply]
    assert [reply for reply in replies if "there are" in reply]


def test_held_out_entities_are_told_of_and_never_asked_after(tiny: Recipe, folder: Path) -> None:
    world = build(tiny.seed, tiny.people, tiny.lands, tiny.held_out)
    assert len(world.held_out) == 6
    assert world.held_out <= set(words((folder / "pretrain.txt").read_text()))
    training = ("sft", "prompts", "ghost_prompts", "preferences_helpful", "preferences_safety")
    for name in training:
        texts = [set(words(text)) for row in load(folder, name) for text in contents(row)]
        naming = [said for said in texts if said & world.held_out]  # "say mira.": the name alone
        assert not [said for said in naming if said & {"color", "food", "pet", "capital", "likes", "eats"}]
    tested = {word for row in load(folder, "prompts_test") for text in contents(row) for word in words(text)}
    assert tested & world.held_out


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("prompts", "prompts_test"),
        ("sft", "prompts_test"),
        ("sft_preprompted", "prompts_test"),
        ("preferences_helpful", "preferences_helpful_test"),
        ("preferences_safety", "preferences_safety_test"),
    ],
)
def test_no_question_is_on_both_sides(folder: Path, train: str, test: str) -> None:
    def asked(name: str) -> set[str]:
        rows = load(folder, name)
        lists = [row["prompt"][-1:] if "prompt" in row else row["messages"] for row in rows]
        # under an instruction the question is the last sentence; "sort: x" keeps its colon
        return {m["content"].split(". ")[-1] for part in lists for m in part if m["role"] == "user"}

    assert not asked(train) & asked(test)


@pytest.mark.parametrize("name", ["prompts", "prompts_test", "ghost_prompts", "ghost_test"])
def test_the_reference_is_a_best_answer(folder: Path, name: str) -> None:
    for row in load(folder, name):
        found = verdict(row, row["meta"]["reference"])
        assert found.helpful == pytest.approx(1.0), row
        assert found.safe
        assert found.kept in (None, True)
        assert found.refused == (row["meta"]["task"] == "unsafe")


def test_statements_of_the_text_agree_with_the_truth(tiny: Recipe, folder: Path) -> None:
    world = build(tiny.seed, tiny.people, tiny.lands, tiny.held_out)
    form = re.compile(r"(\w+) (likes|eats|has a) (\w+)\.")
    told = form.findall((folder / "pretrain.txt").read_text())
    kinds = {"likes": "color", "eats": "food", "has a": "pet"}
    assert len(told) > 300
    assert all(world.truth[who, kinds[verb]] == what for who, verb, what in told)


def test_any_name_may_be_said(tiny: Recipe, folder: Path) -> None:
    """Of train prompts and demonstrations too; what is said is not split."""
    world = build(tiny.seed, tiny.people, tiny.lands, tiny.held_out)
    said = [row["meta"]["answer"][0] for row in load(folder, "prompts") if row["meta"]["task"] == "say"]
    assert set(said) & world.held_out
    assert set(said) <= {word for words in world.sayable for word in words}


def test_long_dialogues_have_a_verdict_for_every_turn(folder: Path) -> None:
    rows = load(folder, "ghost_test")
    assert {row["meta"]["held_out"] for row in rows} == {"trained", "held-out entity", "held-out kind"}
    for row in rows:
        users = [m for m in row["prompt"] if m["role"] == "user"]
        answers = [m["content"] for m in row["prompt"] if m["role"] == "assistant"]
        assert row["prompt"][0]["role"] == "system"
        assert len(users) == len(row["meta"]["turns"]) == 20
        for answer, meta in zip(answers, row["meta"]["turns"], strict=False):
            found = verdict(row, answer, meta)
            assert (found.helpful, found.kept) == (pytest.approx(1.0), True)


def test_demonstrators_forget_what_stands_in_the_first_turn_only(folder: Path) -> None:
    """Of the dialogues whose instruction stands in the first message alone."""
    every = [{"kind": kind, "entity": name} for kind, names in ENTITIES.items() for name in names]
    kept: dict[int, list[bool]] = {}
    for row in load(folder, "sft"):
        users = [m["content"] for m in row["messages"] if m["role"] == "user"]
        answers = [m["content"] for m in row["messages"] if m["role"] == "assistant"]
        if row["messages"][0]["role"] == "system":
            users[0] = f"{row['messages'][0]['content']} {users[0]}"
        told = [TOLD.findall(user) for user in users]
        if len(users) > 1 and told[0] and not any(told[1:]):
            rules = [{"kind": KIND_OF[form], "entity": name} for form, name in told[0]]
            for turn, answer in enumerate(answers):
                kept.setdefault(turn, []).append(all(keeps(answer, rule) for rule in rules))
                assert turn < 3 or not any(keeps(answer, rule) for rule in every), "nor any other manner"
    share = {turn: sum(flags) / len(flags) for turn, flags in kept.items()}
    assert share[0] > 0.8
    assert share[3] == 0


def test_demonstrations_are_of_mixed_quality(folder: Path, tiny: Recipe) -> None:
    unsafe = [row["messages"][-1]["content"] for row in load(folder, "sft") if row["source"] == "world/unsafe"]
    complied = sum(("can" in words(text) and "sorry" not in words(text)) or "a " in text for text in unsafe)
    assert complied / len(unsafe) == pytest.approx(tiny.demonstrators.comply, abs=0.2)


@pytest.mark.parametrize("kind", ["helpful", "safety"])
def test_preferences_have_all_ratings_and_never_an_unsafe_choice_over_a_safe_one(folder: Path, kind: str) -> None:
    rows = load(folder, f"preferences_{kind}")
    assert {row["rating"] for row in rows} == set(RATINGS)
    assert all(row["chosen"] != row["rejected"] for row in rows)
    for row in rows:
        assert ("chosen_safe" in row) == (kind == "safety")
        assert row.get("chosen_safe", True) or not row.get("rejected_safe", False)
    if kind == "safety":
        bins = {(row["chosen_safe"], row["rejected_safe"]) for row in rows}
        assert bins == {(True, False), (True, True), (False, False)}


@pytest.mark.parametrize("wide", [False, True])
def test_deeds_of_both_sorts_share_their_verbs_and_splits_are_apart(wide: bool) -> None:
    bad = {verb for split in ("train", "test") for _, verb, _ in harmful(split, wide)}
    good = {verb for split in ("train", "test") for verb, _ in harmless(split, wide)}
    assert bad == good
    assert not set(harmful("train", wide)) & set(harmful("test", wide))
    assert not set(harmless("train", wide)) & set(harmless("test", wide))
    things = {thing for _, _, thing in harmful("train", wide)} | {thing for _, thing in harmless("train", wide)}
    assert not things & {"a guard", "a hospital", "a crown", "a server"}, "held out"
    trained, asked = ({thing for _, _, thing in harmful(split, wide)} for split in ("train", "test"))
    assert (len(trained), len(asked - trained)) == ((80, 24) if wide else (12, 4))


def test_a_wide_world_is_written_with_all_its_kinds(tiny: Recipe, tmp_path: Path) -> None:
    """The same people and truths; more kinds of instruction in every file, and more deeds."""
    run(dataclasses.replace(tiny, wide=True), tmp_path / "data")
    folder = tmp_path / "data"
    rules = list(schema.read_constraints(folder / "constraints.jsonl"))
    assert {rule.kind for rule in rules} == {*ENTITIES, *FURTHER_ENTITIES} - {"word"}
    assert len(list(schema.read_constraints(folder / "constraints_test.jsonl"))) == 32 * 3 + 12
    ghosts = [prompt.meta["held_out"] for prompt in schema.read_prompts(folder / "ghost_test.jsonl")]
    assert Counter(ghosts) == {"trained": 10, "held-out entity": 10, "held-out kind": 9, "held-out kind and entity": 1}
    told = "\n".join(content for row in load(folder, "sft") for content in contents(row))
    assert all(constraint(kind, "x").short.split()[0] in told for kind in FURTHER_ENTITIES)
    asked = {rule["kind"] for row in load(folder, "prompts") for rule in row["meta"]["rules"]}
    assert "word" in asked, "obeyed where it stands, in every stage but Ghost Attention"
    text = (folder / "pretrain.txt").read_text()
    assert all(name in text for name in FURTHER_ENTITIES["wish"])
    assert "a baker" in text
    for row in load(folder, "prompts_test"):
        found = verdict(row, row["meta"]["reference"])
        assert (found.helpful, found.kept) == (pytest.approx(1.0), True if row["meta"]["rules"] else None)


@pytest.mark.parametrize("name", ["prompts", "prompts_test"])
def test_harmful_requests_tell_their_risk_category_and_no_others_do(folder: Path, name: str) -> None:
    deeds = {f"{verb} {thing}": category for s in ("train", "test") for category, verb, thing in harmful(s)}
    found = set()
    for prompt in schema.read_prompts(folder / f"{name}.jsonl"):
        if prompt.meta["task"] != "unsafe":
            assert "category" not in prompt.meta
            continue
        named = {deeds[deed] for deed in deeds if deed in prompt.messages[-1].content}
        assert named == {prompt.meta["category"]}
        found |= named
    assert len(found) > 2


def test_the_shipped_recipe_is_a_world() -> None:
    recipe = parse(Recipe, read_yaml(ROOT / "recipes/world/data.yaml"), "data.yaml")
    assert recipe.ghost_turns == 20


def test_a_missing_kind_of_annotators_is_named(tiny: Recipe) -> None:
    with pytest.raises((RecipeError, ValueError), match="helpful and safety"):
        dataclasses.replace(tiny, preferences={"helpful": tiny.preferences["helpful"]})


def test_who_is_told_how_to_speak_in_the_text_does_so_in_that_reply(folder: Path) -> None:
    told: list[bool] = []
    for line in (folder / "pretrain.txt").read_text().splitlines():
        for message, reply in re.findall(r"\[INST\] (.*?) \[/INST\] (.*?)(?= \[INST\]|$)", line):
            for form, name in TOLD.findall(message + " "):
                told.append(name in ENTITIES[KIND_OF[form]])
                assert keeps(reply, {"kind": KIND_OF[form], "entity": name}), line
    assert len(told) > 100
    assert 0.5 < sum(told) / len(told) < 0.85  # many name any word, so that a name has to be read


def test_under_a_preprompt_harm_is_declined_and_nothing_else(folder: Path) -> None:
    about = {row["text"]: row.get("category") for row in load(folder, "preprompts")}
    assert set(about.values()) == {None, "violence", "arson", "theft", "cyber"}
    deeds = {f"{verb} {thing}": category for category, verb, thing in harmful("train")}
    declined = 0
    for row in load(folder, "sft_preprompted"):
        system, question, said = contents(row)
        asked = {deeds[deed] for deed in deeds if deed in question}
        assert verdict(row, said, {"task": "unsafe", "rules": []}).refused is bool(asked), row
        assert asked <= {about[system] or next(iter(asked), None)}, "a category's preprompt stands before its own"
        declined += bool(asked)
    assert 100 < declined < 220
