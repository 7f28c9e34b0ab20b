"""Activation checkpointing: the same bits in less memory, on any net, which is left as it was."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_microbatches import Live, without_collecting
from torch import Tensor, nn

from conviction.errors import UsageError
from conviction.nets import build, sketch
from conviction.nets.batchnorm import BatchNorm
from conviction.planning.layers import meta_copy
from conviction.recipe import Recipe
from conviction.training.loop import Training
from conviction.training.recompute import recomputing, segments

RECIPE = Recipe(epochs=1, optimizer="sgd", lr=0.02, weight_decay=1e-3, schedule="constant", warmup_epochs=0.0,
                device="cpu", precision="fp32", batch_size=4, micro_batch=4)  # fmt: skip


def flat(inplace: bool = False) -> nn.Sequential:
    """Layers in a row without any structure, with every kind of state."""
    convs = [layer for width in (3, 6, 6, 6) for layer in
             (nn.Conv2d(width, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace), nn.Dropout(0.2))]  # fmt: skip
    return nn.Sequential(*convs, nn.MaxPool2d(2), nn.Conv2d(6, 6, 3), nn.ReLU(inplace), BatchNorm(6), nn.Flatten(),
                         nn.Dropout(0.5), nn.Linear(216, 5))  # fmt: skip


class Drawing(nn.Module):
    """Leaves its branch out by Python's and NumPy's generators, and keeps statistics and a count of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 1))
        self.moving_mean, self.runs = torch.zeros(width), 0

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.runs += 1
            self.moving_mean = 0.9 * self.moving_mean + 0.1 * x.detach().mean((0, 2, 3))
        chance = random.random() * np.random.rand() if self.training else 1.0
        return x + chance * self.branch(x) * torch.sigmoid(self.moving_mean).view(1, -1, 1, 1)


class Own(nn.Module):
    """A net with a forward of its own: a list of blocks, tied blocks, spectral norm, keyword arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6, momentum=None), nn.ReLU(inplace=True)
        )
        self.blocks = nn.ModuleList([Drawing(6) for _ in range(3)])
        self.normed = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Conv2d(6, 6, 3)), nn.ReLU(inplace=True))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in [*self.blocks, self.blocks[0]]:
            x = block(x)
        return self.head(self.normed(input=x))


NETS: dict[str, Callable[[], nn.Module]] = {
    "flat": flat,
    "flat, in place": lambda: flat(inplace=True),
    "own": Own,
    "resnet": lambda: build("resnet18/8", 5, (3, 32, 32)),
    "preact": lambda: build("resnet18-preact/8", 5, (3, 32, 32)),
    "vgg": lambda: build("vgg7-bn/8", 5, (3, 32, 32)),
    "auxiliary heads": lambda: build("googlenet-small/8", 5, (3, 32, 32)),
    "densenet": lambda: build("densenet-book/8", 5, (3, 32, 32)),
}


def trained(net: nn.Module, steps: int, **changes: Any) -> tuple[Training, list[float]]:
    training = Training(net.train(), RECIPE.replace(**changes), steps)
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(steps):
        images = torch.randn(4, 3, 32, 32, generator=generator)[:, :, : side(net), : side(net)]
        losses.append(float(training.update(images, torch.randint(5, (4,), generator=generator), 0.02)[0]))
    return training, losses


def side(net: nn.Module) -> int:
    return 16 if isinstance(net, Own) or type(net[0]) is nn.Conv2d else 32


def everything(net: nn.Module) -> dict[str, Any]:
    """All that a net holds: weights, gradients, buffers, attributes, and the generators it draws from."""
    told: dict[str, Any] = dict(net.state_dict())
    told |= {f"{name}.grad": p.grad for name, p in net.named_parameters()}
    told |= {f"{name}.moving_mean": m.moving_mean for name, m in net.named_modules() if isinstance(m, Drawing)}
    told |= {f"{name}.runs": m.runs for name, m in net.named_modules() if isinstance(m, Drawing)}
    return {**told, "torch": torch.get_rng_state(), "python": random.getstate(), "numpy": str(np.random.get_state())}


def assert_same(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]) if isinstance(value, Tensor) else value == right[name], name


WAYS: list[dict[str, Any]] = [{"precision": "bf16", "channels_last": True}, {"micro_batch": 2, "ema": 0.9}]
CASES = [(kind, {}) for kind in NETS] + [(kind, way) for kind in ("flat", "own", "resnet") for way in WAYS]


@pytest.mark.parametrize(("kind", "changes"), CASES)
def test_the_same_bits_as_without_it(kind: str, changes: dict[str, Any]) -> None:
    """Losses, weights, gradients, buffers and random draws after some steps with dropout and batch norm."""
    torch.manual_seed(1)
    net = NETS[kind]()
    assert segments(net)
    steps = 5 if kind in ("flat", "own", "resnet") else 2
    own, losses = trained(copy.deepcopy(net), steps, **changes)
    expected = everything(own.net)
    again, its_losses = trained(net, steps, checkpointing=True, **changes)
    assert its_losses == losses
    assert_same(everything(again.net), expected)
    assert len(set(losses)) == steps


def chain(count: int) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [layer for _ in range(count) for layer in (nn.Conv2d(4, 4, 3, padding=1), nn.Sigmoid())]
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def peak_of(net: nn.Module, image: tuple[int, ...], batch: int, *, kept: bool) -> tuple[int, int]:
    """Bytes held after the forward, and at the peak of forward and backward, beside weights, images and gradients."""
    ghost = meta_copy(net).train()
    with torch.device("meta"), without_collecting(), Live() as live:
        images, labels = torch.empty(batch, *image), torch.empty(batch, dtype=torch.int64)
        before = live.bytes
        with recomputing(ghost) if not kept else torch.enable_grad():
            loss = F.cross_entropy(ghost(images), labels)
            held = live.bytes - before
            loss.backward()
    return held, live.peak_bytes - before


def test_memory_grows_with_the_root_of_the_depth() -> None:
    map_bytes = 4 * 4 * 32 * 32 * 4
    for count in (8, 40):
        plain, _ = peak_of(chain(count), (1, 32, 32), 4, kept=True)
        held, peak = peak_of(chain(count), (1, 32, 32), 4, kept=False)
        layers = 2 * count + 4
        assert plain >= count * map_bytes
        # Inputs of the parts, the last part, and in the backward one part with the gradients that pass through it.
        assert held <= 2 * layers**0.5 * map_bytes
        assert peak <= (3 * layers**0.5 + 4) * map_bytes


@pytest.mark.parametrize(("name", "after_forward", "at_the_peak"), [("vgg11", 0.15, 0.85), ("resnet18", 0.2, 0.65)])
def test_what_nets_save(name: str, after_forward: float, at_the_peak: float) -> None:
    net = sketch(name, 10, (3, 224, 224))
    (held, peak), (less, lower) = (peak_of(net, (3, 224, 224), 64, kept=kept) for kept in (True, False))
    assert 0 < less < after_forward * held
    assert 0 < lower < at_the_peak * peak


def leaves(module: nn.Module) -> list[nn.Module]:
    return [inner for inner in module.modules() if not inner._modules]


@pytest.mark.parametrize("kind", NETS)
def test_segments_are_the_same_on_a_copy_without_numbers_and_change_nothing(kind: str) -> None:
    net = NETS[kind]()
    keys, words = list(net.state_dict()), repr(net)
    told = segments(net)
    assert [name for name, _ in told] == [name for name, _ in segments(meta_copy(net))]
    assert len({name for name, _ in told}) == len(told)
    inside = [leaf for _, part in told for leaf in leaves(part)]
    assert len(inside) == len(set(inside)) and set(inside) <= set(leaves(net))
    assert all(len(leaves(part)) > 1 and not getattr(leaves(part)[0], "inplace", False) for _, part in told)
    with recomputing(net):
        assert list(net.state_dict()) == keys
        assert repr(net) == words
    assert not [module for module in net.modules() if "forward" in vars(module)]


def test_segments_are_stages_blocks_or_runs_of_layers() -> None:
    def names(net: nn.Module) -> list[str]:
        return [name for name, _ in segments(net)]

    assert names(sketch("vgg16", 10, (3, 224, 224))) == ["block1", "block2", "block3", "block4", "block5 to flatten"]
    blocks = [f"stage{stage}.block{block}" for stage, count in zip((1, 2, 3, 4), (3, 4, 6, 3), strict=True)
              for block in range(1, count + 1)]  # fmt: skip
    assert names(sketch("resnet50", 10, (3, 224, 224))) == ["stem", *blocks]
    assert names(flat()) == ["0 to 3", "4 to 7", "8 to 11", "12 to 16", "17 to 21"]
    assert names(Own()) == ["stem", "blocks.0", "blocks.1", "blocks.2", "normed", "head"]
    assert names(nn.Linear(2, 2)) == names(nn.Sequential(nn.Flatten(), nn.Linear(2, 2))) == []
    assert 8 <= len(segments(chain(48))) <= 12  # about the root of 100 layers


def test_a_part_runs_twice_and_the_end_once() -> None:
    net, runs = flat().train(), {}
    for name, module in net.named_modules():
        module.register_forward_hook(lambda m, i, o, name=name: runs.update({name: runs.get(name, 0) + 1}))
    with recomputing(net):
        net(torch.randn(4, 3, 16, 16)).sum().backward()
    inside = {name for name, module in net.named_modules() for _, part in segments(net) if module in leaves(part)}
    # What follows the last tensor that a part needs is not run again: its dropout, for one.
    assert {name for name, count in runs.items() if count == 2} <= inside
    assert runs["0"] == runs["4"] == runs["12"] == 2
    assert runs["22"] == runs[""] == 1
    runs.clear()
    with recomputing(net), torch.no_grad():
        net(torch.randn(4, 3, 16, 16))
    assert set(runs.values()) == {1}


def test_forwards_of_their_own_come_back_whatever_happens() -> None:
    net = Own()

    def mine(input: Tensor) -> Tensor:
        return nn.Sequential.forward(net.normed, input)

    net.normed.forward = mine
    with pytest.raises(RuntimeError, match="the user's own"), recomputing(net):
        assert net.normed.forward is not mine
        raise RuntimeError("the user's own")
    assert net.normed.forward is mine
    assert [name for name, module in net.named_modules() if "forward" in vars(module)] == ["normed"]


class Spoiling(nn.Module):
    """A block that is not the same twice, or writes into what it was given."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.layers, self.how, self.seen = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sigmoid()), how, []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(1)
        if self.how == "in place":
            x = x.mul_(2)
        x = self.layers(x)
        return torch.sigmoid(x) if self.how == "other layers" and len(self.seen) % 2 else x


@pytest.mark.parametrize("how", ["in place", "other layers"])
def test_what_cannot_be_recomputed_is_refused_in_a_line(how: str) -> None:
    blocks = [nn.Sequential(nn.Conv2d(3, 3, 1), nn.Tanh()), *(Spoiling(how) for _ in range(6))]
    net = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5), nn.Flatten())
    with pytest.raises(UsageError) as refusal:
        trained(net, steps=1, checkpointing=True)
    assert str(refusal.value) == ("a part of the net is not the same when it is computed a second time, checkpointing -"
                                  " use checkpointing = false, or layers that do not work in place")  # fmt: skip
    assert not [module for module in net.modules() if "forward" in vars(module)]


def test_a_scripted_net_is_refused() -> None:
    with pytest.raises(UsageError, match=r"parts of a scripted net cannot be recomputed, checkpointing - give"):
        segments(nn.Sequential(torch.jit.script(nn.Linear(2, 2)), nn.ReLU()))
