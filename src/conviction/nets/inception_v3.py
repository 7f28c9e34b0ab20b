"""Inception v3: large kernels factorised into small and one-sided ones (Szegedy et al. 2015, Rethinking)."""

from __future__ import annotations

from torch import nn

from conviction.nets.blocks import WithAuxiliaryHeads, stages
from conviction.nets.wiring import Piece, Style, chain, concat, conv, lay, max_pool, path, pool, tail

_mean_pool = pool(lambda: nn.AvgPool2d(3, stride=1, padding=1))


def factorised(pooled: int) -> Piece:
    """Figure 5: a 5x5 becomes two 3x3; the published net keeps one path with a 5x5. 35x35 maps."""
    return concat(
        conv1x1=conv(64, 1),
        conv5x5=path(conv(48, 1), conv(64, 5)),
        double3x3=path(conv(64, 1), conv(96, 3), conv(96, 3)),
        pool=path(_mean_pool, conv(pooled, 1)),
    )


def asymmetric(inner: int) -> Piece:
    """Figure 6: each 7x7 becomes 1x7 and 7x1. 17x17 maps."""
    return concat(
        conv1x1=conv(192, 1),
        conv7x7=path(conv(inner, 1), conv(inner, (1, 7)), conv(192, (7, 1))),
        double7x7=path(
            conv(inner, 1), conv(inner, (7, 1)), conv(inner, (1, 7)), conv(inner, (7, 1)), conv(192, (1, 7))
        ),
        pool=path(_mean_pool, conv(192, 1)),
    )


def widened() -> Piece:
    """Figure 7: 1x3 and 3x1 side by side, for many features on small maps. 8x8 maps."""
    split = concat(conv1x3=conv(384, (1, 3)), conv3x1=conv(384, (3, 1)))
    return concat(
        conv1x1=conv(320, 1),
        conv3x3=path(conv(384, 1), split),
        double3x3=path(conv(448, 1), conv(384, 3), split),
        pool=path(_mean_pool, conv(192, 1)),
    )


REDUCTION_35_TO_17 = concat(
    conv3x3=conv(384, 3, stride=2),
    double3x3=path(conv(64, 1), conv(96, 3), conv(96, 3, stride=2)),
    pool=max_pool,
)
REDUCTION_17_TO_8 = concat(
    conv3x3=path(conv(192, 1), conv(320, 3, stride=2)),
    conv7x7=path(conv(192, 1), conv(192, (1, 7)), conv(192, (7, 1)), conv(192, 3, stride=2)),
    pool=max_pool,
)
BEFORE_AUX: dict[str, Piece] = {
    "conv1a": conv(32, 3, stride=2),
    "conv2a": conv(32, 3, padding=0),
    "conv2b": conv(64, 3),
    "pool1": max_pool,
    "conv3b": conv(80, 1),
    "conv4a": conv(192, 3, padding=0),
    "pool2": max_pool,
    "mixed5b": factorised(32),
    "mixed5c": factorised(64),
    "mixed5d": factorised(64),
    "mixed6a": REDUCTION_35_TO_17,
    "mixed6b": asymmetric(128),
    "mixed6c": asymmetric(160),
    "mixed6d": asymmetric(160),
    "mixed6e": asymmetric(192),
}
AFTER_AUX: dict[str, Piece] = {"mixed7a": REDUCTION_17_TO_8, "mixed7b": widened(), "mixed7c": widened()}
# Section 4, figure 8. Its 5x5 convolution needs the 17x17 map of a 299 pixel image.
AUX = chain(pool=pool(lambda: nn.AvgPool2d(5, stride=3)), conv1x1=conv(128, 1), conv5x5=conv(768, 5, padding=0))


def inception_v3(
    num_classes: int, image: tuple[int, int, int], *, aux: bool = False, width_divisor: int = 1
) -> nn.Sequential:
    """Inception v3: [N, C, H, W] to logits [N, num_classes].

    With `aux`, in training, a tuple of those and the logits of the auxiliary head; images of 299 pixels or more.
    """
    style = Style(width_divisor)
    inner, inner_channels = lay(BEFORE_AUX, image[0], style)
    outer, channels = lay(AFTER_AUX, inner_channels, style)
    end = tail(channels, num_classes, dropout=0.5)
    if not aux:
        return stages(**inner, **outer, **end)
    aux_features, aux_channels = AUX(inner_channels, style)
    aux_head = stages(
        features=aux_features,
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        linear=nn.Linear(aux_channels, num_classes),
    )
    return WithAuxiliaryHeads({**inner, "aux": aux_head, **outer, **end}, {"aux": "mixed6e"})
