"""What a fit will cost, settled before it begins, and what it did cost: memory, time, params and MACs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from conviction.assembly import Assembly
from conviction.errors import ConvictionError, ResourceError
from conviction.evaluation import batch_size_for
from conviction.feeding import Feed
from conviction.figures import Markup
from conviction.nets import is_foreign, sketch
from conviction.plan_album import draw_plan
from conviction.planned import notes_on_recomputing, setting_of
from conviction.planning.backend import unseen_memory
from conviction.planning.devices import Device, find_device
from conviction.planning.planner import Image, make_plan
from conviction.planning.records import Plan
from conviction.planning.remedies import Remedy
from conviction.planning.step_trace import Setting
from conviction.planning.verdicts import EXPECTED
from conviction.runs import Epoch
from conviction.text import format_bytes, format_seconds, printable
from conviction.training.loop import Step
from conviction.training.measuring import FirstSteps, MemoryGauge, count_macs, resident_bytes
from conviction.training.recompute import recomputing
from conviction.training.statistics import count_refreshed

_RANKS = {"yes": 0, "likely": 1, "no": 2}
# Shorter runs need no word on how long they take.
_SHORT_SECONDS = 10.0


@dataclass(frozen=True)
class FitPlan:
    """The plan of a fit on the device that it runs on, of which `available_bytes` are free; and what making it took."""

    plan: Plan
    available_bytes: int
    seconds: float


def settle_cost(made: Assembly, begins: bool = True) -> tuple[Assembly, FitPlan | None]:
    """Plan the fit of what was assembled on its recipe's device; where the batch does not fit, in micro-batches.

    The micro-batch is settled in the recipe, and everything is said in a note, unless the fit only goes on (`begins` is
    false): then its recipe stands. A net or a device that cannot be planned is a note, too, and None is returned.

    Raises `ResourceError` where not even one image at a time fits.
    """
    notes = [*made.notes, *(notes_on_recomputing(made.recipe, made.net) if begins else ())]
    try:
        planned = _plan(made, begins)
    except ConvictionError as error:
        notes += [f"no plan of memory and time: {printable(error)}"] if begins else []
        return replace(made, notes=tuple(notes)), None
    if not begins:
        return made, planned
    plan, recipe = planned.plan, made.recipe
    if plan.device.fits == "no":
        raise _does_not_fit(made, planned)
    if plan.setting.parts > setting_of(recipe).parts:
        images = -(-plan.batch_size // plan.setting.parts)
        recipe = recipe.replace(micro_batch=images)
        notes.append(f"decided: micro_batch {images}: {plan.batch_size} images at once do not fit "
                     f"{format_bytes(planned.available_bytes)}; batch norm sees the micro-batches")  # fmt: skip
    notes.append(_in_words(plan, recipe.epochs or 0))
    return replace(made, recipe=recipe, notes=tuple(notes)), planned


def _plan(made: Assembly, begins: bool) -> FitPlan:
    begun = time.perf_counter()
    recipe, data, name = made.recipe, made.data, made.sources.net or ""
    assert recipe.batch_size is not None
    ours, batch_size = bool(name) and not is_foreign(name), min(recipe.batch_size, len(data.train))
    setting, found = setting_of(recipe.replace(batch_size=batch_size)), find_device(str(recipe.device))
    device = _as_it_is_now(found, setting)

    def net_for(image: Image) -> nn.Module:
        return made.net if image == data.image else sketch(name, data.num_classes, image)

    refreshed = count_refreshed(made.net, batch_size, len(data.train) // batch_size) if recipe.precise_bn else 0
    plan = make_plan(
        net_for, data.image, batch_size, setting, device, name=made.name,
        evaluated=batch_size_for(data.preprocessing), train_images=len(data.train),
        valid_images=len(data.valid) + refreshed * batch_size,  # these, too, pass through the net without learning
        resizes=ours, recomputing=recomputing, splits=begins,
    )  # fmt: skip
    available = found.memory_bytes if found.free_bytes is None else found.free_bytes
    return FitPlan(plan, available, time.perf_counter() - begun)


def _as_it_is_now(device: Device, setting: Setting) -> Device:
    """Count as free what this process holds already and a plan counts once more.

    On a card that is what PyTorch's allocator keeps without using it, on the processor the interpreter with torch.
    """
    if device.free_bytes is None:
        return device
    if device.kind == "cuda":
        own = torch.cuda.memory_reserved(device.key) - torch.cuda.memory_allocated(device.key)
    else:
        own = min(resident_bytes() or 0, unseen_memory(device, setting).outside_bytes[EXPECTED])
    return replace(device, free_bytes=device.free_bytes + own)


def _does_not_fit(made: Assembly, planned: FitPlan) -> ResourceError:
    plan = planned.plan
    context = 0 if plan.device.key == "cpu" else plan.device.outside_bytes.expected  # CUDA's own share of the card
    taken = format_bytes(_taken_bytes(plan) + context)
    what = (f"training {printable(made.name)} takes {taken} even with one image at a time, "
            f"and {format_bytes(planned.available_bytes)} are free")  # fmt: skip
    return ResourceError(what, plan.device.name, _first_remedy(plan.device.advice))


def _first_remedy(advice: Sequence[Remedy]) -> str:
    best = min(advice, key=lambda remedy: _RANKS[remedy.fits], default=None)
    if best is None or best.fits == "no":
        return "take a smaller net or smaller images, or close what else holds memory"
    knobs = " ".join(f"--set {name}={str(value).lower()}" for name, value in best.change.items())
    return f"use {knobs}, which {'fits' if best.fits == 'yes' else 'likely fits'}"


def _taken_bytes(plan: Plan) -> int:
    """What a run is expected to take from its device: on the CPU its tensors, on CUDA what the allocator reserves."""
    return plan.train_peak_bytes.expected if plan.device.key == "cpu" else plan.train_reserved_bytes


def _in_words(plan: Plan, epochs: int) -> str:
    """Tell what a plan comes to, the same in every run on this device: so not what is free at the moment."""
    device = plan.device
    likely = ", which likely fits" if device.fits == "likely" else ""
    taken, whole = format_bytes(_taken_bytes(plan)), format_bytes(device.memory_bytes)
    told = f"planned: {taken} of memory{likely}, of {whole} ({printable(device.name)})"
    if plan.time.epoch is None:
        return told
    low, expected, high = (format_seconds(epochs * each) for each in plan.time.epoch)
    return f"{told}; about {expected} ({low} to {high}, reckoned from the datasheet)"


class Costs:
    """Follows a fit: what was planned for it, told again after its first steps, and what it takes.

    Made before training begins; `peaks` are the highest figures so far, which go into a checkpoint.
    """

    def __init__(self, planned: FitPlan | None, feed: Feed, net: nn.Module) -> None:
        self.planned, self.epochs, self.steps_per_epoch = planned, feed.recipe.epochs or 0, feed.steps_per_epoch
        self.gauge = MemoryGauge(torch.device(feed.recipe.device or "cpu"), net)
        self.peaks: dict[str, int | None] = {}
        self.first: FirstSteps | None = None

    def start(self) -> None:
        """Begin to measure: training starts."""
        self.gauge.start()
        self.first = FirstSteps(self.gauge.device)

    def see(self, step: Step) -> str | None:
        """Take note of a step; returns how long what is left will take, once that is known and worth a word."""
        if self.first is None or not self.first.see(step):
            return None
        seconds_per_step, epoch = self.first.seconds_per_step or 0.0, step.epoch
        left = seconds_per_step * self._epoch_steps * (self.epochs - epoch)
        if left < _SHORT_SECONDS:
            return None
        return f"planned: about {format_seconds(left)} of training, by the first {step.in_epoch + 1} steps"

    @property
    def _epoch_steps(self) -> float:
        """How many steps take as long as an epoch with its evaluation."""
        told = None if self.planned is None else self.planned.plan.time.epoch_steps
        return told or float(self.steps_per_epoch)

    def note_peaks(self) -> dict[str, int | None]:
        """Return the highest memory figures so far, those before an interruption included."""
        for name, value in (("peak_bytes", self.gauge.peak_bytes), ("reserved_bytes", self.gauge.reserved_bytes)):
            self.peaks[name] = max((each for each in (self.peaks.get(name), value) if each is not None), default=None)
        return dict(self.peaks)

    def draw(self) -> dict[str, Markup]:
        """Draw the pictures of the plan; the roofline only where the device's rates are known."""
        if self.planned is None:
            return {}
        drawn = draw_plan(self.planned.plan)
        if self.planned.plan.device.peak_flop_per_second is None:
            del drawn["roofline"]
        return drawn

    def tell(self, net: nn.Module, image: Image, history: Sequence[Epoch], seconds: float) -> dict[str, Any]:
        """Return what was planned (None where there was no plan) and what was measured, as plain fields.

        `seconds` is all that training took, evaluations between epochs included. The measured `peak_bytes` is that `of`
        PyTorch's allocator, or of the process's resident memory: its growth while training, and the weights.
        """
        steps = self.steps_per_epoch * len(history)
        measured = {
            **self.note_peaks(), "peak_of": self.gauge.measures,
            "seconds_per_step": sum(row.seconds for row in history) / steps,
            "seconds_per_epoch": seconds / len(history), "seconds": seconds,
            "params": sum(parameter.numel() for parameter in net.parameters()), "macs": count_macs(net, image),
        }  # fmt: skip
        return {"planned": self._planned(), "measured": measured}

    def _planned(self) -> dict[str, Any] | None:
        if self.planned is None:
            return None
        plan = self.planned.plan
        step = None if self.first is None else self.first.seconds_per_step
        epoch = None if step is None else step * self._epoch_steps
        return {
            "device": plan.device.name, "available_bytes": self.planned.available_bytes, "fits": plan.device.fits,
            "train_peak_bytes": plan.train_peak_bytes._asdict(), "train_reserved_bytes": plan.train_reserved_bytes,
            "batch_size": plan.batch_size, "micro_batch": -(-plan.batch_size // plan.setting.parts),
            "params": plan.params, "macs": plan.macs, "seconds_per_step": step, "seconds_per_epoch": epoch,
            "seconds": epoch and epoch * self.epochs, "seconds_by": "the first steps",
            "datasheet_seconds_per_epoch": plan.time.epoch, "planning_seconds": round(self.planned.seconds, 3),
        }  # fmt: skip
