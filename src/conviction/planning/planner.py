"""From a net, an image and a device to its plan: the traces are made once and everything is derived from them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache

from torch import nn

from conviction.planning.backend import unseen_memory
from conviction.planning.devices import Device
from conviction.planning.durations import Duration, Load, calibrate, estimate_step
from conviction.planning.program import Program, make_program
from conviction.planning.records import CHECKED, LayerCost, Plan, Time, Verdict
from conviction.planning.remedies import Remedy, Run, find_remedies
from conviction.planning.smallest import Smallest
from conviction.planning.step_trace import Setting, StepTrace, trace_step
from conviction.planning.timeline import Moment, follow_step, peak_of
from conviction.planning.verdicts import EXPECTED, Memory, judge

Image = tuple[int, int, int]
Recomputing = Callable[[nn.Module], contextlib.AbstractContextManager[object]]


def make_plan(
    net_for: Callable[[Image], nn.Module],
    image: Image,
    batch_size: int,
    setting: Setting,
    device: Device,
    *,
    name: str = "",
    evaluated: int = 0,
    train_images: int | None = None,
    valid_images: int = 0,
    smallest: Smallest | None = None,
    resizes: bool = False,
    recomputing: Recomputing | None = None,
    measure_seconds: float = 0.0,
) -> Plan:
    """Plan training with `batch_size` images of shape `image` (C, H, W) a step, and predicting, on `device`.

    `net_for(image)` gives the net, in memory or on the meta device; with `resizes` it is asked for smaller images too.
    `evaluated` is the batch of the evaluations between epochs. Of `train_images` and `valid_images` an epoch's time is
    reckoned. With `measure_seconds` a device that is really here is measured for so long; nothing else runs.

    Raises `UsageError` for a net that cannot take the image, run without numbers or be trained.
    """

    @cache  # two micro-batches are traced for any number of them
    def traced(setting: Setting, image: Image, batch: int) -> StepTrace:
        return trace_step(net_for(image), image, batch, setting, recomputing=recomputing)

    @cache
    def program_for(setting: Setting, image: Image) -> Program:
        return make_program(
            lambda batch, parts: traced(replace(setting, parts=parts), image, batch),
            setting.parts,
        )

    program = program_for(setting, image)
    images = -(-batch_size // setting.parts)
    memory = judge(program, images, setting, device, evaluated)
    timeline = follow_step(program, images, unseen_memory(device, setting).scratch[EXPECTED])
    advice: tuple[Remedy, ...] = ()
    if memory.fits != "yes":
        run = Run(image, batch_size, setting, device, memory, peak_of(timeline))
        advice = find_remedies(run, program_for, recomputing is not None, resizes)
    plan = _plan(program, images, memory, timeline, setting, device)
    if measure_seconds:
        step = _measured(net_for(image), image, batch_size, setting, device, measure_seconds)
    else:
        step = estimate_step(_loads(program, images, plan.layers), device, setting.precision)
    return replace(
        plan, net=name, image=image, batch_size=batch_size, min_image=smallest,
        device=replace(plan.device, advice=advice),
        time=_time(step, program, images, batch_size, train_images, valid_images),
    )  # fmt: skip


def _plan(
    program: Program, images: int, memory: Memory, timeline: tuple[Moment, ...], setting: Setting, device: Device
) -> Plan:
    """Put the figures together."""
    layers = _layer_costs(program, images)
    work = program.work(images)
    training = [each for (phase, _), each in work.items() if phase != "predict"]
    moved = sum(each.moved_bytes for each in training)
    setup = program.sections["setup"]
    weights = sum(int(program.base[slot]) for slot in setup if slot >= 0 and program.slots[slot].kind == "weights")
    note = f"memory is {CHECKED}: what kernels take beside tensors is a range"
    return Plan(
        net="", image=(0, 0, 0), num_classes=layers[-1].output_shape[-1], batch_size=images, setting=setting,
        params=sum(layer.params for layer in layers), macs=sum(layer.macs for layer in layers), weights_bytes=weights,
        saved_bytes=sum(layer.saved_bytes for layer in layers), train_peak_bytes=memory.allocated_bytes,
        train_reserved_bytes=memory.reserved_bytes.expected, predict_peak_bytes=memory.predict_bytes,
        bytes_moved=moved,
        predict_bytes_moved=sum(each.moved_bytes for (phase, _), each in work.items() if phase == "predict"),
        arithmetic_intensity=2 * sum(each.macs for each in training) / max(1, moved),
        device=Verdict(device.key, device.title, device.memory_bytes, memory.fits, memory.largest_batch,
                       memory.safe_batch, memory.outside_bytes, (), device.peak_flop_per_second(setting.precision),
                       device.bandwidth_bytes_per_second),
        layers=layers, peak=peak_of(timeline), timeline=timeline, notes=(note,) if device.kind == "cuda" else (),
    )  # fmt: skip


def _layer_costs(program: Program, images: int) -> tuple[LayerCost, ...]:
    """Join the layer table with the work of each layer; what a layer does twice stands where it ran first."""
    work, seen = program.work(images), set()
    rows = []
    for layer in program.layers(images):
        own = [] if layer.name in seen else [each for (phase, name), each in work.items()
                                             if name == layer.name and phase != "predict"]  # fmt: skip
        seen.add(layer.name)
        rows.append(LayerCost(layer.name, layer.kind, layer.output_shape, layer.params, layer.macs,
                              2 * sum(each.macs for each in own), layer.saved_bytes,
                              sum(each.moved_bytes for each in own)))  # fmt: skip
    return tuple(rows)


def _loads(program: Program, images: int, layers: tuple[LayerCost, ...]) -> list[Load]:
    convolutions = {layer.name for layer in layers if "Conv" in layer.kind}
    return [
        Load(name, phase, 2 * each.macs, each.moved_bytes, each.operations, name in convolutions)
        for (phase, name), each in program.work(images).items()
        if phase != "predict"
    ]


def _measured(
    net: nn.Module, image: Image, batch_size: int, setting: Setting, device: Device, seconds: float
) -> Duration:
    return calibrate(
        net, image, batch_size, device.key, optimizer=setting.optimizer, momentum=setting.momentum,
        weight_decay=setting.weight_decay, precision=setting.precision, channels_last=setting.channels_last,
        most_images=-(-batch_size // setting.parts), seconds=seconds,
    )  # fmt: skip


def _time(
    step: Duration | None, program: Program, images: int, batch_size: int, train_images: int | None, valid_images: int
) -> Time:
    """Return the seconds of a step, and of an epoch: its full steps, and validation at the forward's share of one."""
    if step is None:
        return Time()
    each = step.low_seconds, step.expected_seconds, step.high_seconds
    if train_images is None:
        return Time(each, None, step.how)
    macs = {phase: sum(work.macs for (at, _), work in program.work(images).items() if at == phase)
            for phase in ("forward", "backward")}  # fmt: skip
    forward = macs["forward"] / max(1, sum(macs.values()))
    steps = max(1, train_images // batch_size) + forward * valid_images / batch_size
    return Time(each, (each[0] * steps, each[1] * steps, each[2] * steps), step.how)
