"""The pieces every net is made of: named stages in sequence, two joins, and the layers that papers repeat."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Sum(nn.Module):
    """Add a path to its shortcut: `shortcut(x) + scale * path(x)`, the residual join (He et al. 2015, eq. 1).

    `scale` below 1 steadies very wide nets (Szegedy et al. 2016, section 3.3). Without a shortcut `x` itself is added.
    """

    def __init__(self, path: nn.Module, shortcut: nn.Module | None = None, scale: float = 1.0) -> None:
        super().__init__()
        self.path = path
        self.shortcut = nn.Identity() if shortcut is None else shortcut
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C', H', W'], the shape that path and shortcut share."""
        path = self.path(x)
        return self.shortcut(x) + (path if self.scale == 1.0 else self.scale * path)

    def extra_repr(self) -> str:
        """Say the scale where there is one."""
        return "" if self.scale == 1.0 else f"scale={self.scale}"


class Scale(nn.Module):
    """Multiply by a number that does not train: below 1 it tempers logits, and the steps of the layer before it."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        return self.factor * x

    def extra_repr(self) -> str:
        """Say the factor."""
        return f"factor={self.factor}"


class Concat(nn.Module):
    """Run named paths side by side on the same input and join their channels, as Inception and dense blocks do."""

    def __init__(self, paths: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, path in paths.items():
            self.add_module(name, path)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, sum of the paths' channels, H', W']."""
        return torch.cat([path(x) for path in self.children()], dim=1)


class WithAuxiliaryHeads(nn.Sequential):
    """Named stages in sequence, with auxiliary classifiers that read the output of inner stages while training.

    `taps` maps the name of each head (one of `stages`) to the stage whose output it reads; its place among the stages
    settles only the order of the parameters. In training the forward gives `(logits, aux logits, ...)`, else `logits`.
    """

    def __init__(self, stages: Mapping[str, nn.Module], taps: Mapping[str, str]) -> None:
        super().__init__(OrderedDict(stages))
        self.taps = dict(taps)

    def forward(self, input: Tensor) -> Any:
        """[N, C, H, W] to logits [N, classes], in training followed by those of each head."""
        auxiliary: list[Tensor] = []
        x = input
        for name, stage in self.named_children():
            if name in self.taps:
                continue
            x = stage(x)
            if self.training:
                auxiliary += [self.get_submodule(head)(x) for head, tapped in self.taps.items() if tapped == name]
        return (x, *auxiliary) if self.training else x


def stages(**named: nn.Module) -> nn.Sequential:
    """Put named stages in sequence."""
    return nn.Sequential(OrderedDict(named))


def conv_relu(in_channels: int, channels: int, kernel: Any, stride: Any = 1, padding: Any = 0) -> nn.Sequential:
    """Convolution with bias, then ReLU."""
    return stages(conv=nn.Conv2d(in_channels, channels, kernel, stride, padding), relu=nn.ReLU())


def conv_bn_relu(
    in_channels: int, channels: int, kernel: Any, stride: Any = 1, padding: Any = 0, eps: float = 1e-5
) -> nn.Sequential:
    """Convolution without bias (the norm has one), batch norm, ReLU."""
    return stages(
        conv=nn.Conv2d(in_channels, channels, kernel, stride, padding, bias=False),
        norm=nn.BatchNorm2d(channels, eps=eps),
        relu=nn.ReLU(),
    )


def narrowed(channels: int, divisor: int) -> int:
    """Divide a width by `divisor`, at least 1 channel."""
    return max(1, channels // divisor)
