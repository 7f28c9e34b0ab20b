"""Network in network: after each convolution a small net of 1x1 convolutions at every pixel (Lin, Chen & Yan 2013)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from conviction.nets.blocks import narrowed, stages


def nin_block(
    in_channels: int,
    channels: int,
    kernel: int,
    stride: int = 1,
    padding: int = 0,
    *,
    pixelwise: Mapping[str, int],
    last: bool = False,
) -> nn.Sequential:
    """A convolution, then 1x1 convolutions `pixelwise` (name: width), all with ReLU: [N, in, H, W] to [N, C', H', W'].

    The `last` block ends without ReLU: its output becomes the logits, and a ReLU there would silence a class that is
    negative for all images, its gradient zero for good.
    """
    layers: dict[str, nn.Module] = {"conv": nn.Conv2d(in_channels, channels, kernel, stride, padding)}
    for name, width in pixelwise.items():
        layers[f"relu{len(layers) // 2 + 1}"] = nn.ReLU()
        layers[name] = nn.Conv2d(channels, width, 1)
        channels = width
    if not last:
        layers["relu"] = nn.ReLU()
    return stages(**layers)


def nin(
    num_classes: int,
    image: tuple[int, int, int],
    *,
    first_1x1: bool = True,
    second_1x1: bool = True,
    width_divisor: int = 1,
) -> nn.Sequential:
    """NiN for large images: AlexNet's convolutions as NiN blocks, a map for each class, its mean the logit.

    `first_1x1=False` and `second_1x1=False` leave that 1x1 convolution out of every block; as the two are alike, what
    is left computes the same either way. Textbooks end with a ReLU on the logits; here there is none (see `nin_block`),
    which changes no parameter. Smallest image: 67.
    """
    one, two, three = (narrowed(width, width_divisor) for width in (96, 256, 384))
    kept = [name for name, keep in (("first_1x1", first_1x1), ("second_1x1", second_1x1)) if keep]

    ones, twos, threes, classes = (dict.fromkeys(kept, width) for width in (one, two, three, num_classes))
    return stages(
        block1=nin_block(image[0], one, 11, 4, pixelwise=ones), pool1=nn.MaxPool2d(3, 2),
        block2=nin_block(one, two, 5, padding=2, pixelwise=twos), pool2=nn.MaxPool2d(3, 2),
        block3=nin_block(two, three, 3, padding=1, pixelwise=threes), pool3=nn.MaxPool2d(3, 2),
        dropout=nn.Dropout(0.5),
        block4=nin_block(three, num_classes, 3, padding=1, pixelwise=classes, last=True),
        pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(),
    )  # fmt: skip


def nin_small(num_classes: int, image: tuple[int, int, int], *, width_divisor: int = 1) -> nn.Sequential:
    """NiN for images of 28 to 64 pixels: the paper's three blocks for CIFAR-10 at half its widths, no batch norm.

    Smallest image: 7.
    """
    w48, w80, w96 = (narrowed(width, width_divisor) for width in (48, 80, 96))
    return stages(
        block1=nin_block(image[0], w96, 5, padding=2, pixelwise={"first_1x1": w80, "second_1x1": w48}),
        pool1=nn.MaxPool2d(3, 2), dropout1=nn.Dropout(0.5),
        block2=nin_block(w48, w96, 5, padding=2, pixelwise={"first_1x1": w96, "second_1x1": w96}),
        pool2=nn.AvgPool2d(3, 2), dropout2=nn.Dropout(0.5),
        block3=nin_block(w96, w96, 3, padding=1, pixelwise={"first_1x1": w96, "second_1x1": num_classes}, last=True),
        pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(),
    )  # fmt: skip
