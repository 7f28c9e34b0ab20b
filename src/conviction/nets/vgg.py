"""VGG: blocks of 3x3 convolutions, each block ending in a pool that halves the map (Simonyan & Zisserman 2014)."""

from __future__ import annotations

from torch import nn

from conviction.nets.blocks import narrowed, stages
from conviction.nets.shapes import flat_features

# Convolutions in each of the five blocks: table 1, columns A, B, D and E of the paper.
DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
WIDTHS = (64, 128, 256, 512, 512)


def vgg_block(in_channels: int, channels: int, convolutions: int, batch_norm: bool) -> nn.Sequential:
    """Some 3x3 convolutions of one width, then a pool: [N, in, H, W] to [N, channels, H // 2, W // 2]."""
    layers: dict[str, nn.Module] = {}
    for number in range(1, convolutions + 1):
        layers[f"conv{number}"] = nn.Conv2d(in_channels if number == 1 else channels, channels, 3, padding=1)
        if batch_norm:
            layers[f"norm{number}"] = nn.BatchNorm2d(channels)
        layers[f"relu{number}"] = nn.ReLU()
    return stages(**layers, pool=nn.MaxPool2d(2, 2))


def vgg_features(
    in_channels: int, convolutions: tuple[int, ...], widths: tuple[int, ...], batch_norm: bool
) -> nn.Sequential:
    """Blocks of the given numbers of convolutions and widths."""
    inputs = (in_channels, *widths[:-1])
    blocks = zip(inputs, widths, convolutions, strict=True)
    return stages(**{f"block{n}": vgg_block(*block, batch_norm) for n, block in enumerate(blocks, 1)})


def vgg_head(in_features: int, hidden: int, num_classes: int) -> nn.Sequential:
    """Three linear layers with dropout between them (section 2.1; dropout as in section 3.1)."""
    return stages(
        linear1=nn.Linear(in_features, hidden), relu1=nn.ReLU(), dropout1=nn.Dropout(0.5),
        linear2=nn.Linear(hidden, hidden), relu2=nn.ReLU(), dropout2=nn.Dropout(0.5),
        linear3=nn.Linear(hidden, num_classes),
    )  # fmt: skip


def vgg(
    num_classes: int, image: tuple[int, int, int], *, depth: int, batch_norm: bool = False, width_divisor: int = 1
) -> nn.Sequential:
    """VGG-11 to VGG-19. `width_divisor` narrows the convolutions; the linear layers keep their 4096 units."""
    widths = tuple(narrowed(width, width_divisor) for width in WIDTHS)
    return stages(
        **dict(vgg_features(image[0], DEPTHS[depth], widths, batch_norm).named_children()),
        pool=nn.AdaptiveAvgPool2d(7),  # the identity at 224 pixels; lets the head take any larger or smaller map
        flatten=nn.Flatten(),
        head=vgg_head(widths[-1] * 49, 4096, num_classes),
    )


def vgg7(
    num_classes: int, image: tuple[int, int, int], *, batch_norm: bool = False, width_divisor: int = 1
) -> nn.Sequential:
    """VGG for small images: four convolutions in three blocks and three linear layers, sized for 28 to 64 pixels."""
    widths = tuple(narrowed(width, width_divisor) for width in WIDTHS[:3])
    features = vgg_features(image[0], (1, 1, 2), widths, batch_norm)
    return stages(
        **dict(features.named_children()),
        flatten=nn.Flatten(),
        head=vgg_head(flat_features(features, image), 512, num_classes),
    )
