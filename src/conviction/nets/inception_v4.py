"""Inception v4: a uniform, deeper Inception without residuals (Szegedy et al. 2016, figures 3 to 9)."""

from __future__ import annotations

from torch import nn

from conviction.nets.blocks import stages
from conviction.nets.wiring import Style, chain, concat, conv, lay, max_pool, path, pool, repeated, tail

_mean_pool = pool(lambda: nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False))

STEM = chain(  # figure 3: 299x299 to 35x35
    conv1=conv(32, 3, stride=2),
    conv2=conv(32, 3, padding=0),
    conv3=conv(64, 3),
    mixed3a=concat(pool=max_pool, conv=conv(96, 3, stride=2)),
    mixed4a=concat(
        conv3x3=path(conv(64, 1), conv(96, 3, padding=0)),
        conv7x7=path(conv(64, 1), conv(64, (1, 7)), conv(64, (7, 1)), conv(96, 3, padding=0)),
    ),
    mixed5a=concat(conv=conv(192, 3, stride=2), pool=max_pool),
)
INCEPTION_A = concat(  # figure 4: 35x35
    conv1x1=conv(96, 1),
    conv3x3=path(conv(64, 1), conv(96, 3)),
    double3x3=path(conv(64, 1), conv(96, 3), conv(96, 3)),
    pool=path(_mean_pool, conv(96, 1)),
)
REDUCTION_A = concat(  # figure 7 with k, l, m, n = 192, 224, 256, 384
    conv3x3=conv(384, 3, stride=2),
    double3x3=path(conv(192, 1), conv(224, 3), conv(256, 3, stride=2)),
    pool=max_pool,
)
INCEPTION_B = concat(  # figure 5: 17x17
    conv1x1=conv(384, 1),
    conv7x7=path(conv(192, 1), conv(224, (1, 7)), conv(256, (7, 1))),
    double7x7=path(conv(192, 1), conv(192, (7, 1)), conv(224, (1, 7)), conv(224, (7, 1)), conv(256, (1, 7))),
    pool=path(_mean_pool, conv(128, 1)),
)
REDUCTION_B = concat(  # figure 8
    conv3x3=path(conv(192, 1), conv(192, 3, stride=2)),
    conv7x7=path(conv(256, 1), conv(256, (1, 7)), conv(320, (7, 1)), conv(320, 3, stride=2)),
    pool=max_pool,
)
_split = concat(conv1x3=conv(256, (1, 3)), conv3x1=conv(256, (3, 1)))
INCEPTION_C = concat(  # figure 6: 8x8
    conv1x1=conv(256, 1),
    conv3x3=path(conv(384, 1), _split),
    double3x3=path(conv(384, 1), conv(448, (3, 1)), conv(512, (1, 3)), _split),
    pool=path(_mean_pool, conv(256, 1)),
)
STAGES = {
    "stem": STEM,
    "inception_a": repeated(4, INCEPTION_A),
    "reduction_a": REDUCTION_A,
    "inception_b": repeated(7, INCEPTION_B),
    "reduction_b": REDUCTION_B,
    "inception_c": repeated(3, INCEPTION_C),
}


def inception_v4(num_classes: int, image: tuple[int, int, int], *, width_divisor: int = 1) -> nn.Sequential:
    """Inception v4: [N, C, H, W] to logits [N, num_classes]."""
    features, channels = lay(STAGES, image[0], Style(width_divisor))
    return stages(**features, **tail(channels, num_classes, dropout=0.2))
