"""AlexNet: five convolutions, three linear layers, overlapping pools (Krizhevsky et al. 2012; Krizhevsky 2014)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from conviction.nets.blocks import narrowed, stages
from conviction.nets.shapes import flat_features

ONE_TOWER = (64, 192, 384, 256, 256)  # Krizhevsky 2014, section 5: the net on one GPU
TWO_TOWERS = (96, 256, 384, 384, 256)  # Krizhevsky et al. 2012, section 3.5: both GPUs' maps together
SMALL = (32, 96, 128, 128, 96)  # about a third of TWO_TOWERS


def alexnet_features(first: nn.Conv2d, widths: Sequence[int], second_kernel: int = 5) -> nn.Sequential:
    """`first` and four more convolutions; pools 3 wide by steps of 2 overlap (section 3.4 of the 2012 paper)."""
    one, two, three, four, five = widths
    return stages(
        conv1=first, relu1=nn.ReLU(), pool1=nn.MaxPool2d(3, 2),
        conv2=nn.Conv2d(one, two, second_kernel, padding=second_kernel // 2), relu2=nn.ReLU(), pool2=nn.MaxPool2d(3, 2),
        conv3=nn.Conv2d(two, three, 3, padding=1), relu3=nn.ReLU(),
        conv4=nn.Conv2d(three, four, 3, padding=1), relu4=nn.ReLU(),
        conv5=nn.Conv2d(four, five, 3, padding=1), relu5=nn.ReLU(), pool5=nn.MaxPool2d(3, 2),
    )  # fmt: skip


def alexnet(num_classes: int, image: tuple[int, int, int], *, width_divisor: int = 1) -> nn.Sequential:
    """The net of "One weird trick", whose weights torchvision publishes. Smallest image: 63."""
    widths = tuple(narrowed(width, width_divisor) for width in ONE_TOWER)
    features = alexnet_features(nn.Conv2d(image[0], widths[0], 11, stride=4, padding=2), widths)
    # Dropout comes before the two hidden layers, as in the code that trained the published weights.
    head = stages(
        dropout1=nn.Dropout(0.5), linear1=nn.Linear(widths[-1] * 36, 4096), relu1=nn.ReLU(),
        dropout2=nn.Dropout(0.5), linear2=nn.Linear(4096, 4096), relu2=nn.ReLU(),
        linear3=nn.Linear(4096, num_classes),
    )  # fmt: skip
    return stages(
        **dict(features.named_children()),
        pool=nn.AdaptiveAvgPool2d(6),  # the identity at 224 pixels
        flatten=nn.Flatten(),
        head=head,
    )


def alexnet_book(num_classes: int, image: tuple[int, int, int], *, width_divisor: int = 1) -> nn.Sequential:
    """The net of 2012 on one device as textbooks give it: padding 1 in front, no local response normalisation.

    Smallest image: 65.
    """
    widths = tuple(narrowed(width, width_divisor) for width in TWO_TOWERS)
    features = alexnet_features(nn.Conv2d(image[0], widths[0], 11, stride=4, padding=1), widths)
    return stages(
        **dict(features.named_children()),
        flatten=nn.Flatten(),
        head=_head(flat_features(features, image), 4096, num_classes),
    )


def alexnet_small(num_classes: int, image: tuple[int, int, int], *, width_divisor: int = 1) -> nn.Sequential:
    """AlexNet for images of 28 to 64 pixels. Smallest image: 15.

    The 11x11 kernel by steps of 4 would leave 5 of 28 pixels for the pools: here the first convolution is 5x5 by steps
    of 1, and the second 3x3 because it works on 13 pixels, not 27. Widths are a third and the linear layers have 384
    units, in step with a few hundred inputs; the order of layers and the overlapping pools are AlexNet's.
    """
    widths = tuple(narrowed(width, width_divisor) for width in SMALL)
    features = alexnet_features(nn.Conv2d(image[0], widths[0], 5, padding=2), widths, second_kernel=3)
    return stages(
        **dict(features.named_children()),
        flatten=nn.Flatten(),
        head=_head(flat_features(features, image), 384, num_classes),
    )


def _head(in_features: int, hidden: int, num_classes: int) -> nn.Sequential:
    return stages(
        linear1=nn.Linear(in_features, hidden), relu1=nn.ReLU(), dropout1=nn.Dropout(0.5),
        linear2=nn.Linear(hidden, hidden), relu2=nn.ReLU(), dropout2=nn.Dropout(0.5),
        linear3=nn.Linear(hidden, num_classes),
    )  # fmt: skip
