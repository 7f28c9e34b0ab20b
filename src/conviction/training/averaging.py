"""Averaged weights (EMA): a slow copy of the net that is evaluated in its place."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class AveragedNet:
    """An exponential moving average of a net's weights; buffers such as running statistics are averaged too.

    The decay warms up as (1 + t) / (10 + t), so that the first steps do not weigh on a short run.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.net = copy.deepcopy(net).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Move the average a little towards `net`."""
        self.updates += 1
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for mine, other in zip(_weights(self.net), _weights(net), strict=True):
            if mine.is_floating_point():
                mine.lerp_(other, 1 - keep)
            else:
                mine.copy_(other)


def _weights(net: nn.Module) -> Iterator[Tensor]:
    """Yield parameters and buffers, tied ones once (a state_dict would have them twice, and averaged twice)."""
    return itertools.chain(net.parameters(), net.buffers())
