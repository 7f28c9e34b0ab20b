"""Loss functions as a program calls them: their inputs, targets and arguments, and the values that came out."""

from __future__ import annotations

import inspect
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from conviction.diagnosis.seen.graphs import Between, Marks, Token, made_by
from conviction.findings.observation import LossSeen, Place

# The functions of torch.nn.functional(input, target, ...) that the loss modules call too.
LOSSES = (
    "cross_entropy", "nll_loss", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy",
    "binary_cross_entropy_with_logits", "kl_div", "multi_margin_loss", "multilabel_margin_loss",
    "multilabel_soft_margin_loss", "soft_margin_loss", "poisson_nll_loss",
)  # fmt: skip
_SIGNATURES = {name: inspect.signature(getattr(F, name)) for name in LOSSES}


_MOST_WAITING = 32


@dataclass(eq=False)
class LossRecord:
    """What is known of one loss function at one line so far."""

    kind: str
    at: Place | None
    reduction: str
    calls: int = 0
    input_shape: tuple[int, ...] = ()
    lowest: float = math.inf
    highest: float = -math.inf
    rows_sum_to_one: bool | None = None
    made_by: str = ""
    requires_grad: bool = True
    target_shape: tuple[int, ...] = ()
    target_kind: str = ""
    target_lowest: float = math.inf
    target_highest: float = -math.inf
    target_distinct: int | None = None
    label_smoothing: float = 0.0
    weighted: bool = False
    details: int = 0

    def seen(self) -> LossSeen:
        """Return the record as plain values."""
        return LossSeen(
            kind=self.kind, calls=self.calls, at=self.at, reduction=self.reduction, input_shape=self.input_shape,
            lowest=_known(self.lowest), highest=_known(self.highest), rows_sum_to_one=bool(self.rows_sum_to_one),
            made_by=self.made_by, requires_grad=self.requires_grad, target_shape=self.target_shape,
            target_kind=self.target_kind, target_lowest=_known(self.target_lowest),
            target_highest=_known(self.target_highest), target_distinct=self.target_distinct,
            label_smoothing=self.label_smoothing, weighted=self.weighted,
        )  # fmt: skip


@dataclass(eq=False)
class LossCall:
    """The latest call of a loss function: what it was given, and the output of a net that this came from."""

    record: LossRecord
    arguments: dict[str, Any]  # without input and target
    input: Any  # weak
    input_shape: tuple[int, ...]
    target: Tensor
    token: Token | None
    between: tuple[Between, ...]
    told: float | None = None
    accuracy: float | None = None
    samples: int | None = None


@dataclass
class LossesSeen:
    """All loss functions of a program, and the last call."""

    marks: Marks
    records: dict[tuple[Any, ...], LossRecord] = field(default_factory=dict)
    latest: LossCall | None = None
    waiting: list[LossCall] = field(default_factory=list)  # calls after which no backward pass has come yet

    def note(self, kind: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any, at: Place | None,
             detailed: bool) -> LossCall | None:  # fmt: skip
        """Note a call with gradients enabled; `detailed` reads the numbers that it was given too."""
        given = _SIGNATURES[kind].bind(*args, **kwargs).arguments
        source, target = given.pop("input", None), given.pop("target", None)
        if not isinstance(source, Tensor) or not isinstance(target, Tensor) or not isinstance(result, Tensor):
            return None
        reduction = str(given.get("reduction", "mean"))
        record = self.records.get((kind, at, reduction, source.ndim))
        if record is None:
            record = self.records[kind, at, reduction, source.ndim] = LossRecord(kind, at, reduction)
        if detailed or not record.details:
            _read_details(record, source, target, given)
        token, between = self.marks.path_back(source)
        call = LossCall(
            record, given, weakref.ref(source), tuple(source.shape), target, token, between,
            samples=len(source) if source.ndim else None,
        )  # fmt: skip
        if detailed or result.device.type == "cpu":
            call.told = float(result.detach()) if result.numel() == 1 else float(result.detach().mean())
            call.accuracy = _accuracy(source.detach(), target)
        self.latest = call
        self.waiting = [*self.waiting[1 - _MOST_WAITING :], call]
        return call

    def confirm(self, passes: set[int]) -> None:
        """Note a backward pass through some forward passes: the calls on their outputs were of training."""
        waiting = []
        for call in self.waiting:
            if call.token is None or call.token.entry in passes:
                call.record.calls += 1
            else:
                waiting.append(call)
        self.waiting = waiting

    def confirm_quickly(self) -> None:
        """Note a backward pass before which no call was looked at: it is taken for one like the last."""
        if self.latest is not None:
            self.latest.record.calls += 1

    def seen(self) -> tuple[LossSeen, ...]:
        """Return the losses that were trained with, the most used first; where none was, those that were computed."""
        trained = [record for record in self.records.values() if record.calls]
        if not trained:
            trained = list(self.records.values())
        return tuple(record.seen() for record in sorted(trained, key=lambda record: -record.calls))


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _read_details(record: LossRecord, source: Tensor, target: Tensor, given: dict[str, Any]) -> None:
    """Read shapes, ranges and origins; ranges grow with every call that is read."""
    values, labels = source.detach(), target.detach()
    record.details += 1
    if record.details == 1:
        record.input_shape, record.target_shape = tuple(values.shape), tuple(labels.shape)
        record.target_kind = str(labels.dtype).removeprefix("torch.")
        record.made_by = made_by(source)
        record.requires_grad = source.requires_grad
        record.label_smoothing = float(given.get("label_smoothing", 0.0))
        record.weighted = given.get("weight") is not None
    if values.numel():
        record.lowest = min(record.lowest, float(values.amin()))
        record.highest = max(record.highest, float(values.amax()))
        sums = values.ndim == 2 and values.shape[1] > 1 and _are_shares(values)
        record.rows_sum_to_one = sums and record.rows_sum_to_one is not False
    if labels.numel():
        record.target_lowest = min(record.target_lowest, float(labels.amin()))
        record.target_highest = max(record.target_highest, float(labels.amax()))
        if labels.numel() <= 65536:
            record.target_distinct = max(record.target_distinct or 0, len(labels.unique()))


def _are_shares(values: Tensor) -> bool:
    return bool((values >= 0).all() and ((values.float().sum(1) - 1).abs() < 1e-3).all())


def _accuracy(values: Tensor, labels: Tensor) -> float | None:
    """Return the share of right answers of logits [N, C] to labels [N], or to rows [N, C] with one largest each."""
    if values.ndim != 2 or values.shape[1] < 2 or not len(values):
        return None
    if labels.ndim == 2 and labels.shape == values.shape and labels.is_floating_point():
        labels = labels.argmax(1)
    if labels.ndim != 1 or labels.is_floating_point() or len(labels) != len(values):
        return None
    return float((values.argmax(1) == labels).float().mean())


_KNOWN: dict[str, Callable[[Tensor, int | None], Tensor]] = {
    "softmax": lambda values, dim: values.softmax(-1 if dim is None else dim),
    "logsoftmax": lambda values, dim: values.log_softmax(-1 if dim is None else dim),
    "relu": lambda values, dim: values.relu(),
    "sigmoid": lambda values, dim: values.sigmoid(),
    "tanh": lambda values, dim: values.tanh(),
    "log": lambda values, dim: values.log(),
    "logsigmoid": lambda values, dim: F.logsigmoid(values),
}


def loss_from_output(call: LossCall) -> tuple[Callable[[Any, Tensor], Tensor], bool]:
    """Return the loss as a function of a net's output and targets, and whether all that lay between is in it."""
    function = inspect.unwrap(getattr(F, call.record.kind))
    path = call.token.path if call.token else ()
    between = tuple(step for step in call.between if step.name in _KNOWN) if call.token else ()
    arguments, shape = dict(call.arguments), call.input_shape

    def compute(output: Any, targets: Tensor) -> Tensor:
        for part in path if not isinstance(output, Tensor) else ():
            output = output[part]
        for step in between:
            output = _KNOWN[step.name](output, step.dim)
        if tuple(output.shape[1:]) != shape[1:] and math.prod(output.shape[1:]) == math.prod(shape[1:]):
            output = output.reshape(len(output), *shape[1:])
        value = function(output, targets, **arguments)
        return value if value.numel() == 1 else value.mean()

    return compute, call.token is not None and len(between) == len(call.between)


def assumed_loss(output: Any, targets: Tensor) -> Tensor:
    """Stand in for a loss that the program computes by itself: cross-entropy, of shares where the rows are some."""
    values = (
        output if isinstance(output, Tensor) else next(iter(output.values() if isinstance(output, dict) else output))
    )
    if values.ndim == 2 and _are_shares(values.detach()):
        return F.nll_loss(values.clamp_min(1e-12).log(), targets)
    return F.cross_entropy(values, targets)
