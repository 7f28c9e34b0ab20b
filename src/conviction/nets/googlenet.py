"""GoogLeNet: Inception blocks, four paths of different reach side by side (Szegedy et al. 2014)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from torch import nn

from conviction.nets.blocks import Concat, WithAuxiliaryHeads, conv_bn_relu, conv_relu, narrowed, stages

# Table 1 of the paper: 1x1, (3x3 reduce, 3x3), (5x5 reduce, 5x5), pool projection.
Widths = tuple[int, tuple[int, int], tuple[int, int], int]
WIDTHS: dict[str, Widths] = {
    "3a": (64, (96, 128), (16, 32), 32),
    "3b": (128, (128, 192), (32, 96), 64),
    "4a": (192, (96, 208), (16, 48), 64),
    "4b": (160, (112, 224), (24, 64), 64),
    "4c": (128, (128, 256), (24, 64), 64),
    "4d": (112, (144, 288), (32, 64), 64),
    "4e": (256, (160, 320), (32, 128), 128),
    "5a": (256, (160, 320), (32, 128), 128),
    "5b": (384, (192, 384), (48, 128), 128),
}
Conv = Callable[..., nn.Module]


def inception(in_channels: int, widths: Widths, conv: Conv, large_kernel: int) -> Concat:
    """Four paths side by side: [N, in, H, W] to [N, sum of the paths' widths, H, W].

    `conv(in_channels, channels, kernel, padding=...)` makes a convolution with what follows it; `large_kernel` is that
    of the path which the paper gives 5x5.
    """
    path1x1, (reduce3x3, path3x3), (reduce5x5, path5x5), pool = widths
    padding = large_kernel // 2
    return Concat({
        "path1x1": conv(in_channels, path1x1, 1),
        "path3x3": stages(
            reduce=conv(in_channels, reduce3x3, 1), conv=conv(reduce3x3, path3x3, 3, padding=1)
        ),
        "path5x5": stages(
            reduce=conv(in_channels, reduce5x5, 1), conv=conv(reduce5x5, path5x5, large_kernel, padding=padding)
        ),
        "path_pool": stages(pool=nn.MaxPool2d(3, 1, padding=1), project=conv(in_channels, pool, 1)),
    })  # fmt: skip


def inception_stages(
    in_channels: int, names: Iterable[str], divisor: int, conv: Conv, large_kernel: int, pools: dict[str, nn.Module]
) -> tuple[dict[str, nn.Module], dict[str, int]]:
    """Inception blocks in a row, each pool of `pools` after the block it is named for.

    Returns the stages by name and the channels after each block.
    """
    blocks: dict[str, nn.Module] = {}
    channels: dict[str, int] = {}
    for name in names:
        widths = divided(WIDTHS[name], divisor)
        blocks[f"inception{name}"] = inception(in_channels, widths, conv, large_kernel)
        in_channels = channels[name] = widths[0] + widths[1][1] + widths[2][1] + widths[3]
        if name in pools:
            blocks[f"pool{name[0]}"] = pools[name]
    return blocks, channels


def divided(widths: Widths, divisor: int) -> Widths:
    """Divide every width of an Inception block."""
    one, three, five, pool = widths
    return (
        narrowed(one, divisor),
        (narrowed(three[0], divisor), narrowed(three[1], divisor)),
        (narrowed(five[0], divisor), narrowed(five[1], divisor)),
        narrowed(pool, divisor),
    )


def auxiliary_head(in_channels: int, num_classes: int, divisor: int) -> nn.Sequential:
    """A classifier on an inner stage (section 5): [N, in, H, W] to logits [N, classes]."""
    channels, units = narrowed(128, divisor), narrowed(1024, divisor)
    return stages(
        pool=nn.AdaptiveAvgPool2d(4),
        project=conv_bn_relu(in_channels, channels, 1, eps=0.001),
        flatten=nn.Flatten(),
        linear1=nn.Linear(channels * 16, units), relu=nn.ReLU(), dropout=nn.Dropout(0.7),
        linear2=nn.Linear(units, num_classes),
    )  # fmt: skip


def googlenet(
    num_classes: int, image: tuple[int, int, int], *, aux: bool = False, width_divisor: int = 1
) -> nn.Sequential:
    """GoogLeNet with batch norm, the net whose weights torchvision publishes. Smallest image: 15.

    Like those weights it has 3x3 where the paper has 5x5, and a last pool of 2x2. `aux=True` adds the two auxiliary
    heads: in training the forward gives `(logits, aux1 logits, aux2 logits)`.
    """
    narrow = partial(narrowed, divisor=width_divisor)
    conv = partial(conv_bn_relu, eps=0.001)
    pools: dict[str, nn.Module] = {"3b": _ceil_pool(3), "4e": _ceil_pool(2)}
    blocks, channels = inception_stages(narrow(192), WIDTHS, width_divisor, conv, 3, pools)
    heads = {"aux1": "4a", "aux2": "4d"} if aux else {}
    named = {
        "conv1": conv(image[0], narrow(64), 7, 2, 3), "pool1": _ceil_pool(3),
        "conv2_reduce": conv(narrow(64), narrow(64), 1), "conv2": conv(narrow(64), narrow(192), 3, 1, 1),
        "pool2": _ceil_pool(3),
        **blocks,
        **{head: auxiliary_head(channels[block], num_classes, width_divisor) for head, block in heads.items()},
        "pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "dropout": nn.Dropout(0.2),
        "linear": nn.Linear(channels["5b"], num_classes),
    }  # fmt: skip
    if not aux:
        return stages(**named)
    return WithAuxiliaryHeads(named, {head: f"inception{block}" for head, block in heads.items()})


def googlenet_book(num_classes: int, image: tuple[int, int, int], *, width_divisor: int = 1) -> nn.Sequential:
    """GoogLeNet as textbooks give it: 5x5 as in the paper, no batch norm, heads or dropout. Smallest image: 1."""
    narrow = partial(narrowed, divisor=width_divisor)
    pools: dict[str, nn.Module] = {"3b": _padded_pool(), "4e": _padded_pool()}
    blocks, channels = inception_stages(narrow(192), WIDTHS, width_divisor, conv_relu, 5, pools)
    return stages(
        conv1=conv_relu(image[0], narrow(64), 7, 2, 3), pool1=_padded_pool(),
        conv2_reduce=conv_relu(narrow(64), narrow(64), 1), conv2=conv_relu(narrow(64), narrow(192), 3, 1, 1),
        pool2=_padded_pool(),
        **blocks,
        pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), linear=nn.Linear(channels["5b"], num_classes),
    )  # fmt: skip


def googlenet_small(num_classes: int, image: tuple[int, int, int], *, width_divisor: int = 1) -> nn.Sequential:
    """GoogLeNet for images of 28 to 64 pixels: five of its blocks at half their widths, with batch norm.

    The published stem takes 28 pixels to 4 before the first block; here two 3x3 convolutions keep them, and only one
    pool comes before the first block and one after the second. Smallest image: 1.
    """
    narrow = partial(narrowed, divisor=2 * width_divisor)
    names = ("3a", "3b", "4a", "4b", "4e")
    blocks, channels = inception_stages(narrow(128), names, 2 * width_divisor, conv_bn_relu, 5, {"3b": _padded_pool()})
    return stages(
        conv1=conv_bn_relu(image[0], narrow(64), 3, 1, 1), conv2=conv_bn_relu(narrow(64), narrow(128), 3, 1, 1),
        pool2=_padded_pool(),
        **blocks,
        pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), dropout=nn.Dropout(0.2),
        linear=nn.Linear(channels["4e"], num_classes),
    )  # fmt: skip


def _ceil_pool(kernel: int) -> nn.MaxPool2d:
    return nn.MaxPool2d(kernel, 2, ceil_mode=True)


def _padded_pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, 2, padding=1)
