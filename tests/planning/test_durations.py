"""Durations: the roofline against its formula and published rates, the calibration against a clock that is known."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conviction.errors import UsageError
from conviction.nets import build, sketch
from conviction.planning import durations
from conviction.planning.devices import DEVICES, find_device
from conviction.planning.durations import (
    ASKING_SECONDS,
    BANDWIDTH_EFFICIENCY,
    MATH_EFFICIENCY,
    START_SECONDS,
    Load,
    calibrate,
    estimate_step,
)
from conviction.planning.step_trace import Setting, trace_step

T4, A100 = DEVICES["t4"], DEVICES["a100-80"]


def test_a_load_takes_its_products_or_its_bytes_whichever_is_longer() -> None:
    products, traffic = Load("conv", "forward", 8.1e12, 1e6), Load("relu", "forward", 1e6, 320e9)
    for loads, slower in (([products], MATH_EFFICIENCY["fp32"]), ([traffic], BANDWIDTH_EFFICIENCY)):
        step = estimate_step(loads, T4)
        seen = step.high_seconds, step.expected_seconds, step.low_seconds
        assert seen == pytest.approx([1 / share + start for share, start in zip(slower, START_SECONDS, strict=True)])
        assert step.how == "extrapolated" and step.measured_batches == ()
    both = estimate_step([products, traffic], T4).expected_seconds
    apart = [estimate_step([load], T4).expected_seconds for load in (products, traffic)]
    assert both == pytest.approx(sum(apart))


def test_many_small_operations_take_as_long_as_asking_for_them() -> None:
    step = estimate_step([Load("tiny", "forward", 1e3, 1e3, operations=100)], A100)
    assert (step.high_seconds, step.expected_seconds, step.low_seconds) == pytest.approx(
        [100 * s for s in ASKING_SECONDS]
    )


@pytest.mark.parametrize("card", DEVICES.values(), ids=lambda card: card.key)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_an_estimate_is_ordered_and_grows_with_the_work(card, precision: str) -> None:
    one = estimate_step([Load("conv", "forward", 1e12, 1e9, 10)], card, precision)
    if card.peak_flop_per_second(precision) is None:
        assert one is None
        return
    more = estimate_step([Load("conv", "forward", 2e12, 2e9, 20)], card, precision)
    assert 0 < one.low_seconds < one.expected_seconds < one.high_seconds
    assert more.expected_seconds == pytest.approx(2 * one.expected_seconds)
    linear = estimate_step([Load("linear", "forward", 1e12, 1e9, 10, convolution=False)], card, precision)
    faster = precision == "fp32" and (card.tf32_flop_per_second or 0) > card.fp32_flop_per_second
    assert (linear.expected_seconds > one.expected_seconds) == faster


def test_without_rates_there_is_no_estimate() -> None:
    load = Load("conv", "forward", 1e12, 1e9)
    assert estimate_step([load], find_device("16GiB")) is None
    assert estimate_step([load], find_device("cpu")) is None
    assert estimate_step([load], T4, "bf16") is None
    with pytest.raises(UsageError, match="use fp32, bf16 or fp16"):
        estimate_step([load], T4, "fp8")


# Images a second of ResNet-50 at batches of 64 to 256, training and predicting: NVIDIA DeepLearningExamples, ResNet50
# v1.5 for PyTorch.
PUBLISHED = [
    ("v100-16", "fp32", 367, False), ("v100-16", "fp16", 1200, False), ("a100-80", "fp32", 938, False),
    ("a100-80", "fp16", 2470, False), ("v100-16", "fp32", 1229, True), ("v100-16", "fp16", 3249, True),
    ("t4", "fp32", 426, True), ("t4", "fp16", 1190, True),
]  # fmt: skip


def test_resnet50_against_published_rates() -> None:
    net, work = sketch("resnet50", 1000, (3, 224, 224)), {}
    for precision in ("fp32", "fp16"):
        work[precision] = trace_step(net, (3, 224, 224), 128, Setting(precision=precision, channels_last=True)).work
    for key, precision, rate, predict in PUBLISHED:
        loads = [Load(layer, phase, 2 * done.macs, done.moved_bytes, done.operations)
                 for (phase, layer), done in work[precision].items() if (phase == "predict") == predict]  # fmt: skip
        step = estimate_step(loads, DEVICES[key], precision)
        assert step.low_seconds < 128 / rate < step.high_seconds, (key, precision, predict)
        assert 0.7 < step.expected_seconds * rate / 128 < 1.4, (key, precision, predict)


class Noticing(nn.Module):
    """A net that draws on every random state, keeps a count in a buffer, and has tied weights and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight
        self.register_buffer("runs", torch.zeros(()))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        random.random()
        np.random.rand()
        self.runs += 1
        hidden = F.dropout(self.norm(self.conv(x)).relu().mean((2, 3)), 0.5, self.training)
        return self.one(hidden), self.two(hidden)


@pytest.mark.parametrize("options", [{}, {"optimizer": "adamw", "precision": "bf16", "channels_last": True},
                                     {"predict": True}, {"precision": "fp16"}])  # fmt: skip
def test_the_net_and_the_random_state_stay_as_they_are(options: dict) -> None:
    net, called = Noticing(), []
    net.norm.eval()
    net.conv.register_forward_hook(lambda *args: called.append(1))
    net.one.weight.grad = torch.ones(4, 4)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    with torch.no_grad():
        step = calibrate(net, (3, 8, 8), 16, seconds=0.05, **options)
    assert 0 < step.low_seconds <= step.expected_seconds <= step.high_seconds and step.how == "calibrated"
    assert random.getstate() == state[0] and (np.random.get_state()[1] == state[1]).all()
    assert torch.equal(torch.get_rng_state(), state[2])
    assert not called and net.training and not net.norm.training and net.two.weight is net.one.weight
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(net.one.weight.grad, torch.ones(4, 4)) and net.conv.weight.grad is None


class Clock:
    """A clock on which a step at `batch` takes `cost(batch)` seconds, the first at each size twice as much."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cost) -> None:
        self.now, self.cost, self.steps = 0.0, cost, []
        monkeypatch.setattr(durations.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(durations._Stepping, "seconds_at", lambda stepping, batch: self.step(batch))

    def step(self, batch: int) -> float:
        taken = self.cost(batch) * (1 if batch in self.steps else 2)
        self.steps.append(batch)
        self.now += taken
        return taken


NET = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))


def calibrated(batch_size: int, **options):
    return calibrate(NET, (3, 2, 2), batch_size, **options)


@pytest.mark.parametrize("fixed", [0.0, 1e-3, 0.05])
@pytest.mark.parametrize("each", [0.0, 1e-4, 0.03])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 17, 64, 1000])
def test_a_line_is_found_again(monkeypatch: pytest.MonkeyPatch, fixed: float, each: float, batch_size: int) -> None:
    if not fixed and not each:
        return
    clock = Clock(monkeypatch, lambda batch: fixed + each * batch)
    step = calibrated(batch_size, seconds=2.0)
    assert clock.now <= 2.0  # also with a warm-up that takes twice as long
    assert step.expected_seconds == pytest.approx(fixed + each * batch_size)
    assert step.low_seconds <= step.expected_seconds * (1 + 1e-9) <= step.high_seconds * (1 + 2e-9)
    assert set(step.measured_batches) <= set(clock.steps) and max(clock.steps) <= batch_size
    assert 1 not in clock.steps or batch_size == 1


def test_one_step_longer_than_the_budget_is_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, lambda batch: 5.0)
    step = calibrated(64, seconds=2.0)
    assert clock.steps == [2] and step.measured_batches == (2,)
    assert (step.low_seconds, step.expected_seconds) == (10.0, 10.0 * 32) and step.high_seconds == 10.0 * 32 * 1.25


def test_no_more_images_than_allowed_go_through_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, lambda batch: 1e-5 * batch)
    assert calibrated(64, most_images=6).measured_batches == (2, 6) and max(clock.steps) == 6


@pytest.mark.parametrize(("cost", "expected"), [
    (lambda batch: 0.4 if batch == 2 else 0.3, 0.3),  # no slope below zero
    (lambda batch: 1e-3 * batch**2, 1e-3 * 8 * 64),  # and nothing but the slope where what is fixed would be below it
])  # fmt: skip
def test_neither_part_of_a_step_is_negative(monkeypatch: pytest.MonkeyPatch, cost, expected: float) -> None:
    Clock(monkeypatch, cost)
    step = calibrated(64, most_images=8, seconds=100)
    assert step.measured_batches == (2, 8) and step.expected_seconds == pytest.approx(expected)
    assert step.low_seconds <= step.expected_seconds <= step.high_seconds


def test_out_of_memory_ends_the_growing(monkeypatch: pytest.MonkeyPatch) -> None:
    def cost(batch: int) -> float:
        if batch > 8:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return 1e-4 * batch

    Clock(monkeypatch, cost)
    step = calibrated(64)
    assert step.measured_batches == (2, 8) and step.expected_seconds == pytest.approx(64e-4)


@pytest.mark.parametrize(("name", "image", "batch_size"), [("lenet", (1, 28, 28), 64), ("vgg7-bn/4", (3, 32, 32), 24)])
def test_against_real_steps_of_the_whole_batch(
    monkeypatch: pytest.MonkeyPatch, name: str, image: tuple[int, int, int], batch_size: int
) -> None:
    """Extrapolated from a quarter of the batch, within a factor of 1.7, by the time that the processor worked on it."""
    monkeypatch.setattr(durations.time, "perf_counter", time.process_time)
    net = build(name, 10, image)
    step = calibrate(net, image, batch_size, seconds=0.7, most_images=batch_size // 4)
    assert max(step.measured_batches) == batch_size // 4
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, nesterov=True, fused=True)
    taken = []
    for _ in range(6):
        images, labels = torch.randn(batch_size, *image), torch.zeros(batch_size, dtype=torch.int64)
        start = time.process_time()
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()
        taken.append(time.process_time() - start)
    assert 1 / 1.7 < step.expected_seconds / sorted(taken)[2] < 1.7


def test_a_net_without_numbers_is_given_some() -> None:
    net = sketch("vgg7-bn/4", 10, (3, 32, 32))
    step = calibrate(net, (3, 32, 32), 4, seconds=0.05)
    assert step.measured_batches and all(tensor.is_meta for tensor in net.state_dict().values())
    copy = durations._real_copy(net, torch.device("cpu")).train()
    logits = copy(torch.randn(4, 3, 32, 32))
    assert (
        logits.isfinite().all() and logits.std() > 1e-3
    )  # neither nan nor the tiny numbers that slow a processor down


@pytest.mark.parametrize(("options", "told"), [
    ({"seconds": 0.0}, "no time to measure"), ({"seconds": float("nan")}, "no time to measure"),
    ({"device": "mps"}, "use cpu, cuda"), ({"device": "cpu\n"}, "use cpu, cuda"), ({"precision": "fp8"}, "use fp32"),
    ({"optimizer": "lion"}, "use sgd or adamw"), ({"image": (3, 4, 4)}, "cannot take images of 3x4x4"),
    ({"image": (3, 2)}, "is not a shape"), ({"batch_size": 0}, "is not a number of images"),
    ({"net": nn.Flatten()}, "no trainable parameter"), ({"net": nn.Conv2d(3, 1, 1)}, "not logits"),
])  # fmt: skip
def test_refusals_are_one_line(options: dict, told: str) -> None:
    given = {"net": NET, "image": (3, 2, 2), "batch_size": 4, "seconds": 0.01} | options
    with pytest.raises(UsageError, match=told) as caught:
        calibrate(given.pop("net"), given.pop("image"), given.pop("batch_size"), **given)
    assert str(caught.value).isprintable()
