"""Stages in Ray Train workers: as under torchrun, they end well together, or the first failure is told once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from align import cluster
from align.artifacts import work_dir
from align.engine.launch import LaunchConfig, launch
from align.errors import DataError, LaunchError
from tests.conftest import REPO
from tests.rollout import job

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
STAGE = "tests.engine.launched"
TWO = LaunchConfig(kind="ray", processes=2)


@pytest.fixture(scope="module", autouse=True)
def _session() -> Iterator[None]:
    """One Ray for all: starting it takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(REPO))
        patch.setenv("OMP_NUM_THREADS", "1")
        cluster.before_import()
        import ray

        with cluster.connected(ray, None, 4, 100):
            yield


def test_two_workers(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    launch(STAGE, {"stage": "launched"}, Path("made"), TWO)
    told = [(tmp_path / "made" / f"{rank}.txt").read_text().split() for rank in (0, 1)]
    assert [words[:3] for words in told] == [["3.0", "of", "2"]] * 2
    assert told[0][3] != told[1][3], "in processes of their own"
    assert capfd.readouterr() == ("", "said on stderr\n" * 2)
    assert not (work_dir(tmp_path / "made") / "ray").exists()


@pytest.mark.parametrize(
    ("fail", "kind", "told"),
    [
        ("data", DataError, r"^rank 1 of 2: rows\.jsonl:3: found nothing$"),
        ("bug", LaunchError, r"^rank 1 of 2: ZeroDivisionError: by zero in the part that rank 1 plays$"),
        (
            "killed",
            LaunchError,
            r"^rank 1 of 2 was killed in the part that rank 1 plays \(by hand, or by the system .*\)"
            r"(; rank 0 lost its connection in the part that rank 0 plays)?; the same command goes on",
        ),
    ],
)
def test_the_failing_rank_is_told_and_none_stays(
    tmp_path: Path, fail: str, kind: type[Exception], told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(kind, match=told) as error:
        launch(STAGE, {"stage": "launched", "fail": fail}, tmp_path / "made", TWO)
    assert type(error.value) is kind
    assert "\n" not in str(error.value)
    said = capfd.readouterr()
    assert said.out == ""
    assert ("Traceback" in said.err) == (fail == "bug"), "a bug keeps its traceback"
    for rank in (0, 1):
        worker = int((tmp_path / "made" / f"{rank}.txt").read_text().split()[-1])
        job.until(lambda worker=worker: not job.alive(worker), 30)


def test_no_room_is_told_with_what_there_is(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(LaunchError, match=r"2 processes could not be started: .*each asks for 3 CPUs.* of 4 CPUs"):
        launch(
            STAGE,
            {"stage": "launched"},
            tmp_path / "made",
            LaunchConfig(kind="ray", processes=2, cpus=3.0, start_timeout_s=5.0),
        )
    assert time.monotonic() - began < 300
