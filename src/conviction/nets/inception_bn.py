"""BN-Inception: GoogLeNet with batch norm and two 3x3 convolutions for each 5x5 (Ioffe & Szegedy 2015, appendix)."""

from __future__ import annotations

from torch import nn

from conviction.nets.blocks import stages
from conviction.nets.wiring import Piece, Style, concat, conv, lay, path, pool, tail

# The published weights come from a Caffe training, so this is Caffe's form: convolutions with bias before the norm, and
# pools that round up. It differs from the paper's table in module 4c (pool path 128 for 96).
_stem_pool = pool(lambda: nn.MaxPool2d(3, stride=2, ceil_mode=True))
_mean_pool = pool(lambda: nn.AvgPool2d(3, stride=1, padding=1))
_max_pool = pool(lambda: nn.MaxPool2d(3, stride=1, padding=1))
# A zero row and column below and right of maps that are never negative: equal to Caffe's pool on even maps, and on odd
# ones as large as the convolutions beside it, where Caffe's would be one smaller.
_reducing_pool = pool(lambda: stages(pad=nn.ZeroPad2d((0, 1, 0, 1)), max=nn.MaxPool2d(3, stride=2, ceil_mode=True)))


def module(
    one: int, three: tuple[int, int], double: tuple[int, int], pooled: int, pooling: Piece = _mean_pool
) -> Piece:
    """Four paths that keep the map: 1x1; 1x1, 3x3; 1x1, 3x3, 3x3; pool, 1x1. Widths in that order."""
    return concat(
        conv1x1=conv(one, 1),
        conv3x3=path(conv(three[0], 1), conv(three[1], 3)),
        double3x3=path(conv(double[0], 1), conv(double[1], 3), conv(double[1], 3)),
        pool=path(pooling, conv(pooled, 1)),
    )


def reduction(three: tuple[int, int], double: tuple[int, int]) -> Piece:
    """Three paths that halve the map: 1x1, 3x3; 1x1, 3x3, 3x3; pool."""
    return concat(
        conv3x3=path(conv(three[0], 1), conv(three[1], 3, stride=2, padding=1)),
        double3x3=path(conv(double[0], 1), conv(double[1], 3), conv(double[1], 3, stride=2, padding=1)),
        pool=_reducing_pool,
    )


STAGES: dict[str, Piece] = {
    "conv1": conv(64, 7, stride=2, padding=3),
    "pool1": _stem_pool,
    "conv2a": conv(64, 1),
    "conv2b": conv(192, 3),
    "pool2": _stem_pool,
    "mixed3a": module(64, (64, 64), (64, 96), 32),
    "mixed3b": module(64, (64, 96), (64, 96), 64),
    "mixed3c": reduction((128, 160), (64, 96)),
    "mixed4a": module(224, (64, 96), (96, 128), 128),
    "mixed4b": module(192, (96, 128), (96, 128), 128),
    "mixed4c": module(160, (128, 160), (128, 160), 128),
    "mixed4d": module(96, (128, 192), (160, 192), 128),
    "mixed4e": reduction((128, 192), (192, 256)),
    "mixed5a": module(352, (192, 320), (160, 224), 128),
    "mixed5b": module(352, (192, 320), (192, 224), 128, _max_pool),
}


def inception_bn(num_classes: int, image: tuple[int, int, int], *, width_divisor: int = 1) -> nn.Sequential:
    """BN-Inception: [N, C, H, W] to logits [N, num_classes].

    2.033 GMACs at 224 pixels; tables that say 2.048 also count biases, norms and ReLUs.
    """
    features, channels = lay(STAGES, image[0], Style(width_divisor, eps=1e-5, bias=True))
    return stages(**features, **tail(channels, num_classes, dropout=0.0))
