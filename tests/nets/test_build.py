"""`build` and `sketch`: what they take, what they refuse and in which words, and where the weights start."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conviction.errors import ImageTooSmallError, UsageError
from conviction.nets import NETS, build, find_net, names, sketch
from conviction.nets.init import STARTS, equalise, initialise
from conviction.recipe import Recipe


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(UsageError) as caught:
        call()
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_builds_as_published_or_as_asked() -> None:
    assert build("lenet")(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert build("lenet", 7, (3, 20, 31))(torch.zeros(2, 3, 20, 31)).shape == (2, 7)
    assert build("lenet", num_classes=1, image=(1, 28, 28))(torch.zeros(1, 1, 28, 28)).shape == (1, 1)


def test_sketch_has_the_shapes_of_build_and_no_weights() -> None:
    drawn, built = sketch("nin-small", 5, (3, 32, 32)), build("nin-small", 5, (3, 32, 32))
    assert {p.device.type for p in drawn.parameters()} == {"meta"}
    assert {p.device.type for p in built.parameters()} == {"cpu"}
    shapes = [{key: tensor.shape for key, tensor in net.state_dict().items()} for net in (drawn, built)]
    assert shapes[0] == shapes[1]


def test_a_net_knows_its_origin() -> None:
    net = build("googlenet/8", 10, (3, 32, 32), aux=True)
    assert (net.origin.name, net.origin.options) == ("googlenet/8", {"aux": True})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build("vgg12"), "unknown net 'vgg12' (did you mean vgg19 or vgg16 or vgg13?) - see `conviction nets`"),
        (lambda: build("zzz"), "unknown net 'zzz' - see `conviction nets`"),
        (
            lambda: build("lenet\x1b[2J"),
            r"unknown net 'lenet\\x1b[2J' (did you mean lenet or alexnet?) - see `conviction nets`",
        ),
        (lambda: build("vgg11/3"), "unknown net 'vgg11/3' - widths go by /2, /4, /8"),
        (lambda: build("vgg11/"), "unknown net 'vgg11/' - widths go by /2, /4, /8"),
        (lambda: build("lenet", 0), "num_classes = 0 is not a number of classes - use 2 or more"),
        (lambda: build("lenet", True), "num_classes = True is not a number of classes - use 2 or more"),
        (lambda: build("lenet", "10"), "num_classes = '10' is not a number of classes - use 2 or more"),
        (lambda: build("lenet", 10, (28, 28)), "image = (28, 28) is not a shape - use (channels, height, width)"),
        (lambda: build("lenet", 10, (1, 28, 0)), "image = (1, 28, 0) is not a shape - use (channels, height, width)"),
        (
            lambda: build("nin", first_1x=False),
            "nin has no option 'first_1x' (did you mean first_1x1?) - it takes first_1x1, second_1x1",
        ),
        (lambda: build("lenet", aux=True), "lenet has no option 'aux' - it takes none"),
        (lambda: build("vgg11", depth=13), "vgg11 has no option 'depth' - it takes batch_norm"),
        (lambda: build("lenet", width_divisor=2), "lenet has no option 'width_divisor' - it takes none"),
        (
            lambda: build("lenet", init="kaimming"),
            "init = 'kaimming' is unknown (did you mean kaiming?) - use one of auto, paper, pytorch, kaiming, xavier,"
            " normal, truncated-0.01, truncated-0.1, lsuv",
        ),
        (
            lambda: build("lenet", 10, (1, 11, 40)),
            "image 1x11x40 is too small for lenet, layer pool2 cannot take 16x1x16 - use images of at least 12x12",
        ),
        (
            lambda: build("alexnet-book", 10, (1, 64, 64)),
            "image 1x64x64 is too small for alexnet-book, layer pool5 cannot take 256x2x2"
            " - use images of at least 65x65",
        ),
    ],
)
def test_refuses_in_one_line(call: Callable[[], Any], message: str) -> None:
    assert refusal(call) == message


def test_too_small_is_its_own_error() -> None:
    with pytest.raises(ImageTooSmallError):
        sketch("vgg11", 10, (3, 31, 224))


def test_names_are_the_table() -> None:
    assert names() == tuple(NETS)
    assert find_net("vgg11/4").width_divisor == 4
    assert find_net("vgg11").width_divisor == 1


@pytest.mark.parametrize(
    "init", next(f for f in Recipe.__dataclass_fields__.values() if f.name == "init").metadata["choices"]
)
def test_every_init_of_a_recipe_is_reproducible(init: str) -> None:
    nets = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        nets.append(build("googlenet-small/8", 10, (3, 16, 16), init=init))
    first, same, other = ([tensor.clone() for tensor in net.state_dict().values()] for net in nets)
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert all(tensor.isfinite().all() for tensor in first)


def deviation(weight: Tensor) -> float:
    return weight.std().item()


def test_starts_have_the_spread_their_papers_give() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(400, 200)
    expected = {
        "kaiming": math.sqrt(2 / 400), "xavier": math.sqrt(2 / 600), "normal": 0.01,
        "truncated-0.01": 0.0088, "truncated-0.1": 0.088,  # a normal cut at two deviations keeps 0.88 of its own
        "lsuv": math.sqrt(1 / 400),
    }  # fmt: skip
    assert set(expected) == set(STARTS)
    for start, spread in expected.items():
        initialise(layer, start)
        assert deviation(layer.weight) == pytest.approx(spread, rel=0.03), start
        assert not layer.bias.any()
    initialise(layer, "truncated-0.1")
    assert layer.weight.abs().max() <= 0.2


def test_auto_fits_the_activation() -> None:
    torch.manual_seed(0)
    for activation, spread in (
        (nn.ReLU(), math.sqrt(2 / 400)),
        (nn.Tanh(), math.sqrt(2 / 800)),
        (nn.Sigmoid(), 4 * math.sqrt(2 / 800)),
    ):
        net = nn.Sequential(nn.Linear(400, 400), activation, nn.Linear(400, 10))
        initialise(net, "auto")
        assert deviation(net[0].weight) == pytest.approx(spread, rel=0.03), activation
        assert deviation(net[2].weight) == pytest.approx(0.05 / math.sqrt(400), rel=0.05), activation


def test_auto_keeps_the_signal_of_sigmoids_alive() -> None:
    """The published LeNet under plain Xavier gives all images nearly one output: it stays at chance for long."""
    spread = {}
    for init in ("auto", "xavier"):
        torch.manual_seed(0)
        net = build("lenet", 10, (1, 28, 28), init=init)
        hidden = net[:-1](torch.randn(64, 1, 28, 28))
        spread[init] = net.head[:-1](hidden).std(dim=0).mean().item()
    assert spread["auto"] > 5 * spread["xavier"]


def test_auto_starts_the_auxiliary_heads_small_too() -> None:
    torch.manual_seed(0)
    net = build("googlenet/4", 10, (3, 64, 64), aux=True)
    with torch.no_grad():
        logits = net(torch.randn(4, 3, 64, 64))
    assert len(logits) == 3
    assert max(part.std().item() for part in logits) < 0.3


def test_paper_start_is_that_of_the_row() -> None:
    torch.manual_seed(0)
    net = build("alexnet/8", 10, (3, 64, 64), init="paper")
    assert deviation(net.head.linear2.weight) == pytest.approx(0.01, rel=0.01)


def test_equalise_gives_every_layer_unit_variance() -> None:
    torch.manual_seed(0)
    net = build("vgg7/4", 10, (3, 32, 32), init="lsuv").train()
    images = 5 * torch.randn(16, 3, 32, 32)
    equalise(net, images)
    assert net.training
    variances = []
    for layer in net.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(lambda module, inputs, output: variances.append(output.var().item()))
    net.eval()(images)
    assert len(variances) == 7
    assert all(variance == pytest.approx(1, abs=0.15) for variance in variances)


def test_nin_without_a_1x1_loses_that_layer_only() -> None:
    full, no_first, no_second = (
        {key for key, _ in sketch(name).named_parameters()} for name in ("nin", "nin-no-first-1x1", "nin-no-second-1x1")
    )
    for kept, lost in ((no_first, "first_1x1"), (no_second, "second_1x1")):
        assert full - kept == {key for key in full if lost in key}
        assert kept < full


@pytest.mark.parametrize("name", ["nin", "nin-no-first-1x1", "nin-no-second-1x1", "nin-small"])
def test_nin_logits_can_be_negative(name: str) -> None:
    torch.manual_seed(0)
    net = build(name, 10, (1, 80, 80)).eval()
    with torch.no_grad():
        assert (net(torch.randn(4, 1, 80, 80)) < 0).any()


def test_auxiliary_heads_speak_in_training_only() -> None:
    torch.manual_seed(0)
    net = build("googlenet/8", 5, (3, 32, 32), aux=True)
    images = torch.randn(2, 3, 32, 32)
    logits, first, second = net.train()(images)
    assert [part.shape for part in (logits, first, second)] == [(2, 5)] * 3
    assert net.eval()(images).shape == (2, 5)
    keys = [key.split(".")[0] for key in net.state_dict()]
    order = list(dict.fromkeys(keys))
    assert order[-4:] == ["inception5b", "aux1", "aux2", "linear"]  # the order of the published weights
    (first.sum() + 0 * logits.sum() + 0 * second.sum()).backward()
    assert not net.inception4b.path1x1.conv.weight.grad.any()  # aux1 reads the output of 4a, aux2 that of 4d
    assert net.inception4a.path1x1.conv.weight.grad.any()
    net.zero_grad()
    net.train()(images)[2].sum().backward()
    assert net.inception4d.path1x1.conv.weight.grad.any()
    assert net.inception4e.path1x1.conv.weight.grad is None or not net.inception4e.path1x1.conv.weight.grad.any()


def test_no_net_changes_its_input_or_works_in_place() -> None:
    for name in ("lenet-relu", "alexnet-small", "vgg7", "nin-small", "googlenet-small"):
        net = sketch(name)
        assert not [m for m in net.modules() if getattr(m, "inplace", False)], name
