"""Precise batch norm: plain averages over batches, nothing else moved, and a training that does not notice."""

from __future__ import annotations

import copy
import itertools
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conviction.nets.batchnorm import BatchNorm
from conviction.recipe import Recipe
from conviction.training.loop import Training
from conviction.training.statistics import Lag, keeps_statistics, recompute, refresh

BATCHES = 5
RECIPE = Recipe(epochs=3, optimizer="sgd", lr=0.05, weight_decay=1e-3, schedule="cosine", warmup_epochs=0.0,
                device="cpu", precision="fp32", batch_size=16, channels_last=False)  # fmt: skip


def images(seed: int = 0, count: int = BATCHES) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(16, 2, 6, 6, generator=generator) * 3 + 1, torch.randint(3, (16,), generator=generator))
            for _ in range(count)]  # fmt: skip


def small_net(norm: Any = nn.BatchNorm2d) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(2, 4, 3), norm(4), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 4, 3), norm(4),
                         nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 3))  # fmt: skip


NORMS: dict[str, Any] = {
    "torch's": nn.BatchNorm2d,
    "from scratch": BatchNorm,
    "cumulative": lambda width: nn.BatchNorm2d(width, momentum=None),
    "without scale": lambda width: nn.BatchNorm2d(width, affine=False),
    "several processes'": lambda width: nn.SyncBatchNorm(width),
    "quick": lambda width: nn.BatchNorm2d(width, momentum=0.9),
}


def by_hand(net: nn.Sequential, batches: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Mean and variance before each norm, the batches normalised by themselves and no unit dropped."""
    told: list[list[tuple[Tensor, Tensor]]] = [[] for layer in net if keeps_statistics(layer)]
    for x, _ in batches:
        number = 0
        for layer in net:
            if keeps_statistics(layer):
                dims = [0, *range(2, x.dim())]
                mean, var = x.mean(dims), x.var(dims)
                told[number].append((mean, var))
                shape = (1, -1, *[1] * (x.dim() - 2))
                biased = x.var(dims, correction=0)
                x = (x - mean.view(shape)) / (biased.view(shape) + 1e-5).sqrt()
                number += 1
            elif not isinstance(layer, nn.Dropout):
                x = layer(x)
    return [tuple(torch.stack(part).mean(0) for part in zip(*each, strict=True)) for each in told]


def statistics_of(net: nn.Module) -> list[tuple[Tensor, Tensor]]:
    return [
        (layer.running_mean.clone(), layer.running_var.clone()) for layer in net.modules() if keeps_statistics(layer)
    ]


def others_of(net: nn.Module) -> list[Any]:
    """All of a net that recomputing must leave."""
    told: list[Any] = [parameter.detach().clone() for parameter in net.parameters()]
    for module in net.modules():
        count = getattr(module, "num_batches_tracked", None)
        told += [module.training, getattr(module, "momentum", None), None if count is None else int(count)]
        told += [len(module._forward_hooks)]
    return told


def same(left: list[Any], right: list[Any]) -> bool:
    return len(left) == len(right) and all(
        torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm", NORMS)
def test_statistics_are_plain_averages_and_nothing_else_moves(norm: str, training: bool) -> None:
    net = small_net(NORMS[norm]).train()
    for x, _ in images(seed=7):
        net(x)
    net.train(training)
    net[3].train(not training)  # a mode of its own comes back too
    before, random = others_of(net), torch.get_rng_state()
    with torch.no_grad():
        expected = by_hand(net, images())
    lag = recompute(net, images())
    assert lag is not None and lag.mean_sd > 0
    for (mean, var), (wanted_mean, wanted_var) in zip(statistics_of(net), expected, strict=True):
        assert torch.allclose(mean, wanted_mean, atol=1e-5) and torch.allclose(var, wanted_var, rtol=1e-4)
    assert same(others_of(net), before) and torch.equal(torch.get_rng_state(), random)
    again = recompute(net, images())
    assert again is not None and again.mean_sd < 1e-5 and again.log_variance < 1e-4, "now they do not lag"


def test_the_lag_is_the_worst_layers() -> None:
    net = small_net()
    recompute(net, images())
    net[5].running_mean += 0.5 * (net[5].running_var + 1e-5).sqrt()
    net[1].running_var *= math.e
    lag = recompute(net, images())
    assert lag.mean_sd == pytest.approx(0.5, rel=1e-3) and lag.log_variance == pytest.approx(1, rel=1e-3)
    assert lag.notable and "0.5 sd" in str(lag) and "1.6" in str(lag)
    assert lag.worst(Lag(0.7, 0.1)) == Lag(0.7, lag.log_variance)
    assert not Lag(0.1, 0.1).notable and Lag(0.0, 1.0).notable and Lag(0.3, 0.0).notable


def test_eval_mode_agrees_with_train_mode_afterwards() -> None:
    """What it is for: weights that moved far make old statistics useless."""
    net = small_net()
    with torch.no_grad():
        net[0].weight.mul_(7).add_(0.3)
    net[3].p = 0.0
    batch = torch.cat([x for x, _ in images(count=20)])
    with torch.no_grad():
        wanted = copy.deepcopy(net).train()(batch)
        off = (copy.deepcopy(net).eval()(batch) - wanted).abs().mean()
        recompute(net, images(count=20))
        now = (net.eval()(batch) - wanted).abs().mean()
    assert off > 0.5 and now < 0.1 * off


class Frozen(nn.Sequential):
    """A net whose first norm its user keeps in eval mode."""

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self[1].eval()
        return self


def test_frozen_layers_are_left_alone() -> None:
    for net in (Frozen(*small_net()).train(), Frozen(*small_net()).eval(), small_net().train()):
        net[1].eval()
        before = statistics_of(net)
        recompute(net, images())
        after = statistics_of(net)
        assert same(list(before[0]), list(after[0])) and not same(list(before[1]), list(after[1]))


class Branching(nn.Module):
    """Auxiliary norm that no forward in eval mode reaches, and one norm that is passed twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.aux = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
        self.head = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(2 * self.stem(x) + 1)
        logits = self.head(x.mean((2, 3)))
        return (logits, self.aux(x)) if self.training else logits


class Scratch(nn.Module):
    """A batch norm as people write it; with `turned` its momentum weighs what was, not what comes."""

    def __init__(self, width: int, turned: bool = False, shape: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.momentum, self.turned = 0.9 if turned else 0.1, turned
        self.register_buffer("running_mean", torch.full(shape or (width,), 0.5))
        self.register_buffer("running_var", torch.full(shape or (width,), 2.0))

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.running_mean.view(1, -1, 1, 1), self.running_var.view(1, -1, 1, 1)
        if self.training:
            mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
            new = 1 - self.momentum if self.turned else self.momentum
            self.running_mean.lerp_(mean.detach().view_as(self.running_mean), new)
            self.running_var.lerp_(var.detach().view_as(self.running_var), new)
        return (x - mean) / (var + 1e-5).sqrt()


def test_norms_from_scratch_are_recomputed_where_they_are_understood() -> None:
    net = small_net(Scratch)
    assert recompute(net, images()) is not None
    reference = small_net(lambda width: nn.BatchNorm2d(width, affine=False))
    recompute(reference, images())
    for (mean, var), (wanted_mean, wanted_var) in zip(statistics_of(net), statistics_of(reference), strict=True):
        assert torch.allclose(mean, wanted_mean, atol=1e-4) and torch.allclose(var, wanted_var, rtol=0.02)


@pytest.mark.parametrize("count", [1, BATCHES])
@pytest.mark.parametrize("how", [{"turned": True}, {"shape": (1, 4, 1, 1)}])
def test_and_left_alone_where_they_are_not(how: dict[str, Any], count: int) -> None:
    net = nn.Sequential(Scratch(2, **{**how, **({"shape": (1, 2, 1, 1)} if "shape" in how else {})}))
    before, state = others_of(net), copy.deepcopy(net.state_dict())
    for centred in (0.0, 1.0):  # statistics that do not move are right about images of mean zero
        batches = [(x - x.mean((0, 2, 3), keepdim=True) + centred, y) for x, y in images(count=count)]
        assert recompute(net, batches) is None
    assert same(others_of(net), before) and same(list(net.state_dict().values()), list(state.values()))


class Channelwise(nn.Module):
    """A norm that is called by keyword, torch's or one from scratch; or that sees channels last."""

    def __init__(self, norm: nn.Module, *, last: bool = False) -> None:
        super().__init__()
        self.norm, self.last = norm, last

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)) if self.last else self.norm(**{CALLED[type(self.norm)]: x})


class LastScratch(Scratch):
    """Channels last, as other frameworks have them."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2))


CALLED: dict[type, str] = {nn.BatchNorm2d: "input", Scratch: "x"}


@pytest.mark.parametrize(
    ("norm", "last", "told"),
    [(nn.BatchNorm2d, False, True), (Scratch, False, False), (LastScratch, True, False)],
)
def test_other_ways_to_call_a_norm_break_nothing(norm: Any, last: bool, told: bool) -> None:
    net = Channelwise(norm(2), last=last)
    state = copy.deepcopy(net.state_dict())
    assert (recompute(net, images()) is not None) is told
    assert same(list(net.state_dict().values()), list(state.values())) is not told


KEEPS: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "torch's": (lambda: nn.BatchNorm1d(3), True),
    "lazy": (lambda: nn.LazyBatchNorm2d(), True),
    "several processes'": (lambda: nn.SyncBatchNorm(3), True),
    "ours": (lambda: BatchNorm(3), True),
    "from scratch": (lambda: Scratch(3), True),
    "of another shape": (lambda: Scratch(3, shape=(1, 3, 1, 1)), False),
    "without statistics": (lambda: nn.BatchNorm2d(3, track_running_stats=False), False),
    "instance norm": (lambda: nn.InstanceNorm2d(3, track_running_stats=True), False),
    "group norm": (lambda: nn.GroupNorm(1, 3), False),
    "a net that has one": (lambda: nn.Sequential(nn.BatchNorm2d(3)), False),
    "a convolution": (lambda: nn.Conv2d(3, 3, 1), False),
}


@pytest.mark.parametrize("name", KEEPS)
def test_what_keeps_statistics(name: str) -> None:
    made, keeps = KEEPS[name]
    assert keeps_statistics(made()) is keeps


def test_layers_that_no_batch_reaches_keep_theirs() -> None:
    net = Branching()
    net.aux.running_mean.fill_(3.0)
    recompute(net, images())
    assert net.aux.running_mean.tolist() == [3.0, 3.0] and net.aux.running_var.tolist() == [1.0, 1.0]
    assert net.stem.running_mean.mean() == pytest.approx(1.0, abs=0.1), "1 at the first pass and at the second"


@pytest.mark.parametrize("norm", [nn.GroupNorm, nn.InstanceNorm2d, nn.BatchNorm2d])
def test_nets_without_running_statistics_are_not_even_asked(norm: Any) -> None:
    layer = {nn.GroupNorm: lambda: norm(2, 2), nn.InstanceNorm2d: lambda: norm(2, track_running_stats=True),
             nn.BatchNorm2d: lambda: norm(2, track_running_stats=False)}[norm]()  # fmt: skip
    net = nn.Sequential(layer, nn.Flatten(), nn.Linear(72, 3))

    def refused() -> Iterator[tuple[Tensor, Tensor]]:
        raise AssertionError("nobody reads these")
        yield

    assert recompute(net, refused()) is None
    assert refresh(Training(net, RECIPE, 4), lambda epoch: refused(), 0) is None


def test_a_broken_batch_does_not_count() -> None:
    spoilt = images()
    spoilt[1][0][0, 0, 0, 0] = math.nan
    net, clean = small_net(), small_net()
    net[1].running_mean[0] = math.nan  # nor do old statistics that are broken
    lag = recompute(net, spoilt)
    recompute(clean, [*spoilt[:1], *spoilt[2:]])
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), clean.state_dict().values(), strict=True))
    assert lag is not None and math.isfinite(lag.mean_sd) and math.isfinite(lag.log_variance) and lag.notable
    before = statistics_of(clean)
    assert recompute(clean, [spoilt[1]]) is None and recompute(clean, []) is None
    assert same(list(itertools.chain(*before)), list(itertools.chain(*statistics_of(clean))))


def test_data_that_fail_on_the_way_leave_the_net_whole() -> None:
    def failing() -> Iterator[tuple[Tensor, Tensor]]:
        yield from images(count=2)
        torch.rand(3)
        raise OSError("gone")

    net = small_net(NORMS["cumulative"]).train()
    before, state, random = others_of(net), copy.deepcopy(net.state_dict()), torch.get_rng_state()
    with pytest.raises(OSError, match="gone"):
        recompute(net, failing())
    assert same(others_of(net), before) and torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), state.values(), strict=True))


@pytest.mark.parametrize(
    "changes", [{}, {"optimizer": "adamw", "ema": 0.9}, {"channels_last": True, "precision": "bf16"}]
)
def test_training_does_not_notice(changes: dict[str, Any]) -> None:
    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        torch.rand(5)  # data that draw from the process's own generators
        random.random()
        np.random.rand()
        yield from images(seed=epoch, count=12)

    def trained(refreshing: bool) -> tuple[list[float], list[Tensor], list[Tensor]]:
        random.seed(0)
        np.random.seed(0)
        training = Training(small_net(), RECIPE.replace(**changes), 12)
        losses = []
        for step in training.run(batches):
            losses.append(float(step.loss))
            if refreshing and step.in_epoch % 5 == 4:
                assert refresh(training, batches, step.epoch) is not None
        losses += [random.random(), np.random.rand()]
        weights = [p.detach() for p in training.net.parameters()]
        return losses, weights, [p.detach() for p in training.evaluated.parameters()]

    plain, told = trained(False), trained(True)
    assert plain[0] == told[0] and same(plain[1], told[1]) and same(plain[2], told[2])


@pytest.mark.parametrize(
    ("batch_size", "steps", "read"),
    [
        (128, 400, 16),
        (128, 70, 16),
        (16, 5000, 128),
        (256, 20, 8),
        (64, 3, 3),
        (8192, 90, 1),
        (4, 100, 100),
        (100, 50, 21),
    ],
)
def test_so_many_batches_are_read(batch_size: int, steps: int, read: int) -> None:
    seen = []

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        assert epoch == 2
        for number in itertools.count():
            seen.append(number)
            yield images(count=1)[0]

    refresh(Training(small_net(), RECIPE.replace(batch_size=batch_size), steps), batches, 2)
    assert len(seen) == read


def test_the_averaged_net_gets_the_statistics_of_its_own_weights() -> None:
    training = Training(small_net(), RECIPE.replace(ema=0.5), 4)
    list(itertools.islice(training.run(lambda epoch: iter(images())), 4))
    own = statistics_of(training.net)
    refresh(training, lambda epoch: iter(images()), 0)
    reference = copy.deepcopy(training.evaluated)
    recompute(reference, images(count=4))
    assert same(list(itertools.chain(*statistics_of(training.net))), list(itertools.chain(*own)))
    assert same(list(itertools.chain(*statistics_of(training.evaluated))),
                list(itertools.chain(*statistics_of(reference))))  # fmt: skip
    assert not training.evaluated.training
