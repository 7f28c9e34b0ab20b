"""Convolutions over very small maps as matrix products: the same sums, several times faster on a CPU.

On a map of a few pixels a 3x3 kernel mostly multiplies padding, and oneDNN's kernels, made for long rows, reach a
hundredth of the machine's speed. There the weights are laid out once a pass as the matrix from all input values to
all output values, [H' x W' x out, H x W x in], and the convolution is one product. On one core of a Xeon with AMX,
forward and backward together: 512 channels on one pixel 8 times faster in float32 and 30 in bfloat16, 256 channels on
2x2 4 and 6 times, 384 on 3x3 1.7 and 2.8 times; on 4x4 the matrix has become too large (0.4 and 0.8).
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Generator
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# The matrix may hold so many times the products of the convolution itself: 1.65 on 3x3 with a 3x3 kernel, 2.6 on 4x4.
_MOST_WASTE = 1.7
# A kernel of one tap needs no larger matrix; beyond such a map oneDNN's kernel is as fast.
_MOST_POINTS = 49
# Laying out the matrix is paid for by so many images for each of its blocks of [out, in]: 24 on 2x2, 122 on 3x3.
_IMAGES_PER_BLOCK = 1.5

Span = tuple[int, int, int, int]  # of an output row: input rows from, to; kernel rows from, to


@contextlib.contextmanager
def small_maps_multiplied(net: nn.Module) -> Generator[None]:
    """Let the convolutions of `net` pass small maps as matrix products inside the block; then it is as it was.

    Does nothing on other devices than the CPU, and for layers other than plain convolutions.
    """
    convs = [module for module in net.modules() if _is_plain(module)]
    for conv in convs:
        conv.forward = MethodType(_forward, conv)
    try:
        yield
    finally:
        for conv in convs:
            conv.__dict__.pop("forward", None)


def _is_plain(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d
        and module.groups == 1
        and module.dilation == (1, 1)
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
        and module.weight.device.type == "cpu"
        and module.weight.dtype in {torch.float32, torch.bfloat16}
        and "forward" not in module.__dict__
    )


def _forward(conv: Any, images: Tensor) -> Tensor:
    channels_last = images.ndim == 4 and images.is_contiguous(memory_format=torch.channels_last)
    if channels_last and _pays(images.shape, conv.kernel_size, conv.stride, conv.padding):
        return convolve(images, conv.weight, conv.bias, conv.stride, conv.padding)
    return nn.Conv2d.forward(conv, images)


@functools.cache
def _pays(shape: torch.Size, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]) -> bool:
    size = shape[2:]
    height, width = (_spans(*sizes) for sizes in zip(size, kernel, stride, padding, strict=True))
    if not height or not width:
        return False  # the convolution's own words are clearer
    if kernel == (1, 1):
        return stride == (1, 1) and padding == (0, 0) and math.prod(size) <= _MOST_POINTS
    needed = sum(to - start for start, to, _, _ in height) * sum(to - start for start, to, _, _ in width)
    blocks = math.prod(size) * len(height) * len(width)
    return blocks <= _MOST_WASTE * needed and shape[0] >= _IMAGES_PER_BLOCK * blocks


@functools.cache
def _spans(size: int, kernel: int, stride: int, padding: int) -> tuple[Span, ...]:
    """Return for each output row which input rows it sees, through which rows of the kernel."""
    starts = range(-padding, size + padding - kernel + 1, stride)
    spans = ((max(0, start), min(size, start + kernel), start) for start in starts)
    return tuple((low, max(low, high), low - start, max(low, high) - start) for low, high, start in spans)


def convolve(
    images: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Return the convolution of images [N, in, H, W] with weights [out, in, kh, kw] as one matrix product.

    Equal to `torch.nn.functional.conv2d` to rounding, forward and backward; [N, out, H', W'], channels last.
    """
    (count, channels, *size), (out, _, *kernel) = images.shape, weight.shape
    rows, columns = (_spans(*sizes) for sizes in zip(size, kernel, stride, padding, strict=True))
    points = images.permute(0, 2, 3, 1)
    if kernel == [1, 1] and stride == (1, 1) and padding == (0, 0):
        return F.linear(points, weight.view(out, channels), bias).permute(0, 3, 1, 2)
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weight.dtype
    matrix = _Spread.apply(weight, (size[0], size[1]), rows, columns, dtype)
    tiled = None if bias is None else bias.repeat(len(rows) * len(columns))
    answers = F.linear(points.reshape(count, -1), matrix, tiled)
    return answers.view(count, len(rows), len(columns), out).permute(0, 3, 1, 2)


class _Spread(torch.autograd.Function):
    """From weights [out, in, kh, kw] to the matrix [H' x W' x out, H x W x in] in `dtype`; the gradient in float32."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, size: tuple[int, int], rows: tuple[Span, ...], columns: tuple[Span, ...],
        dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        ctx.geometry = (weight.shape, weight.dtype, size, rows, columns)
        (out, channels, *_), taps = weight.shape, weight.permute(0, 2, 3, 1)
        matrix = torch.zeros(len(rows), len(columns), out, *size, channels, dtype=dtype)
        for row, (top, bottom, kernel_top, kernel_bottom) in enumerate(rows):
            for column, (left, right, kernel_left, kernel_right) in enumerate(columns):
                seen = taps[:, kernel_top:kernel_bottom, kernel_left:kernel_right]
                matrix[row, column, :, top:bottom, left:right] = seen
        return matrix.view(len(rows) * len(columns) * out, -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (out, channels, *kernel), dtype, size, rows, columns = ctx.geometry
        spread = gradients[0].view(len(rows), len(columns), out, *size, channels)
        # A tap is the sum of up to H' x W' blocks: added up in float32 whatever the product's precision.
        taps = torch.zeros(out, *kernel, channels, dtype=torch.promote_types(dtype, torch.float32))
        for row, (top, bottom, kernel_top, kernel_bottom) in enumerate(rows):
            for column, (left, right, kernel_left, kernel_right) in enumerate(columns):
                seen = spread[row, column, :, top:bottom, left:right]
                taps[:, kernel_top:kernel_bottom, kernel_left:kernel_right] += seen
        return taps.to(dtype).permute(0, 3, 1, 2), None, None, None, None
