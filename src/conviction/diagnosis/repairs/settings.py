"""Repairs of numbers: the learning rate, the optimizer's settings, clipping, the schedule."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable

from conviction.diagnosis.reading.library_words import POSITIONS
from conviction.diagnosis.reading.syntax import dotted, keyword, last_name, literal, parse_text
from conviction.diagnosis.reading.values import Const, Optimizer
from conviction.diagnosis.repairs.drafts import Draft
from conviction.diagnosis.repairs.edits import add_argument, delete_statement, insert_lines

# What most small image classifiers learn with, by kind of optimizer.
_RATES = {
    "Adam": 1e-3, "AdamW": 1e-3, "NAdam": 1e-3, "RAdam": 1e-3, "Adamax": 2e-3, "RMSprop": 1e-3, "Adagrad": 1e-2,
    "Adadelta": 1.0, "LBFGS": 1.0, "Rprop": 1e-2, "ASGD": 1e-2, "Lion": 1e-4,
}  # fmt: skip
_DEFAULTS = {
    "momentum": "0.9", "dampening": "0", "eps": "1e-8", "betas": "(0.9, 0.999)", "alpha": "0.99",
    "weight_decay": "5e-4",
}  # fmt: skip
_TOLD_RATE = re.compile(r"\b(?:lr|learning rate)(?: of)? (\d[\d.]*(?:e-?\d+)?)", re.IGNORECASE)
_HAND_RATES = frozenset({"lr", "learning_rate", "LR", "alpha", "step_size", "eta"})


def default_rate(draft: Draft) -> str | None:
    """Set the rate that programs of this optimizer learn with."""
    return _set_rate(draft, lambda kind, now: _usual(draft, kind))


def lower_rate(draft: Draft) -> str | None:
    """A tenth of the rate, or the usual one where that is less."""
    return _set_rate(
        draft, lambda kind, now: _told(draft) or (min(now / 10, _usual(draft, kind)) if now else _usual(draft, kind))
    )


def raise_rate(draft: Draft) -> str | None:
    """Ten times the rate, or the usual one where that is more."""
    return _set_rate(
        draft, lambda kind, now: _told(draft) or (max(now * 10, _usual(draft, kind)) if now else _usual(draft, kind))
    )


def _usual(draft: Draft, kind: str) -> float:
    if kind in _RATES:
        return _RATES[kind]
    momentum = _setting(draft, "momentum")
    return 0.02 if isinstance(momentum, (int, float)) and momentum >= 0.5 else 0.1


def _told(draft: Draft) -> float | None:
    """Return the rate that the finding's remedy names."""
    found = _TOLD_RATE.search(draft.finding.remedy)
    try:
        return float(found.group(1)) if found else None
    except ValueError:
        return None


def _setting(draft: Draft, name: str) -> object:
    optimizer = _optimizer(draft)
    value = optimizer.settings.get(name) if optimizer else None
    return value.value if isinstance(value, Const) else None


def _optimizer(draft: Draft) -> Optimizer | None:
    return next((o for o in draft.state.optimizers if o.node is draft.marks.optimizer), None)


def _set_rate(draft: Draft, choose: Callable[[str, float | None], float]) -> str | None:
    optimizer, place = draft.marks.optimizer, draft.marks.rate
    kind = last_name(optimizer.func) if optimizer is not None else ""
    known = _optimizer(draft)
    kind = known.kind if known else kind
    if place is None:
        if optimizer is None:
            return None
        return add_argument(draft.program, optimizer, f"lr={choose(kind, None):g}")
    now = literal(place)
    number = float(now) if isinstance(now, (int, float)) else _setting(draft, "lr")
    new = f"{choose(kind or 'SGD', abs(number) if isinstance(number, (int, float)) else None):g}"
    return draft.replaced({_signed(draft, place): new})


def _signed(draft: Draft, node: ast.expr) -> ast.expr:
    """Return the whole number: `-0.1` is a sign and a literal."""
    above = draft.program.parents.get(node)
    return above if isinstance(above, ast.UnaryOp) else node


def read_rate(draft: Draft) -> str | None:
    """Use the variable that nothing reads where the number stands."""
    optimizer = draft.marks.optimizer
    for note in draft.notes_of("variable-unused"):
        name = note.names[0]
        if (
            name.lower() not in {"lr", "learning_rate", "base_lr"}
            or optimizer is None
            or not draft.sees(name, optimizer)
        ):
            continue
        given = keyword(optimizer, "lr", position=1)
        if given is None:
            return add_argument(draft.program, optimizer, f"lr={name}")
        return draft.replaced({given: name})
    return None


def default_settings(draft: Draft) -> str | None:
    """Put the usual value in the place of each setting that is out of its range."""
    optimizer = _optimizer(draft)
    changes: dict[ast.AST, str] = {}
    told = f"{draft.finding.seen} {draft.finding.remedy}"
    odd = {note.names[0] for note in draft.notes_of("optimizer-settings")} - {"lr"}
    odd = odd or {name for name in _DEFAULTS if name.removesuffix("s") in told}
    for name in odd & _DEFAULTS.keys():
        changes |= _default(draft, optimizer, name)
    return draft.replaced(changes)


def _default(draft: Draft, optimizer: Optimizer | None, name: str) -> dict[ast.AST, str]:
    if optimizer is None or optimizer.node is None:
        return {}
    positions = POSITIONS.get(optimizer.kind, ())
    given = keyword(optimizer.node, name, position=positions.index(name) + 1 if name in positions else None)
    value = optimizer.settings.get(name)
    if isinstance(value, Const) and isinstance(value.node, ast.expr) and value.node in draft.program.parents:
        given = _signed(draft, value.node)
    return {given: _DEFAULTS[name]} if given is not None else {}


def lower_decay(draft: Draft) -> str | None:
    """Bring weight decay down to 5e-4."""
    return draft.replaced(_default(draft, _optimizer(draft), "weight_decay"))


def raise_clip(draft: Draft) -> str | None:
    """Clip at a norm of 1."""
    changes: dict[ast.AST, str] = {}
    for call in draft.program.calls("clip_grad_norm_", "clip_grad_value_"):
        bound = keyword(call, "max_norm", "clip_value", position=1)
        if isinstance(bound, ast.Name):
            for node in draft.program.nodes:
                if (
                    isinstance(node, ast.Assign)
                    and dotted(node.targets[0]) == bound.id
                    and literal(node.value) is not None
                ):
                    changes[node.value] = "1.0"
        elif bound is not None:
            changes[bound] = "1.0"
    return draft.replaced(changes)


def slow_schedule(draft: Draft) -> str | None:
    """Step the schedule once an epoch; where it does already, let it fall more slowly."""
    for note in draft.notes_of("scheduler-per-batch"):
        for call in draft.nodes_at(note.at.line, ast.Expr):
            loop = next((n for n in draft.program.above(call) if isinstance(n, ast.For)), None)
            if loop is None or not isinstance(call, ast.stmt):
                continue
            line = draft.text_of(call)
            after = insert_lines(draft.program, loop, [line], after=True)
            again = parse_text(after, "")
            old = next(n for n in ast.walk(again.tree) if isinstance(n, ast.Expr) and n.lineno == call.lineno)
            return delete_statement(again, old)
    changes: dict[ast.AST, str] = {}
    for call in draft.program.calls("StepLR", "ExponentialLR", "MultiStepLR"):
        name = last_name(call.func)
        size = keyword(call, "step_size", position=1) if name == "StepLR" else None
        gamma = keyword(call, "gamma", position=2 if name != "ExponentialLR" else 1)
        if size is not None and isinstance(literal(size), int):
            changes[size] = str(literal(size) * 10)
        elif name == "ExponentialLR" and gamma is not None:
            changes[gamma] = "0.95"
        elif gamma is not None and isinstance(literal(gamma), float):
            changes[gamma] = "0.5"
    return draft.replaced(changes)


def use_bfloat16(draft: Draft) -> str | None:
    """bfloat16 has float32's range and needs no scaler."""
    changes: dict[ast.AST, str] = {
        node: draft.text_of(node).replace("float16", "bfloat16")
        for node in draft.program.nodes
        if isinstance(node, ast.Attribute) and node.attr == "float16"
    }
    changes |= {
        call.func: draft.text_of(call.func)[: -len("half")] + "bfloat16" for call in draft.program.calls("half")
    }
    return draft.replaced(changes)
