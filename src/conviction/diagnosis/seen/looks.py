"""Looks into the layers of a net while it runs in training: the first output that is not finite, the smallest batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from conviction.diagnosis.seen.nets import NetRecord

_NORMS = nn.modules.batchnorm._BatchNorm


class Looks:
    """What the layers showed."""

    def __init__(self) -> None:
        self.not_finite = ""
        self.not_finite_at_step: int | None = None
        self.hunting = False  # something is not finite, and it is not known which layer made it
        self.failed = (0, "")  # the last error of a forward pass, and the layer that raised it

    def look(self, net: nn.Module, record: NetRecord, module: nn.Module, output: Any, step: int) -> None:
        """Look at what a layer of a net puts out."""
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return
        if isinstance(module, _NORMS) and module.training and output.ndim > 1:
            count = output.numel() // max(1, output.shape[1])
            record.smallest_statistics = min(count, record.smallest_statistics or count)
        if self.not_finite_at_step is None and not is_finite(output):
            # One whose weights are not finite either was broken by a step, not by what it computes.
            broken = any(not is_finite(p) for p in module.parameters(recurse=False))
            self.find_not_finite("" if broken else name_within(net, module), step)

    def find_not_finite(self, layer: str, step: int) -> None:
        """Put down where numbers that are not finite were first seen."""
        if self.not_finite_at_step is None:
            self.hunting = False
            self.not_finite, self.not_finite_at_step = layer, step

    def note_failure(self, record: NetRecord, module: nn.Module, error: BaseException) -> None:
        """Note the layer that raised an error; those around it fail with it."""
        net = record.ref()
        if self.failed[0] != id(error):
            self.failed = (id(error), "" if net is None else name_within(net, module))


def is_finite(output: Tensor) -> bool:
    """Whether all numbers are finite."""
    # A sum is one pass; it may overflow where no number is infinite.
    return bool(torch.isfinite(output.detach().sum())) or bool(torch.isfinite(output.detach()).all())


def name_within(net: nn.Module, module: nn.Module) -> str:
    """Return a layer's name in its net."""
    for name, part in net.named_modules():
        if part is module:
            return name or type(module).__name__
    return type(module).__name__
