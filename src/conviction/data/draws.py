"""Random numbers as a pure function of (seed, epoch, sample): no state, so no order of drawing can change them."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

# SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators", section 5), written for
# torch's int64: products wrap as unsigned ones do, and `_shifted` keeps the sign bit from spreading.
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_MASK = 2**64 - 1


def mixed(*numbers: int) -> int:
    """Mix whole numbers into one of 63 bits; a change of any of them changes about half of its bits."""
    state = 0
    for number in numbers:
        state = (state ^ (number & _MASK)) + _GOLDEN & _MASK
        state = (state ^ state >> 30) * _FIRST & _MASK
        state = (state ^ state >> 27) * _SECOND & _MASK
        state ^= state >> 31
    return state >> 1


def draw(seed: int, epoch: int, indices: Tensor, count: int) -> Tensor:
    """Draw `count` numbers in [0, 1) for each sample: float32 [n, count], on the device of `indices` (int64 [n]).

    The numbers of a sample depend on nothing but (seed, epoch, its index). They have 24 bits, so that float32 holds
    them exactly, and `floor(number * k)` stays below k for every k under 2**24.
    """
    own = _finalised(indices * _signed(_GOLDEN) + mixed(seed, epoch))
    columns = torch.arange(1, count + 1, device=indices.device) * _signed(_GOLDEN)
    bits = _finalised(own[:, None] + columns)
    return _shifted(bits, 40).float() * 2.0**-24


def draw_beta(uniform: Tensor, alpha: float) -> Tensor:
    """Turn numbers in [0, 1) into draws from Beta(alpha, alpha), by the inverse of its distribution function."""
    table = torch.from_numpy(_beta_quantiles(alpha)).to(uniform.device)
    place = uniform * (len(table) - 1)
    low = place.long()
    return torch.lerp(table[low], table[low + 1], place - low)


@functools.lru_cache
def _beta_quantiles(alpha: float, cells: int = 4096) -> np.ndarray:
    """Tabulate the quantiles of Beta(alpha, alpha) at 0, 1/cells, ... 1.

    The density x^(a-1) (1-x)^(a-1) has a pole at 0 for a < 1; in t = x^a it has none. The half above 1/2 is the
    mirror image of the half below.
    """
    power = min(alpha, 1.0)
    t = np.linspace(0, 0.5**power, 16 * cells + 1)
    x = t ** (1 / power)
    density = (2 * x) ** (alpha - power) * (2 - 2 * x) ** (alpha - 1)  # times a constant that keeps it from vanishing
    mass = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    lower = np.interp(np.linspace(0, mass[-1], cells // 2 + 1), mass, x)
    return np.concatenate([lower, 1 - lower[-2::-1]]).astype(np.float32)


def _finalised(values: Tensor) -> Tensor:
    values = (values ^ _shifted(values, 30)) * _signed(_FIRST)
    values = (values ^ _shifted(values, 27)) * _signed(_SECOND)
    return values ^ _shifted(values, 31)


def _shifted(values: Tensor, places: int) -> Tensor:
    """Shift right and fill with zeros, as an unsigned shift does."""
    return (values >> places) & ((1 << (64 - places)) - 1)


def _signed(constant: int) -> int:
    return constant - 2**64 if constant >= 2**63 else constant
