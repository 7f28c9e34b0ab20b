"""The plan of a net on a device: laws over devices and settings, figures against second witnesses."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from conviction.errors import UsageError
from conviction.nets import build, find_net, sketch
from conviction.planning.allocator import prediction
from conviction.planning.devices import Device, find_device
from conviction.planning.layers import layer_table, total
from conviction.planning.planner import make_plan
from conviction.planning.program import Program, live_bytes, make_program
from conviction.planning.records import Plan
from conviction.planning.smallest import smallest_image
from conviction.planning.step_trace import Setting, trace_step
from conviction.planning.timeline import peak_of
from conviction.planning.verdicts import judge, split_until_it_fits

MIB = 1 << 20
IMAGE = (3, 64, 64)


PLAIN = Setting()


def plan(name: str = "vgg7", batch: int = 32, device: str = "t4", setting: Setting = PLAIN, **more: Any) -> Plan:
    card = find_device(device)
    return make_plan(lambda image: sketch(name, 10, image), IMAGE, batch, setting, card, name=name, **more)


def test_figures_agree_with_the_layer_table_and_each_other() -> None:
    for name in ("densenet-book/2", "resnet18/4", "lenet"):  # without dropout, of which CUDA keeps a smaller mask
        made, whole = plan(name), total(layer_table(sketch(name, 10, IMAGE), IMAGE, 32))
        assert (made.params, made.macs, made.saved_bytes) == (whole.params, whole.macs, whole.saved_bytes)
        net = build(name, 10, IMAGE)
        assert made.weights_bytes == sum(t.numel() * t.element_size() for t in (*net.parameters(), *net.buffers()))
        low, expected, high = made.train_peak_bytes
        assert low <= expected <= high
        assert made.train_reserved_bytes >= expected > made.predict_peak_bytes > made.weights_bytes
        assert made.peak == peak_of(made.timeline)
        assert made.weights_bytes < made.peak.total_bytes <= high
        assert sum(layer.flops for layer in made.layers) == pytest.approx(made.arithmetic_intensity * made.bytes_moved)
        assert made.largest_allocation_bytes <= made.peak.total_bytes


def test_a_fit_is_never_surer_with_less_memory_or_larger_batches() -> None:
    ranks = {"no": 0, "likely": 1, "yes": 2}
    verdicts = [ranks[plan(device=f"{size}MiB").device.fits] for size in (600, 1000, 1200, 1600, 2048)]
    assert verdicts == sorted(verdicts) and {verdicts[0], verdicts[-1]} == {0, 2}
    verdicts = [ranks[plan(device="2GiB", batch=batch).device.fits] for batch in (8, 128, 512, 1024)]
    assert verdicts == sorted(verdicts, reverse=True) and {verdicts[0], verdicts[-1]} == {0, 2}


def test_the_largest_batches_fit() -> None:
    made = plan(device="1.5GiB", batch=2048)
    assert 0 < made.device.safe_batch <= made.device.largest_batch < 2048
    assert plan(device="1.5GiB", batch=made.device.safe_batch).device.fits == "yes"
    assert plan(device="1.5GiB", batch=made.device.largest_batch).device.fits != "no"


def test_remedies_are_tried_and_told() -> None:
    made = plan(device="2GiB", batch=2048, setting=Setting(optimizer="adamw"), resizes=True)
    changes = [tuple(each.change) for each in made.device.advice]
    assert changes[:3] == [("precision",), ("channels_last",), ("optimizer",)]
    assert {("micro_batch",), ("image_size",), ("batch_size",)} <= set(changes)
    split = next(each for each in made.device.advice if tuple(each.change) == ("micro_batch",))
    assert split.fits == "yes" and split.saves_bytes > 0
    parts = -(-2048 // split.change["micro_batch"])
    again = plan(device="2GiB", batch=2048, setting=Setting(optimizer="adamw", parts=parts))
    assert (again.device.fits, again.train_reserved_bytes) == ("yes", split.peak_bytes)
    assert plan(device="t4").device.advice == ()


def test_what_does_not_help_says_why() -> None:
    made = make_plan(lambda image: sketch("alexnet", 1000, image), (3, 224, 224), 16, Setting(), find_device("700MiB"))
    low = next(each for each in made.device.advice if "precision" in each.change)
    assert low.fits == "no" and "% of the peak is weights" in low.why


def test_recomputation_is_offered_where_it_is_at_hand() -> None:
    from conviction.training.recompute import recomputing

    made = plan("resnet18-cifar/2", batch=256, device="1200MiB", recomputing=recomputing)
    offered = next(each for each in made.device.advice if tuple(each.change) == ("checkpointing",))
    assert offered.saves_bytes > 0.25 * made.train_reserved_bytes


def test_peaks_grow_with_what_is_kept() -> None:
    def peak(**changes: Any) -> int:
        return plan("alexnet-small", setting=Setting(**changes)).train_peak_bytes.expected

    assert peak(momentum=0.0) < peak() < peak(optimizer="adamw") < peak(optimizer="adamw", averaged=True)
    assert peak(kernel="fused") <= 1.02 * peak(kernel="foreach")


def test_time_is_reckoned_from_the_datasheet_and_flagged() -> None:
    made = plan(train_images=6400, valid_images=320)
    assert made.time.how == "extrapolated" and made.time.step is not None and made.time.epoch is not None
    assert made.time.epoch[1] == pytest.approx(made.time.step[1] * (200 + 10 / 3), rel=0.02)
    assert plan(device="16GiB").time.step is None  # a card of which only the memory is known
    fast = plan(device="h100").time.step
    assert fast is not None and fast[1] < made.time.step[1]


def test_time_is_measured_on_the_device_at_hand() -> None:
    made = plan("lenet", batch=64, device="cpu", measure_seconds=0.3, train_images=640)
    assert made.time.how == "calibrated" and made.time.step is not None
    assert 0 < made.time.step[0] <= made.time.step[1] <= made.time.step[2] < 5


def test_json_has_the_fixed_fields() -> None:
    told = json.loads(json.dumps(plan(device="2GiB", batch=2048).to_dict()))
    assert {"net", "image", "num_classes", "batch_size", "optimizer", "precision", "params", "macs", "weights_bytes",
            "saved_bytes", "train_peak_bytes", "train_reserved_bytes", "predict_peak_bytes", "bytes_moved",
            "arithmetic_intensity", "min_image", "device", "seconds_per_step", "seconds_per_epoch",
            "layers"} <= told.keys()  # fmt: skip
    assert told["train_peak_bytes"].keys() == {"low", "expected", "high"}
    assert {"name", "memory_bytes", "fits", "largest_batch", "advice"} <= told["device"].keys()
    assert "not yet checked on a GPU" in str(plan())


class Adaptive(nn.Module):
    """Takes 11 pixels in prediction, 21 in training, by an auxiliary head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 11)
        self.aux = nn.Conv2d(4, 2, 11)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        logits = self.head(x.mean((2, 3)))
        return logits + self.aux(x).mean((2, 3)) if self.training else logits


def test_the_smallest_image_is_found_with_the_layer_that_fails() -> None:
    found = smallest_image(lambda side: Adaptive(), 3, 224)
    assert (found.eval, found.train, found.only) == (11, 21, False) and "aux" in found.fails_at
    fixed = nn.Sequential(nn.Conv2d(3, 2, 5), nn.Flatten(), nn.Linear(2 * 28 * 28, 5))
    found = smallest_image(lambda side: fixed, 3, 32)
    assert (found.eval, found.train, found.only) == (32, 32, True) and "2" in found.fails_at
    assert smallest_image(lambda side: nn.Flatten(), 3, 8).train == 1
    for name in ("googlenet-small", "alexnet-small"):
        row = find_net(name)
        assert smallest_image(lambda side, name=name: sketch(name, 10, (1, side, side)), 1, 64).eval == row.min_image


def test_a_plan_is_refused_in_one_line() -> None:
    for image, told in (((3, 8, 8), "too small"), ((3, 10**6, 10**6), "")):
        with pytest.raises(UsageError, match=told) as caught:
            make_plan(lambda image: sketch("alexnet", 10, image), image, 8, Setting(), find_device("t4"))
        assert "\n" not in str(caught.value)


def test_devices_that_are_taken_offer_what_is_free() -> None:
    card: Device = find_device("t4")
    busy = replace(card, free_bytes=600 * MIB)
    made = make_plan(lambda image: sketch("vgg7", 10, image), IMAGE, 32, Setting(), busy)
    assert made.device.fits == "no" and plan().device.fits == "yes"


@pytest.mark.parametrize(("name", "device", "batch"), [("lenet", "1000MiB", 2000), ("lenet", "cpu", 200)])
def test_a_batch_that_does_not_fit_is_split_no_finer_than_it_must_be(name: str, device: str, batch: int) -> None:
    card, net = find_device(device), sketch(name, 10, IMAGE)
    if card.kind == "cpu":
        card = replace(card, free_bytes=390 * MIB)

    @cache
    def program_for(setting: Setting) -> Program:
        return make_program(lambda size, parts: trace_step(net, IMAGE, size, replace(setting, parts=parts)),
                            setting.parts)  # fmt: skip

    def fits(parts: int) -> str:
        split = replace(PLAIN, parts=parts)
        return judge(program_for(split), -(-batch // parts), split, card).fits

    parts = split_until_it_fits(program_for, batch, PLAIN, card).parts
    assert fits(1) == "no" and 2 < parts < batch
    best = "likely" if card.kind == "cpu" else "yes"
    assert {fits(finer) for finer in (2 * parts, batch)} == {best}
    assert [fits(fewer) == best for fewer in range(1, parts + 1)] == [False] * (parts - 1) + [True]


def test_a_batch_that_fits_stays_whole_and_one_image_that_does_not_is_told() -> None:
    fitting = make_plan(lambda image: sketch("lenet", 10, image), IMAGE, 32, PLAIN, find_device("t4"), splits=True)
    assert (fitting.setting.parts, fitting.device.fits) == (1, "yes")
    small = replace(find_device("t4"), free_bytes=520 * MIB)
    made = make_plan(lambda image: sketch("vgg7", 10, image), IMAGE, 6, PLAIN, small, splits=True)
    assert (made.setting.parts, made.device.fits) == (6, "no") and made.device.advice


@pytest.mark.parametrize("parts", [2, 5])
def test_predicting_knows_of_no_micro_batches(parts: int) -> None:
    net = sketch("vgg7-bn/2", 10, IMAGE)
    whole, split = (
        make_program(lambda batch, parts, each=each: trace_step(net, IMAGE, batch, replace(PLAIN, parts=parts)), each)
        for each in (1, parts)
    )
    peaks = [int(live_bytes(program, prediction(48)).max()) for program in (whole, split)]
    assert peaks[0] == peaks[1]
    works = [{key: work for key, work in program.work(48).items() if key[0] == "predict"} for program in (whole, split)]
    assert works[0] == works[1]
