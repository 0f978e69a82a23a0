"""Addressed randomness: the published generator, both forms alike, and what random numbers look like."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from align.model.randomness import key, splitmix64, uniform, uniforms

WHOLE = st.integers(-(2**63), 2**63 - 1)


def test_splitmix64_gives_its_published_numbers() -> None:
    """The first five outputs for seed 1234567, as printed by Rosetta Code and Vigna's reference C."""
    state, outputs = 1234567, []
    for _ in range(5):
        outputs.append(splitmix64(state))
        state = (state + 0x9E3779B97F4A7C15) % 2**64
    assert outputs == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@given(WHOLE, WHOLE, WHOLE, WHOLE, WHOLE)
def test_tensor_and_plain_forms_agree_to_the_bit(seed: int, step: int, prompt: int, sample: int, position: int) -> None:
    plain = uniform(seed, step, prompt, sample, position)
    address = key(seed, step, prompt, sample)
    batch = uniforms(torch.tensor([address, 0]), torch.tensor([position, 1]))
    assert batch.dtype == torch.float32
    assert batch[0].item() == plain
    assert 0 <= plain < 1


def test_every_part_of_the_address_counts_and_none_is_mistaken_for_another() -> None:
    base = uniform(1, 2, 3, 4, 5)
    others = [(2, 1, 3, 4, 5), (1, 2, 4, 3, 5), (0, 2, 3, 4, 5), (1, 0, 3, 4, 5), (1, 2, 0, 4, 5)]
    others += [(1, 2, 3, 0, 5), (1, 2, 3, 4, 0), (1, 2, 3, 5, 4), (-1, 2, 3, 4, 5)]
    values = [uniform(*address) for address in others]
    assert base not in values
    assert len(set(values)) == len(values)


def test_numbers_are_uniform_and_neighbours_unrelated() -> None:
    """Grids of neighbouring addresses, each axis in turn: mean, spread, bins (chi-square), lag."""
    n = 40_000
    for axis in range(5):
        address = [7, 3, 5, 2, 11]
        drawn = []
        for i in range(n):
            address[axis] = i
            drawn.append(uniform(*address))
        u = torch.tensor(drawn, dtype=torch.float64)
        assert abs(u.mean() - 0.5) < 4 * (1 / 12 / n) ** 0.5
        assert abs(u.var() - 1 / 12) < 0.002
        counts = torch.histc(u, bins=50, min=0, max=1)
        chi_square = ((counts - n / 50) ** 2 / (n / 50)).sum()
        assert chi_square < 49 + 5 * (2 * 49) ** 0.5
        lag = torch.corrcoef(torch.stack((u[:-1], u[1:])))[0, 1]
        assert abs(lag) < 5 / n**0.5
