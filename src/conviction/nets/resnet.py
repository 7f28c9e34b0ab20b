"""ResNets: paths that learn what to add to their input (He et al. 2015); pre-activated ones (He et al. 2016); the short
one that trains fast on small images (Page 2018)."""

from __future__ import annotations

from torch import nn

from conviction.nets.blocks import Scale, Sum, conv_bn_relu, narrowed, stages

# Blocks in each of the four stages: table 1 of the paper. From 50 layers on the blocks are bottlenecks.
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
WIDTHS = (64, 128, 256, 512)
BOTTLENECK_FROM, EXPANSION = 50, 4


def _conv(in_channels: int, channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2, bias=False)


def path_convolutions(in_channels: int, width: int, stride: int, bottleneck: bool) -> list[nn.Conv2d]:
    """The convolutions of one block's path (figure 5): two 3x3, or the bottleneck 1x1, 3x3, 1x1 (x4 wide).

    The bottleneck strides in its 3x3 ("v1.5"); the paper strides in the first 1x1. At 50 layers that is
    4.1 GMACs for 3.8.
    """
    if bottleneck:
        return [_conv(in_channels, width, 1), _conv(width, width, 3, stride), _conv(width, EXPANSION * width, 1)]
    return [_conv(in_channels, width, 3, stride), _conv(width, width, 3)]


def needs_projection(convolutions: list[nn.Conv2d], stride: int) -> bool:
    """Whether the shortcut must change the shape of its input to meet the path's (option B of section 3.3)."""
    return stride != 1 or convolutions[0].in_channels != convolutions[-1].out_channels


def block(in_channels: int, width: int, stride: int, bottleneck: bool) -> nn.Sequential:
    """Path with norms, plus shortcut, then ReLU: [N, in, H, W] to [N, width (x4), H / stride, W / stride]."""
    convolutions = path_convolutions(in_channels, width, stride, bottleneck)
    path: dict[str, nn.Module] = {}
    for number, conv in enumerate(convolutions, 1):
        path |= {f"conv{number}": conv, f"norm{number}": nn.BatchNorm2d(conv.out_channels)}
        if conv is not convolutions[-1]:
            path[f"relu{number}"] = nn.ReLU()
    shortcut = None
    if needs_projection(convolutions, stride):
        channels = convolutions[-1].out_channels
        shortcut = stages(conv=_conv(in_channels, channels, 1, stride), norm=nn.BatchNorm2d(channels))
    return stages(sum=Sum(stages(**path), shortcut), relu=nn.ReLU())


def book_block(in_channels: int, width: int, stride: int) -> nn.Sequential:
    """The textbook's block: every convolution with a bias, and no norm on the projection."""
    conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1)
    conv2 = nn.Conv2d(width, width, 3, padding=1)
    norm1, norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
    path = stages(conv1=conv1, norm1=norm1, relu1=nn.ReLU(), conv2=conv2, norm2=norm2)
    shortcut = nn.Conv2d(in_channels, width, 1, stride) if needs_projection([conv1, conv2], stride) else None
    return stages(sum=Sum(path, shortcut), relu=nn.ReLU())


def preact_block(in_channels: int, width: int, stride: int, bottleneck: bool, first: bool = False) -> nn.Module:
    """Norm and ReLU before each convolution, nothing after the sum (He et al. 2016, figure 1b).

    Path and projection share the first norm and ReLU; the net's `first` block leaves them to the stem (their appendix).
    """
    convolutions = path_convolutions(in_channels, width, stride, bottleneck)
    path: dict[str, nn.Module] = {"conv1": convolutions[0]}
    for number, conv in enumerate(convolutions[1:], 2):
        path |= {f"norm{number}": nn.BatchNorm2d(conv.in_channels), f"relu{number}": nn.ReLU(), f"conv{number}": conv}
    activation = {} if first else {"norm1": nn.BatchNorm2d(in_channels), "relu1": nn.ReLU()}
    if not needs_projection(convolutions, stride):
        return Sum(stages(**activation, **path))
    projection = _conv(in_channels, convolutions[-1].out_channels, 1, stride)
    return stages(**activation, sum=Sum(stages(**path), projection))


def _body(depth: int, width_divisor: int, preact: bool) -> tuple[dict[str, nn.Module], int]:
    """The four stages of blocks and the channels that leave them."""
    bottleneck = depth >= BOTTLENECK_FROM
    channels = narrowed(WIDTHS[0], width_divisor)
    body: dict[str, nn.Module] = {}
    for stage, (full_width, count) in enumerate(zip(WIDTHS, DEPTHS[depth], strict=True), 1):
        width = narrowed(full_width, width_divisor)
        blocks: dict[str, nn.Module] = {}
        for number in range(1, count + 1):
            stride = 2 if number == 1 and stage > 1 else 1
            if preact:
                made = preact_block(channels, width, stride, bottleneck, first=stage == number == 1)
            else:
                made = block(channels, width, stride, bottleneck)
            blocks[f"block{number}"] = made
            channels = width * (EXPANSION if bottleneck else 1)
        body[f"stage{stage}"] = stages(**blocks)
    return body, channels


def _stem(in_channels: int, width_divisor: int) -> nn.Sequential:
    width = narrowed(WIDTHS[0], width_divisor)
    return stages(
        conv=_conv(in_channels, width, 7, stride=2),
        norm=nn.BatchNorm2d(width),
        relu=nn.ReLU(),
        pool=nn.MaxPool2d(3, stride=2, padding=1),
    )


def _tail(channels: int, num_classes: int) -> dict[str, nn.Module]:
    return {
        "pool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "head": nn.Linear(channels, num_classes),
    }


def resnet(num_classes: int, image: tuple[int, int, int], *, depth: int, width_divisor: int = 1) -> nn.Sequential:
    """ResNet-18 to 152, v1.5: [N, C, H, W] to logits [N, num_classes]."""
    body, channels = _body(depth, width_divisor, preact=False)
    return stages(stem=_stem(image[0], width_divisor), **body, **_tail(channels, num_classes))


def resnet18_book(num_classes: int, image: tuple[int, int, int], *, width_divisor: int = 1) -> nn.Sequential:
    """The textbook's ResNet-18, with biases that the norms undo: 11,178,378 parameters at 1x96x96, 10 classes."""
    widths = [narrowed(width, width_divisor) for width in WIDTHS]
    stem = stages(
        conv=nn.Conv2d(image[0], widths[0], 7, 2, padding=3), norm=nn.BatchNorm2d(widths[0]), relu=nn.ReLU(),
        pool=nn.MaxPool2d(3, stride=2, padding=1),
    )  # fmt: skip
    body = {
        f"stage{number}": stages(
            block1=book_block(before, width, 1 if number == 1 else 2), block2=book_block(width, width, 1)
        )
        for number, (before, width) in enumerate(zip([widths[0], *widths], widths, strict=False), 1)
    }
    return stages(stem=stem, **body, **_tail(widths[-1], num_classes))


def resnet_cifar(num_classes: int, image: tuple[int, int, int], *, depth: int, width_divisor: int = 1) -> nn.Sequential:
    """ResNet for images of about 32 pixels: the stem is one 3x3 convolution that keeps the map, without a pool."""
    width = narrowed(WIDTHS[0], width_divisor)
    stem = stages(conv=_conv(image[0], width, 3), norm=nn.BatchNorm2d(width), relu=nn.ReLU())
    body, channels = _body(depth, width_divisor, preact=False)
    return stages(stem=stem, **body, **_tail(channels, num_classes))


def resnet_preact(
    num_classes: int, image: tuple[int, int, int], *, depth: int, width_divisor: int = 1
) -> nn.Sequential:
    """Pre-activated ResNet: the shortcuts carry the signal unchanged, and a last norm and ReLU follow the last sum."""
    body, channels = _body(depth, width_divisor, preact=True)
    return stages(
        stem=_stem(image[0], width_divisor),
        **body,
        norm=nn.BatchNorm2d(channels),
        relu=nn.ReLU(),
        **_tail(channels, num_classes),
    )


def _halving(in_channels: int, channels: int, residual: bool) -> nn.Sequential:
    """Convolution, pool, norm, ReLU, with `residual` two more added to it: [N, in, H, W] to [N, out, H // 2, W // 2].

    The pool comes before the norm, which then has a quarter of the map to read.
    """
    layers: dict[str, nn.Module] = {
        "conv": _conv(in_channels, channels, 3), "pool": nn.MaxPool2d(2),
        "norm": nn.BatchNorm2d(channels), "relu": nn.ReLU(),
    }  # fmt: skip
    if residual:
        conv1, conv2 = (conv_bn_relu(channels, channels, 3, padding=1) for _ in range(2))
        layers["residual"] = Sum(stages(conv1=conv1, conv2=conv2))
    return stages(**layers)


def resnet9(
    num_classes: int, image: tuple[int, int, int], *, stem_width: int = 64, width_divisor: int = 1
) -> nn.Sequential:
    """Eight convolutions and a linear layer, for 28 to 32 pixels: [N, C, H, W] to logits [N, num_classes].

    Residual blocks after the first and the third halving; the largest value of each channel goes into logits of an
    eighth of their size. `stem_width` channels leave the stem, twice as many each halving.
    """
    width = narrowed(stem_width, width_divisor)
    return stages(
        stem=conv_bn_relu(image[0], width, 3, padding=1),
        stage1=_halving(width, 2 * width, residual=True),
        stage2=_halving(2 * width, 4 * width, residual=False),
        stage3=_halving(4 * width, 8 * width, residual=True),
        pool=nn.AdaptiveMaxPool2d(1),
        flatten=nn.Flatten(),
        head=nn.Linear(8 * width, num_classes, bias=False),
        scale=Scale(0.125),
    )
