"""Wiring: convolutions, paths and joins drawn as in the Inception papers' figures, by their output widths alone.

A `Piece` becomes modules once the channels that reach it are known, so a figure of a paper reads here as it is printed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from conviction.nets.blocks import Concat, Sum, narrowed, stages


@dataclass(frozen=True)
class Style:
    """What all convolutions of one net share: divisor of the widths, the norm's epsilon, bias before the norm."""

    width_divisor: int = 1
    eps: float = 1e-3
    bias: bool = False


# Input channels and style to a module and its output channels.
Piece = Callable[[int, Style], tuple[nn.Module, int]]


def conv(channels: int, kernel: int | tuple[int, int], stride: int = 1, padding: Any = None) -> Piece:
    """Convolution, batch norm, ReLU. Without `padding` it keeps the map at stride 1 and pads nothing at stride 2."""
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    if padding is None:
        padding = (sides[0] // 2, sides[1] // 2) if stride == 1 else 0

    def make(in_channels: int, style: Style) -> tuple[nn.Module, int]:
        width = narrowed(channels, style.width_divisor)
        module = stages(
            conv=nn.Conv2d(in_channels, width, sides, stride, padding, bias=style.bias),
            norm=nn.BatchNorm2d(width, eps=style.eps),
            relu=nn.ReLU(),
        )
        return module, width

    return make


def pool(make_module: Callable[[], nn.Module]) -> Piece:
    """A layer that keeps the channels; called anew wherever the piece is used."""
    return lambda in_channels, style: (make_module(), in_channels)


max_pool = pool(lambda: nn.MaxPool2d(3, stride=2))


def path(*pieces: Piece) -> Piece:
    """Pieces one after another."""
    return chain(**{f"step{number}": piece for number, piece in enumerate(pieces, 1)})


def repeated(count: int, piece: Piece) -> Piece:
    """The same piece several times over, each with weights of its own."""
    return chain(**{f"block{number}": piece for number in range(1, count + 1)})


def chain(**pieces: Piece) -> Piece:
    """Named pieces one after another."""

    def make(in_channels: int, style: Style) -> tuple[nn.Module, int]:
        modules, channels = lay(pieces, in_channels, style)
        return stages(**modules), channels

    return make


def concat(**paths: Piece) -> Piece:
    """Named paths side by side, their outputs joined along the channels."""

    def make(in_channels: int, style: Style) -> tuple[nn.Module, int]:
        made = {name: piece(in_channels, style) for name, piece in paths.items()}
        return Concat({name: module for name, (module, _) in made.items()}), sum(width for _, width in made.values())

    return make


def residual(scale: float, paths: Piece, relu: bool = True) -> Piece:
    """`x + scale * project(paths(x))`, then ReLU; the 1x1 projection has neither norm nor ReLU.

    Figures 10 to 19 of Szegedy et al. 2016; the scale is that of section 3.3.
    """

    def make(in_channels: int, style: Style) -> tuple[nn.Module, int]:
        joined, width = paths(in_channels, style)
        block: dict[str, nn.Module] = {
            "sum": Sum(stages(paths=joined, project=nn.Conv2d(width, in_channels, 1)), scale=scale)
        }
        if relu:
            block["relu"] = nn.ReLU()
        return stages(**block), in_channels

    return make


def lay(pieces: Mapping[str, Piece], in_channels: int, style: Style) -> tuple[dict[str, nn.Module], int]:
    """Make named pieces one after another: the modules by name, and the channels of the last."""
    modules: dict[str, nn.Module] = {}
    for name, piece in pieces.items():
        modules[name], in_channels = piece(in_channels, style)
    return modules, in_channels


def tail(channels: int, num_classes: int, dropout: float) -> dict[str, nn.Module]:
    """The end of every Inception net: the mean over the map, dropout, one linear layer."""
    return {
        "pool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "head": stages(dropout=nn.Dropout(dropout), linear=nn.Linear(channels, num_classes)),
    }
