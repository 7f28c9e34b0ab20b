"""What a run takes: memory that is really held, steps timed by a clock, MACs of a real forward."""

from __future__ import annotations

import gc
import sys

import pytest
import torch
from torch import nn

from conviction.nets import build
from conviction.planning.layers import layer_table, total
from conviction.training import measuring
from conviction.training.loop import Step
from conviction.training.measuring import FirstSteps, MemoryGauge, count_macs

MIB = 1 << 20
CPU = torch.device("cpu")


def step(in_epoch: int, steps_per_epoch: int = 1000) -> Step:
    return Step(in_epoch, 0, in_epoch, steps_per_epoch, 8, torch.tensor(0.0), torch.tensor(0), 0.1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("seconds", "count", "steps_per_epoch"),
    [(0.3, 5, 1000), (0.001, 51, 1000), (4.0, 2, 1000), (0.01, 4, 4), (0.01, 2, 2)],
)
def test_the_first_step_does_not_count(clock: list[float], seconds: float, count: int, steps_per_epoch: int) -> None:
    first, told = FirstSteps(CPU), []
    for number in range(count):
        clock[0] += seconds if number else 7.0  # a slow first one
        told.append(first.see(step(number, steps_per_epoch)))
    assert told == [False] * (count - 1) + [True]
    assert first.seconds_per_step == pytest.approx(seconds)
    clock[0] += 50
    assert not first.see(step(count, steps_per_epoch)) and first.seconds_per_step == pytest.approx(seconds)


def test_an_epoch_of_a_single_step_is_all_there_is(clock: list[float]) -> None:
    first = FirstSteps(CPU)
    clock[0] += 2.5
    assert first.see(step(0, 1)) and first.seconds_per_step == 2.5


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells it")
def test_a_gauge_sees_the_peak_that_is_gone_and_the_net() -> None:
    net = nn.Linear(2048, 2048)  # 16 MiB
    torch.ones(100 * MIB // 4)  # a peak before the start
    gc.collect()
    gauge = MemoryGauge(CPU, net)
    gauge.start()
    begun = gauge.peak_bytes
    assert begun is not None and begun == pytest.approx(16 * MIB, abs=4 * MIB)
    held = torch.ones(96 * MIB // 4)
    del held
    gauge_peak = gauge.peak_bytes
    assert gauge_peak is not None and gauge_peak == pytest.approx(112 * MIB, abs=6 * MIB)
    assert gauge.reserved_bytes is None and "resident" in gauge.measures


def test_a_system_that_tells_nothing_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(measuring, "_PROCESS", measuring.Path(str(tmp_path)) / "none")
    gauge = MemoryGauge(CPU, nn.Linear(2, 2))
    gauge.start()
    assert gauge.peak_bytes is None


@pytest.mark.parametrize(("name", "image"), [("lenet-bn", (1, 28, 28)), ("resnet18-cifar/4", (3, 32, 32))])
def test_macs_are_those_of_the_layer_table_and_the_net_stays(name: str, image: tuple[int, int, int]) -> None:
    net = build(name, 10, image).eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    assert count_macs(net, image) == total(layer_table(net, image, 2)).macs
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items()) and not net.training
    assert count_macs(net, (image[0] + 1, 28, 28)) is None
