"""Which dialogues of a file are learnt from."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from align.artifacts import write_jsonl
from align.errors import DataError
from align.stages.sft import DialogSource, read


@pytest.fixture
def path(tmp_path: Path) -> str:
    rows = [("a", "copy"), ("b", "count"), ("c", "copy"), ("d", "sort"), ("e", "copy")]
    messages = [{"role": "user", "content": "go"}, {"role": "assistant", "content": "x"}]
    write_jsonl(
        tmp_path / "sft.jsonl",
        [{"messages": [*messages[:1], {"role": "assistant", "content": text}], "source": s} for text, s in rows],
    )
    return str(tmp_path / "sft.jsonl")


def answers(source: DialogSource) -> str:
    return "".join(dialog.messages[-1].content for dialog in read(source))


def test_sources_are_left_out_before_the_first_so_many_are_taken(path: str) -> None:
    assert answers(DialogSource(path=path)) == "abcde"
    assert answers(DialogSource(path=path, exclude_sources=["count"])) == "acde"
    assert answers(DialogSource(path=path, exclude_sources=["count", "copy"])) == "d"
    assert answers(DialogSource(path=path, exclude_sources=["count"], take=2)) == "ac"


def test_a_source_that_nothing_is_of_is_a_mistake(path: str) -> None:
    with pytest.raises(DataError, match=r"sft\.jsonl: exclude_sources: found no dialogue of 'cuont'.*'count'"):
        read(DialogSource(path=path, exclude_sources=["cuont"]))
    with pytest.raises(DataError, match=r"sft\.jsonl: sources: found no dialogue of 'srot'.*'sort'"):
        read(DialogSource(path=path, sources=["srot"]))


def test_some_sources_alone(path: str) -> None:
    assert answers(DialogSource(path=path, sources=["copy"])) == "ace"
    assert answers(DialogSource(path=path, sources=["copy", "sort"], exclude_sources=["copy"])) == "d"
    assert answers(DialogSource(path=path, sources=["copy"], take=2)) == "ac"


def test_a_larger_share_holds_a_smaller_and_each_is_as_large_as_it_says(path: str) -> None:
    rows = [{"role": "user", "content": "go"}]
    write_jsonl(Path(path), [{"messages": [*rows, {"role": "assistant", "content": f"{i:03} "}]} for i in range(200)])
    found = {share: answers(DialogSource(path=path, share=share)) for share in (0.0, 0.01, 0.1, 0.25, 0.5, 1.0)}
    taken = {share: said.split() for share, said in found.items()}
    assert {share: len(said) for share, said in taken.items()} == {s: round(200 * s) for s in found}
    for smaller, larger in pairwise(taken.values()):
        assert set(smaller) <= set(larger)
    assert all(said == sorted(said) for said in taken.values()), "in their order"
    half = [int(said) for said in taken[0.5]]
    assert 30 < sum(number < 100 for number in half) < 70, "from all over the file"
