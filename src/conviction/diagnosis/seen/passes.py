"""Forward passes of nets, as they begin and end; of a net that is known and a step that is not noted, only counts."""

from __future__ import annotations

import math
import weakref
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from conviction.diagnosis.seen.clock import Clock
from conviction.diagnosis.seen.forwards import Forward, ForwardsSeen, only_tensor
from conviction.diagnosis.seen.graphs import Marks
from conviction.diagnosis.seen.loaders import LoadersSeen
from conviction.diagnosis.seen.looks import Looks
from conviction.diagnosis.seen.nets import NetRecord, NetsSeen, autocast_of, unwrapped
from conviction.diagnosis.seen.places import Places
from conviction.diagnosis.seen.steps import StepsSeen
from conviction.diagnosis.trials.captured import Keeper

# Passes of testing that are looked at before they are only counted.
_LOOK_AT_TESTS = 12


class Passes:
    """The passes of a program, and all that they are told to: nets, loaders, steps, and who keeps batches."""

    def __init__(self, places: Places, clock: Clock) -> None:
        self.places, self.clock = places, clock
        self.marks = Marks()
        self.nets, self.loaders, self.looks = NetsSeen(), LoadersSeen(), Looks()
        self.forwards, self.steps, self.keeper = ForwardsSeen(self.marks), StepsSeen(self.nets), Keeper()
        self.inside: nn.Module | None = None  # the outermost module that is running
        self.current: Forward | None = None
        self.looking = False
        self.alarmed = False  # the loss has grown: what breaks is to be seen when it does
        self.measuring = self.noting = True
        self.quiet = False  # nothing is noted but counts
        self.quick: dict[int, tuple[Any, NetRecord]] = {}  # the nets that are known, by identity
        self.stepping = False
        self.autocast = ""

    def enter_net(self, module: nn.Module, args: tuple[Any, ...], frame: FrameType | None) -> None:
        """An outermost module begins to run."""
        record = self.nets.of(module)
        if record is None:
            return
        self.inside = module
        if self._goes_on(record, module):
            return
        inputs, graded = only_tensor(args), torch.is_grad_enabled()
        copied = self.keeper.wants(record, inputs, testing=not graded)
        source = self.loaders.source_of(inputs)
        kept = inputs.detach().clone() if copied and inputs is not None else inputs
        told = record.training_forwards < 2 if graded else record.test_at is None
        at = self.places.here(frame) if told else None
        forward = Forward(self.forwards.next_number(), record, module.training, graded, at, kept, copied, source)
        if source is not None and source.latest_labels is not None and len(source.latest_labels) == forward.samples:
            forward.targets = source.latest_labels
        self.current = forward
        if graded and not record.looked_for_names:
            record.looked_for_names = 1
            net = record.ref()
            record.names = self.places.names_of(net if net is not None else module, frame)
        self._prepare_look(record, forward)

    def _goes_on(self, record: NetRecord, module: nn.Module) -> bool:
        """Whether this is a further piece of a net that the program calls piece by piece."""
        self.current = None
        if record.ref() is unwrapped(module):
            return False
        first = record.first_piece() if record.first_piece is not None else None
        if first is None:
            record.first_piece = weakref.ref(module)
        if first is None or first is module:
            return False
        waiting = [forward for forward in self.forwards.waiting if forward.record is record]
        self.current = waiting[-1] if waiting else None
        return True

    def _prepare_look(self, record: NetRecord, forward: Forward) -> None:
        samples = forward.samples
        fewer = record.has_batch_norm and samples is not None and samples < (record.smallest_batch or math.inf)
        close = self.measuring or self.alarmed or self.looks.hunting or (self.noting and self.clock.generous)
        self.looking = forward.graded and (close or (fewer and forward.training))
        if forward.graded and samples is not None:
            record.smallest_batch = min(samples, record.smallest_batch or samples)
        if self.measuring and forward.graded and not self.autocast:
            self.autocast = autocast_of("cpu" if forward.inputs is None else forward.inputs.device.type)

    def look(self, module: nn.Module, output: Any) -> None:
        """A layer within a net has run, in a pass that is looked into."""
        if self.current is not None:
            net = self.current.record.ref()
            if net is not None:
                self.looks.look(net, self.current.record, module, output, self.steps.count)

    def leave_net(self, output: Any, failed: bool) -> None:
        """The outermost module has run, or failed."""
        forward, module, self.inside, self.current = self.current, self.inside, None, None
        if forward is None or failed or module is None:
            return
        if self.looking:
            self.current = forward
            self.look(module, output)
            self.current = None
        self.looking = False
        if forward.record.ref() is unwrapped(module):
            self.quick[id(module)] = (weakref.ref(module), forward.record)
        if self.forwards.end(forward, output) and forward.graded:
            for vain in self.forwards.wait(forward):
                self.end_test(vain)
        else:
            self.end_test(forward)

    def pass_quickly(self, module: nn.Module, args: tuple[Any, ...]) -> bool:
        """A net that is known runs while nothing is noted; False where that is to be looked at after all."""
        known = self.quick.get(id(module))
        if known is None or known[0]() is not module:
            return False
        record = known[1]
        if torch.is_grad_enabled():
            samples = len(args[0]) if args and isinstance(args[0], Tensor) and args[0].ndim else None
            if record.has_batch_norm and samples is not None and samples < (record.smallest_batch or 0):
                return False
            record.quick.append(module.training)
        elif record.testing_forwards < _LOOK_AT_TESTS:
            return False
        else:
            record.testing_forwards += 1
            record.testing_forwards_in_train += module.training
        self.inside, self.current = module, None
        return True

    def settle_quick(self, *, backward: bool = True) -> None:
        """Before a backward pass: of the passes that were only counted the last ones were of training."""
        for _, record in self.quick.values():
            if record.quick:
                first = max(0, len(record.quick) - record.per_backward) if backward else len(record.quick)
                record.testing_forwards += first
                record.testing_forwards_in_train += sum(record.quick[:first])
                record.training_forwards += len(record.quick) - first
                record.training_forwards_in_eval += record.quick[first:].count(False)
                record.quick.clear()

    def end_test(self, forward: Forward) -> None:
        """A pass was one of testing."""
        record = forward.record
        self.forwards.end_test(forward)
        record.testing_forwards += 1
        record.testing_forwards_in_train += forward.training
        record.test_at = record.test_at or forward.at
        if forward.source is not None:
            forward.source.tests = True
            if not forward.graded and forward.source in self.loaders.recent:
                self.loaders.recent.remove(forward.source)  # its batch is not what the next backward is about
        else:
            self.loaders.add_by_hand(forward.inputs, None, False, record)
        self.keeper.keep_test(forward, forward.targets)

    def end_training(self, forward: Forward) -> None:
        """A pass was one of training."""
        record = forward.record
        record.training_forwards += 1
        record.training_forwards_in_eval += not forward.training
        record.forward_at = record.forward_at or forward.at
        self.loaders.trained.add(record)
        if forward.source is not None:
            forward.source.trains = True
        else:
            self.loaders.add_by_hand(forward.inputs, forward.targets, True, record)
        self.keeper.begin(record)
        self.keeper.keep(forward, forward.targets)
        if forward.samples is not None:
            self.steps.latest.samples = forward.samples
