"""One Ray for all tests of pools: starting it takes seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from align.rollout import actors


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A Ray of this session, with room for two actors and one that replaces a dying one."""
    with actors.session(address=None, cpus=4, object_store_mb=100):
        yield
