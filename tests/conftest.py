"""Fixtures for every test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

import align  # noqa: F401  # before torch: it sets how OpenMP's threads wait

# the same examples every time, and a busy machine is no failure
settings.register_profile("align", deadline=None, derandomize=True, database=None)
settings.load_profile("align")

REPO = Path(__file__).resolve().parent.parent
# files whose tests take half a minute and more, longest first: begun first, so that two processes end together
LONG = (
    "stages/test_road.py", "engine/test_resume.py", "rollout/test_pool.py", "engine/test_two_processes.py",
    "stages/test_ppo_resume.py", "rollout/test_faults.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files named in LONG first, each with its tests in their own order."""

    def place(item: pytest.Item) -> int:
        path = item.path.as_posix()
        return next((number for number, name in enumerate(LONG) if path.endswith(f"tests/{name}")), len(LONG))

    items.sort(key=place)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data, from ALIGN_DATA or beside the checkout; the test skips where it is absent."""
    folder = Path(os.environ.get("ALIGN_DATA", REPO.parent / "shared" / "data"))
    if not folder.is_dir():
        assert "ALIGN_DATA" not in os.environ, f"ALIGN_DATA names {folder}, which is no folder"
        pytest.skip(f"real data is not at {folder}; set ALIGN_DATA to its folder")
    return folder
