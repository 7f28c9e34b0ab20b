"""DenseNets: every layer reads all maps made before it in its block and adds a few of its own (Huang et al. 2016)."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from conviction.nets.blocks import Concat, narrowed, stages

# Growth rate, channels after the stem, layers in each dense block: table 1 of the paper; 161 from its section 4.4.
DEPTHS = {
    121: (32, 64, (6, 12, 24, 16)),
    161: (48, 96, (6, 12, 36, 24)),
    169: (32, 64, (6, 12, 32, 32)),
    201: (32, 64, (6, 12, 48, 32)),
}
BOTTLENECK = 4  # width of the 1x1 convolution in growth rates (section 3, "bottleneck layers")

Path = Callable[[int, int], nn.Module]  # input channels, growth rate


def bottleneck_path(in_channels: int, growth: int) -> nn.Sequential:
    """Norm, ReLU, 1x1 convolution; norm, ReLU, 3x3 convolution (DenseNet-B)."""
    width = BOTTLENECK * growth
    return stages(
        norm1=nn.BatchNorm2d(in_channels),
        relu1=nn.ReLU(),
        conv1=nn.Conv2d(in_channels, width, 1, bias=False),
        norm2=nn.BatchNorm2d(width),
        relu2=nn.ReLU(),
        conv2=nn.Conv2d(width, growth, 3, padding=1, bias=False),
    )


def plain_path(in_channels: int, growth: int) -> nn.Sequential:
    """Norm, ReLU, 3x3 convolution, as in the book."""
    return stages(norm=nn.BatchNorm2d(in_channels), relu=nn.ReLU(), conv=nn.Conv2d(in_channels, growth, 3, padding=1))


def dense_block(in_channels: int, growth: int, layers: int, path: Path) -> nn.Sequential:
    """Layers that each join `growth` new maps to all before: [N, in, H, W] to [N, in + layers x growth, H, W]."""
    return stages(**{
        f"layer{number + 1}": Concat({"identity": nn.Identity(), "path": path(in_channels + number * growth, growth)})
        for number in range(layers)
    })  # fmt: skip


def transition(in_channels: int, bias: bool) -> nn.Sequential:
    """Halve channels and map: [N, in, H, W] to [N, in // 2, H // 2, W // 2] (DenseNet-C, theta = 0.5)."""
    return stages(
        norm=nn.BatchNorm2d(in_channels),
        relu=nn.ReLU(),
        conv=nn.Conv2d(in_channels, in_channels // 2, 1, bias=bias),
        pool=nn.AvgPool2d(2, 2),
    )


def _densenet(
    num_classes: int, in_channels: int, width: int, growth: int, blocks: tuple[int, ...], path: Path, bias: bool
) -> nn.Sequential:
    stem = stages(
        conv=nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=bias),
        norm=nn.BatchNorm2d(width),
        relu=nn.ReLU(),
        pool=nn.MaxPool2d(3, stride=2, padding=1),
    )
    body: dict[str, nn.Module] = {}
    for number, layers in enumerate(blocks, 1):
        body[f"block{number}"] = dense_block(width, growth, layers, path)
        width += layers * growth
        if number < len(blocks):
            body[f"transition{number}"] = transition(width, bias)
            width //= 2
    return stages(
        stem=stem,
        **body,
        norm=nn.BatchNorm2d(width),
        relu=nn.ReLU(),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        head=nn.Linear(width, num_classes),
    )


def densenet(num_classes: int, image: tuple[int, int, int], *, depth: int, width_divisor: int = 1) -> nn.Sequential:
    """DenseNet-121 to 201 (DenseNet-BC): [N, C, H, W] to logits [N, num_classes]."""
    growth, width, blocks = DEPTHS[depth]
    growth, width = narrowed(growth, width_divisor), narrowed(width, width_divisor)
    return _densenet(num_classes, image[0], width, growth, blocks, bottleneck_path, bias=False)


def densenet_book(num_classes: int, image: tuple[int, int, int], *, width_divisor: int = 1) -> nn.Sequential:
    """The textbook's small DenseNet: four blocks of four plain layers with growth 32, convolutions with bias."""
    width, growth = narrowed(64, width_divisor), narrowed(32, width_divisor)
    return _densenet(num_classes, image[0], width, growth, (4, 4, 4, 4), plain_path, bias=True)
