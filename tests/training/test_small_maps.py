"""Convolutions as matrix products: equal to torch's own, and gone when the block is left."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from conviction.recipe import Recipe
from conviction.training import small_maps
from conviction.training.loop import Training
from conviction.training.small_maps import convolve, small_maps_multiplied

LAST = torch.channels_last
SIZES = [(1, 1), (2, 2), (3, 3), (1, 3), (4, 2)]
KERNELS = [(1, 1), (3, 3), (5, 3), (2, 4)]
STRIDES = [(1, 1), (2, 2), (1, 3)]
PADDINGS = [(0, 0), (1, 1), (2, 0)]
GEOMETRIES = [
    (size, kernel, stride, padding)
    for size, kernel, stride, padding in itertools.product(SIZES, KERNELS, STRIDES, PADDINGS)
    if all(side + 2 * around >= taps for side, taps, around in zip(size, kernel, padding, strict=True))
]


@pytest.mark.parametrize("bias", [True, False])
def test_every_geometry_equals_torchs_convolution_in_values_and_gradients(bias):
    assert len(GEOMETRIES) > 80
    for size, kernel, stride, padding in GEOMETRIES:
        torch.manual_seed(0)
        images = torch.randn(3, 2, *size, dtype=torch.float64).contiguous(memory_format=LAST).requires_grad_()
        weight = torch.randn(4, 2, *kernel, dtype=torch.float64).contiguous(memory_format=LAST).requires_grad_()
        biases = torch.randn(4, dtype=torch.float64, requires_grad=True) if bias else None
        inputs = [images, weight, *([biases] if biases is not None else [])]
        theirs, ours = (
            F.conv2d(images, weight, biases, stride, padding),
            convolve(images, weight, biases, stride, padding),
        )
        assert ours.shape == theirs.shape
        given = torch.randn_like(theirs)
        expected, found = (torch.autograd.grad(answer, inputs, given) for answer in (theirs, ours))
        torch.testing.assert_close((ours, *found), (theirs, *expected), rtol=1e-10, atol=1e-10)


def tiny(side=2, **more):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 16, 3, padding=1, **more), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(16 * side**2, 10)).to(memory_format=LAST)


@pytest.fixture
def taken(monkeypatch):
    """Count the convolutions that went through a product."""
    calls = []
    whole = small_maps.convolve
    monkeypatch.setattr(small_maps, "convolve", lambda *args: calls.append(args[0].shape) or whole(*args))
    return calls


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_step_takes_the_products_and_learns_the_same(taken, precision, monkeypatch):
    images, labels = torch.randn(64, 3, 2, 2), torch.randint(10, (64,))
    told = {}
    for pays in (True, False):
        if not pays:
            monkeypatch.setattr(small_maps, "_pays", lambda *_: False)
        net = tiny()
        recipe = Recipe(epochs=1, batch_size=64, device="cpu", precision=precision, channels_last=True, optimizer="sgd",
                        lr=0.1, schedule="constant", clip_norm=0.0, weight_decay=0.0, momentum=0.0)  # fmt: skip
        loss, _ = Training(net, recipe, 1).update(images, labels, 0.1)
        told[pays] = (loss, [parameter.detach() for parameter in net.parameters()])
        assert len(taken) == 2
    near = {"fp32": 1e-6, "bf16": 2e-3}[precision]
    torch.testing.assert_close(told[True], told[False], rtol=near, atol=near)


def test_a_net_is_left_as_it_was_also_after_an_error():
    net = tiny()
    before = {name: set(module.__dict__) for name, module in net.named_modules()}
    with pytest.raises(RuntimeError), small_maps_multiplied(net):
        assert "forward" in net[0].__dict__
        net(torch.zeros(64, 5, 2, 2))
    assert {name: set(module.__dict__) for name, module in net.named_modules()} == before


@pytest.mark.parametrize(
    ("more", "shape"),
    [
        ({}, (64, 3, 8, 8)),  # a large map
        ({}, (4, 3, 2, 2)),  # few images
        ({"padding_mode": "reflect"}, (64, 3, 2, 2)),
    ],
)
def test_what_would_not_pay_or_is_no_plain_convolution_goes_torchs_way(taken, more, shape):
    net = tiny(shape[-1], **more)
    with small_maps_multiplied(net):
        net(torch.zeros(shape).contiguous(memory_format=LAST))
    assert all(channels == 16 for _, channels, *_ in taken)


def test_a_net_whose_images_are_not_channels_last_is_not_turned(taken):
    net = tiny().to(memory_format=torch.contiguous_format)
    images = torch.randn(64, 3, 2, 2)
    with small_maps_multiplied(net):
        net(images)
    assert not taken
