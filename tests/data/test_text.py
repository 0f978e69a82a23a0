"""Documents and rows for pretraining."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align.data.text import read_text, text_rows
from align.data.tokenizer import Tokenizer
from align.errors import DataError

TEXT = "\n\none two\nthree\n \n\nfour  \n\n\nfive\n"


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    with gzip.open(tmp_path / "b.txt.gz", "wt", encoding="utf-8") as file:
        file.write("six – é\n")
    rows = [{"text": "seven\neight", "source": "x"}, {"text": " "}]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with gzip.open(tmp_path / "d.jsonl.gz", "wt") as file:
        file.write('\n{"text": "nine"}\n')
    return [tmp_path / name for name in ("a.txt", "b.txt.gz", "c.jsonl", "d.jsonl.gz")]


def test_documents(files: list[Path]) -> None:
    rest = ["six – é", "seven\neight", "nine"]
    assert list(read_text(files)) == ["one two", "three", "four", "five", *rest]
    assert list(read_text(files, "paragraph")) == ["one two\nthree", "four", "five", *rest]
    assert list(read_text(files, "line", 3)) == ["one two", "three", "four"]


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        list(read_text([tmp_path / "x.txt"]))
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        list(read_text([tmp_path / "latin.txt"]))
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"hello\n" * 1000)[:-12])
    with pytest.raises(DataError, match=r"cut\.txt\.gz"):
        list(read_text([tmp_path / "cut.txt.gz"]))
    (tmp_path / "plain.txt.gz").write_bytes(b"hello")
    with pytest.raises(DataError, match=r"plain\.txt\.gz"):
        list(read_text([tmp_path / "plain.txt.gz"]))
    for line, message in (("{", "no JSON"), ('{"txt": "a"}', "text: found None"), ("[1]", "text: found None")):
        (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n' + line)
        with pytest.raises(DataError, match=rf"bad\.jsonl:2: .*{message}"):
            list(read_text([tmp_path / "bad.jsonl"]))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=6), st.integers(2, 30))
def test_every_token_counts_once(small: Tokenizer, sizes: list[int], length: int) -> None:
    texts = [" ".join(["fox"] * size) for size in sizes]
    rows = text_rows(small, texts, length)
    counted = [int(token) for row in rows for token in row.tokens[row.mask]]
    assert counted == [token for text in texts for token in [*small.encode(text), small.eos]]
    assert all(2 <= len(row.tokens) <= length for row in rows)
    assert all(not row.mask[0] and row.mask[1:].all() for row in rows)
    starts = iter(rows)
    for text in texts:  # each row of a document begins with the last token of the one before
        whole = [small.bos, *small.encode(text), small.eos]
        at = 0
        while at < len(whole) - 1:
            row = next(starts)
            assert row.tokens.tolist() == whole[at : at + length]
            assert row.tokens.dtype == np.int32
            at += len(row.tokens) - 1
