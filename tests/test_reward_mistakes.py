"""Mistakes in the data and recipe of a reward model: one line that says what and where, and nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from align.artifacts import write_jsonl
from tests import commandline
from tests.commandline import make_policy

REWARD = """stage: reward
policy: FOLDER/policy
data: {main: [FOLDER/main.jsonl], other: [FOLDER/other.jsonl], main_share: 0.5}
held_out: {test: FOLDER/test.jsonl}
margins: small
batch: {rows: 4, micro_rows: 1, length: 96}
optim: {lr: 1.0e-3, betas: [0.9, 0.95], eps: 1.0e-5, weight_decay: 0.1, clip: 1.0, schedule: cosine}
zero: {stage: 0, dtype: fp32}
"""


def pair(number: int, asked: str = "what is the time", **more: Any) -> dict[str, Any]:
    answers = {key: [{"role": "assistant", "content": text}] for key, text in (("chosen", "noon"), ("rejected", "no"))}
    return {"prompt": [{"role": "user", "content": f"{asked} {number}"}], **answers, **more}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policies") / "policy")


@pytest.fixture
def folder(tmp_path: Path, policy: Path) -> Path:
    """Six pairs to train on, four others, three held out."""
    (tmp_path / "policy").mkdir()
    for file in policy.iterdir():
        (tmp_path / "policy" / file.name).write_bytes(file.read_bytes())
    for name, first, count in (("main", 0, 6), ("other", 10, 4), ("test", 20, 3)):
        write_jsonl(tmp_path / f"{name}.jsonl", [pair(first + i) for i in range(count)])
    (tmp_path / "reward.yaml").write_text(REWARD.replace("FOLDER", str(tmp_path)))
    return tmp_path


def refused(folder: Path, *overrides: str, code: int = 2) -> str:
    line = commandline.refused("run", folder / "reward.yaml", f"out={folder}/rm", *overrides, code=code)
    left = {path.name for path in folder.iterdir()} - {"rm.lock"}
    assert left <= {"policy", "main.jsonl", "other.jsonl", "test.jsonl", "reward.yaml", "work"}, "nothing half written"
    assert not list(folder.rglob("*.safetensors.*")) + list(folder.rglob("checkpoints/*"))
    return line


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.main_share=0.3", "main_share 0.3 beside 6 rows of main takes 14 of other, which has 4; expected"),
        ("data.main_share=0.99", "mix: main_share 0.99 takes none of the 4 rows of other"),
        ("data.main_share=1.5", "data.main_share: expected less than or equal to 1, found 1.5"),
        ("data.other=[]", "main_share 0.9 needs files in other; expected some, or main_share 1"),
        ("data.main=[]", "data.main: "),
        ("data.other=[FOLDER/main.jsonl]", "main.jsonl is named twice in main and other"),
        ("held_out.test=FOLDER/other.jsonl", "held_out.test: FOLDER/other.jsonl is trained on"),
        ("held_out.test=FOLDER/tset.jsonl", "FOLDER/tset.jsonl: no such file (did you mean 'test.jsonl'?)"),
        ("batch.length=97", "batch.length: 97 tokens a row, and the model's context is 96"),
        ("margins=medium", "margins: expected 'none', 'small' or 'large', found 'medium'"),
        ("measure_sets=[test]", "expected measure_every of 1 or more"),
        ("measure_every=1 measure_sets=[tset]", "measure_sets: found 'tset', expected names in held_out (did"),
        ("mean_over=prompt", "mean_over: expected 'pairs' or 'prompts' (did you mean 'prompts'?), found 'prompt'"),
    ],
)  # fmt: skip
def test_bad_mixes_and_settings(folder: Path, override: str, message: str) -> None:
    override, message = (text.replace("FOLDER", str(folder)) for text in (override, message))
    assert message in refused(
        folder, *override.split(), *(["data.main_share=0.9"] if "main_share" not in override else [])
    )


@pytest.mark.parametrize("name", ["main", "other", "test"])
def test_a_rating_that_nobody_knows(folder: Path, name: str) -> None:
    write_jsonl(folder / f"{name}.jsonl", [pair(50), pair(51, rating="slighty")])
    line = refused(folder)
    assert f"{name}.jsonl:2: rating: found \"slighty\", expected 'significantly' or" in line
    assert "(did you mean 'slightly'?)" in line
    assert f"{name}.jsonl:2: rating" in commandline.refused("check", folder / "reward.yaml")


@pytest.mark.parametrize("name", ["main", "other", "test"])
def test_a_file_without_rows(folder: Path, name: str) -> None:
    (folder / f"{name}.jsonl").write_text("\n")
    assert refused(folder) == f"{folder}/{name}.jsonl: found no rows, expected at least one preference or ranking"
    assert f"{name}.jsonl: found no rows" in commandline.refused("check", folder / "reward.yaml")


LONG = " ".join(["what is the time"] * 40)


def test_a_prompt_longer_than_the_context(folder: Path) -> None:
    write_jsonl(folder / "main.jsonl", [pair(1), pair(2), pair(3, LONG)])
    line = refused(folder, "data.main_share=0.6")
    assert f"{folder}/main.jsonl: row 3: found " in line
    assert "expected at most 96; overlong: cut or skip allows it" in line
    write_jsonl(folder / "main.jsonl", [pair(i, LONG) for i in range(3)])
    for way in ("cut", "skip"):
        line = refused(folder, f"overlong={way}", "data.main_share=1", "data.other=[]")
        assert "data: found no pair to train on" in line
        assert "'skipped': 3" in line
    write_jsonl(folder / "main.jsonl", [pair(1), pair(2)])
    write_jsonl(folder / "test.jsonl", [pair(20, LONG)])
    line = refused(folder, "data.main_share=0.6")
    assert line == f"held_out.test: {folder}/test.jsonl: found no pairs of at most 96 tokens; expected at least one"


def test_a_split_that_is_none(folder: Path) -> None:
    """The held-out prompts are the trained ones, written otherwise."""
    write_jsonl(folder / "test.jsonl", [pair(i, "What  IS the time") for i in range(6)])
    line = refused(folder)
    assert line == "data.main: the prompts of all its 6 rows stand in a held-out set too"


def test_rankings_of_ties_only(folder: Path) -> None:
    answers = [[{"role": "assistant", "content": text}] for text in ("noon", "no", "well")]
    row = {"prompt": pair(0)["prompt"], "answers": answers, "ranks": [1, 1, 1]}
    write_jsonl(folder / "main.jsonl", [row])
    line = refused(folder, "data.main_share=1", "data.other=[]")
    assert "data: found no pair to train on" in line
    assert "'tied': 1" in line
    write_jsonl(folder / "main.jsonl", [row, row | {"ranks": [1, 2]}])
    assert "main.jsonl:2: ranks: found 2, expected 3, one for each answer" in refused(folder)


def poison(folder: Path, token: int | None) -> None:
    """NaN in the embedding of one token, or in the last norm."""
    file = folder / "policy" / "model.safetensors"
    tensors = load_file(file)
    if token is None:
        tensors["model.norm.weight"][0] = float("nan")
    else:
        tensors["model.embed_tokens.weight"][token] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})


def test_nan_is_told_with_its_term_and_rows(folder: Path) -> None:
    from align.data.tokenizer import Tokenizer

    token = Tokenizer(folder / "policy" / "tokenizer.model").encode("k")[-1]
    odd = pair(0, "kkk")
    write_jsonl(folder / "main.jsonl", [pair(1), pair(2), odd, pair(3)])
    poison(folder, token)
    line = refused(folder, "data.main_share=1", "data.other=[]", "overlong=cut", code=1)
    assert line == (
        f"step 0: the term 'loss' is nan: 1 of its values are not finite, of the rows {folder}/main.jsonl: row 3"
    )
    poison(folder, None)
    line = refused(folder, "data.main_share=1", "data.other=[]", code=1)
    assert "4 of its values are not finite, of the rows " in line
    assert line.count("main.jsonl: row") == 4


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ("format: ultrafeedback, to: preferences, ratings: {beter: 1}", "jobs.0.ratings.beter"),
        ("format: ultrafeedback, to: preferences, ratings: {better: 1, slightly: 2}", "a stronger rating from a"),
        ("format: ultrafeedback, to: preferences, ratings: {better: .inf}", "ratings"),
        ("format: ultrafeedback, to: preferences", "ultrafeedback needs ratings"),
        ("format: trl, to: rankings", "trl has no rankings"),
        ("format: trl, to: preferences", "x: held_out 0.01 leaves 6 rows to train on and 0 held out"),
        ("format: finegrained, to: rankings", 'x: nothing could be converted: {"wrong type": 6}'),
    ],
)  # fmt: skip
def test_bad_conversions(folder: Path, job: str, message: str) -> None:
    jobs = f"jobs=[{{path: {folder}/main.jsonl, out: x, {job}}}]"
    assert message in commandline.refused("convert", f"out={folder}/data", "held_out=0.01", jobs)
    assert not (folder / "data").exists()
    assert not (folder / "data.partial").exists()
