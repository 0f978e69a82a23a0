"""Data files and hub sets that can, and cannot, be read."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from align.data.schema import Skipped, read_dialogs, read_preferences, read_prompts
from align.errors import DataError
from tests.data.test_schema import ANSWER, PAIR, USER, write


def test_hub_names_go_through_datasets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    asked = []

    def load(name: str, **settings: Any) -> Any:
        asked.append((name, settings))
        return iter([{"messages": [USER, ANSWER], "source": None}, {"messages": [USER]}])

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.chdir(tmp_path)
    skipped = Skipped()
    assert len(list(read_dialogs("hf:owner/name:test", skip_bad=skipped))) == 1, "a null column is left out"
    assert asked == [("owner/name", {"split": "test", "streaming": True})]
    assert skipped.rows[0]["line"] == 2
    assert (tmp_path / "owner_name:test.bad.jsonl").is_file()
    list(read_dialogs("hf:owner/name", skip_bad=Skipped()))
    assert asked[-1][1]["split"] == "train"


def test_hub_failures_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load(name: str, **settings: Any) -> Any:
        raise datasets.exceptions.DatasetNotFoundError("no such\nset")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError, match="hf:owner/nmae: cannot be read: no such set"):
        list(read_dialogs("hf:owner/nmae"))
    with pytest.raises(DataError, match="expected hf:owner/name"):
        list(read_dialogs("hf::train"))


@pytest.mark.parametrize("name", ["rows.json", "rows.json.gz"])
def test_one_array_of_rows(tmp_path: Path, name: str) -> None:
    def put(text: str) -> Path:
        data = text.encode()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return tmp_path / name

    prompts = [{"id": "a", "prompt": [USER]}, {"id": "b", "prompt": []}]
    rows = read_prompts(put(json.dumps(prompts, indent=1)))
    assert next(iter(rows)).id == "a"
    with pytest.raises(DataError, match=rf"{name}:2: prompt: found"):
        list(read_prompts(tmp_path / name))
    with pytest.raises(DataError, match=r"found dict, expected one array of objects \(one a line: \.jsonl\)"):
        list(read_prompts(put("{}")))
    with pytest.raises(DataError, match=rf"{name}: not JSON: found Expecting value"):
        list(read_prompts(put("[{},")))
    with pytest.raises(DataError, match=rf"{name}:2: row: found 3, expected object"):
        list(read_prompts(put(json.dumps([prompts[0], 3]))))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    write(tmp_path / "prompts.jsonl", {"id": "a", "prompt": [USER]})
    with pytest.raises(DataError, match=r"promts\.jsonl: no such file \(did you mean 'prompts\.jsonl'\?\)"):
        list(read_prompts(tmp_path / "promts.jsonl"))
    with pytest.raises(DataError, match=r"found suffix '\.xlsx', expected one of"):
        list(read_prompts(tmp_path / "prompts.xlsx"))
    (tmp_path / "x.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match=r"x\.parquet: cannot be read"):
        list(read_prompts(tmp_path / "x.parquet"))
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(json.dumps(PAIR).encode() * 1000)[:-20])
    with pytest.raises(DataError, match=r"x\.jsonl\.gz:1: broken gzip file"):
        list(read_preferences(tmp_path / "x.jsonl.gz"))
    (tmp_path / "y.jsonl").write_bytes(b'{"id": "\xe9"}\n')
    with pytest.raises(DataError, match=r"y\.jsonl:1: not JSON: found bytes that are not UTF-8"):
        list(read_prompts(tmp_path / "y.jsonl"))


def test_blank_lines_keep_the_count(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", "", {"id": "a", "prompt": [USER]}, "  ", {"id": "b"})
    with pytest.raises(DataError, match=r"p\.jsonl:4: prompt"):
        list(read_prompts(path))


def test_a_clean_run_takes_the_old_aside_file_away(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", {"id": "a", "prompt": [USER]}, {"id": "b"})
    aside = tmp_path / "p.jsonl.bad.jsonl"
    list(read_prompts(path, skip_bad=Skipped()))
    assert aside.is_file()
    write(path, {"id": "a", "prompt": [USER]})
    list(read_prompts(path, skip_bad=Skipped()))
    assert not aside.exists()
    skipped = Skipped(into=tmp_path / "there.jsonl")
    write(path, {"id": "b"})
    list(read_prompts(path, skip_bad=skipped))
    assert (tmp_path / "there.jsonl").is_file()
