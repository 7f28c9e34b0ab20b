"""Experiments on sick programs, which one change cures, and on healthy ones, which learn as they are."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import conviction
from conviction.diagnosis.trials.changes import CHANGES
from conviction.diagnosis.trials.experiments import _affordable, try_out
from conviction.diagnosis.trials.lone_trials import probe_pixels
from conviction.diagnosis.trials.setups import Setup, make_trial
from conviction.findings import Evidence, trials
from conviction.findings.observation import LoaderSeen, LossSeen, ModeGap, NetSeen, Observation, OptimizerSeen, StepSeen

SECONDS = 60.0  # more than any of these takes


@dataclass
class Taken:
    """What the observer captures of a program."""

    start: nn.Module | None
    net: nn.Module | None
    batches: list[tuple[Any, Any]]
    loss: Callable[[Any, Tensor], Tensor]
    optimizer: Any
    test_batches: list[tuple[Any, Any]] = field(default_factory=list)
    clip_norm: float | None = None
    autocast: torch.dtype | None = None
    scaled: bool = False


@dataclass(frozen=True)
class Seen:
    """The preflight's view, as far as suspicions read it."""

    input_dependence: float | None = 0.3
    cross_entropy: float = 2.3
    made_by: str = "addmm"
    signals: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Layer:
    rms: float = 1.0
    slope: float | None = None
    alike: bool = False


@pytest.fixture(scope="module")
def batches() -> list[tuple[Tensor, Tensor]]:
    """Twelve batches of 32 real images, standardised."""
    train = conviction.dataset("fashion-mini").train
    images = torch.as_tensor(train.source.pictures[:384]).float().reshape(384, 1, 28, 28)
    labels = torch.as_tensor(train.labels[:384]).long()
    images = (images / 255 - 0.29) / 0.35
    return list(zip(images.split(32), labels.split(32), strict=True))


def with_inputs(batches: list[Any], change: Callable[[Tensor], Tensor]) -> list[Any]:
    return [(change(inputs), targets) for inputs, targets in batches]


def small(*end: nn.Module, act: type[nn.Module] = nn.ReLU, width: int = 16, classes: int = 10) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, width, 5, stride=3), act(), nn.Flatten(), nn.Linear(width * 64, classes), *end)


def deep(act: type[nn.Module] = nn.ReLU, layers: int = 6, gain: float | None = None) -> nn.Sequential:
    torch.manual_seed(1)
    net = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(196, 64), act())
    for _ in range(layers):
        net.extend([nn.Linear(64, 64), act()])
    net.append(nn.Linear(64, 10))
    if gain is not None:
        for layer in net:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=gain)
                nn.init.zeros_(layer.bias)
    return net


def straight() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


class Undone(nn.Module):
    """Learns in training mode only, where its batch norm lifts a signal that is next to nothing."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body, self.norm, self.head = nn.Linear(784, 32), nn.BatchNorm1d(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(1e-3 * self.body(x.flatten(1))))


def cross_entropy(outputs: Any, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets)


def faint(outputs: Any, targets: Tensor) -> Tensor:
    return 1e-8 * F.cross_entropy(outputs, targets)


KINDS = {"SGD": torch.optim.SGD, "Adam": torch.optim.Adam, "LBFGS": torch.optim.LBFGS}


def program(
    net: nn.Module | None, batches: list[Any], *, kind: str = "Adam", loss: Any = cross_entropy, losses: Any = None,
    clip_norm: float | None = None, autocast: Any = None, seen: dict[str, Any] | None = None,
    tests: list[Any] | None = None, **settings: float,
) -> tuple[Observation, Taken]:  # fmt: skip
    """A program that does not learn, with what was seen of it."""
    given = {"lr": 1e-3, **settings}

    def make(parameters: Any, changes: dict[str, Any]) -> torch.optim.Optimizer:
        kept = {name: value for name, value in given.items() if name not in ("beta1", "beta2")}
        if "beta1" in given:
            kept["betas"] = (given["beta1"], given.get("beta2", 0.999))
        return KINDS[kind]([p for p in parameters if p.requires_grad], **{**kept, **changes})

    told = losses or [2.3] * 20
    steps = tuple(StepSeen(number, 0, loss, loss, given["lr"]) for number, loss in enumerate(told))
    observation = Observation(
        20, 1.0, backwards=20, nets=(NetSeen(0, "Sequential", 1000, 1000, training_forwards=20),),
        optimizers=(OptimizerSeen(0, kind, tuple(given.items()), 1000, (0,), steps=20),),
        losses=(LossSeen("cross_entropy", 20, lowest=-1.0, highest=1.0),), measured=steps,
    )  # fmt: skip
    return replace(observation, **(seen or {})), Taken(net, net, batches, loss, make, tests or [], clip_norm, autocast)


def net_seen(**changes: Any) -> dict[str, Any]:
    return {"nets": (replace(NetSeen(0, "Sequential", 1000, 1000, training_forwards=20), **changes),)}


def probed(**changes: Any) -> dict[str, Any]:
    return {"evidence": Evidence(10, probe=Seen(**changes))}  # type: ignore[arg-type]


def loss_seen(**changes: Any) -> dict[str, Any]:
    return {"losses": (replace(LossSeen("cross_entropy", 20, lowest=-1.0), **changes),)}


def hot(batches: list[Any]) -> list[Any]:
    return with_inputs(batches, lambda x: 255 * (x * 0.35 + 0.29))


def by_class(batches: list[Any]) -> list[Any]:
    images, labels = (torch.cat(part) for part in zip(*batches, strict=True))
    order = labels.argsort(stable=True)
    return list(zip(images[order].split(32), labels[order].split(32), strict=True))


class Dropping(nn.Module):
    """Drops by a function, which no module shows."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share, self.net = share, small()

    def forward(self, x: Tensor) -> Tensor:
        for number, layer in enumerate(self.net):
            x = layer(F.dropout(x, self.share, self.training) if number == 3 else x)
        return x


def frozen(net: nn.Module) -> nn.Module:
    return net.requires_grad_(False).append(nn.Linear(10, 10))  # type: ignore[operator]


def sick(batches: list[Any]) -> dict[str, tuple[Observation, Taken]]:
    """A sick program for every change that is compared with the control."""
    sorted_loader = {"loaders": (LoaderSeen(0, 32, False, False, 0, 384, True, entropy=0.1, entropy_all=2.3),)}
    clipped = tuple(StepSeen(n, 0, 2.3, 2.3, 0.05, clip_norm=1e-5, clip_found=1.0) for n in range(20))
    rising = [2.3 + 0.5 * number for number in range(20)]
    return {
        trials.LOWER_LR: program(small(), batches, kind="SGD", lr=2.0),
        trials.HIGHER_LR: program(small(), batches, lr=1e-5),
        trials.USUAL_LR: program(small(), batches, lr=10.0),
        trials.NEW_INIT: program(deep(gain=0.01), batches, seen=probed(input_dependence=1e-6)),
        trials.NEW_INIT_AND_LR: program(deep(gain=0.01), batches, kind="SGD", lr=1.0, momentum=0.9),
        trials.STANDARDISED: program(small(), with_inputs(batches, lambda x: x * 1e-3), kind="SGD", lr=0.1),
        trials.CROSS_ENTROPY: program(small(nn.ReLU(), nn.Softmax(1)), batches, kind="SGD", lr=0.03,
                                      seen=loss_seen(rows_sum_to_one=True)),
        trials.NO_DROPOUT: program(Dropping(0.995), batches, seen=net_seen(dropouts=(("", 0.995, False),))),
        trials.NO_DECAY: program(small(), batches, weight_decay=30.0),
        trials.USUAL_SETTINGS: program(small(), batches, eps=10.0),
        trials.NO_CLIPPING: program(small(), batches, kind="SGD", lr=0.05, clip_norm=1e-5, seen={"measured": clipped}),
        trials.SIGN_TURNED: program(small(), batches, maximize=True, losses=rising),
        trials.SHUFFLED: program(small(), by_class(batches), kind="SGD", lr=0.1, seen=sorted_loader),
        trials.FULL_PRECISION: program(straight(), batches, kind="SGD", lr=1e7, autocast=torch.float16,
                                       loss=faint, seen={"autocast": "float16"}),
        trials.RELU: program(deep(nn.Sigmoid), batches, seen=probed(signals=(Layer(slope=0.2),) * 8)),
        trials.UNFROZEN: program(frozen(small()), batches, kind="SGD", lr=0.03, seen=net_seen(trainable=10)),
        trials.NO_AUGMENTATION: program(small(), with_inputs(batches, lambda x: torch.rand_like(x)), tests=batches),
        trials.TRAIN_MODE: program(Undone(), batches, kind="SGD", lr=0.1, seen=net_seen(training_forwards_in_eval=19)),
    }  # fmt: skip


@pytest.mark.parametrize("change", sorted(CHANGES))
def test_change_cures_what_ails_a_sick_program(change: str, batches: list[Any]) -> None:
    observation, taken = sick(batches)[change]
    after = try_out(observation, taken, SECONDS)
    assert trials.control_learns(after) in (False, True)
    assert change in trials.cures(after), [trial.line for trial in after.trials]
    told = trials.trial(after, change)
    assert told is not None and "; as it is loss" in told.line and len(told.losses) == 60


def healthy(batches: list[Any]) -> dict[str, tuple[Observation, Taken]]:
    """Programs that learn, each with something about it that arouses a suspicion."""
    falling = list(np.linspace(2.3, 0.8, 20))
    one_hot = [(inputs, F.one_hot(targets, 10).float()) for inputs, targets in batches]
    return {
        "log-softmax": program(small(nn.LogSoftmax(1)), batches, loss=F.nll_loss, losses=falling,
                               seen=loss_seen(kind="nll_loss", made_by="softmax")),
        "dropout": program(nn.Sequential(*small()[:3], nn.Dropout(0.8), *small()[3:]), batches, lr=3e-3,
                           losses=falling, seen=net_seen(dropouts=(("3", 0.8, False),))),
        "one-hot": program(small(), one_hot, losses=falling, seen=loss_seen(made_by="relu")),
        "sorted a little": program(small(), batches, losses=falling,
                                   seen={"loaders": (LoaderSeen(0, 32, False, False, 0, 384, True, runs=3.0),)}),
        "momentum": program(small(), batches, kind="SGD", lr=3e-3, momentum=0.986, losses=falling),
        "too few steps to tell": program(small(), batches, losses=[2.3, 2.2]),
        "LBFGS": program(straight(), batches[:2], kind="LBFGS", lr=0.1, max_iter=4, losses=[2.3, 2.2]),
        "two classes, one logit": program(
            small(classes=1), [(inputs, (targets > 4).float()[:, None]) for inputs, targets in batches],
            loss=F.binary_cross_entropy_with_logits, losses=[0.7, 0.6],
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", list(healthy([])))
def test_healthy_program_learns_as_it_is_and_nothing_cures_it(name: str, batches: list[Any]) -> None:
    after = try_out(*healthy(batches)[name], SECONDS)
    assert trials.control_learns(after)
    assert trials.cures(after) == ()


def test_program_that_learns_and_arouses_no_suspicion_costs_nothing(batches: list[Any]) -> None:
    observation, taken = program(small(), batches, losses=list(np.linspace(2.3, 0.8, 20)))
    assert try_out(observation, taken, SECONDS) is not observation
    assert try_out(observation, taken, SECONDS).trials == ()


def test_shuffled_labels_are_learned_by_heart_and_beyond_a_linear_model(batches: list[Any]) -> None:
    images, labels = (torch.cat(part) for part in zip(*batches, strict=True))
    dealt = labels[torch.randperm(384, generator=torch.Generator().manual_seed(3))]
    wrong = list(zip(images.split(32), dealt.split(32), strict=True))
    after = try_out(*program(small(), wrong, lr=1e-3), SECONDS)
    assert trials.labels_unrelated(after) and trials.by_heart(after)
    pixels = probe_pixels(batches)
    assert pixels is not None and trials.labels_unrelated(replace(after, trials=(pixels,))) is False


def test_net_that_does_not_look_learns_nothing_by_heart(batches: list[Any]) -> None:
    blind = small()
    nn.init.zeros_(blind[0].weight).requires_grad_(False)
    after = try_out(*program(blind, batches, lr=1e-7), SECONDS)
    assert trials.by_heart(after) is False and not trials.control_learns(after)


def normed(batches: list[Any], statistics: str) -> tuple[nn.Module, list[Any]]:
    """A trained net whose batch norm has good statistics or those it began with."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))
    net[2].momentum = 0.0 if statistics == "stale" else 0.1
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for inputs, targets in batches * 3:
        optimizer.zero_grad()
        F.cross_entropy(net(5 * inputs + 3), targets).backward()
        optimizer.step()
    net[2].momentum = 0.1
    return net, with_inputs(batches, lambda x: 5 * x + 3)


@pytest.mark.parametrize("statistics", ["stale", "good"])
def test_statistics_computed_anew_close_the_gap_of_stale_ones_only(statistics: str, batches: list[Any]) -> None:
    net, shifted = normed(batches, statistics)
    gap = {"mode_gap": ModeGap(0.5, 5.0, 0.9, 0.1, 0.2)}
    observation, taken = program(net, shifted, losses=list(np.linspace(2.3, 0.8, 20)), seen=gap)
    taken.test_batches = [(shifted[0][0], None), shifted[1]]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    after = try_out(observation, taken, SECONDS)
    assert trials.confirmed(after, trials.STATISTICS) is (statistics == "stale")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items()) and net.training


def test_two_runs_give_the_same_numbers_and_nothing_of_the_users_changes(batches: list[Any]) -> None:
    net = Dropping(0.5)
    F.cross_entropy(net(batches[0][0]), batches[0][1]).backward()
    observation, taken = program(net, batches, lr=1e-5)
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    gradients = [parameter.grad.clone() for parameter in net.parameters()]
    images = [inputs.clone() for inputs, _ in batches]
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    with torch.no_grad():
        first = try_out(observation, taken, SECONDS)
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states[1:]
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())
    assert all(torch.equal(parameter.grad, old) for parameter, old in zip(net.parameters(), gradients, strict=True))
    assert all(torch.equal(inputs, old) for (inputs, _), old in zip(batches, images, strict=True))
    torch.manual_seed(99)
    second = try_out(observation, taken, SECONDS)
    assert [trial.losses for trial in first.trials] == [trial.losses for trial in second.trials] != []
    assert first.trials[0].losses[0] == pytest.approx(2.3, abs=0.2)


class Stubborn(nn.Linear):
    def __deepcopy__(self, memo: Any) -> nn.Module:
        raise TypeError("cannot be copied")


class Two(nn.Module):
    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return one + other


def raising(outputs: Any, targets: Tensor) -> Tensor:
    raise ValueError("no")


@pytest.mark.parametrize("case", ["nothing captured", "no net", "several inputs", "no deep copy", "dicts", "raises",
                                  "no batches", "no optimizer", "regression", "no time", "whole numbers",
                                  "auxiliary heads", "no targets", "nothing seen"])  # fmt: skip
def test_odd_program_raises_nothing(case: str, batches: list[Any]) -> None:
    observation, taken = program(small(), batches[:3])
    regression = [(inputs, inputs.mean((1, 2, 3))[:, None]) for inputs, _ in batches]
    odd: dict[str, tuple[Observation, Taken | None, int]] = {
        "nothing captured": (observation, None, 0),
        "no net": (observation, replace(taken, start=None, net=None), 1),  # what pixels tell needs none
        "several inputs": (observation, replace(taken, start=Two()), 1),
        "no deep copy": (observation, replace(taken, start=nn.Sequential(nn.Flatten(), Stubborn(784, 10))), 1),
        "dicts": (observation, replace(taken, batches=[({"x": batches[0][0]}, batches[0][1])]), 0),
        "raises": (observation, replace(taken, loss=raising), 1),
        "no batches": (observation, replace(taken, batches=[]), 0),
        "no optimizer": (replace(observation, optimizers=()), replace(taken, optimizer=None), 1),
        "regression": (*program(small(classes=1), regression, loss=F.mse_loss), 1),
        "no time": (observation, taken, 1),
        "whole numbers": (observation, replace(taken, batches=with_inputs(batches[:3], lambda x: x.long())), 1),
        "auxiliary heads": (*program(Heads(), batches, loss=lambda out, y: F.cross_entropy(out[0], y)), 1),
        "no targets": (observation, replace(taken, batches=[(batches[0][0], None)]), 0),
        "nothing seen": (Observation(0, 0.0), taken, 1),
    }
    seen, what, least = odd[case]
    after = try_out(seen, what, 0.0 if case == "no time" else SECONDS)
    assert len(after.trials) >= least if least else after.trials == ()
    if case == "no time":
        assert [trial.change for trial in after.trials] == [trials.PIXELS]


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = small()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.net(x)
        return logits, 2 * logits


def test_updates_by_hand_are_repeated_at_the_rate_read_off_the_weights(batches: list[Any]) -> None:
    observation, taken = program(small(), batches)
    moved = tuple(
        StepSeen(n, 0, 2.3, 2.3, 0.0, gradient_norm=2.0, weight_norm=10.0, update_ratio=0.02) for n in range(9)
    )
    after = try_out(replace(observation, optimizers=(), measured=moved), replace(taken, optimizer=None), SECONDS)
    same = try_out(*program(small(), batches, kind="SGD", lr=0.1), SECONDS)  # 0.02 * 10 / 2
    assert after.trials[0].losses == same.trials[0].losses


def test_optimizer_that_never_stepped_is_made_from_what_was_seen_of_it(batches: list[Any]) -> None:
    observation, taken = program(small(), batches, beta1=0.8, beta2=0.99, weight_decay=0.1)
    without = replace(observation, measured=()), replace(taken, optimizer=None)
    assert try_out(*without, SECONDS).trials[0].losses == try_out(observation, taken, SECONDS).trials[0].losses


def test_scheduled_rate_counts_as_it_was_stepped_with(batches: list[Any]) -> None:
    observation, taken = program(small(), batches, lr=1e-3)
    steps = tuple(StepSeen(number, 0, 2.3, 2.3, 1e-9) for number in range(20))
    after = try_out(replace(observation, measured=steps), taken, SECONDS)
    assert not trials.control_learns(after) and trials.confirmed(after, trials.USUAL_LR)


def test_minus_before_the_loss_is_repeated_and_turned(batches: list[Any]) -> None:
    observation, taken = program(small(), batches)
    steps = tuple(StepSeen(number, 0, -2.3 - number / 9, 2.3 + number / 9, 1e-3) for number in range(20))
    after = try_out(replace(observation, measured=steps), taken, SECONDS)
    assert after.trials[0].losses[-1] > 5 and trials.cures(after)[0] == trials.SIGN_TURNED


def test_heavy_net_gets_fewer_samples_and_steps_by_count_not_by_the_clock(batches: list[Any]) -> None:
    wide = nn.Sequential(nn.Conv2d(1, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(64, 10))  # fmt: skip
    taken = program(wide, batches)[1]
    # 2 x 64 x (9 x 28 x 28 + 10) operations forward, three times that in all, at 30 a nanosecond: 0.09 ms a sample.
    for seconds, steps, samples in ((60.0, 60, 32), (1.2, 43, 32), (0.7, 32, 16), (0.1, 20, 16)):
        found, kept = _affordable(taken, batches, seconds)
        assert (found, {len(inputs) for inputs, _ in kept}) == (steps, {samples})
        assert found == 20 or found * (0.004 + samples * 0.904e-4) <= seconds / 4


def test_looking_moves_no_statistics(batches: list[Any]) -> None:
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(784), nn.Linear(784, 10))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    taken = program(net, batches)[1]
    setup = Setup(net, batches, batches, cross_entropy, taken.optimizer)
    trial = make_trial(setup, "as it is", 0, float("inf"))
    assert trial.losses == () and trial.judged == 384
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
