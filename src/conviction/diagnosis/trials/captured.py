"""What experiments need of an observed program: a copy of its net at the start, batches, loss and optimizer."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from conviction.diagnosis.seen.forwards import Forward
from conviction.diagnosis.seen.losses import LossCall, assumed_loss, loss_from_output
from conviction.diagnosis.seen.nets import NetRecord, unwrapped

_MOST_BATCHES, _MOST_TESTS = 24, 4
_MOST_BYTES = 64 * 2**20
# Nets that are larger are not copied in the middle of a user's program.
_MOST_NET_BYTES = 2 * 2**30

Loss = Callable[[Any, Tensor], Tensor]
MakeOptimizer = Callable[[Iterable[nn.Parameter], dict[str, Any]], Optimizer]


@dataclass
class Captured:
    """Live things of an observed program, for experiments on clones.

    `start` is a deep copy of the net from before its first update, None where it could not be copied; `net` is the
    net itself. `batches` are training batches: inputs as the net got them, targets as the loss got them, detached
    copies; `test_batches` those of testing, with targets where they are known. `loss(output, targets)` is the
    program's own, with its arguments, from the net's output on: softmax, ReLU and the like that the program put
    between are in it; `loss_known` is False where something else lay between, or where the program computes its loss
    by itself (then it is cross-entropy). `optimizer(parameters, overrides)` makes one of the program's kind and
    settings. `loss_kind` is the functional's name, `between` the operations after the net's output.
    """

    start: nn.Module | None
    net: nn.Module
    batches: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    test_batches: list[tuple[Tensor, Tensor | None]] = field(default_factory=list)
    loss: Loss = assumed_loss
    optimizer: MakeOptimizer | None = None
    clip_norm: float | None = None
    autocast: torch.dtype | None = None
    loss_known: bool = False
    loss_kind: str = ""
    between: tuple[str, ...] = ()
    scaled: bool = False


class Keeper:
    """Collects what is captured while the program runs: of the first net that is seen to train."""

    def __init__(self) -> None:
        self.captured: Captured | None = None
        self.record: NetRecord | None = None
        self._bytes = 0
        self._tests: list[tuple[NetRecord, Tensor, Tensor | None]] = []

    def wants(self, record: NetRecord, inputs: Tensor | None, *, testing: bool = False) -> bool:
        """Whether a batch for a net is to be copied."""
        if inputs is None or self.record not in (None, record) or not inputs.ndim:
            return False
        if self._bytes + inputs.nbytes > _MOST_BYTES:
            return False
        kept = self._tests if testing else self.captured.batches if self.captured else ()
        return len(kept) < (_MOST_TESTS if testing else _MOST_BATCHES)

    def begin(self, record: NetRecord) -> None:
        """Copy a net that is about to be trained for the first time."""
        net = record.ref()
        if self.captured is not None or net is None:
            return
        self.record, self.captured = record, Captured(copied(net), unwrapped(net))
        self.captured.test_batches = [(x, y) for of, x, y in self._tests if of is record]

    def keep(self, forward: Forward, targets: Tensor | None) -> None:
        """Keep a training batch."""
        if self.captured is None or forward.record is not self.record or not forward.copied or targets is None:
            return
        if forward.inputs is None or len(self.captured.batches) >= _MOST_BATCHES or not targets.ndim:
            return
        self.captured.batches.append((forward.inputs, targets.detach().clone()))
        self._bytes += forward.inputs.nbytes + targets.nbytes

    def keep_test(self, forward: Forward, targets: Tensor | None) -> None:
        """Keep a batch of testing."""
        if not forward.copied or forward.inputs is None or len(self._tests) >= _MOST_TESTS:
            return
        answer = None if targets is None else targets.detach().clone()
        self._tests.append((forward.record, forward.inputs, answer))
        self._bytes += forward.inputs.nbytes
        if self.captured is not None and forward.record is self.record:
            self.captured.test_batches.append((forward.inputs, answer))

    def learn_loss(self, call: LossCall) -> None:
        """Take over the program's loss function, once it is seen."""
        if self.captured is None or self.captured.loss_kind:
            return
        self.captured.loss, self.captured.loss_known = loss_from_output(call)
        self.captured.loss_kind = call.record.kind
        self.captured.between = tuple(step.name for step in call.between)

    def learn_optimizer(self, optimizer: Optimizer) -> None:
        """Take over the program's optimizer if it has parameters of the net."""
        if self.captured is None or self.captured.optimizer is not None:
            return
        mine = {id(parameter) for parameter in self.captured.net.parameters()}
        if any(id(p) in mine for group in optimizer.param_groups for p in group["params"]):
            self.captured.optimizer = maker_of(optimizer)


def copied(net: nn.Module) -> nn.Module | None:
    """Deep-copy a net, with what it has computed and keeps as plain values; None where it refuses or is very large."""
    if sum(p.nbytes for p in net.parameters()) > _MOST_NET_BYTES:
        return None
    memo: dict[int, Any] = {}
    for module in net.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:  # torch copies no tensor that was computed
                memo[id(value)] = value.detach().clone()
    try:
        with torch.no_grad():
            copy_of_it = copy.deepcopy(net, memo)
    except Exception:  # whatever a user's own attributes raise
        return None
    for parameter in copy_of_it.parameters():
        if not parameter.is_leaf:
            parameter.detach_().requires_grad_()
        parameter.grad = None
    return copy_of_it


def maker_of(optimizer: Optimizer) -> MakeOptimizer:
    """Return what makes optimizers of the same kind and settings (those of the first group, as they are now)."""
    kind = type(optimizer)
    accepted = inspect.signature(kind.__init__).parameters
    group = optimizer.param_groups[0]
    settings = {name: group[name] for name in optimizer.defaults if name in group and name in accepted}
    settings = {name: copy.copy(value) for name, value in settings.items()}

    def make(parameters: Iterable[nn.Parameter], overrides: dict[str, Any] | None = None) -> Optimizer:
        return kind(parameters, **(settings | (overrides or {})))

    return make


def sgd_by_hand(lr: float | None) -> MakeOptimizer:
    """Return what makes plain SGD at the rate that a program's own updates were seen to have."""

    def make(parameters: Iterable[nn.Parameter], overrides: dict[str, Any] | None = None) -> Optimizer:
        settings: dict[str, Any] = {"lr": lr or 0.01}
        return torch.optim.SGD(parameters, **(settings | (overrides or {})))

    return make
