"""Shapes without numbers: runs a net on meta tensors for its output, or the layer at which an image is too small."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from conviction.errors import ConvictionError, ImageTooSmallError
from conviction.text import format_shape

_LARGEST_SIDE = 1024


class LayerError(Exception):
    """A layer that cannot take the shape which reaches it."""

    def __init__(self, layer: str, shape: tuple[int, ...]) -> None:
        self.layer, self.shape = layer, shape
        super().__init__(layer, shape)


def output_shape(net: nn.Module, image: tuple[int, int, int], prefix: str = "") -> tuple[int, ...]:
    """Return the shape of the net's output for one image, without the batch.

    `net` must lie on the meta device. Raises `LayerError` with the name of the layer that fails, under `prefix`.
    """
    entered: list[tuple[str, tuple[int, ...]]] = []

    def note(name: str) -> Callable[..., None]:
        return lambda module, inputs: entered.append((name, tuple(inputs[0].shape[1:])))

    handles = [
        module.register_forward_pre_hook(note(prefix + name))
        for name, module in net.named_modules()
        if next(module.children(), None) is None
    ]
    try:
        output: Any = net(torch.empty(2, *image, device="meta"))
    except (RuntimeError, ValueError, ZeroDivisionError) as error:
        if not entered:
            raise
        raise LayerError(*entered[-1]) from error
    finally:
        for handle in handles:
            handle.remove()
    return tuple((output[0] if isinstance(output, tuple) else output).shape[1:])


def flat_features(features: nn.Module, image: tuple[int, int, int], prefix: str = "") -> int:
    """Return how many numbers an image has after `features`: the input width of the first linear layer."""
    count = 1
    for size in output_shape(features, image, prefix):
        count *= size
    return count


def assemble(
    make: Callable[[tuple[int, int, int]], nn.Module], name: str, image: tuple[int, int, int], expected: int
) -> nn.Module:
    """Make a net on the meta device and run it on two images of shape `image` in train and eval mode.

    `expected` is the smallest side as far as known, where the search for the true one begins.

    Raises `ImageTooSmallError`, which names the layer that fails and the smallest image that passes.
    """
    try:
        return _made_and_run(make, image)
    except LayerError as failure:
        smallest = _smallest_side(make, image, expected)
        if smallest is None:
            raise
        raise ImageTooSmallError(
            f"image {format_shape(image)} is too small for {name}",
            f"layer {failure.layer} cannot take {format_shape(failure.shape)}",
            f"use images of at least {smallest}x{smallest}",
        ) from failure


def _made_and_run(make: Callable[[tuple[int, int, int]], nn.Module], image: tuple[int, int, int]) -> nn.Module:
    with torch.device("meta"), torch.no_grad():
        net = make(image)
        for training in (False, True):
            output_shape(net.train(training), image)
    return net


def _smallest_side(
    make: Callable[[tuple[int, int, int]], nn.Module], image: tuple[int, int, int], expected: int
) -> int | None:
    """Return the smallest side at which both height and width pass; the sides are raised together."""

    def passes(side: int) -> bool:
        try:
            _made_and_run(make, (image[0], side, side))
        except (LayerError, ConvictionError):
            return False
        return True

    low = min(image[1:])
    if low < expected and passes(expected) and not passes(expected - 1):
        return expected
    high = next((side for side in itertools.accumulate([low] + [2] * 10, lambda a, b: a * b) if passes(side)), None)
    if high is None or high > _LARGEST_SIDE:
        return None
    while high - low > 1:  # low fails or is one side of the image asked for, high passes
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle, high)
    return high
