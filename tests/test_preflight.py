"""The preflight on real pictures: sick nets and recipes are named, healthy ones pass, and nothing is left changed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conviction.data.records import Data
from conviction.errors import ImageTooSmallError
from conviction.feeding import Feed
from conviction.nets import NETS, build, find_net, has_option
from conviction.preflight import Preflight, preflight
from conviction.recipe import Recipe
from conviction.training.deciding import Circumstances, decide
from test_probe import everything, same


def fly(data: Data, net: nn.Module, recipe: Recipe | None = None, change: Callable[..., Any] | None = None,
        count: int = 64, **more: Any) -> Preflight:  # fmt: skip
    """The preflight of a net on `count` real pictures, changed by `change(images, labels)`."""
    recipe, _ = decide(recipe or Recipe(), net, Circumstances(9000, True, False, data.image[1]))
    images, labels = Feed(data, recipe).plain(count)
    if change is not None:
        images, labels = change(images, labels)
    return preflight(net, images, labels, recipe.replace(device="cpu"), data.num_classes, **more)


def causes(found: Preflight) -> list[str]:
    return [("hard " if finding.hard else "") + finding.cause for finding in found.findings]


def relu_net(*end: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*build("lenet-relu", 10, (1, 28, 28)), *end)


def scaled(net: nn.Module, fill: Callable[[Tensor], Any]) -> nn.Module:
    """A net whose weight matrices are filled or scaled in place."""
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim > 1:
                fill(parameter)
    return net


def deep_sigmoids(init: str) -> nn.Module:
    from conviction.nets.init import initialise

    torch.manual_seed(0)
    hidden = [part for _ in range(7) for part in (nn.Linear(64, 64), nn.Sigmoid())]
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.Sigmoid(), *hidden, nn.Linear(64, 10))
    initialise(net, init)
    return net


SGD = Recipe(optimizer="sgd", lr=0.1)

# A sick net or recipe: what is found first.
SICK: dict[str, tuple[str, Callable[[], nn.Module], Recipe, Callable[..., Any] | None]] = {
    "softmax": ("double-softmax", lambda: relu_net(nn.Softmax(1)), Recipe(), None),
    "relu": ("activation-on-logits", lambda: relu_net(nn.ReLU()), Recipe(), None),
    "dropout": ("activation-on-logits", lambda: relu_net(nn.Dropout(0.5)), Recipe(), None),
    "zeros": ("hard init-symmetric", lambda: scaled(relu_net(), lambda w: w.zero_()), Recipe(), None),
    "ones": ("hard init-symmetric", lambda: scaled(relu_net(), lambda w: w.fill_(0.05)), Recipe(), None),
    "huge": ("init-huge", lambda: scaled(relu_net(), lambda w: w.mul_(5)), Recipe(), None),
    "tiny": ("hard init-tiny", lambda: scaled(relu_net(), lambda w: w.normal_(std=1e-4)), SGD, None),
    "nan": ("hard non-finite", lambda: scaled(relu_net(), lambda w: w.view(-1)[0].fill_(math.nan)), Recipe(), None),
    "sigmoids": ("hard saturating-activations", lambda: deep_sigmoids("pytorch"), SGD, None),
    "frozen": ("hard frozen-params", lambda: relu_net().requires_grad_(False), Recipe(), None),
    "no rate": ("hard lr-absurd", relu_net, Recipe(lr=0.0), None),
    "absurd": ("lr-absurd", relu_net, Recipe(lr=1.0), None),
    "low": ("lr-too-low", relu_net, Recipe(lr=1e-6), None),
    "one-based": ("hard labels-malformed", relu_net, Recipe(), lambda x, y: (x, y + 1)),
    "fractions": ("hard labels-malformed", relu_net, Recipe(), lambda x, y: (x, y / 255)),
    "one class": ("labels-malformed", relu_net, Recipe(), lambda x, y: (x, y * 0)),
    "0 to 255": ("input-unscaled", relu_net, Recipe(), lambda x, y: ((x - x.min()) * 70, y)),
    "NaN pixels": ("hard input-unscaled", relu_net, Recipe(), lambda x, y: (x.masked_fill(x > 1, math.nan), y)),
    "one picture": ("hard input-unscaled", relu_net, Recipe(), lambda x, y: (x[:1].expand_as(x), y)),
}  # fmt: skip


@pytest.mark.parametrize("name", SICK)
def test_sick_is_named(name: str, small_data: Data) -> None:
    cause, make, recipe, change = SICK[name]
    found = fly(small_data, make(), recipe, change)
    assert causes(found)[0] == cause
    assert not found.healthy and bool(found.hard) == cause.startswith("hard")


# Nets and recipes that look odd and train.
HEALTHY: dict[str, tuple[Callable[[], nn.Module], Recipe]] = {
    "as it is": (relu_net, Recipe()),
    "sgd": (relu_net, Recipe(optimizer="sgd", lr=0.05)),
    "log-softmax": (lambda: relu_net(nn.LogSoftmax(1)), Recipe()),
    "zero head": (lambda: scaled(relu_net(), lambda w: w.zero_() if len(w) == 10 else None), Recipe()),
    "narrow": (lambda: scaled(relu_net(), lambda w: w.mul_(0.7)), Recipe(optimizer="sgd", lr=0.1)),
    "large rate": (relu_net, Recipe(lr=0.02)),
    "deep sigmoids": (lambda: deep_sigmoids("auto"), Recipe(optimizer="sgd", lr=0.3)),
    "linear": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), Recipe()),
    "frozen body": (lambda: _with_frozen_body(), Recipe(lr=0.05)),
}


def _with_frozen_body() -> nn.Module:
    net = relu_net().requires_grad_(False)
    next(reversed(list(net.modules()))).requires_grad_(True)
    return net


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_twin_is_left_alone(name: str, small_data: Data) -> None:
    make, recipe = HEALTHY[name]
    found = fly(small_data, make(), recipe)
    assert causes(found) == []
    assert found.healthy


REPRESENTATIVES = {"lenet", "lenet-relu", "lenet-bn", "alexnet-small", "vgg7/8", "vgg7-bn/8", "resnet18/8",
                   "resnet18-preact/8"}  # fmt: skip
ROWS = [f"{name}/8" if row.params > 2_000_000 or row.macs > 500_000_000 else name for name, row in NETS.items()]


@pytest.mark.parametrize(
    "name", [name if name in REPRESENTATIVES else pytest.param(name, marks=pytest.mark.slow) for name in ROWS]
)
def test_nets_of_the_house_pass(name: str, small_data: Data) -> None:
    row = find_net(name)
    data = small_data if row.min_image <= 20 else small_data.resized(row.comfortable_side)
    torch.manual_seed(0)
    net = build(name, 10, data.image)
    if has_option(name, "aux"):
        with contextlib.suppress(ImageTooSmallError):  # for its auxiliary heads
            net = build(name, 10, data.image, aux=True)
    assert causes(fly(data, net)) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["lenet", "lenet-bn", "lenet-relu", "nin-small", "vgg7/4", "googlenet-small/4"])
def test_nets_of_the_house_pass_with_every_seed(name: str, seed: int, small_data: Data) -> None:
    torch.manual_seed(seed)
    for optimizer in ("adamw", "sgd"):
        recipe = Recipe(optimizer=optimizer, seed=seed)
        assert causes(fly(small_data, build(name, 10, (1, 28, 28)), recipe)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg11/4", "vgg16/8"])
def test_collapse_stops_deep_nets_without_batch_norm(name: str, small_data: Data) -> None:
    data = small_data.resized(64)
    for init, found in (("pytorch", ["hard init-collapse"]), ("paper", ["hard init-tiny"]), ("auto", [])):
        torch.manual_seed(0)
        net = build(name, 10, data.image, init=init)
        assert causes(fly(data, net, Recipe(optimizer="sgd"))) == found


def test_a_net_that_can_find_its_way_out_is_only_warned_of(small_data: Data) -> None:
    # LeNet under the framework's start learns within 100 steps of AdamW, though the preflight sees none of it yet.
    torch.manual_seed(0)
    found = fly(small_data, build("lenet", 10, (1, 28, 28), init="pytorch"))
    assert causes(found) == ["init-collapse"]
    overfit = found.overfit
    assert overfit is not None and overfit.spread is not None and not overfit.learned
    assert overfit.spread > 4 * found.layers[-1].std  # the logits begin to differ


def test_labels_of_the_whole_split_make_one_class_certain(small_data: Data) -> None:
    def one(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return images, labels * 0 + 3

    everywhere = torch.full((600,), 3)
    assert causes(fly(small_data, relu_net(), change=one, split_labels=everywhere)) == ["hard labels-malformed"]
    assert causes(fly(small_data, relu_net(), change=one, split_labels=small_data.train.labels)) == []


def test_numbers_are_told(small_data: Data) -> None:
    found = fly(small_data, relu_net())
    assert found.expected_loss == pytest.approx(math.log(10))
    assert found.first_loss == pytest.approx(math.log(10), abs=0.1)
    assert found.input_dependence is not None and 0.05 < found.input_dependence < 1
    assert [layer.layer for layer in found.layers][-1] == "head.linear3" or len(found.layers) == 5
    assert found.update_ratio is not None and 1e-3 < found.update_ratio.median < found.update_ratio.largest
    overfit = found.overfit
    assert overfit is not None and overfit.loss_end < 0.5 * overfit.blind_loss <= 0.5 * math.log(10)
    assert overfit.steps < 25 and overfit.images == 16


def test_the_update_is_the_recipes_own(small_data: Data) -> None:
    def ratio(**knobs: Any) -> float:
        found = fly(small_data, relu_net(), Recipe(**knobs)).update_ratio
        assert found is not None
        return found.median

    assert ratio(lr=2e-3) == pytest.approx(2 * ratio(lr=1e-3), rel=1e-3)  # AdamW's first step is the rate itself
    assert ratio(lr=1e-3, weight_decay=5.0) == ratio(lr=1e-3)
    assert ratio(optimizer="sgd", lr=0.2) == pytest.approx(2 * ratio(optimizer="sgd", lr=0.1), rel=1e-3)


def test_the_batch_holds_every_class_once_before_any_twice(small_data: Data) -> None:
    def few_of_most(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        order = labels.eq(3).logical_not().nonzero().flatten()[:9]
        many = labels.eq(3).nonzero().flatten()
        return torch.cat([images[many], images[order]]), torch.cat([labels[many], labels[order]])

    found = fly(small_data, relu_net(), change=few_of_most, count=200)
    assert found.overfit is not None
    assert found.overfit.blind_loss > 1.5  # the first 16 in order would all be of one class


@pytest.mark.parametrize("name", ["lenet-relu", "resnet18-cifar/8"])
def test_everything_is_left_as_it_was(name: str, small_data: Data) -> None:
    net = build(name, 10, (1, 28, 28)).eval()
    net.register_forward_hook(lambda *_: None)
    next(net.parameters()).grad = torch.ones_like(next(net.parameters()))
    before = everything(net)
    fly(small_data, net)
    assert same(before, everything(net))


class Noisy(nn.Module):
    """A net whose forward draws at random in a way that nobody can put to sleep."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(784, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(nn.functional.dropout(x.flatten(1), 0.5))


def test_it_is_a_function_of_its_arguments(small_data: Data) -> None:
    torch.manual_seed(0)
    net = Noisy()

    def told() -> dict[str, Any]:
        return fly(small_data, net).to_dict()

    one = told()
    torch.manual_seed(12345)
    assert told() == one


@pytest.mark.parametrize("image", [(3, 20, 33), (1, 41, 28), (5, 32, 32)])
@pytest.mark.parametrize("count", [2, 5])
def test_any_shape_and_a_batch_of_two(image: tuple[int, int, int], count: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(image[0], 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                        nn.Linear(8, 3))  # fmt: skip
    recipe, _ = decide(Recipe(), net, Circumstances(100, True, False, None))
    images = torch.randn(count, *image)
    labels = torch.arange(count) % 3
    assert not preflight(net, images, labels, recipe.replace(device="cpu"), 3).hard
    alike = preflight(net, images, labels * 0, recipe.replace(device="cpu"), 3)
    assert not alike.hard and alike.overfit is None  # by chance; a blind net knows all of them


class Locked(nn.Module):
    """A net that cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(784, 10)
        self.scale = self.linear.weight.norm()  # not a leaf

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))


def test_a_net_that_cannot_be_copied_is_probed_all_the_same(small_data: Data) -> None:
    net = Locked()
    before = everything(net)
    found = fly(small_data, net)
    assert found.input_dependence and found.overfit is None and found.update_ratio is None
    assert same(before, everything(net))


def test_step_size_can_be_left_out_of_the_questions(small_data: Data) -> None:
    for recipe in (Recipe(lr=1.0), Recipe(lr=1e-6), Recipe(optimizer="sgd", lr=30.0), Recipe(lr=0.0)):
        assert causes(fly(small_data, relu_net(), recipe))
        assert causes(fly(small_data, relu_net(), recipe, step_size=False)) == []
    absurd = Recipe(lr=1.0)
    assert causes(fly(small_data, relu_net(nn.Softmax(1)), absurd, step_size=False)) == ["double-softmax"]


class Counting(nn.Module):
    """A net that tells how many images it was given at once."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.counts = nn.Linear(784, 10), set()

    def forward(self, x: Tensor) -> Tensor:
        self.counts.add(len(x))
        return self.linear(x.flatten(1))

    def __deepcopy__(self, memo: Any) -> Counting:
        other = Counting()
        other.load_state_dict(self.state_dict())
        other.counts = self.counts
        return other


@pytest.mark.parametrize(
    ("batch_size", "precision", "most"),
    [(1, "fp32", 2), (2, "fp32", 2), (5, "fp32", 5), (256, "fp32", 64), (2, "bf16", 2), (20, "bf16", 10)],
)
def test_no_more_images_at_once_than_the_recipe_takes(
    small_data: Data, batch_size: int, precision: str, most: int
) -> None:
    net = Counting()
    found = fly(small_data, net, Recipe(batch_size=batch_size, precision=precision), count=128)
    assert found.unseen is None and max(net.counts) == most and causes(found) == []


@pytest.mark.parametrize("batch_size", [2, 4])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("name", ["lenet", "lenet-bn", "nin-small/8", "vgg7/8", "resnet18-cifar/8"])
def test_nets_of_the_house_pass_with_small_batches(
    small_data: Data, name: str, optimizer: str, batch_size: int
) -> None:
    torch.manual_seed(0)
    net = build(name, 10, (1, 28, 28))
    assert causes(fly(small_data, net, Recipe(optimizer=optimizer, batch_size=batch_size), count=128)) == []


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_other_precisions_see_the_same(small_data: Data, precision: str) -> None:
    found = fly(small_data, relu_net(), Recipe(precision=precision))
    exact = fly(small_data, relu_net(), Recipe(precision="fp32"))
    assert causes(found) == [] and found.overfit is not None and found.overfit.learned
    assert found.update_ratio is not None and exact.update_ratio is not None
    assert found.update_ratio.median == pytest.approx(exact.update_ratio.median, rel=0.1)


def test_it_becomes_json(small_data: Data) -> None:
    found = fly(small_data, scaled(relu_net(), lambda w: w.view(-1)[0].fill_(math.nan)))
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["first_loss"] is None and told["healthy"] is False
    assert {field.name for field in dataclasses.fields(Preflight)} - set(told) == {"layers", "findings", "seconds"}
    whole = fly(small_data, relu_net()).to_dict()
    assert set(whole["overfit"]) >= {"loss_start", "loss_end", "steps"}
    assert set(whole["update_ratio"]) == {"median", "largest"}
