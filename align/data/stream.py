"""Which rows an update uses: a pure function of integers, so a resume needs the update's number alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
_WORD = (1 << 64) - 1


@lru_cache(maxsize=4)
def permutation(n: int, epoch: int, seed: int) -> NDArray[np.int64]:
    """The order of ``n`` rows in one epoch, [n] int64, read-only.

    Sorted raw words of Philox keyed by (seed, epoch): numpy keeps the raw stream of a bit generator stable
    from version to version, which it does not promise of ``Generator.permutation``.
    """
    words = np.random.Philox(key=np.array([seed & _WORD, epoch & _WORD], dtype=np.uint64)).random_raw(n)
    order = np.argsort(words, kind="stable").astype(np.int64)
    order.flags.writeable = False
    return order


def order(n: int, step: int, batch: int, seed: int) -> NDArray[np.int64]:
    """The rows of update ``step``: a window of the epochs' permutations laid end to end.

    Every row comes once before any comes again.

    Args:
        n: number of rows.
        step: of the update, from 0.
        batch: rows an update, over all ranks.
        seed: of the order.

    Returns:
        [batch] int64 in [0, n).
    """
    assert n > 0, "no rows to order"
    start = step * batch
    parts = []
    while start < (step + 1) * batch:
        epoch, offset = divmod(start, n)
        part = permutation(n, epoch, seed)[offset : offset + (step + 1) * batch - start]
        parts.append(part)
        start += len(part)
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def shard(items: Sequence[T] | NDArray[np.int64], rank: int, world: int) -> Sequence[T] | NDArray[np.int64]:
    """A rank's share of an update: every ``world``-th item from ``rank`` on; the shares make the whole."""
    assert 0 <= rank < world
    return items[rank::world]
