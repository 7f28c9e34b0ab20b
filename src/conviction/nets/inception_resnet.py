"""Inception-ResNet v1 and v2: Inception modules added to their input (Szegedy et al. 2016, figures 10 to 19).

Scales 0.17, 0.10 and 0.20 are those of the authors' published code, within the 0.1 to 0.3 of section 3.3.
"""

from __future__ import annotations

from torch import nn

from conviction.nets.blocks import stages
from conviction.nets.wiring import (
    Piece,
    Style,
    chain,
    concat,
    conv,
    lay,
    max_pool,
    path,
    pool,
    repeated,
    residual,
    tail,
)

_mean_pool = pool(lambda: nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False))


def block_35(last: int, middle: int) -> Piece:
    """Figures 10 and 16: Inception-ResNet-A; `middle` and `last` are the widths of the double 3x3."""
    return residual(0.17, concat(
        conv1x1=conv(32, 1),
        conv3x3=path(conv(32, 1), conv(32, 3)),
        double3x3=path(conv(32, 1), conv(middle, 3), conv(last, 3)),
    ))  # fmt: skip


def block_17(one: int, middle: int) -> Piece:
    """Figures 11 and 17: Inception-ResNet-B."""
    return residual(0.10, concat(
        conv1x1=conv(one, 1),
        conv7x7=path(conv(128, 1), conv(middle, (1, 7)), conv(one, (7, 1))),
    ))  # fmt: skip


def block_8(middle: int, last: int, scale: float = 0.20, relu: bool = True) -> Piece:
    """Figures 13 and 19: Inception-ResNet-C."""
    return residual(scale, concat(
        conv1x1=conv(192, 1),
        conv3x3=path(conv(192, 1), conv(middle, (1, 3)), conv(last, (3, 1))),
    ), relu)  # fmt: skip


def reduction_a(first: int, middle: int, last: int) -> Piece:
    """Figure 7 with k, l, m = `first`, `middle`, `last` and n = 384: 35x35 to 17x17."""
    return concat(
        conv3x3=conv(384, 3, stride=2),
        double3x3=path(conv(first, 1), conv(middle, 3), conv(last, 3, stride=2)),
        pool=max_pool,
    )


def reduction_b(second: int, middle: int, last: int) -> Piece:
    """Figures 12 and 18: 17x17 to 8x8; the widths of the second path and of the double 3x3."""
    return concat(
        conv3x3=path(conv(256, 1), conv(384, 3, stride=2)),
        narrow3x3=path(conv(256, 1), conv(second, 3, stride=2)),
        double3x3=path(conv(256, 1), conv(middle, 3), conv(last, 3, stride=2)),
        pool=max_pool,
    )


_FIRST_LAYERS: dict[str, Piece] = {
    "conv1a": conv(32, 3, stride=2),
    "conv2a": conv(32, 3, padding=0),
    "conv2b": conv(64, 3),
    "pool3a": max_pool,
    "conv3b": conv(80, 1),
    "conv4a": conv(192, 3, padding=0),
}
STAGES_V1: dict[str, Piece] = {
    "stem": chain(**_FIRST_LAYERS, conv4b=conv(256, 3, stride=2)),  # figure 14
    "blocks_a": repeated(5, block_35(last=32, middle=32)),
    "reduction_a": reduction_a(192, 192, 256),
    "blocks_b": repeated(10, block_17(one=128, middle=128)),
    "reduction_b": reduction_b(256, 256, 256),
    "blocks_c": repeated(5, block_8(middle=192, last=192)),
}
# The published v2 departs from the paper: v1's stem and an Inception module instead of figure 3, repeats 10, 20, 10
# for 5, 10, 5, a last block without scale or ReLU, and a 1x1 convolution before the mean.
STAGES_V2: dict[str, Piece] = {
    "stem": chain(**_FIRST_LAYERS, pool5a=max_pool),
    "mixed5b": concat(
        conv1x1=conv(96, 1),
        conv5x5=path(conv(48, 1), conv(64, 5)),
        double3x3=path(conv(64, 1), conv(96, 3), conv(96, 3)),
        pool=path(_mean_pool, conv(64, 1)),
    ),
    "blocks_a": repeated(10, block_35(last=64, middle=48)),
    "reduction_a": reduction_a(256, 256, 384),
    "blocks_b": repeated(20, block_17(one=192, middle=160)),
    "reduction_b": reduction_b(288, 288, 320),
    "blocks_c": repeated(9, block_8(middle=224, last=256)),
    "last_block": block_8(middle=224, last=256, scale=1.0, relu=False),
    "conv7b": conv(1536, 1),
}


def inception_resnet_v1(num_classes: int, image: tuple[int, int, int], *, width_divisor: int = 1) -> nn.Sequential:
    """Inception-ResNet-v1, which costs about as much as Inception v3: [N, C, H, W] to logits [N, num_classes]."""
    features, channels = lay(STAGES_V1, image[0], Style(width_divisor))
    return stages(**features, **tail(channels, num_classes, dropout=0.2))


def inception_resnet_v2(num_classes: int, image: tuple[int, int, int], *, width_divisor: int = 1) -> nn.Sequential:
    """Inception-ResNet-v2, which costs about as much as Inception v4: [N, C, H, W] to logits [N, num_classes]."""
    features, channels = lay(STAGES_V2, image[0], Style(width_divisor))
    return stages(**features, **tail(channels, num_classes, dropout=0.2))
