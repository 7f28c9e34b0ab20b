"""LeNet-5: two convolutions, three linear layers, as published, with ReLUs, and with batch norm (LeCun et al. 1998)."""

from __future__ import annotations

from torch import nn

from conviction.nets.blocks import narrowed, stages
from conviction.nets.shapes import flat_features

CONVOLUTIONS = (6, 16)
UNITS = (120, 84)


def lenet(num_classes: int, image: tuple[int, int, int], *, width_divisor: int = 1) -> nn.Sequential:
    """LeNet-5 with sigmoids and average pools; the first convolution pads 28 pixels to the paper's 32.

    As usual today, the second convolution reads all maps (table I of the paper leaves some out) and the last layer is
    linear (section II-B has radial basis functions). Smallest image: 12.
    """
    first, second = (narrowed(width, width_divisor) for width in CONVOLUTIONS)
    features = stages(
        conv1=nn.Conv2d(image[0], first, 5, padding=2), sigmoid1=nn.Sigmoid(), pool1=nn.AvgPool2d(2, 2),
        conv2=nn.Conv2d(first, second, 5), sigmoid2=nn.Sigmoid(), pool2=nn.AvgPool2d(2, 2),
    )  # fmt: skip
    head = stages(
        linear1=nn.Linear(flat_features(features, image), UNITS[0]), sigmoid1=nn.Sigmoid(),
        linear2=nn.Linear(*UNITS), sigmoid2=nn.Sigmoid(),
        linear3=nn.Linear(UNITS[1], num_classes),
    )  # fmt: skip
    return stages(**dict(features.named_children()), flatten=nn.Flatten(), head=head)


def lenet_relu(num_classes: int, image: tuple[int, int, int], *, width_divisor: int = 1) -> nn.Sequential:
    """LeNet-5 in today's parts: ReLU, max pools, dropout after the two hidden linear layers. Smallest image: 12."""
    first, second = (narrowed(width, width_divisor) for width in CONVOLUTIONS)
    features = stages(
        conv1=nn.Conv2d(image[0], first, 5, padding=2), relu1=nn.ReLU(), pool1=nn.MaxPool2d(2, 2),
        conv2=nn.Conv2d(first, second, 5), relu2=nn.ReLU(), pool2=nn.MaxPool2d(2, 2),
    )  # fmt: skip
    # A quarter, not the usual half: 84 units have little to spare.
    head = stages(
        linear1=nn.Linear(flat_features(features, image), UNITS[0]), relu1=nn.ReLU(), dropout1=nn.Dropout(0.25),
        linear2=nn.Linear(*UNITS), relu2=nn.ReLU(), dropout2=nn.Dropout(0.25),
        linear3=nn.Linear(UNITS[1], num_classes),
    )  # fmt: skip
    return stages(**dict(features.named_children()), flatten=nn.Flatten(), head=head)


def lenet_bn(num_classes: int, image: tuple[int, int, int], *, width_divisor: int = 1) -> nn.Sequential:
    """LeNet-5 with batch norm before every sigmoid (Ioffe & Szegedy 2015, section 3.2), without padding.

    Smallest image: 16. The biases before a norm do nothing (the norm subtracts them); they are kept because the
    textbook's count of parameters, 44,878 at 1x28x28, has them.
    """
    first, second = (narrowed(width, width_divisor) for width in CONVOLUTIONS)
    features = stages(
        conv1=nn.Conv2d(image[0], first, 5), norm1=nn.BatchNorm2d(first),
        sigmoid1=nn.Sigmoid(), pool1=nn.AvgPool2d(2, 2),
        conv2=nn.Conv2d(first, second, 5), norm2=nn.BatchNorm2d(second),
        sigmoid2=nn.Sigmoid(), pool2=nn.AvgPool2d(2, 2),
    )  # fmt: skip
    head = stages(
        linear1=nn.Linear(flat_features(features, image), UNITS[0]), norm1=nn.BatchNorm1d(UNITS[0]),
        sigmoid1=nn.Sigmoid(),
        linear2=nn.Linear(*UNITS), norm2=nn.BatchNorm1d(UNITS[1]), sigmoid2=nn.Sigmoid(),
        linear3=nn.Linear(UNITS[1], num_classes),
    )  # fmt: skip
    return stages(**dict(features.named_children()), flatten=nn.Flatten(), head=head)
