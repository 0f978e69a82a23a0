"""Files and records: what is read back equals what was written, and a bad row is named."""
# ruff: noqa: E501 - one case a line is read at a glance

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from align.data.explain import explain, schema_folder
from align.data.schema import (
    Skipped,
    read_constraints,
    read_dialogs,
    read_preferences,
    read_prompts,
    read_rankings,
    read_rollouts,
    to_json,
)
from align.errors import DataError, TemplateError
from align.files import write_jsonl
from align.records import Comparison, Constraint, Dialog, Message, Preference, Prompt, Ranking
from tests.data.test_template import said

USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "yes"}
NO = {"role": "assistant", "content": "no"}
PAIR = {"prompt": [USER], "chosen": [ANSWER], "rejected": [NO]}
TIE = {"pair": [0, 1], "chosen": None}
RANKED = {"prompt": [USER], "answers": [[ANSWER], [NO]], "comparisons": [TIE]}
ROLLOUT = {
    "prompt_id": "p", "prompt": [USER], "answer": "yes", "policy": "sft", "sample": 0, "temperature": 0.7,
    "tokens": [5, 2], "logprob": -1.5, "finish": "stop", "scores": {"helpful": 1.0, "safety": None},
}  # fmt: skip


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


RECORDS = [
    (read_dialogs, [Dialog(messages=said("a", "b", "c", "d", system="s"), source="x"), Dialog(messages=said("é", "☃"))]),
    (
        read_preferences,
        [
            Preference(
                prompt=said("a", "b", "c"), chosen=(Message("assistant", "d"),), rejected=said("x", "e")[1:],
                rating="better", chosen_safe=True, rejected_safe=False, kind="safety", source="x",
                votes=("chosen", "tie", "rejected"),
            ),
            Preference(prompt=said("a"), chosen=said("x", "b", "c", "d")[1:], rejected=said("x", "e")[1:]),
        ],
    ),
    (
        read_rankings,
        [
            Ranking(prompt=said("a"), answers=tuple((Message("assistant", t),) for t in "bcd"), ranks=(2, 1, 2)),
            Ranking(
                prompt=said("a"), answers=tuple((Message("assistant", t),) for t in "bcd"), kind="safety", source="x",
                comparisons=(Comparison(pair=(2, 0), chosen=2, rating="better"), Comparison(pair=(0, 1), chosen=None)),
            ),
        ],
    ),
    (read_prompts, [Prompt(id="1", messages=said("a"), kind="safety", meta={"k": [1, {"x": None}]}), Prompt(id="2", messages=said("a", "b", "c"))]),
    (read_constraints, [Constraint(kind="figure", instruction="Act.", short="F: N", meta={"e": 1}), Constraint(kind="h", instruction="a", short="b")]),
]  # fmt: skip


@pytest.mark.parametrize(("read", "records"), RECORDS, ids=lambda v: getattr(v, "__name__", ""))
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.parquet"])
def test_round_trip(tmp_path: Path, read: Callable[..., Iterable[Any]], records: list[Any], name: str) -> None:
    rows = [to_json(record) for record in records]
    kind = read.__name__.removeprefix("read_")
    if name == "rows.parquet":
        if kind in ("prompts", "constraints"):  # a table has one type a column
            records = [r for r in records if not r.meta]
            rows = [to_json(record) for record in records]
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = dict.fromkeys(key for row in rows for key in row)  # a table has them all in every row
        pq.write_table(pa.Table.from_pylist([dict.fromkeys(columns) | row for row in rows]), tmp_path / name)
    else:
        write_jsonl(tmp_path / name, rows)
    assert list(read(tmp_path / name)) == records


def test_rows_are_what_trl_reads(tmp_path: Path) -> None:
    from trl.data_utils import is_conversational

    for _, records in RECORDS[:2]:
        for record in records:
            assert is_conversational(to_json(record))


def test_small_rows_have_no_empty_columns() -> None:
    assert to_json(Dialog(messages=said("a", "b"))) == {
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    }
    assert set(to_json(RECORDS[1][1][1])) == {"prompt", "chosen", "rejected", "rating", "kind"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{x", r"p\.jsonl:2: not JSON: found Expecting property name"),
        ("[1]", r"p\.jsonl:2: row: found \[1\], expected object"),
        ("null", r"p\.jsonl:2: row: found null, expected object"),
        ({**PAIR, "chosen": "yes"}, r'p\.jsonl:2: chosen: found "yes", expected array'),
        ({**PAIR, "chosen": []}, r"p\.jsonl:2: chosen: found \[\], expected at least 1 items"),
        ({**PAIR, "chosen": [USER]}, r"p\.jsonl:2: prompt \+ chosen: message 1: found role 'user', expected 'assistant'"),
        ({**PAIR, "prompt": [USER, ANSWER]}, r"p\.jsonl:2: prompt: found last role 'assistant', expected a dialogue that ends with 'user'"),
        ({**PAIR, "prompt": [{"role": "usr", "content": "a"}]}, r"p\.jsonl:2: prompt\.0\.role: found \"usr\", expected .* \(did you mean 'user'\?\)"),
        ({**PAIR, "prompt": [{"role": "user"}]}, r"p\.jsonl:2: prompt\.0: content: found no such field, expected one"),
        ({**PAIR, "prompt": [{"role": "user", "content": 3}]}, r"p\.jsonl:2: prompt\.0\.content: found 3, expected string"),
        ({**PAIR, "prompt": [{"role": "user", "content": ""}]}, r"p\.jsonl:2: prompt\.0\.content: found \"\", expected at least 1 characters"),
        ({**PAIR, "prompt": [{"role": "user", "content": " "}]}, r"p\.jsonl:2: prompt: message 0: found an empty user message"),
        ({**PAIR, "rejected": [{"role": "assistant", "content": "a <<SYS>>"}]}, r"p\.jsonl:2: prompt \+ rejected: message 1: found the tag <<SYS>>"),
        ({**PAIR, "rating": "slighty"}, r"p\.jsonl:2: rating: found \"slighty\", expected .* \(did you mean 'slightly'\?\)"),
        ({**PAIR, "chosen_saef": True}, r"p\.jsonl:2: chosen_saef: unknown field \(did you mean 'chosen_safe'\?\)"),
        ({"prompt": [USER], "choosen": [ANSWER], "rejected": [NO]}, r"p\.jsonl:2: chosen: found no such field \(instead there is 'choosen'\)"),
        ({**PAIR, "votes": ["chosen", "rejectd"]}, r"p\.jsonl:2: votes\.1: found \"rejectd\", expected .* \(did you mean 'rejected'\?\)"),
        ({**PAIR, "votes": []}, r"p\.jsonl:2: votes: found \[\], expected at least 1 items"),
        ({**PAIR, "chosen_safe": "yes"}, r"p\.jsonl:2: chosen_safe: found \"yes\", expected boolean or null"),
        ({**PAIR, "chosen_safe": False, "rejected_safe": True}, r"p\.jsonl:2: chosen_safe: found false with rejected_safe true"),
    ],
)  # fmt: skip
def test_bad_preference(tmp_path: Path, row: Any, message: str) -> None:
    path = write(tmp_path / "p.jsonl", PAIR, row, PAIR)
    with pytest.raises(DataError, match=message):
        list(read_preferences(path))
    skipped = Skipped()
    assert len(list(read_preferences(path, skip_bad=skipped))) == 2
    assert skipped.count == 1
    (aside,) = map(json.loads, (tmp_path / "p.jsonl.bad.jsonl").read_text().splitlines())
    assert aside["line"] == 2
    assert aside["row"] == ("{x" if row == "{x" else json.loads(row) if isinstance(row, str) else row)


@pytest.mark.parametrize(
    ("read", "good", "change", "message"),
    [
        (read_dialogs, {"messages": [USER, ANSWER]}, {"messages": [USER]}, "messages: found last role 'user', expected a dialogue that ends with 'assistant'"),
        (read_dialogs, {"messages": [USER, ANSWER]}, {"rating": "better"}, "rating: unknown field"),
        (read_prompts, {"id": "a", "prompt": [USER]}, {}, "id: found 'a' a second time"),
        (read_prompts, {"id": "a", "prompt": [USER]}, {"id": 3}, "id: found 3, expected string"),
        (read_prompts, {"id": "a", "prompt": [USER]}, {"id": "b", "kind": "safe"}, "kind: found \"safe\", expected 'helpful' or 'safety' .did you mean 'safety'"),
        (read_prompts, {"id": "a", "prompt": [USER]}, {"id": "b", "meta": 3}, "meta: found 3, expected object"),
        (read_rankings, {"prompt": [USER], "answers": [[ANSWER], [NO]], "ranks": [1, 2]}, {"ranks": [1, 2, 3]}, "ranks: found 3, expected 2"),
        (read_rankings, {"prompt": [USER], "answers": [[ANSWER], [NO]], "ranks": [1, 2]}, {"ranks": [0, 1]}, r"ranks\.0: found 0, expected minimum 1"),
        (read_rankings, {"prompt": [USER], "answers": [[ANSWER], [NO]], "ranks": [1, 2]}, {"answers": [[ANSWER], [USER]]}, r"prompt \+ answers\.1: message 1"),
        (read_rankings, RANKED, {"ranks": [1, 2]}, "found ranks and comparisons, expected one of ranks and comparisons"),
        (read_rankings, RANKED, {"comparisons": [TIE, TIE]}, r"comparisons\.1\.pair: found \[0, 1\] a second time"),
        (read_rankings, RANKED, {"comparisons": [TIE, {"pair": [1, 0], "chosen": 0}]}, r"comparisons\.1\.pair: found \[1, 0\] a second time"),
        (read_rankings, RANKED, {"comparisons": [{"pair": [1, 1], "chosen": 1}]}, r"comparisons\.0\.pair: found \[1, 1\], expected two different answers of 0 to 1"),
        (read_rankings, RANKED, {"comparisons": [{"pair": [1, 2], "chosen": 1}]}, r"comparisons\.0\.pair: found \[1, 2\], expected two different answers of 0 to 1"),
        (read_rankings, RANKED, {"comparisons": [{"pair": [0, 1], "chosen": 2}]}, r"comparisons\.0\.chosen: found 2, expected 0, 1 or null"),
        (read_rankings, RANKED, {"comparisons": [{"pair": [0, 1]}]}, r"comparisons\.0: chosen: found no such field, expected one"),
        (read_rankings, RANKED, {"comparisons": [{"pair": [0, 1], "chosen": 1, "rating": "great"}]}, r"comparisons\.0\.rating: found \"great\", expected 'significantly'"),
        (read_rankings, RANKED, {"comparisons": []}, r"comparisons: found \[\], expected at least 1 items"),
        (read_constraints, {"kind": "a", "instruction": "b", "short": "c"}, {"instruction": "[INST] b"}, "instruction: message 0: found the tag"),
        (read_constraints, {"kind": "a", "instruction": "b", "short": "c"}, {"short": ""}, "short: found \"\""),
        (read_rollouts, ROLLOUT, {"finish": "eos"}, "finish: found \"eos\", expected 'stop' or 'length'"),
        (read_rollouts, ROLLOUT, {"tokens": [1.5]}, r"tokens\.0: found 1.5, expected integer"),
        (read_rollouts, ROLLOUT, {"scores": {"helpful": "high"}}, r"scores\.helpful: found \"high\", expected number or null"),
    ],
)  # fmt: skip
def test_bad_rows_of_the_others(
    tmp_path: Path, read: Callable[..., Iterable[Any]], good: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "p.jsonl", good, {**good, **change})
    rows = iter(read(path))
    next(rows)
    with pytest.raises(DataError, match=rf"p\.jsonl:2: {message}"):
        next(rows)


def test_a_ranking_says_ranks_or_comparisons(tmp_path: Path) -> None:
    nothing = {key: value for key, value in RANKED.items() if key != "comparisons"}
    for row, message in (
        (nothing, "found neither ranks nor comparisons, expected one of ranks and comparisons"),
        ({**nothing, "rank": [1, 2]}, r"rank: unknown field .did you mean 'ranks'"),
    ):
        with pytest.raises(DataError, match=rf"p\.jsonl:1: {message}"):
            list(read_rankings(write(tmp_path / "p.jsonl", row)))
    (one,) = read_rankings(write(tmp_path / "p.jsonl", {**RANKED, "meta": {"k": [1]}}))
    assert to_json(one)["meta"] == {"k": [1]}


@pytest.mark.parametrize("name", [p.stem for p in schema_folder().glob("*.json")])
def test_schemas_are_draft_2020_12_and_described(name: str) -> None:
    text = json.loads((schema_folder() / f"{name}.json").read_text())
    assert text["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(text)
    assert text["description"]
    assert text["additionalProperties"] is False


def test_every_schema_is_there() -> None:
    names = {p.stem for p in schema_folder().glob("*.json")}
    assert names == {
        "comparison",
        "exam",
        "self_bleu",
        "win_rates",
        "dialogue",
        "preference",
        "ranking",
        "prompt",
        "constraint",
        "rollout",
        "manifest",
        "reward_report",
        "preprompt",
        "distilled",
    }


def test_a_manifest_is_valid(tmp_path: Path) -> None:
    from align.artifacts import building, publish

    with building(tmp_path / "a") as folder:
        (folder / "x.txt").write_text("x")
        publish(folder, tmp_path / "a", stage="convert", name="a", recipe={"lr": 1e-5}, seed=0, metrics={"n": 1})
    made = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert explain("manifest", made) is None
    assert explain("manifest", {**made, "seed": "0"}) == 'seed: found "0", expected integer'


def test_a_refused_dialogue_is_a_template_error(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", {"id": "a", "prompt": [{"role": "user", "content": "[INST]"}]})
    with pytest.raises(TemplateError):
        list(read_prompts(path))
