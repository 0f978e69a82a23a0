"""The order of rows is a function of integers."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align.data.stream import order, permutation, shard


@settings(max_examples=200, deadline=None)
@given(n=st.integers(1, 50), batch=st.integers(1, 70), seed=st.integers(-(2**63), 2**64 - 1), steps=st.integers(1, 9))
def test_every_row_once_an_epoch(n: int, batch: int, seed: int, steps: int) -> None:
    drawn = np.concatenate([order(n, step, batch, seed) for step in range(steps)])
    assert len(drawn) == steps * batch
    for start in range(0, len(drawn) - n + 1, n):
        assert sorted(drawn[start : start + n].tolist()) == list(range(n))
    rest = drawn[len(drawn) // n * n :].tolist()
    assert len(rest) == len(set(rest)), "none comes again before the others"


def test_addressed_not_advanced() -> None:
    forward = [order(100, step, 7, 3).tolist() for step in range(30)]
    backward = [order(100, step, 7, 3).tolist() for step in reversed(range(30))][::-1]
    assert forward == backward
    np.random.seed(0)
    assert order(100, 5, 7, 3).tolist() == forward[5]


def test_the_same_in_another_process() -> None:
    code = "from align.data.stream import order; print(order(1000, 17, 8, 42).tolist())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == str(order(1000, 17, 8, 42).tolist())


def philox(counter: int, key: tuple[int, int]) -> list[int]:
    """Philox-4x64-10 as published: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011)."""
    word = 2**64 - 1
    c, (k0, k1) = [counter, 0, 0, 0], key
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [(second >> 64) ^ c[1] ^ k0, second & word, (first >> 64) ^ c[3] ^ k1, first & word]
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & word, (k1 + 0xBB67AE8584CAA73B) & word
    return c


def test_order_is_that_of_published_random_words() -> None:
    # the first known-answer vector of Random123
    assert philox(0, (0, 0))[0] == 0x16554D9ECA36314C
    for seed, epoch in ((0, 0), (7, 2), (-1, 1)):
        key = (seed & (2**64 - 1), epoch)
        words = [word for block in range(1, 6) for word in philox(block, key)]  # numpy counts from 1
        expected = sorted(range(18), key=lambda i: words[i])
        assert permutation(18, epoch, seed).tolist() == expected
    assert permutation(8, 0, 0).tolist() == [0, 2, 1, 5, 4, 3, 6, 7]


def test_seeds_and_epochs_differ() -> None:
    orders = {tuple(permutation(200, epoch, seed).tolist()) for epoch in range(5) for seed in range(5)}
    assert len(orders) == 25
    assert permutation(200, 1, 2).tolist() != permutation(200, 2, 1).tolist()


def test_uniform() -> None:
    # where row 0 lands over 4,000 seeds, on 10 places: chi-squared with 9 degrees of freedom, p = 0.001 at 27.9
    places = np.bincount([int(np.flatnonzero(permutation(10, 0, seed) == 0)[0]) for seed in range(4000)], minlength=10)
    assert ((places - 400.0) ** 2 / 400).sum() < 27.9


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_shards_make_the_whole(world: int) -> None:
    whole = order(40, 3, 12, 0)
    parts = [list(shard(whole, rank, world)) for rank in range(world)]
    assert sorted(int(i) for part in parts for i in part) == sorted(whole.tolist())
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_cached_order_cannot_be_spoilt() -> None:
    with pytest.raises(ValueError, match="read-only"):
        permutation(5, 0, 0)[0] = 3
