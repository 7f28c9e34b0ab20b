"""Repairs of the loss: one that fits classes, and what it is given."""

from __future__ import annotations

import ast

from conviction.diagnosis.reading.library_words import LOSSES
from conviction.diagnosis.reading.syntax import keyword, last_name, literal, parse_text
from conviction.diagnosis.reading.values import Loss, Tensor
from conviction.diagnosis.repairs.drafts import Draft, is_call_of
from conviction.diagnosis.repairs.nets import drop_last_operation
from conviction.diagnosis.repairs.starts import name_module

_FUNCTIONS = {value: key for key, value in LOSSES.items()}


def take_logits(draft: Draft) -> str | None:
    """NLL loss: give it log-probabilities where a softmax is there, else use the cross-entropy."""
    for event in draft.state.of("loss"):
        loss, (inputs, _) = event.value, event.more
        if not isinstance(loss, Loss) or loss.kind != "nll_loss":
            continue
        if isinstance(inputs, Tensor) and inputs.op == "softmax" and isinstance(inputs.op_at, ast.Call):
            text = draft.text_of(inputs.op_at.func)
            new = text.replace("Softmax", "LogSoftmax").replace("softmax", "log_softmax")
            return draft.replaced({inputs.op_at.func: new})
        return _change_loss(draft, loss, event.node)
    return None


def use_cross_entropy(draft: Draft) -> str | None:
    """Put the cross-entropy in the place of a regression's or a multi-label loss; a sum becomes a mean."""
    for event in draft.state.of("loss"):
        loss = event.value
        if not isinstance(loss, Loss) or not isinstance(event.node, ast.Call):
            continue
        if loss.reduction == "sum":
            given = keyword(loss.node or event.node, "reduction", "size_average")
            return (
                draft.replaced({given: '"mean"' if literal(given) == "sum" else "True"}) if given is not None else None
            )
        if loss.kind in {"cross_entropy", ""} or loss.kind not in _FUNCTIONS:
            continue
        text = _change_loss(draft, loss, event.node)
        again = Draft(parse_text(text, ""), draft.notes, draft.finding) if text else None
        logits = drop_last_operation(again) if again is not None else None
        again = Draft(parse_text(logits, ""), draft.notes, draft.finding) if logits else again
        return (_whole_labels(again) or again.program.text) if again is not None else None
    return None


def _change_loss(draft: Draft, loss: Loss, call: ast.AST) -> str | None:
    made = loss.node or call
    if not isinstance(made, ast.Call):
        return None
    text = draft.text_of(made.func)
    prefix = text.rpartition(".")[0]
    new = "CrossEntropyLoss" if last_name(made.func)[:1].isupper() else "cross_entropy"
    place = prefix or name_module(draft) + (".functional" if new == "cross_entropy" else "")
    return draft.replaced({made.func: f"{place}.{new}"})


def _whole_labels(draft: Draft) -> str | None:
    """`y.float()` was for the other loss; the cross-entropy takes whole numbers."""
    for event in draft.state.of("loss"):
        target = event.node.args[1] if isinstance(event.node, ast.Call) and len(event.node.args) > 1 else None
        inner = target
        while is_call_of(inner, "unsqueeze", "float", "view") and isinstance(inner.func, ast.Attribute):
            inner = inner.func.value
        if target is not None and inner is not None and inner is not target and "one_hot" not in draft.text_of(inner):
            return draft.replaced({target: draft.text_of(inner)})
    return None
