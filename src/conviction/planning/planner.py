"""From a net, an image and a device to its plan: the traces are made once and everything is derived from them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

from torch import nn

from conviction.planning.backend import unseen_memory
from conviction.planning.devices import Device
from conviction.planning.durations import Duration, Load, calibrate, estimate_step
from conviction.planning.layers import Layer
from conviction.planning.program import Program, make_program
from conviction.planning.records import CHECKED, LayerCost, Plan, Time, Verdict
from conviction.planning.remedies import ProgramFor, Remedy, Run, find_remedies
from conviction.planning.smallest import Smallest
from conviction.planning.step_trace import Setting, StepTrace, trace_step
from conviction.planning.timeline import follow_step, peak_of
from conviction.planning.verdicts import EXPECTED, Memory, judge, split_until_it_fits
from conviction.planning.watching import Work

Image = tuple[int, int, int]
Works = dict[tuple[str, str], Work]  # by phase and layer
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
    splits: bool = False,
) -> Plan:
    """Plan training with `batch_size` images of shape `image` (C, H, W) a step, and predicting, on `device`.

    `net_for(image)` gives the net, in memory or on the meta device; with `resizes` it is asked for smaller images too.
    `evaluated` is the batch of the evaluations between epochs. Of `train_images` and `valid_images` an epoch's time is
    reckoned. With `measure_seconds` a device that is really here is measured for so long; nothing else runs.

    With `splits` a batch that does not fit is planned in the fewest micro-batches that do, told by the plan's setting.
    Remedies, for each of which the net is traced again, are looked for where a plan does not surely fit; with `splits`
    where nothing does.

    Raises `UsageError` for a net that cannot take the image, run without numbers or be trained.
    """
    program_for = _tracing(net_for, recomputing)
    if splits:
        setting = split_until_it_fits(lambda asked: program_for(asked, image), batch_size, setting, device, evaluated)
    program = program_for(setting, image)
    images = -(-batch_size // setting.parts)
    work = program.work(images)
    memory = judge(program, images, setting, device, evaluated)
    timeline = follow_step(program, images, unseen_memory(device, setting).scratch[EXPECTED])
    advice: tuple[Remedy, ...] = ()
    if memory.fits == "no" or (memory.fits == "likely" and not splits):
        run = Run(image, batch_size, setting, device, memory, peak_of(timeline))
        advice = find_remedies(run, program_for, recomputing is not None, resizes)
    layers = _layer_costs(program.layers(images), work)
    if measure_seconds:
        step = _measured(net_for(image), image, batch_size, setting, device, measure_seconds)
    else:
        step = estimate_step(_loads(work, layers), device, setting.precision)
    note = f"memory is {CHECKED}: what kernels take beside tensors is a range"
    return Plan(
        net=name, image=image, num_classes=program.small.num_classes, batch_size=batch_size, setting=setting,
        params=sum(layer.params for layer in layers), macs=sum(layer.macs for layer in layers),
        weights_bytes=_weights_bytes(program), saved_bytes=sum(layer.saved_bytes for layer in layers),
        train_peak_bytes=memory.allocated_bytes, train_reserved_bytes=memory.reserved_bytes.expected,
        predict_peak_bytes=memory.predict_bytes, **_traffic(work),
        device=_verdict(memory, device, setting, advice), layers=layers, peak=peak_of(timeline), timeline=timeline,
        min_image=smallest, time=_time(step, work, batch_size, train_images, valid_images),
        notes=(note,) if device.kind == "cuda" else (),
    )  # fmt: skip


def _tracing(net_for: Callable[[Image], nn.Module], recomputing: Recomputing | None) -> ProgramFor:
    """Return what makes the program of a net in a setting, for images of a shape; nothing is traced twice."""

    @cache  # two micro-batches are traced for any number of them
    def traced(setting: Setting, image: Image, batch: int) -> StepTrace:
        return trace_step(net_for(image), image, batch, setting, recomputing=recomputing)

    @cache
    def program_for(setting: Setting, image: Image) -> Program:
        return make_program(
            lambda batch, parts: traced(replace(setting, parts=parts), image, batch),
            setting.parts,
        )

    return program_for


def _weights_bytes(program: Program) -> int:
    born = [slot for slot in program.sections["setup"] if slot >= 0]
    return sum(int(program.base[slot]) for slot in born if program.slots[slot].kind == "weights")


def _traffic(work: Works) -> dict[str, Any]:
    """Return what a training step and a prediction move, and a training step's FLOP a byte."""
    training = [each for (phase, _), each in work.items() if phase != "predict"]
    moved = sum(each.moved_bytes for each in training)
    return {
        "bytes_moved": moved,
        "predict_bytes_moved": sum(each.moved_bytes for (phase, _), each in work.items() if phase == "predict"),
        "arithmetic_intensity": 2 * sum(each.macs for each in training) / max(1, moved),
    }


def _verdict(memory: Memory, device: Device, setting: Setting, advice: tuple[Remedy, ...]) -> Verdict:
    return Verdict(device.key, device.title, device.memory_bytes, memory.fits, memory.largest_batch, memory.safe_batch,
                   memory.outside_bytes, advice, device.peak_flop_per_second(setting.precision),
                   device.bandwidth_bytes_per_second)  # fmt: skip


def _layer_costs(layers: tuple[Layer, ...], work: Works) -> tuple[LayerCost, ...]:
    """Join the layer table with the work of each layer; what a layer does twice stands where it ran first."""
    seen = set()
    rows = []
    for layer in layers:
        own = [] if layer.name in seen else [each for (phase, name), each in work.items()
                                             if name == layer.name and phase != "predict"]  # fmt: skip
        seen.add(layer.name)
        rows.append(LayerCost(layer.name, layer.kind, layer.output_shape, layer.params, layer.macs,
                              2 * sum(each.macs for each in own), layer.saved_bytes,
                              sum(each.moved_bytes for each in own)))  # fmt: skip
    return tuple(rows)


def _loads(work: Works, layers: tuple[LayerCost, ...]) -> list[Load]:
    convolutions = {layer.name for layer in layers if "Conv" in layer.kind}
    return [
        Load(name, phase, 2 * each.macs, each.moved_bytes, each.operations, name in convolutions)
        for (phase, name), each in work.items()
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


def _time(step: Duration | None, work: Works, batch_size: int, train_images: int | None, valid_images: int) -> Time:
    """Return the seconds of a step, and of an epoch: its full steps, and validation at the forward's share of one."""
    each = None if step is None else (step.low_seconds, step.expected_seconds, step.high_seconds)
    how = "" if step is None else step.how
    if train_images is None:
        return Time(each, None, how)
    macs = {phase: sum(each.macs for (at, _), each in work.items() if at == phase)
            for phase in ("forward", "backward")}  # fmt: skip
    forward = macs["forward"] / max(1, sum(macs.values()))
    steps = max(1, train_images // batch_size) + forward * valid_images / batch_size
    return Time(each, each and (each[0] * steps, each[1] * steps, each[2] * steps), how, steps)
