"""The lineage drawn: who stands below whom, and which lines are left out."""

from __future__ import annotations

import random
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.report.lineage import BOX, BOXED, GAP_X, Node, layout, nodes_of, picture
from tests.report.drawings import by_class, parsed, words
from tests.report.runs import made


def graphs() -> st.SearchStrategy[dict[str, Node]]:
    def build(seed: int) -> dict[str, Node]:
        rng = random.Random(seed)
        names = [f"n{i}" for i in range(rng.randint(1, 14))]
        return {
            name: Node(name, "sft", {a: rng.choice(["weights", "data"]) for a in names[:i] if rng.random() < 0.3})
            for i, name in enumerate(names)
        }

    return st.integers(0, 10_000).map(build)


@given(graphs())
def test_everything_stands_below_what_it_was_made_from_and_nothing_overlaps(nodes: dict[str, Node]) -> None:
    rows = layout(nodes)
    depth = {key: number for number, row in enumerate(rows) for key, lane in row if lane == BOXED}
    assert depth.keys() == nodes.keys()
    for key, node in nodes.items():
        for above in node.above:
            assert depth[above] < depth[key]
            # a line passes every row between in a lane of its own
            assert all((above, row) in rows[row] for row in range(depth[above] + 1, depth[key]))
    for row in rows:
        stops = sorted(row.items(), key=lambda item: item[1])
        for ((_, lane), x), ((_, other), y) in pairwise(stops):
            room = (BOX if lane == BOXED else 0) / 2 + (BOX if other == BOXED else 0) / 2
            assert y - x >= room + GAP_X - 1e-6


@given(graphs())
def test_every_box_lies_within_the_picture(nodes: dict[str, Node]) -> None:
    root = parsed(picture(nodes, {"n0": "#there"}))
    _, _, width, height = map(float, (root.get("viewBox") or "").split())
    boxes = by_class(root, "box")
    assert len(boxes) == len(nodes)
    for box in boxes:
        assert 0 <= float(box.get("x", "")) <= width - BOX
        assert 0 <= float(box.get("y", "")) <= height - float(box.get("height", ""))
    assert len(by_class(root, "edge")) == sum(len(node.above) for node in nodes.values())
    for edge in by_class(root, "edge"):
        assert all(-0.01 <= float(n) <= max(width, height) for n in re.findall(r"-?[\d.]+", edge.get("d", "")))


def test_a_model_from_elsewhere_has_its_box(tmp_path: Path) -> None:
    from align.report.gather import read_run

    outside = tmp_path / "elsewhere" / "llama"
    outside.mkdir(parents=True)
    (outside / "config.json").write_text("{}")
    made(tmp_path / "run", "sft", "sft", parents=["../elsewhere/llama"])
    nodes = nodes_of(read_run(tmp_path / "run").family)
    assert {node.name: (node.stage, len(node.above)) for node in nodes.values()} == {
        "sft": ("sft", 1),
        "llama": ("", 0),
    }
    assert "elsewhere" in words(parsed(picture(nodes, {})))


@pytest.mark.parametrize(("kind", "kept"), [("weights", True), ("data", False)])
def test_only_data_that_a_longer_way_implies_is_left_out(tmp_path: Path, kind: str, kept: bool) -> None:
    from align.report.gather import read_run

    run = tmp_path / "run"
    made(run, "first", "world", rows={"a.jsonl": []})
    made(run, "second", "sft", parents=["first"])
    given = (
        {"parents": ["second", "first"]} if kind == "weights" else {"parents": ["second"], "inputs": ["first/a.jsonl"]}
    )
    made(run, "third", "sft", **given)
    nodes = {node.name: node for node in nodes_of(read_run(run).family).values()}
    above = {Path(key).name for key in nodes["third"].above}
    assert above == ({"first", "second"} if kept else {"second"})
