"""Denormals: numbers below 1.2e-38, with which a CPU computes many times more slowly than with others.

They come up in every longer run of a net without norms: where a unit is dead no gradient comes, and Adam's moments,
multiplied by 0.9 at every step, are there after some 800 steps. A step of AdamW then takes 8 to 12 times as long, and
GoogLeNet, AlexNet and VGG train at two thirds to half their speed by the end. Taken as zero they cost nothing, and no
weight is another: what they would add lies 30 orders of magnitude below what a weight can show.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Generator

import torch

_LEAST = sys.float_info.min  # half of it is a denormal; Python's own numbers are subject to the mode as well
_MANY = 1 << 20  # values that torch deals out to all its threads


@contextlib.contextmanager
def denormals_flushed(device: torch.device) -> Generator[None]:
    """Take denormals as zero within, on a CPU that can; the mode of the calling thread is put back."""
    if device.type != "cpu" or _are_flushed():
        yield
        return
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@functools.cache
def start_threads_flushed() -> None:
    """Let torch start its threads now, once: each keeps the mode of the thread that starts it.

    Threads that are there already keep the mode that they have.
    """
    with denormals_flushed(torch.device("cpu")):
        torch.ones(_MANY).mul_(2.0)


def _are_flushed() -> bool:
    return _LEAST * 0.5 == 0.0
