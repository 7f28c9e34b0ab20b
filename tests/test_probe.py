"""The probe: numbers that are right, on any net, which it leaves exactly as it was."""

from __future__ import annotations

import math
import random
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conviction.nets import build
from conviction.probe import probe, rms_of, std_across
from conviction.training.loop import total_loss


def cross_entropy(outputs: Any, labels: Tensor) -> Tensor:
    return total_loss(outputs, labels, 0.0, 0.3)


def batch(count: int = 16, image: tuple[int, int, int] = (1, 28, 28)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, *image, generator=generator), torch.arange(count) % 10


def small(*end: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 20), nn.ReLU(), nn.Linear(20, 10), *end)


class Functional(nn.Module):
    """A net of functions, as many people write them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.linear = nn.Conv2d(1, 4, 3), nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.sigmoid(self.conv(x)).mean((2, 3)))


def test_numbers_are_those_of_the_definition() -> None:
    net, (images, labels) = small(), batch()
    seen = probe(net, images, labels, cross_entropy)
    hidden = net[1](net[0](images))
    logits = net(images)
    F.cross_entropy(logits, labels).backward()
    gradient = net[1].weight.grad
    assert gradient is not None
    first, last = seen.signals
    assert (first.layer, first.kind, last.layer) == ("1", "Linear", "3")
    expected = {
        first.rms: hidden.square().mean().sqrt(),
        first.std: (hidden - hidden.mean(0)).square().mean().sqrt(),
        first.weight_rms: net[1].weight.square().mean().sqrt(),
        first.gradient_rms: gradient.square().mean().sqrt(),
        first.dead_share: ((hidden > 0).sum(0) == 0).float().mean(),
        seen.loss: F.cross_entropy(logits, labels),
        seen.cross_entropy: F.cross_entropy(logits, labels),
        seen.logits_rms: logits.square().mean().sqrt(),
        seen.input_dependence: (logits - logits.mean(0)).square().mean().sqrt() / logits.square().mean().sqrt(),
        seen.max_softmax: logits.softmax(1).amax(1).mean(),
    }
    for value, right in expected.items():
        assert value == pytest.approx(right.item(), rel=1e-5)
    assert (seen.samples, seen.classes, seen.made_by, seen.not_finite) == (16, 10, "addmm", "")
    assert last.dead_share is None and first.slope is None


def test_dead_units_are_counted_only_where_zero_on_every_sample() -> None:
    net, (images, labels) = small(), batch()
    with torch.no_grad():
        net[1].bias[:5] = -1e3
    assert probe(net, images, labels, cross_entropy).signals[0].dead_share == pytest.approx(5 / 20)


def test_dead_channels_are_counted_over_the_whole_map() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 26 * 26, 10))
    with torch.no_grad():
        net[0].bias[0] = -1e3
    assert probe(net, *batch(), cross_entropy).signals[0].dead_share == pytest.approx(1 / 4)


def test_functions_are_seen_as_well_as_modules() -> None:
    net, (images, labels) = Functional(), batch()
    (conv, _) = probe(net, images, labels, cross_entropy).signals
    answers = torch.sigmoid(net.conv(images))
    assert conv.slope == pytest.approx((answers * (1 - answers)).mean().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("end", "made_by", "sums"),
    [
        (nn.ReLU(), "relu", False),
        (nn.Sigmoid(), "sigmoid", False),
        (nn.Softmax(1), "softmax", True),
        (nn.LogSoftmax(1), "logsoftmax", False),
        (nn.Dropout(0.5), "dropout", False),
        (nn.Dropout(0.0), "addmm", False),
        (nn.Unflatten(1, (10,)), "addmm", False),
        (nn.Identity(), "addmm", False),
    ],
)
def test_what_makes_the_logits_is_known(end: nn.Module, made_by: str, sums: bool) -> None:
    seen = probe(small(end), *batch(), cross_entropy)
    assert (seen.made_by, seen.sums_to_one) == (made_by, sums)


@pytest.mark.parametrize("name", ["vgg7", "resnet18/8", "densenet-book"])
def test_nets_of_relu_are_not_taken_for_relu_on_logits(name: str) -> None:
    assert probe(build(name, 10, (1, 32, 32)), *batch(4, (1, 32, 32)), cross_entropy).made_by in ("addmm", "mean")


def test_dropout_sleeps() -> None:
    images = torch.zeros(16, 1, 28, 28)
    awake = nn.Sequential(nn.Flatten(), nn.Linear(784, 20), nn.ReLU(), nn.Dropout(0.5), nn.Linear(20, 10))
    seen = probe(awake, images, batch()[1], cross_entropy)
    assert seen.input_dependence == pytest.approx(0.0, abs=1e-6)


def test_batch_norm_goes_by_the_batch_and_heads_are_heard() -> None:
    net = build("googlenet/8", 10, (3, 64, 64), aux=True)
    seen = probe(net.eval(), *batch(4, (3, 64, 64)), cross_entropy)
    assert seen.loss > seen.cross_entropy  # two more heads
    assert seen.logits_rms > 0


@pytest.mark.parametrize("size", [1e-30, 1e-10, 1.0, 1e25])
def test_rms_holds_for_all_sizes(size: float) -> None:
    values = torch.tensor([3.0, -4.0, 0.0, 0.0]) * size
    assert rms_of(values) == pytest.approx(2.5 * size, rel=1e-5)
    assert std_across(values[:2].view(2, 1)) == pytest.approx(3.5 * size, rel=1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_rms_of_what_is_not_finite_is_nan(value: float) -> None:
    assert math.isnan(rms_of(torch.tensor([1.0, value])))
    assert rms_of(torch.tensor([])) == rms_of(torch.zeros(3)) == 0.0


def test_not_finite_names_the_first_module() -> None:
    class Hole(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / 0 * 0

    torch.manual_seed(0)
    net = nn.Sequential(OrderedDict(flat=nn.Flatten(), linear=nn.Linear(784, 20), hole=Hole(), end=nn.Linear(20, 10)))
    seen = probe(net, *batch(), cross_entropy)
    assert seen.not_finite == "hole"
    assert math.isnan(seen.loss) and math.isnan(seen.signals[1].rms)


def test_units_that_are_the_same_and_stay_so() -> None:
    net = small()
    nn.init.constant_(net[1].weight, 0.1)
    nn.init.zeros_(net[1].bias)
    # The same weights alone do not do: rows of the next layer differ, and so do the gradients.
    assert [signal.alike for signal in probe(net, *batch(), cross_entropy).signals] == [False, False]
    nn.init.constant_(net[3].weight, 0.1)
    assert [signal.alike for signal in probe(net, *batch(), cross_entropy).signals] == [True, False]


def test_a_head_that_starts_at_zero_is_not_symmetric() -> None:
    net = small()
    nn.init.zeros_(net[3].weight)
    nn.init.zeros_(net[3].bias)
    seen = probe(net, *batch(), cross_entropy)
    assert seen.input_dependence is None and seen.logits_rms == 0
    assert not any(signal.alike for signal in seen.signals)


def test_frozen_layers_get_no_gradient() -> None:
    net = small()
    net[1].requires_grad_(False)
    first, last = probe(net, *batch(), cross_entropy).signals
    assert first.gradient_rms is None and last.gradient_rms
    assert probe(net.requires_grad_(False), *batch(), cross_entropy).signals[1].gradient_rms is None


def test_one_image_has_no_dependence() -> None:
    assert probe(small(), *batch(1), cross_entropy).input_dependence is None


class Restless(nn.Module):
    """A net that draws from every random state, keeps a count and puts a new tensor into a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.BatchNorm2d(1), nn.Linear(784, 10)
        self.register_buffer("count", torch.zeros(1))
        self.count: Tensor

    def forward(self, x: Tensor) -> Tensor:
        self.count = self.count + 1
        noise = random.random() + float(np.random.rand()) + torch.rand(1)
        return self.linear(self.norm(x).flatten(1)) * noise


def everything(net: nn.Module) -> dict[str, Any]:
    """All of a net that somebody may notice, and the random states."""
    return {
        "state": {name: (id(tensor), tensor.clone()) for name, tensor in net.state_dict(keep_vars=True).items()},
        "grads": [None if p.grad is None else (id(p.grad), p.grad.clone()) for p in net.parameters()],
        "modes": [module.training for module in net.modules()],
        "hooks": [len(hooks) for m in net.modules() for name, hooks in vars(m).items() if "hooks" in name and hooks],
        "random": (random.getstate(), torch.get_rng_state(), np.random.get_state()[1]),
        "dropout": [module.p for module in net.modules() if isinstance(module, nn.Dropout)],
    }


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return bool((one == other).all())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize("grads", [False, True])
@pytest.mark.parametrize("name", ["restless", "lenet-relu", "resnet18/8"])
def test_the_net_is_left_as_it_was(name: str, grads: bool) -> None:
    net = Restless() if name == "restless" else build(name, 10, (1, 28, 28))
    net.register_forward_hook(lambda *_: None)
    if grads:
        cross_entropy(net(batch()[0]), batch()[1]).backward()
    for number, module in enumerate(net.modules()):
        module.training = number % 2 == 0
    before = everything(net)
    probe(net, *batch(), cross_entropy)
    assert same(before, everything(net))


def test_the_net_is_left_as_it_was_when_it_fails() -> None:
    net = Restless().eval()
    before = everything(net)
    with pytest.raises(RuntimeError):
        probe(net, torch.zeros(2, 1, 5, 5), torch.zeros(2, dtype=torch.int64), cross_entropy)
    assert same(before, everything(net))


def test_no_grad_around_it_does_not_matter() -> None:
    with torch.no_grad():
        assert probe(small(), *batch(), cross_entropy).signals[0].gradient_rms


class Scripted(nn.Module):
    """A net with a scripted part, in which no hook may hang."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.rest = nn.Linear(784, 20), torch.jit.script(nn.Sequential(nn.ReLU(), nn.Linear(20, 10)))

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.first(x.flatten(1)))


def test_scripted_parts_are_run_and_not_watched() -> None:
    seen = probe(Scripted(), *batch(), cross_entropy)
    assert [signal.layer for signal in seen.signals] == ["first"]
    whole = probe(torch.jit.script(small(nn.Dropout(0.5))), *batch(), cross_entropy)
    assert whole.signals == () and whole.cross_entropy > 0
    assert whole.cross_entropy == pytest.approx(probe(small(), *batch(), cross_entropy).cross_entropy)


class Growing(nn.Module):
    """A net whose forward makes and fills buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(784, 10)
        self.register_buffer("empty", None)

    def forward(self, x: Tensor) -> Tensor:
        self.register_buffer("new", torch.ones(784))
        self.empty = torch.zeros(10)
        return self.linear(x.flatten(1) * self.new) + self.empty


def test_buffers_that_a_forward_makes_are_gone_afterwards() -> None:
    net = Growing()
    probe(net, *batch(), cross_entropy)
    assert dict(net._buffers) == {"empty": None}
