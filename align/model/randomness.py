"""Randomness that is addressed, not advanced: a number in [0, 1) for (seed, step, prompt, sample, position).

splitmix64 (Steele, Lea & Flood 2014) chained over the five integers. Plain and tensor form agree to the
bit, so a token is the same whatever batch, order or machine it was drawn in.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX1 = 0xBF58476D1CE4E5B9
_MIX2 = 0x94D049BB133111EB


def splitmix64(x: int) -> int:
    """The next output of a splitmix64 generator in state ``x``: an unsigned 64-bit integer."""
    x = (x + _GOLDEN) & _MASK
    x = ((x ^ (x >> 30)) * _MIX1) & _MASK
    x = ((x ^ (x >> 27)) * _MIX2) & _MASK
    return x ^ (x >> 31)


def key(seed: int, step: int, prompt: int, sample: int) -> int:
    """The address of one answer as a signed 64-bit integer, ready for an int64 tensor."""
    state = 0
    for part in (seed, step, prompt, sample):
        state = splitmix64(state ^ (part & _MASK))
    return _signed(state)


def uniform(seed: int, step: int, prompt: int, sample: int, position: int) -> float:
    """The number in [0, 1), a multiple of 2^-24 (exact in fp32), that decides one token."""
    address = key(seed, step, prompt, sample) & _MASK
    return (splitmix64(address ^ (position & _MASK)) >> 40) * 2.0**-24


def uniforms(keys: Tensor, position: Tensor) -> Tensor:
    """:func:`uniform` for many answers at once.

    Args:
        keys: [B] int64, from :func:`key`.
        position: [B] int64, position of the token to be drawn.

    Returns:
        [B] fp32 in [0, 1).
    """
    x = (keys ^ position) + _signed(_GOLDEN)  # int64 wraps, as the 64-bit definition does
    x = (x ^ _shift(x, 30)) * _signed(_MIX1)
    x = (x ^ _shift(x, 27)) * _signed(_MIX2)
    x = x ^ _shift(x, 31)
    return _shift(x, 40).to(torch.float32) * 2.0**-24


def _signed(x: int) -> int:
    return x - (1 << 64) if x >= 1 << 63 else x


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch's is arithmetic, so the sign's copies are masked off."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
