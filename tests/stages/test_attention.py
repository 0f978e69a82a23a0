"""Maps of attention: what they tell of a dialogue, as data, and that the drawing shows it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from align.artifacts import read_manifest
from align.cli import app
from align.config import parse
from align.data.template import encode_prompt
from align.data.tokenizer import Tokenizer
from align.errors import AlignError, DataError, TemplateError
from align.records import Message
from align.report.heat import heat_map
from align.stages.attention import Recipe, attention_map, mean_by_turn, means_of, read_dialogues, run

MESSAGES = (
    Message("system", "a fox"), Message("user", "hello"), Message("assistant", "yes"), Message("user", "who says"),
)  # fmt: skip


def test_means_of_spans_by_hand() -> None:
    assert means_of([1.0, 3.0, 5.0], [(0, 2), (2, 3), (3, 3)]) == [2.0, 5.0, 0.0]


def test_means_over_dialogues_by_hand() -> None:
    found = mean_by_turn([{"1": 0.2, "2": 0.4}, {"1": 0.4}])
    assert found["1"]["mean"] == pytest.approx(0.3)
    assert found["1"]["se"] == pytest.approx(0.1)  # sqrt(0.02 / 1) / sqrt(2)
    assert (found["2"]["mean"], found["2"]["n"]) == (0.4, 1)


def test_the_map_of_a_dialogue(models: Path) -> None:
    """The answer's mean against transformers' own weights, over the tokens found by hand."""
    folder = models / "one/policy"
    told = attention_map({"one": folder, "two": models / "two/policy"}, MESSAGES, "here", 4)
    tokenizer = Tokenizer(folder / "tokenizer.model")
    tokens = encode_prompt(tokenizer, MESSAGES)
    assert told["tokens"] == tokenizer.pieces(tokens)
    first, end = told["system"]
    assert "".join(told["tokens"][first:end]).replace("▁", " ").strip() == "a fox"
    model = transformers.LlamaForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    weights = model(torch.tensor([tokens]), output_attentions=True).attentions
    largest = torch.stack([w[0, :, :, first:end].amax((0, 2)) for w in weights]).amax(0)
    one = told["policies"]["one"]
    assert one["largest"] == pytest.approx(largest.tolist(), abs=1e-5)
    assert one["binned"] == pytest.approx([c.mean().item() for c in largest.split(4)], abs=1e-5)
    a, b = told["answers"][0]
    assert one["by_turn"].keys() == {"1"}, "the second turn has no answer yet"
    assert one["by_turn"]["1"] == pytest.approx(largest[a:b].mean().item(), abs=1e-5)
    assert told["policies"]["two"]["largest"] != one["largest"]


def test_the_drawing_has_a_cell_for_each_column_of_each_row(models: Path) -> None:
    told = attention_map({"<one>": models / "one/policy"}, MESSAGES, "here", 4)
    drawn = heat_map(told)
    columns = -(-len(told["tokens"]) // 4)
    assert len(re.findall(r'height="12" fill="#', drawn)) == 2 * columns + 40  # one layer and all; the scale
    assert "0b488a" in drawn, "the largest weight is darkest"
    assert "&lt;one&gt;" in drawn
    assert "http" not in drawn.replace("http://www.w3.org/2000/svg", "")


def test_a_whole_stage(models: Path, tmp_path: Path) -> None:
    (tmp_path / "work" / "map").mkdir(parents=True)
    values: dict[str, Any] = {
        "stage": "attention", "policies": {"one": str(models / "one/policy"), "two": str(models / "two/policy")},
        "dialogues": str(models / "dialogues.jsonl"), "take": 2,
    }  # fmt: skip
    run(parse(Recipe, values, "attention.yaml"), tmp_path / "map")
    manifest = read_manifest(tmp_path / "map", verify=True)
    told = json.loads((tmp_path / "map/attention.json").read_text())
    assert len(told["dialogues"]) == 2
    assert manifest.metrics["by_turn"] == told["by_turn"]
    assert told["by_turn"]["one"]["1"]["n"] == 2
    figures = json.loads((tmp_path / "map/figures.json").read_text())
    assert [figure["name"] for figure in figures] == ["along", "by-turn"]
    assert [value for _, value in figures[0]["series"][1]["points"]] == told["dialogues"][0]["policies"]["two"][
        "binned"
    ]


@pytest.mark.parametrize(
    ("messages", "error", "said"),
    [
        (MESSAGES[1:], TemplateError, "found no system message"),
        ((*MESSAGES[:3], Message("user", "who " * 300)), DataError, "tokens, expected at most 256, what one reads"),
    ],
)
def test_dialogues_that_cannot_be_mapped(
    models: Path, messages: tuple[Message, ...], error: type[AlignError], said: str
) -> None:
    with pytest.raises(error, match=f"here: .*{said}"):
        attention_map({"one": models / "one/policy"}, messages, "here")


def test_a_row_that_is_not_there(models: Path) -> None:
    assert read_dialogues(str(models / "dialogues.jsonl"), 1, 5)
    with pytest.raises(DataError, match="found fewer than 7 rows"):
        read_dialogues(str(models / "dialogues.jsonl"), 1, 6)


def test_the_command(models: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    data, one, two = (str(models / name) for name in ("dialogues.jsonl", "one/policy", "two/policy"))
    files = ["--out", str(tmp_path / "map.svg"), "--json", str(tmp_path / "map.json")]
    done = CliRunner().invoke(app, ["attention", data, one, two, "--row", "2", *files])
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "map.json").read_text())
    assert list(told["policies"]) == [one, two], "two folders of one name go by their paths"
    assert (tmp_path / "map.svg").read_text() == heat_map(told)
    mean = told["policies"][one]["by_turn"]["1"]
    assert f"{mean:.3f}" in done.output
    wrong = CliRunner().invoke(app, ["attention", data, one, "--out", str(tmp_path / "map.png")])
    assert wrong.exit_code == 2
    assert "ends in .svg" in wrong.output
