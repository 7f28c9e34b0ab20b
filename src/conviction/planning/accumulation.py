"""Sums of gradients as autograd makes them without a watcher: in the memory of one that nothing else holds.

Where a tensor is used twice, its gradients are added up. While a dispatch mode is active the engine always makes a new
tensor for the sum; otherwise it adds in place to a gradient that it alone holds (torch/csrc/autograd/input_buffer.cpp,
`can_accumulate_inplace`).
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Holders = tuple[int, int, int]


def summed_in_place(function: Any, args: tuple[Any, ...], sole: Holders | None) -> Tensor | None:
    """Add up two gradients in place, where an engine that is not watched would; None where `function` is to run.

    `sole` are the `sole_holders`.
    """
    if function is not torch.ops.aten.add.Tensor or len(args) != 2 or not all(type(part) is Tensor for part in args):
        return None
    if torch._C._current_autograd_node() is None or args[0].shape != args[1].shape or args[0].dtype != args[1].dtype:
        return None
    for held, part in zip(_holders(args), args, strict=True):
        if held == sole and _is_dense(part):
            return part.add_(args[1] if part is args[0] else args[0])
    return None


def _holders(args: tuple[Any, ...]) -> list[Holders]:
    """Count who holds each tensor and its storage, in C++ and in Python: as seen from here, so more than they are."""
    return [(part._use_count(), torch._C._storage_Use_Count(part.untyped_storage()._cdata), sys.getrefcount(part))
            for part in args]  # fmt: skip


def _is_dense(tensor: Tensor) -> bool:
    return tensor.is_contiguous() or (tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last))


@cache
def sole_holders() -> Holders | None:
    """Return the counts of a gradient that only the engine holds, read off a sum that is known to be of two such.

    Not to be asked for the first time in a backward pass: it makes one.
    """
    seen = _Counting()
    with torch.inference_mode(False), torch.enable_grad(), torch.device("cpu"), seen:
        number = torch.ones(1, requires_grad=True).exp()
        (number.sin() + number.cos()).sum().backward()
    return seen.found


class _Counting(TorchDispatchMode):
    """Notes who holds the gradients that are summed."""

    found: Holders | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.add.Tensor and torch._C._current_autograd_node() is not None:
            self._count(func, args)
        return func(*args, **(kwargs or {}))

    def _count(self, function: Any, args: tuple[Any, ...]) -> None:
        """Count from as deep as `summed_in_place` does."""
        one, other = _holders(args)
        self.found = one if one == other else None
