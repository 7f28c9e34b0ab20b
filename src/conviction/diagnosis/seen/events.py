"""The events of training: losses, backward passes and steps, told one after another to what was seen before."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from conviction.diagnosis.seen.clock import Clock
from conviction.diagnosis.seen.looks import is_finite
from conviction.diagnosis.seen.losses import LossesSeen
from conviction.diagnosis.seen.memory import MemorySeen
from conviction.diagnosis.seen.passes import Passes
from conviction.diagnosis.seen.places import Places

# Backward passes whose graphs are read whatever the clock says.
_READ_FIRST = 12


class Events(Passes):
    """What happens in a program, put together. Each method is told one event; those of forward passes are inherited."""

    def __init__(self, places: Places, clock: Clock) -> None:
        super().__init__(places, clock)
        self.losses, self.memory = LossesSeen(self.marks), MemorySeen()
        self.backwards = 0
        self.first_told: float | None = None
        self.scaler, self.scale = False, 1.0
        self.by_hand: list[Any] | None = None  # weak: tensors that no optimizer steps on
        self._leaves: list[Tensor] | None = None

    def note_loss(
        self, kind: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any, frame: FrameType
    ) -> None:
        """A loss function has been called."""
        if self.quiet or not torch.is_grad_enabled():
            return
        call = self.losses.note(kind, args, kwargs, result, self.places.here(frame), self.measuring)
        if call is None:
            return
        self.steps.latest.call = call
        source = call.input()
        forward = self.forwards.of_token(call.token, source)
        if forward is None and self.forwards.waiting and self.forwards.waiting[-1].samples == call.samples:
            forward = self.forwards.waiting[-1]
        if forward is not None:
            forward.targets = call.target
        if call.told is not None and not math.isfinite(call.told):
            self._suspect(kind, source)
        elif call.told is not None:
            self.first_told = call.told if self.first_told is None else self.first_told
            self.alarmed = abs(call.told) > 4 * abs(self.first_told) + 4

    def _suspect(self, kind: str, source: Tensor | None) -> None:
        """A loss is not finite: it was made by the loss function, or by a layer that is found the next time."""
        if source is not None and is_finite(source):
            self.looks.find_not_finite(kind, self.steps.count)
        else:
            self.looks.hunting = True

    def settle(self) -> None:
        """Before a backward pass: see whether the program made a step by itself since the last one."""
        if not self.stepping and self.steps.close_by_hand(self.noting):
            self._choose()

    def begin_backward(self, tensors: Sequence[Any], frame: FrameType) -> None:
        """A backward pass begins."""
        self.inside = self.current = None
        self.backwards += 1
        for record in self.steps.optimizers.records:
            record.look_for_clearing()
        self.settle_quick()
        if self.quiet:
            self.losses.confirm_quickly()
            if not self.forwards.waiting:
                return
        roots = [tensor for tensor in tensors if isinstance(tensor, Tensor)]
        exact = self.quiet or self.measuring or self.backwards <= _READ_FIRST
        through, vain, leaves = self.forwards.confirm(roots, exact)
        for forward in vain:
            self.end_test(forward)
        call = self.losses.latest
        linked = call.token.entry if call is not None and call.token is not None else -1
        for forward in sorted(through, key=lambda forward: forward.number != linked):
            self.end_training(forward)
        for record in {id(forward.record): forward.record for forward in through}.values():
            record.per_backward = max(record.per_backward, sum(forward.record is record for forward in through))
        self.losses.confirm({forward.number for forward in through})
        if call is not None and through:
            self.keeper.learn_loss(call)
        self._read_value(roots)
        if leaves is not None:
            self.nets.note_leaves(leaves)
        self._leaves = leaves
        if not self.stepping:  # within a step the optimizer itself keeps losses
            self.forwards.watch_graph(through, roots, self.places.here(frame))

    def _read_value(self, roots: list[Tensor]) -> None:
        if roots and roots[0].numel() == 1 and (self.measuring or roots[0].device.type == "cpu"):
            value = float(roots[0].detach()) / self.scale
            self.steps.latest.loss = value
            if not math.isfinite(value) and not self.looks.hunting:
                self.looks.find_not_finite("loss", self.steps.count)

    def end_backward(self) -> None:
        """A backward pass has ended."""
        leaves, self._leaves = self._leaves, None
        if self.stepping:
            return
        if leaves is not None:
            free = bool(leaves) and (self.steps.count == 0 or not self.steps.optimizers.owns(leaves))
            self.by_hand = [weakref.ref(leaf) for leaf in leaves] if free else None
        if self.by_hand is not None:
            tensors = [tensor for ref in self.by_hand if (tensor := ref()) is not None]
            self.steps.open_by_hand(tensors, self.measuring)
            if self.steps.count == 0:
                self.measuring = self.clock.measures(self.steps.unmade + 1, 1)
                self.noting = self.measuring or self.clock.notes(self.steps.unmade + 1, 1)

    def note_optimizer(self, optimizer: Optimizer, frame: FrameType) -> None:
        """An optimizer has been made."""
        self.steps.optimizers.of(optimizer, self.places.maker(optimizer, frame))

    def begin_step(self, optimizer: Optimizer, closure: bool, frame: FrameType) -> None:
        """An optimizer is about to step."""
        self.inside = self.current = None
        self.stepping, self.by_hand = True, None
        if self.quiet and self.steps.optimizers.of(optimizer).steps:
            return
        record = self.steps.begin(optimizer, self.measuring, closure)
        record.step_at = record.step_at or self.places.here(frame)
        self.keeper.learn_optimizer(optimizer)

    def end_step(self, optimizer: Optimizer) -> None:
        """An optimizer has stepped."""
        self.stepping = False
        record = self.steps.optimizers.of(optimizer)
        if self.quiet and record.steps:
            self.steps.end_quickly(record)
        else:
            self.steps.end(record, self.noting)
        self._choose()

    def _choose(self) -> None:
        """After a step: choose whether the next one is measured."""
        if self.measuring:
            self.memory.note(self.steps.count)
        count, kinds = self.steps.count, self.steps.kinds
        self.measuring = self.clock.measures(count, kinds)
        self.noting = self.measuring or self.clock.notes(count, kinds)

    @property
    def may_be_quiet(self) -> bool:
        """Whether the next step goes by without notes."""
        return not (self.noting or self.looks.hunting or self.stepping) and self.by_hand is None

    def note_clipping(self, max_norm: Any, found: Any) -> None:
        """Gradients have been clipped."""
        if self.quiet:
            return
        self.steps.latest.clip_norm = float(max_norm)
        cheap = isinstance(found, Tensor) and (self.measuring or found.device.type == "cpu")
        self.steps.latest.clip_found = float(found) if cheap else None
        if self.keeper.captured is not None:
            self.keeper.captured.clip_norm = float(max_norm)

    def note_scaling(self, scaler: Any) -> None:
        """A gradient scaler is at work."""
        if scaler.is_enabled():
            self.scaler = True
            if self.measuring:
                self.scale = float(scaler.get_scale()) or 1.0

    def close(self, cut: bool = False) -> None:
        """The observation ends: what was left open is settled.

        Where it was `cut` short, the latest forward pass might have had its backward: it is no test.
        """
        self.inside = self.current = None
        if not self.stepping:
            self.steps.close_by_hand(light=True, going_on=False)
        self.settle_quick(backward=False)
        for forward in self.forwards.waiting[: -1 if cut else None]:
            self.end_test(forward)
        self.forwards.waiting.clear()
        captured = self.keeper.captured
        if captured is not None:
            captured.scaled = self.scaler
            captured.autocast = getattr(torch, self.autocast) if self.autocast else None

    def facts(self) -> dict[str, Any]:
        """Return what was seen as the fields of an `Observation`."""
        return {
            "steps": self.steps.count, "backwards": self.backwards, "nets": self.nets.seen(),
            "losses": self.losses.seen(), "loaders": self.loaders.seen(), "graphs_kept": self.forwards.graphs_kept,
            "test_graphs_kept": self.forwards.test_graphs_kept,
            "memory_growth_bytes": self.memory.growth_bytes(), "not_finite": self.looks.not_finite,
            "not_finite_at_step": self.looks.not_finite_at_step, "autocast": self.autocast, "scaler": self.scaler,
        }  # fmt: skip
