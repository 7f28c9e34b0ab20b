"""Micro-batches: a step's images pass through the net in parts, of which one after another needs the memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def split_batch(images: Tensor, targets: Tensor, most: int | None) -> list[tuple[Tensor, Tensor]]:
    """Split images [N, ...] and targets [N, ...] into parts of at most `most` images, as equal as possible.

    The parts are views, in order: 9 images in parts of at most 4 are 3, 3 and 3, not 4, 4 and 1, which batch norm could
    not train on. Without `most` the batch is one part.
    """
    count = 1 if most is None else -(-len(images) // most)
    if count <= 1:
        return [(images, targets)]
    return list(zip(images.tensor_split(count), targets.tensor_split(count), strict=True))


def run_in_parts(net: nn.Module, parts: list[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Yield the parts of a step with the share of its images that each has, for a forward and backward of `net`.

    Running statistics move once, as far as the whole batch would move them: each part moves them from where the step
    began, and they end at the mean over the parts by share. For means and for the number of batches that is what the
    whole batch gives; variances lack what lies between the parts. (A smaller momentum for each of k parts, 1 - (1 - m)
    ** (1 / k), would weigh the last one most, and would have to know which way a layer from scratch takes momentum.)
    """
    if len(parts) == 1:
        yield *parts[0], 1.0
        return
    images = sum(len(part) for part, _ in parts)
    statistics = _Statistics(net)
    for part, targets in parts:
        statistics.put_back()
        yield part, targets, len(part) / images
        statistics.take(len(part) / images)
    statistics.settle()


class _Statistics:
    """The running statistics of a net in one step, as they were when it began.

    Frozen layers (in eval mode) are left out. The operations on lists are one kernel for all layers of a net.
    """

    def __init__(self, net: nn.Module) -> None:
        named = [getattr(module, name, None) for module in net.modules() if module.training for name in _STATISTICS]
        held = list({id(tensor): tensor for tensor in named if isinstance(tensor, Tensor)}.values())
        self.averages = [tensor for tensor in held if tensor.is_floating_point()]
        self.counters = [tensor for tensor in held if not tensor.is_floating_point()]
        self.began = [tensor.clone() for tensor in self.averages]
        self.counted = [tensor.clone() for tensor in self.counters]
        self.moved = [torch.zeros_like(tensor) for tensor in self.averages]

    def put_back(self) -> None:
        """Put everything back to where the step began."""
        if self.averages:
            torch._foreach_copy_(self.averages, self.began)
        for counter, counted in zip(self.counters, self.counted, strict=True):
            counter.copy_(counted)

    def take(self, share: float) -> None:
        """Note how far a part has moved them."""
        if self.averages:
            torch._foreach_add_(self.moved, torch._foreach_sub(self.averages, self.began), alpha=share)

    def settle(self) -> None:
        """Move them by the mean over the parts; what no part has moved stays as it was to the bit."""
        if self.averages:
            torch._foreach_copy_(self.averages, torch._foreach_add(self.began, self.moved))
