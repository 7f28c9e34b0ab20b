"""The steps of a program: of its optimizers, and those that it makes by hand between two backward passes."""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from conviction.diagnosis.seen.losses import LossCall
from conviction.diagnosis.seen.nets import NetsSeen
from conviction.diagnosis.seen.optimizers import OptimizerRecord, OptimizersSeen
from conviction.diagnosis.seen.weights import Gradients, Snapshot, norm_of, read_gradients, some_gradients
from conviction.findings.observation import StepSeen

_MOST_STEPS = 2000
NO_OPTIMIZER = -1


@dataclass(eq=False)
class Latest:
    """What is known of the step that is being prepared: the backward pass, the loss, the clipping before it."""

    loss: float | None = None
    call: LossCall | None = None
    samples: int | None = None
    clip_norm: float | None = None
    clip_found: Any = None

    def figures(self) -> dict[str, Any]:
        """Return what all steps tell, whoever makes them."""
        call = self.call
        return {
            "loss": self.loss,
            "told": call.told if call else None,
            "samples": self.samples if self.samples is not None else call.samples if call else None,
            "accuracy": call.accuracy if call else None,
            "clip_norm": self.clip_norm,
            "clip_found": None if self.clip_found is None else float(self.clip_found),
        }


@dataclass(eq=False)
class Open:
    """A backward pass after which the program may change weights by hand: weights and gradients as they were then.

    `leaves` holds its tensors weakly; a few are compared every time, all of them with a `snapshot`.
    """

    leaves: list[Any]
    few: Snapshot
    latest: Latest
    snapshot: Snapshot | None = None
    slopes: list[Tensor] | None = None
    gradients: Gradients = field(default_factory=lambda: Gradients(None, None))
    weight_norm: float | None = None


class StepsSeen:
    """All steps, counted; those measured, in detail."""

    def __init__(self, nets: NetsSeen) -> None:
        self.nets = nets
        self.optimizers = OptimizersSeen(nets)
        self.measured: list[StepSeen] = []
        self.count = 0
        self.latest = Latest()
        self.open: Open | None = None
        self._before: tuple[Snapshot | None, dict[str, Any], bool] | None = None
        self.unmade = 0  # backward passes after which nothing had changed, while there was no step at all

    @property
    def kinds(self) -> int:
        """How many optimizers step."""
        return max(1, sum(record.steps > 0 for record in self.optimizers.records))

    def begin(self, optimizer: Any, measuring: bool, closure: bool) -> OptimizerRecord:
        """Before a step: with `measuring` the weights are copied and the gradients read."""
        record = self.optimizers.begin_step(optimizer)
        snapshot, figures = None, dict[str, Any]()
        if measuring:
            tensors = record.parameters()
            snapshot = Snapshot(tensors)
            figures["weight_norm"] = norm_of(tensors)
            if not closure:
                figures |= _told(read_gradients(tensors))
        self._before = (snapshot, figures | {"lr": record.lr()}, closure)
        self.open = None  # an optimizer of torch's makes this step
        return record

    def end(self, record: OptimizerRecord, light: bool) -> None:
        """After a step: compare and put down; `light` puts down the losses of steps that are not measured too."""
        snapshot, told, closure = self._before or (None, {"lr": record.lr()}, False)
        figures: dict[str, Any] = dict(told)
        self._before = None
        if self.count == 0:
            self.measured.clear()  # backward passes without a step were the first parts of this one
        if snapshot is not None:
            if closure:
                figures |= _told(read_gradients(record.parameters()))
            change = snapshot.compare(self.nets.parameters)
            figures |= {"changed": change.changed, "update_ratio": change.update_ratio,
                        "largest_update_ratio": change.largest_update_ratio}  # fmt: skip
        if (light or snapshot is not None) and len(self.measured) < _MOST_STEPS:
            figures |= self.latest.figures()
            self.measured.append(StepSeen(index=self.count, optimizer=record.number, **figures))
        record.end_step()
        self.count += 1
        self.latest = Latest()

    def end_quickly(self, record: OptimizerRecord) -> None:
        """After a step of which nothing is noted: count it."""
        record.end_step()
        self.count += 1
        self.open, self.latest = None, Latest()

    def open_by_hand(self, leaves: list[Tensor], measuring: bool) -> None:
        """After a backward pass into tensors that no optimizer steps on: remember them."""
        few = sorted(leaves, key=lambda leaf: leaf.numel())[:3]
        opened = Open([weakref.ref(leaf) for leaf in leaves], Snapshot(few), self.latest)
        if measuring:
            opened.snapshot = Snapshot(leaves)
            opened.slopes = some_gradients(opened.snapshot.tensors)
            opened.gradients, opened.weight_norm = read_gradients(leaves), norm_of(leaves)
        self.open = opened

    def close_by_hand(self, light: bool, *, going_on: bool = True) -> bool:
        """Before the next backward pass: see whether the program changed its weights by itself; True if so."""
        opened, self.open = self.open, None
        if opened is None:
            return False
        changed = opened.few.compare(self.nets.parameters).changed
        figures: dict[str, Any] = {"lr": math.nan} | _told(opened.gradients) | {"weight_norm": opened.weight_norm}
        if opened.snapshot is not None:
            change = opened.snapshot.compare(self.nets.parameters)
            changed |= change.changed
            lr = opened.snapshot.estimate_lr(opened.slopes or [])
            figures |= {"lr": math.nan if lr is None else lr, "changed": changed, "update_ratio": change.update_ratio,
                        "largest_update_ratio": change.largest_update_ratio}  # fmt: skip
        figures |= opened.latest.figures()
        if not changed:
            self._put_unmade(figures | {"changed": False})
            return False
        if self.count == 0:
            self.measured.clear()
        record = self.optimizers.by_hand([leaf for ref in opened.leaves if (leaf := ref()) is not None])
        if not math.isnan(figures["lr"]):
            record.settings.setdefault("lr", figures["lr"])
        elif light:
            figures["lr"] = record.lr()
        if (light or opened.snapshot is not None) and len(self.measured) < _MOST_STEPS:
            self.measured.append(StepSeen(index=self.count, optimizer=record.number, **figures))
        record.steps += 1
        # The next backward pass is about to begin: what is there now will be added to.
        record.carried += going_on and any(t.grad is not None and bool(t.grad.any()) for t in opened.few.tensors)
        self.count += 1
        self.latest = Latest()
        return True

    def _put_unmade(self, figures: dict[str, Any]) -> None:
        if self.count == 0:
            if len(self.measured) < _MOST_STEPS:
                self.measured.append(StepSeen(index=self.unmade, optimizer=NO_OPTIMIZER, **figures))
            self.unmade += 1


def _told(gradients: Gradients) -> dict[str, Any]:
    return {"gradient_norm": gradients.norm, "zero_gradient_share": gradients.zero_share}
