from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from align.files import write_json, write_jsonl, write_text


def test_text_and_json_round_trip(tmp_path: Path) -> None:
    write_text(tmp_path / "deep" / "a.txt", "é\n")
    assert (tmp_path / "deep" / "a.txt").read_bytes() == "é\n".encode()
    write_json(tmp_path / "a.json", {"x": float("nan"), "y": [float("inf"), 1.5], "p": Path("q/r"), "t": (1,)})
    assert json.loads((tmp_path / "a.json").read_text()) == {
        "x": None,
        "y": [None, 1.5],
        "p": "q/r",
        "t": [1],
    }


def test_scalars_of_numpy_are_numbers(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    write_json(tmp_path / "a.json", {"x": numpy.float32(0.5), "n": numpy.int64(3), "b": numpy.bool_(True)})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 0.5, "n": 3, "b": True}


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_jsonl(tmp_path: Path, name: str) -> None:
    rows = [{"a": "ü\u2028"}, {"b": 2}]
    assert write_jsonl(tmp_path / name, iter(rows)) == 2
    raw = (tmp_path / name).read_bytes()
    text = gzip.decompress(raw) if name.endswith(".gz") else raw
    assert [json.loads(line) for line in text.decode().split("\n") if line] == rows
    write_jsonl(tmp_path / "again" / name, rows)
    assert (tmp_path / "again" / name).read_bytes() == raw  # no time stamp, no file name in gzip's header


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"old": 1}])

    def rows() -> Any:
        yield {"new": 1}
        raise KeyError("midway")

    with pytest.raises(KeyError):
        write_jsonl(tmp_path / "a.jsonl", rows())
    assert (tmp_path / "a.jsonl").read_text() == '{"old": 1}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_killed_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    code = (
        "import os, signal, sys; from pathlib import Path; from align.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as s:\n"
        "    s.write(b'new'); s.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.txt")]).returncode == -9
    assert (tmp_path / "a.txt").read_text() == "old"
    write_text(tmp_path / "a.txt", "newer")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]  # what the killed one left was reused


def test_files_are_readable_by_others(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "x")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
