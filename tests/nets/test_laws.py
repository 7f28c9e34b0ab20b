"""Laws that hold for every row of NETS: figures as published, smallest image, gradients, state, start, capacity."""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from conviction.errors import ImageTooSmallError
from conviction.nets import NETS, build, sketch
from conviction.nets.catalogue import WIDTH_DIVISORS

# One net of each builder keeps the unmarked suite short; the others obey the same laws under `slow`.
REPRESENTATIVES = {
    "lenet", "lenet-relu", "lenet-bn", "alexnet", "alexnet-book", "alexnet-small", "vgg7", "vgg11", "vgg11-bn", "nin",
    "nin-small", "googlenet", "googlenet-book", "googlenet-small", "inception-bn", "inception-v3",
    "inception-v4", "inception-resnet-v1", "resnet18", "resnet50", "resnet18-preact",
    "resnet18-cifar", "resnet9-small", "densenet121", "densenet-book",
}  # fmt: skip
# The search for the smallest image builds a net many times.
SEARCHED = REPRESENTATIVES - {"inception-v3", "inception-v4", "inception-resnet-v1", "densenet121"}
# Training is dearer: one net of each idea.
TRAINED = {
    "lenet", "lenet-relu", "lenet-bn", "alexnet-small", "vgg7", "vgg11-bn", "nin-small", "googlenet-small",
    "inception-bn", "inception-v3", "inception-resnet-v1", "resnet18-preact", "resnet18-cifar", "resnet9-small",
    "densenet-book",
}  # fmt: skip
LARGE_PARAMS = 20_000_000  # above it laws on real numbers are checked at an eighth of the widths
CLASSES = 10

# Name, image, classes, auxiliary heads; params, MACs to the digits published. Sources: "Dive into Deep Learning" (grey
# images, 10 classes), torchvision's tables of weights and timm's results (three channels, 1000 classes).
IMAGENET, IMAGENET299 = (3, 224, 224), (3, 299, 299)
PUBLISHED: list[tuple[str, tuple[int, int, int], int, bool, int, str]] = [
    ("lenet", (1, 28, 28), 10, False, 61_706, "0.42 M"),
    ("lenet-bn", (1, 28, 28), 10, False, 44_878, "0.28 M"),
    ("alexnet-book", (1, 224, 224), 10, False, 46_764_746, "938.1 M"),
    ("vgg11", (1, 224, 224), 10, False, 128_806_154, "7547.2 M"),
    ("vgg11/4", (1, 224, 224), 10, False, 43_093_322, "512.2 M"),
    ("nin", (1, 224, 224), 10, False, 1_992_166, "762.3 M"),
    ("googlenet-book", (1, 96, 96), 10, False, 5_977_530, "276.1 M"),
    ("googlenet-book", (1, 224, 224), 10, False, 5_977_530, "1503.0 M"),
    ("resnet18-book", (1, 96, 96), 10, False, 11_178_378, "318.7 M"),
    ("densenet-book", (1, 96, 96), 10, False, 758_226, "129.1 M"),
    ("alexnet", IMAGENET, 1000, False, 61_100_840, "0.714 G"),
    ("vgg11", IMAGENET, 1000, False, 132_863_336, "7.609 G"),
    ("vgg11-bn", IMAGENET, 1000, False, 132_868_840, "7.609 G"),
    ("vgg13", IMAGENET, 1000, False, 133_047_848, "11.308 G"),
    ("vgg13-bn", IMAGENET, 1000, False, 133_053_736, "11.308 G"),
    ("vgg16", IMAGENET, 1000, False, 138_357_544, "15.470 G"),
    ("vgg16-bn", IMAGENET, 1000, False, 138_365_992, "15.470 G"),
    ("vgg19", IMAGENET, 1000, False, 143_667_240, "19.632 G"),
    ("vgg19-bn", IMAGENET, 1000, False, 143_678_248, "19.632 G"),
    ("googlenet", IMAGENET, 1000, False, 6_624_904, "1.498 G"),
    ("googlenet", IMAGENET, 1000, True, 13_004_888, "1.498 G"),
    ("inception-v3", IMAGENET299, 1000, False, 23_834_568, "5.713 G"),
    ("inception-v3", IMAGENET299, 1000, True, 27_161_264, "5.713 G"),
    ("inception-v4", IMAGENET299, 1000, False, 42_679_816, "12.254 G"),
    ("inception-resnet-v2", IMAGENET299, 1000, False, 55_843_464, "13.156 G"),
    ("resnet18", IMAGENET, 1000, False, 11_689_512, "1.814 G"),
    ("resnet34", IMAGENET, 1000, False, 21_797_672, "3.664 G"),
    ("resnet50", IMAGENET, 1000, False, 25_557_032, "4.089 G"),
    ("resnet101", IMAGENET, 1000, False, 44_549_160, "7.801 G"),
    ("resnet152", IMAGENET, 1000, False, 60_192_808, "11.514 G"),
    ("densenet121", IMAGENET, 1000, False, 7_978_856, "2.834 G"),
    ("densenet161", IMAGENET, 1000, False, 28_681_000, "7.728 G"),
    ("densenet169", IMAGENET, 1000, False, 14_149_480, "3.360 G"),
    ("densenet201", IMAGENET, 1000, False, 20_013_928, "4.291 G"),
]


def every_net(unmarked: set[str] = REPRESENTATIVES) -> list[Any]:
    """Every name of NETS, those outside `unmarked` marked slow."""
    return [name if name in unmarked else pytest.param(name, marks=pytest.mark.slow) for name in NETS]


@functools.cache
def figures(name: str, image: tuple[int, int, int], classes: int, aux: bool) -> tuple[int, float]:
    """Params, and MACs of one image by torch's own counter, which counts two FLOPs for each."""
    net = sketch(name, classes, image, **({"aux": True} if aux else {})).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.empty(1, *image, device="meta"))
    return count_params(net), counter.get_total_flops() / 2


def count_params(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def affordable(name: str) -> str:
    """The net, or its narrow form where it is large."""
    return f"{name}/8" if NETS[name].params > LARGE_PARAMS else name


def noise(count: int, image: tuple[int, int, int], seed: int = 0) -> Tensor:
    return torch.randn(count, *image, generator=torch.Generator().manual_seed(seed))


def roomy(name: str) -> tuple[int, int, int]:
    """A small image on which every stage still sees more than a point or two."""
    return (3, *[max(32, NETS[name].min_image + 16)] * 2)


def without_dropout(net: nn.Module) -> nn.Module:
    """The net in its mode, dropout asleep: it adds noise to what is measured."""
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    return net


def biases_before_norm(net: nn.Module) -> set[str]:
    """Biases that a batch norm subtracts again: their gradient is zero but for rounding."""
    leaves = [(name, module) for name, module in net.named_modules() if not list(module.children())]
    return {
        f"{name}.bias"
        for (name, module), (_, following) in itertools.pairwise(leaves)
        if isinstance(module, (nn.Conv2d, nn.Linear)) and isinstance(following, (nn.BatchNorm1d, nn.BatchNorm2d))
    }


@pytest.mark.parametrize("name", every_net(REPRESENTATIVES | {row[0] for row in PUBLISHED}))
def test_row_tells_the_truth(name: str) -> None:
    row = NETS[name]
    params, macs = figures(name, row.image, row.num_classes, False)
    assert params == row.params
    assert macs == row.macs


@pytest.mark.parametrize(("name", "image", "classes", "aux", "params", "macs"), PUBLISHED, ids=str)
def test_figures_are_those_published(
    name: str, image: tuple[int, int, int], classes: int, aux: bool, params: int, macs: str
) -> None:
    ours = figures(name, image, classes, aux)
    assert ours[0] == params
    number, unit = macs.split()
    digits = len(number.partition(".")[2])
    assert f"{ours[1] / {'M': 1e6, 'G': 1e9}[unit]:.{digits}f}" == number


def test_inception_bn_is_published_by_a_wider_count() -> None:
    """Its 2.048 G count four more operations for each number a convolution gives: bias, norm (two) and ReLU."""
    outputs = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal outputs
        outputs += output.numel()

    net = sketch("inception-bn").eval()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    net(torch.empty(1, *IMAGENET, device="meta"))
    params, macs = figures("inception-bn", IMAGENET, 1000, False)
    assert params == 11_295_240
    assert f"{(macs + 4 * outputs) / 1e9:.3f}" == "2.048"


@pytest.mark.parametrize("name", every_net(SEARCHED))
def test_below_the_smallest_image_a_layer_is_named(name: str) -> None:
    smallest = NETS[name].min_image
    if smallest == 1:
        assert isinstance(sketch(name, CLASSES, (3, 1, 1)), nn.Module)
        return
    with pytest.raises(ImageTooSmallError) as caught:
        sketch(name, CLASSES, (3, smallest - 1, smallest + 40))
    message = str(caught.value)
    assert message.startswith(f"image 3x{smallest - 1}x{smallest + 40} is too small for {name}, layer ")
    layer = re.search(r"layer (\S+) cannot take \d+x", message)
    assert layer and layer[1] in dict(sketch(name).named_modules()), message
    assert message.endswith(f" - use images of at least {smallest}x{smallest}")


@pytest.mark.parametrize("name", every_net())
def test_takes_any_channels_and_oblong_images(name: str) -> None:
    side = NETS[name].min_image
    net = sketch(affordable(name), CLASSES, (2, side, side + 21))
    assert net(torch.empty(2, 2, side, side + 21, device="meta")).shape == (2, CLASSES)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("name", NETS)
def test_takes_one_to_four_channels(name: str, channels: int) -> None:
    side = NETS[name].min_image
    first = next(m for m in sketch(name, CLASSES, (channels, side + 7, side)).modules() if isinstance(m, nn.Conv2d))
    assert first.in_channels == channels


@pytest.mark.parametrize("name", every_net())
def test_narrow_form_has_fewer_weights(name: str) -> None:
    assert count_params(sketch(f"{name}/4")) < NETS[name].params


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_narrower_forms_have_ever_fewer_weights(name: str) -> None:
    counts = [NETS[name].params, *(count_params(sketch(f"{name}/{divisor}")) for divisor in WIDTH_DIVISORS)]
    assert counts == sorted(set(counts), reverse=True)


@pytest.fixture(scope="module", params=every_net())
def real(request: pytest.FixtureRequest) -> Iterator[tuple[str, nn.Module]]:
    """Name and net with weights, built once for the laws on real numbers; they leave the parameters as they are."""
    torch.manual_seed(0)
    yield request.param, build(affordable(request.param), CLASSES, roomy(request.param))


def test_first_loss_is_that_of_guessing(real: tuple[str, nn.Module]) -> None:
    name, net = real
    without_dropout(net.train())
    with torch.no_grad():
        loss = F.cross_entropy(net(noise(8, roomy(name))), torch.arange(8))
    assert loss.item() == pytest.approx(math.log(CLASSES), abs=0.1)


def test_every_parameter_learns(real: tuple[str, nn.Module]) -> None:
    name, net = real
    net.train().zero_grad()
    F.cross_entropy(net(noise(4, roomy(name))), torch.arange(4)).backward()
    idle = biases_before_norm(net)
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert key in idle or parameter.grad.any(), key
    net.zero_grad()


def test_smallest_image_passes_with_real_numbers(real: tuple[str, nn.Module]) -> None:
    name, net = real
    image = (3, *[NETS[name].min_image] * 2)
    if not any(isinstance(module, nn.AdaptiveAvgPool2d) for module in net.modules()):
        net = build(affordable(name), CLASSES, image)  # its first linear layer is cut for one image size
    with torch.no_grad():
        for training in (True, False):
            logits = net.train(training)(noise(2, image))
            assert logits.shape == (2, CLASSES)
            assert logits.isfinite().all()


def test_state_round_trips(real: tuple[str, nn.Module]) -> None:
    name, net = real
    other = build(affordable(name), CLASSES, roomy(name), init="pytorch")
    images = noise(2, roomy(name))
    with torch.no_grad():
        expected = net.eval()(images)
        assert not torch.equal(other.eval()(images), expected)
        other.load_state_dict(net.state_dict())
        assert torch.equal(other(images), expected)


@pytest.mark.parametrize("name", every_net(TRAINED))
def test_overfits_one_batch(name: str) -> None:
    """Eight images of noise, each its own class."""
    torch.manual_seed(1)
    net = without_dropout(build(affordable(name), CLASSES, roomy(name)).train())
    images, labels = noise(8, roomy(name)), torch.arange(8)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(300):
        logits = net(images)
        loss = F.cross_entropy(logits, labels)
        if loss < 0.1:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    assert logits.argmax(1).tolist() == labels.tolist()
