"""Notes on what goes into a loss: the last operation on the answers, the kind of loss, the labels."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from conviction.diagnosis.reading.library_words import REGRESSIONS
from conviction.diagnosis.reading.state import Event, State
from conviction.diagnosis.reading.syntax import keyword, last_name, literal
from conviction.diagnosis.reading.values import Loss, Net, Tensor
from conviction.findings.observation import SourceNote

_CUTTING = frozenset({"relu", "sigmoid", "tanh", "dropout"})
_NO_LOGARITHM = frozenset({"softmax", "linear", "conv", "relu", "sigmoid"})


def read_answers(state: State) -> Iterator[SourceNote]:
    """Return the notes on answers and losses."""
    for event in state.of("loss"):
        yield from _read_loss(state, event)
    for call in state.program.calls("softmax", "log_softmax", "argmax", "Softmax", "LogSoftmax", "softmin"):
        yield from _read_axis(state, call)


def _read_loss(state: State, event: Event) -> Iterator[SourceNote]:
    inputs, target = event.more
    kind = event.value.kind if isinstance(event.value, Loss) else ""
    if not isinstance(inputs, Tensor):
        return
    at = inputs.op_at
    if kind == "cross_entropy" and at is not None and hasattr(at, "lineno"):
        if inputs.op == "softmax":
            said = "softmax, and cross-entropy takes it again"
            yield SourceNote("softmax-before-ce", state.program.place(at), ("softmax",), said)
        elif inputs.op in _CUTTING:
            at = last_block(state, at) or at
            said = f"the logits of the cross-entropy come out of a {inputs.op}"
            yield SourceNote("relu-on-logits", state.program.place(at), (inputs.op,), said)
    if kind == "nll_loss" and inputs.op in _NO_LOGARITHM:
        said = f"NLL loss takes log-probabilities; these come out of a {inputs.op}"
        yield SourceNote("nll-without-log-softmax", state.program.place(event.node), (inputs.op,), said)
    if kind in REGRESSIONS and _ranks(inputs, target) and not _rebuilds(inputs, target):
        said = f"{kind} on answers that are ranked as classes"
        yield SourceNote("mse-on-classes", state.program.place(event.node), (kind,), said)
    if isinstance(target, Tensor) and target.shifted_at is not None and kind in {"cross_entropy", "nll_loss"}:
        said = "the labels are shifted by one before the loss"
        yield SourceNote("labels-shifted", state.program.place(target.shifted_at), (), said)


def last_block(state: State, node: ast.AST) -> ast.expr | None:
    """Return the last block among a container's arguments if a layer ends a function that makes blocks."""
    function = state.program.function(node)
    name = getattr(function, "name", "")
    if not name or name == "__init__" or len(state.program.calls(name)) < 2:
        return None
    blocks = [
        argument for call in state.program.calls("Sequential") for argument in call.args
        if isinstance(argument, ast.Call) and last_name(argument.func) == name
    ]  # fmt: skip
    return blocks[-1] if blocks else None


def _ranks(inputs: Tensor, target: object) -> bool:
    """Say whether the same answers are ranked (argmax) and the target is no other net's answer."""
    teacher = isinstance(target, Tensor) and bool(target.forwards)
    nets = {forward.net for forward in inputs.live}
    return not teacher and any(forward.judged for forward in inputs.live) and len(nets) == 1


def _rebuilds(inputs: Tensor, target: object) -> bool:
    """Say whether the target is what the net was given: an autoencoder."""
    if not isinstance(target, Tensor):
        return False
    given = [value.through for forward in inputs.live for value in forward.inputs if isinstance(value, Tensor)]
    return any(target.through and (target.through <= names or names <= target.through) for names in given)


def _read_axis(state: State, call: ast.Call) -> Iterator[SourceNote]:
    name = last_name(call.func)
    method = isinstance(call.func, ast.Attribute) and not state.program.origin(call.func).startswith("torch")
    module = name[0].isupper()
    dim = literal(keyword(call, "dim", "axis", position=0 if method or module else 1))
    if dim != 0 or isinstance(dim, bool):
        return
    subject = (
        call.func.value if method and isinstance(call.func, ast.Attribute) else call.args[0] if call.args else None
    )
    if isinstance(subject, ast.Subscript) or (not module and not _is_batch(state, subject)):
        return
    said = f"{name} over dimension 0 mixes the images of a batch"
    yield SourceNote("softmax-dim", state.program.place(call), (name.lower(),), said)


def _is_batch(state: State, subject: ast.AST | None) -> bool:
    """Say whether an expression is, as far as can be told, the answers to a whole batch."""
    if subject is None:
        return False
    if isinstance(subject, ast.Call):
        return any(event.node is subject for event in state.of("forward")) or _in_forward(state, subject)
    name = subject.id if isinstance(subject, ast.Name) else ""
    made = {
        target.id
        for event in state.of("forward")
        for target in getattr(state.program.statement(event.node), "targets", [])
        if isinstance(target, ast.Name) and getattr(state.program.statement(event.node), "value", None) is event.node
    }
    return name in made or _in_forward(state, subject)


def _in_forward(state: State, node: ast.AST) -> bool:
    """Say whether it is in the `forward` of a net that is trained as a whole, as the last thing before the return."""
    function = state.program.function(node)
    if not (isinstance(function, ast.FunctionDef) and function.name == "forward"):
        return False
    owner = state.program.parents[function]
    outer = {e.value.net.body.node for e in state.of("forward") if isinstance(e.value.net, Net) and e.value.net.body}
    statement = state.program.statement(node)
    return owner in outer and (isinstance(statement, ast.Return) or statement in function.body[-2:])
