"""The optimizers of a program: their settings, their steps, and whether gradients are cleared between two of them."""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from conviction.diagnosis.seen.nets import NetsSeen
from conviction.findings.observation import OptimizerSeen, Place
from conviction.findings.readings import BY_HAND

_SETTINGS = ("lr", "momentum", "dampening", "eps", "weight_decay", "maximize", "nesterov", "alpha", "rho", "amsgrad")


@dataclass(eq=False)
class OptimizerRecord:
    """What is known of one optimizer so far; `ref` gives None for updates that the program makes by hand."""

    number: int
    kind: str
    ref: Any
    settings: dict[str, float] = field(default_factory=dict)
    tensors: list[Any] = field(default_factory=list)  # weak
    known: set[int] = field(default_factory=set)  # of its parameters' records, which outlive them
    params: int = 0
    steps: int = 0
    zero_grads: int = 0
    carried: int = 0
    made_at: Place | None = None
    step_at: Place | None = None
    sentinel: Any = None  # weak: one of its tensors with a gradient at the last step
    cleared: bool = True
    alike: float | None = None

    def parameters(self) -> list[Tensor]:
        """Return the tensors that it may change."""
        optimizer = self.ref()
        if optimizer is not None:
            return [p for group in optimizer.param_groups for p in group["params"]]
        return [tensor for ref in self.tensors if (tensor := ref()) is not None]

    def lr(self) -> float:
        """Return its rate now; NaN where it is not known."""
        optimizer = self.ref()
        return float(optimizer.param_groups[0]["lr"]) if optimizer is not None else self.settings.get("lr", math.nan)

    def look_for_clearing(self) -> None:
        """Before a backward pass: see whether the gradients of the last step are gone."""
        if self.cleared or self.sentinel is None:
            return
        tensor = self.sentinel()
        if tensor is None or not _has_gradient(tensor):
            self.cleared = True

    def end_step(self) -> None:
        """After a step: count it, and remember a tensor whose gradient is not zero."""
        self.steps += 1
        if not self.cleared:
            self.carried += 1
        known = self.sentinel() if self.sentinel is not None else None
        if known is None or known.grad is None:
            graded = [p for p in self.parameters() if p.grad is not None and p.grad.layout == torch.strided]
            graded = sorted(graded, key=lambda p: p.numel())[:8]
            known = next((p for p in graded if _has_gradient(p)), None)
        self.sentinel = None if known is None else weakref.ref(known)
        self.cleared = known is None


class OptimizersSeen:
    """All optimizers of a program."""

    def __init__(self, nets: NetsSeen) -> None:
        self.nets = nets
        self.records: list[OptimizerRecord] = []

    def of(self, optimizer: Optimizer, made_at: Place | None = None) -> OptimizerRecord:
        """Return an optimizer's record; one never seen is written down."""
        for record in self.records:
            if record.ref() is optimizer:
                return record
        tensors = [p for group in optimizer.param_groups for p in group["params"]]
        record = OptimizerRecord(
            len(self.records), type(optimizer).__name__, weakref.ref(optimizer), _settings_of(optimizer),
            [weakref.ref(t) for t in tensors], sum(t.numel() for t in tensors), made_at=made_at,
        )  # fmt: skip
        self.records.append(record)
        self._own(record, tensors)
        return record

    def _own(self, record: OptimizerRecord, tensors: list[Tensor]) -> None:
        self.nets.add_owned(tensors)
        record.params = sum(tensor.numel() for tensor in tensors)
        record.known = {id(self.nets.parameters.of(tensor)) for tensor in tensors}

    def by_hand(self, tensors: list[Tensor]) -> OptimizerRecord:
        """Return the record of the updates that the program makes by itself."""
        record = next((record for record in self.records if record.kind == BY_HAND), None)
        if record is None:
            record = OptimizerRecord(len(self.records), BY_HAND, lambda: None)
            self.records.append(record)
        known = {id(ref()) for ref in record.tensors}
        record.tensors += [weakref.ref(tensor) for tensor in tensors if id(tensor) not in known]
        if any(id(tensor) not in known for tensor in tensors):
            self._own(record, record.parameters())
        return record

    def begin_step(self, optimizer: Optimizer) -> OptimizerRecord:
        """Note that an optimizer is about to step; its settings are those at the first step."""
        record = self.of(optimizer)
        if record.steps == 0:
            record.settings = _settings_of(optimizer)
            self._own(record, record.parameters())  # groups may have been added since it was made
            record.alike = _share_alike(record.parameters())
        return record

    def owns(self, tensors: list[Tensor]) -> bool:
        """Whether an optimizer of torch's has one of these tensors."""
        wanted = {id(tensor) for tensor in tensors}
        return any(id(p) in wanted for r in self.records if r.kind != BY_HAND for p in r.parameters())

    def note_clearing(self, optimizer: Optimizer) -> None:
        """Note that an optimizer's gradients are cleared."""
        self.of(optimizer).zero_grads += 1

    def note_module_clearing(self, module: nn.Module) -> None:
        """Note that a module's gradients are cleared."""
        mine = {id(parameter) for parameter in module.parameters()}
        for record in self.records:
            record.zero_grads += any(id(p) in mine for p in record.parameters())

    def seen(self) -> tuple[OptimizerSeen, ...]:
        """Return the records as plain values."""
        return tuple(self._seen(record) for record in self.records)

    def _seen(self, record: OptimizerRecord) -> OptimizerSeen:
        told = enumerate(self.nets.told())
        nets = [number for number, net in told if any(id(p) in record.known for p in net.parameters)]
        return OptimizerSeen(
            record.number, record.kind, tuple(record.settings.items()), record.params, tuple(nets), record.steps,
            record.zero_grads, record.carried, record.made_at, record.step_at, record.alike,
        )  # fmt: skip


def _share_alike(tensors: list[Tensor]) -> float | None:
    """Return the share of the weight matrices of which all numbers are the same; None without any, or elsewhere."""
    matrices = [t.detach() for t in tensors if t.ndim > 1 and t.shape[0] > 1 and t.device.type == "cpu"]
    return sum(bool((m == m.flatten()[0]).all()) for m in matrices) / len(matrices) if matrices else None


def _has_gradient(tensor: Tensor) -> bool:
    return tensor.grad is not None and bool(tensor.grad.any())


def _settings_of(optimizer: Optimizer) -> dict[str, float]:
    group = optimizer.param_groups[0]
    found = {name: float(group[name]) for name in _SETTINGS if isinstance(group.get(name), (int, float, Tensor))}
    betas = group.get("betas")
    if isinstance(betas, (tuple, list)):
        found |= {f"beta{index}": float(beta) for index, beta in enumerate(betas, 1)}
    return found
