"""What one operation costs, from the shapes of its arguments: multiply-accumulates and bytes moved."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

_ATEN = torch.ops.aten
# Matrix products, and which argument is the left factor; a linear layer becomes one of them.
_PRODUCTS = {_ATEN.mm: 0, _ATEN.bmm: 0, _ATEN.addmm: 1, _ATEN.baddbmm: 1}
# These write their first argument without reading it.
_WRITES_ONLY = {_ATEN.zero_, _ATEN.fill_, _ATEN.copy_, _ATEN.normal_, _ATEN.uniform_, _ATEN.bernoulli_}
# Memory that is asked for and not touched.
_UNTOUCHED = {_ATEN.empty, _ATEN.empty_like, _ATEN.empty_strided, _ATEN.new_empty, _ATEN.new_empty_strided}


def macs_of(operation: Any, args: tuple[Any, ...], output: Any) -> int:
    """Count the multiply-accumulates of one operation, forward or backward.

    Every position of a convolution's output (of its input where transposed) meets every weight once, whatever the
    groups; the gradients of its input and of its weight take as many each.
    """
    if operation is _ATEN.convolution:
        images, weight, transposed = args[0], args[1], args[6]
        return _meetings(images if transposed else output, weight)
    if operation is _ATEN.convolution_backward:
        gradient, images, weight, transposed, wanted = args[0], args[1], args[2], args[7], args[10]
        return _meetings(images if transposed else gradient, weight) * (wanted[0] + wanted[1])
    if operation in _PRODUCTS:
        left, right = args[_PRODUCTS[operation] :][:2]
        return left.numel() * right.shape[-1]
    return 0


def moved_bytes_of(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> int:
    """Count the bytes that one operation reads and writes, each tensor once, as if nothing stayed in a cache.

    A view moves nothing. What a kernel spills on its own, and what several operations fused into one would save, is
    not counted.
    """
    operation = function.overloadpacket
    if function.is_view or operation in _UNTOUCHED:
        return 0
    read = list(tensors_in((args, kwargs)))
    if operation in _WRITES_ONLY:
        read = read[1:]
    return sum(size_of(tensor) for tensor in {id(t): t for t in read}.values()) + sum(map(size_of, tensors_in(output)))


def scratch_of(operation: Any, args: tuple[Any, ...], output: Any) -> list[int]:
    """Return, for each pass of a convolution, the bytes of the tensors that it works on; nothing else has scratch."""
    if operation is _ATEN.convolution:
        return [size_of(args[0]) + size_of(args[1]) + size_of(output)]
    if operation is _ATEN.convolution_backward:
        gradient, images, weight, wanted = args[0], args[1], args[2], args[10]
        return [size_of(gradient) + size_of(images) + size_of(weight)] * (wanted[0] + wanted[1])
    return []


def size_of(tensor: Tensor) -> int:
    """Return the bytes of a tensor's numbers."""
    return tensor.numel() * tensor.element_size()


def tensors_in(parts: Any) -> Iterator[Tensor]:
    """Yield the tensors of an output, however its tuples, lists and mappings are nested."""
    if isinstance(parts, Tensor):
        yield parts
    elif isinstance(parts, (tuple, list)):
        for part in parts:
            yield from tensors_in(part)
    elif isinstance(parts, dict):
        yield from tensors_in(tuple(parts.values()))


def _meetings(grid: Tensor, weight: Tensor) -> int:
    return grid.shape[0] * math.prod(grid.shape[2:]) * weight.numel()
