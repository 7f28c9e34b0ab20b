"""Repairs of how weights and biases start."""

from __future__ import annotations

import ast

from conviction.diagnosis.reading.syntax import dotted, last_name, literal
from conviction.diagnosis.repairs.drafts import Draft, is_call_of
from conviction.diagnosis.repairs.edits import insert_lines

SQUASHING = frozenset({"Sigmoid", "Tanh"})


def mend_init(draft: Draft) -> str | None:
    """Put Kaiming's initialisation in the place of the one that was noted, where it is given one layer's weights."""
    changes: dict[ast.AST, str] = {}
    for note in draft.notes_of("init-constant", "init-scale"):
        changes |= _written_scale(draft, note.at.line)
        for call in draft.nodes_at(note.at.line, ast.Call):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            functional = draft.program.origin(call.func).startswith("torch.nn.init.") and bool(call.args)
            subject = draft.text_of(call.args[0] if functional else call.func.value).removesuffix(".data")
            inplace = last_name(call.func).endswith("_")
            if inplace and subject.endswith(".weight") and not any(call in ast.walk(outer) for outer in changes):
                changes[call] = f"{name_module(draft)}.init.{_start(draft, subject)}"
    return draft.replaced(changes)


def _written_scale(draft: Draft, line: int) -> dict[ast.AST, str]:
    """`torch.randn(n, m) * 1e-5`: the factor becomes Kaiming's."""
    for node in draft.nodes_at(line, ast.BinOp):
        sides = [node.left, node.right] if isinstance(node, ast.BinOp) else []
        for drawn, factor in (sides, sides[::-1]):
            if is_call_of(drawn, "randn") and drawn.args and literal(factor) is not None:
                size = drawn.args[0].elts[0] if isinstance(drawn.args[0], (ast.Tuple, ast.List)) else drawn.args[0]
                return {factor: f"(2 / {draft.text_of(size)}) ** 0.5"}
    return {}


def _start(draft: Draft, subject: str) -> str:
    squashing = any(event.value.kind in SQUASHING for event in draft.state.of("layer"))
    return f"xavier_uniform_({subject})" if squashing else f'kaiming_normal_({subject}, nonlinearity="relu")'


def start_weights(draft: Draft) -> str | None:
    """Initialise the layers before the first step: Kaiming, or Xavier where the net has sigmoid or tanh."""
    place, net = _before_training(draft)
    if place is None or not net:
        return None
    module = name_module(draft)
    start = _start(draft, "layer.weight")
    lines = [] if module == "nn" or "torch" in draft.program.aliases else ["import torch"]
    lines += [
        f"for layer in {net}.modules():",
        f"    if isinstance(layer, ({module}.Conv2d, {module}.Linear)):",
        f"        {module}.init.{start}",
        "        if layer.bias is not None:",
        f"            {module}.init.zeros_(layer.bias)",
    ]
    return insert_lines(draft.program, place, lines, after=False)


def name_module(draft: Draft) -> str:
    """Return what the program calls torch.nn."""
    imported = {alias.asname or alias.name for node in draft.program.nodes
                if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names}  # fmt: skip
    return "nn" if "nn" in imported else "torch.nn"


def _before_training(draft: Draft) -> tuple[ast.stmt | None, str]:
    """Return the statement that all training comes after, and what the net is called there."""
    forward, optimizer = draft.marks.forward, draft.marks.optimizer
    if draft.marks.net is None:
        return None, ""  # a function over parameters, if anything, has no modules
    if forward is not None and dotted(forward.func):
        net = draft.text_of(forward.func).removesuffix(".forward")
        function = draft.program.function(forward)
        loops = [n for n in draft.program.above(forward) if isinstance(n, (ast.For, ast.While))]
        made = draft.marks.net
        outer = [
            n for n in loops if draft.program.function(n) is function and (made is None or made not in ast.walk(n))
        ]
        alone = function is draft.program.tree or len(outer) > 1  # a function with both loops holds the whole training
        if outer and alone and isinstance(outer[-1], ast.stmt):
            return outer[-1], net
    if optimizer is not None and draft.variable(optimizer):
        for node in ast.walk(optimizer):
            if is_call_of(node, "parameters") and isinstance(node.func, ast.Attribute):
                return draft.program.statement(optimizer), draft.text_of(node.func.value)
    return None, ""


def zero_biases(draft: Draft) -> str | None:
    """Let biases start at zero that were set far below."""
    for note in draft.notes_of("bias-negative"):
        for number in draft.nodes_at(note.at.line, ast.UnaryOp):
            if isinstance(number, ast.UnaryOp) and isinstance(number.op, ast.USub):
                return draft.replaced({number: "0.0"})
    return None
