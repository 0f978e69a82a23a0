"""Which dialogues of a file are learnt from."""

from __future__ import annotations

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
