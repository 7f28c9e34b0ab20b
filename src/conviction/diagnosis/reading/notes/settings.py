"""Notes on settings: of the optimizer, of gradient clipping, of the schedule, and seeds."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from conviction.diagnosis.reading.state import Event, State
from conviction.diagnosis.reading.syntax import keyword, literal
from conviction.diagnosis.reading.values import Const, Optimizer, Scheduler
from conviction.findings.observation import SourceNote

_ADAPTIVE = frozenset({"Adam", "AdamW", "NAdam", "RAdam", "Adamax", "RMSprop"})
_SMALLEST_RATE = 1e-6
_LARGEST_CLIP = 0.01


def read_settings(state: State) -> Iterator[SourceNote]:
    """Return the notes on settings."""
    for optimizer in state.optimizers:
        for name, value in optimizer.settings.items():
            yield from _read_setting(state, optimizer, name, value)
    for event in state.of("clip"):
        bound = event.value.value if isinstance(event.value, Const) else None
        if isinstance(bound, (int, float)) and 0 < bound <= _LARGEST_CLIP:
            said = f"gradients are clipped to {bound:g}"
            yield SourceNote("clip-low", state.program.place(event.value.node), (f"{bound:g}",), said)
    yield from _read_schedules(state)
    yield from _read_half(state)
    yield from _read_seeds(state)


def _read_setting(state: State, optimizer: Optimizer, name: str, value: object) -> Iterator[SourceNote]:
    if name in {"betas", "beta1"} and optimizer.node is not None:
        betas = literal(keyword(optimizer.node, "betas", position=2))
        odd = isinstance(betas, tuple) and any(isinstance(b, (int, float)) and not 0 <= b <= 0.99999 for b in betas)
        low = isinstance(betas, tuple) and len(betas) == 2 and (betas[0] > 0.98 or betas[1] < 0.5)
        if odd or low:
            yield _setting(state, name, betas, optimizer.node, optimizer)
        return
    if not isinstance(value, Const) or isinstance(value.value, bool) or not isinstance(value.value, (int, float)):
        return
    if not _fits(optimizer.kind, name, float(value.value)):
        yield _setting(state, name, value.value, value.node, optimizer)


def _setting(state: State, name: str, value: object, node: ast.AST, optimizer: Optimizer) -> SourceNote:
    return SourceNote(
        "optimizer-settings", state.program.place(node), (name, str(value)), f"{optimizer.kind} with {name} {value}"
    )


def _fits(kind: str, name: str, number: float) -> bool:
    """Say whether a setting is within what programs that learn have."""
    adaptive = kind in _ADAPTIVE
    if name == "lr":
        return (
            kind == "LBFGS"
            or kind not in {"SGD", *_ADAPTIVE}
            or _SMALLEST_RATE <= number <= (0.03 if adaptive else 1.0)
        )
    bounds = {
        "momentum": (0.0, 0.9899), "dampening": (0.0, 0.0), "eps": (1e-15, 1e-2), "alpha": (0.5, 0.9999),
        "weight_decay": (0.0, 0.3 if kind == "AdamW" else 0.03),
    }  # fmt: skip
    low, high = bounds.get(name, (number, number))
    return low <= number <= high


def _read_half(state: State) -> Iterator[SourceNote]:
    """float16 in training, and nothing that scales the loss for it."""
    attributes = [node for node in state.program.nodes if isinstance(node, ast.Attribute)]
    scaled = state.program.calls("GradScaler", "Accelerator", "prepare") or any(n.attr == "scale" for n in attributes)
    half = [node for node in attributes if node.attr in {"float16", "half"}]
    if half and not scaled and state.of("backward"):
        first = min(half, key=lambda node: node.lineno)
        yield SourceNote(
            "half-without-scaler", state.program.place(first), (first.attr,), "float16 without a GradScaler"
        )


def _read_schedules(state: State) -> Iterator[SourceNote]:
    """A schedule whose numbers count epochs steps within the loop over batches."""
    steps = [event for event in state.of("step") if event.loops]
    for event in state.of("schedule"):
        schedule = event.value
        if not isinstance(schedule, Scheduler) or len(event.loops) < 2:
            continue
        beside = [step for step in steps if step.loops[-1] is event.loops[-1]]
        if beside and _counts_epochs(schedule) and not _guarded(state, event):
            said = f"{schedule.kind} steps with each batch and its numbers count epochs"
            yield SourceNote("scheduler-per-batch", state.program.place(event.node), (schedule.kind,), said)


def _guarded(state: State, event: Event) -> bool:
    """Say whether the schedule's step is inside a condition: perhaps once an epoch."""
    inside = state.program.above(event.node)
    return any(
        isinstance(node, ast.If) for node in inside[: inside.index(event.loops[-1])] if event.loops[-1] in inside
    )


def _counts_epochs(schedule: Scheduler) -> bool:
    call = schedule.node
    if schedule.kind == "StepLR":
        size = keyword(call, "step_size", position=1)
        number = literal(size)
        return (isinstance(number, int) and number <= 50) or (
            size is not None and "epoch" in ast.unparse(size) and not _scaled(size)
        )
    if schedule.kind == "ExponentialLR":
        gamma = literal(keyword(call, "gamma", position=1))
        return isinstance(gamma, float) and gamma <= 0.99
    if schedule.kind == "MultiStepLR":
        milestones = literal(keyword(call, "milestones", position=1))
        return isinstance(milestones, list) and bool(milestones) and max(milestones) <= 300
    if schedule.kind == "CosineAnnealingLR":
        period = keyword(call, "T_max", position=1)
        number = literal(period)
        return (isinstance(number, int) and number <= 50) or (
            period is not None and "epoch" in ast.unparse(period).lower() and not _scaled(period)
        )
    return False


def _scaled(node: ast.expr) -> bool:
    return any(isinstance(n, (ast.BinOp, ast.Call)) for n in ast.walk(node))


def _read_seeds(state: State) -> Iterator[SourceNote]:
    """The same seed in each epoch or step: the same order, the same dropout."""
    backwards = [event.loops for event in state.of("backward") if event.loops]
    made = {loop for event in state.of("net") for loop in event.loops}
    for event in state.of("seed"):
        constant = bool(event.more) and all(isinstance(value, Const) for value in event.more)
        inner = event.loops[-1] if event.loops else None
        here = inner in state.program.above(event.node)  # a function that seeds and starts anew is no part of this
        if constant and here and inner not in made and any(inner in loops for loops in backwards):
            said = "the same seed again in each turn of the training loop"
            yield SourceNote("seed-in-loop", state.program.place(event.node), (), said)
