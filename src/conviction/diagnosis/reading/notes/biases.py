"""Notes on biases that start far below zero: behind a ReLU they leave nothing."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from conviction.diagnosis.reading.state import State
from conviction.diagnosis.reading.syntax import dotted, keyword, last_name, literal
from conviction.diagnosis.reading.values import Const
from conviction.findings.observation import SourceNote

_BIAS = re.compile(r"bias|shift|offset|^b\d*$|_b\d*$", re.IGNORECASE)
_LOWEST = -0.9
_FILLING = frozenset({"constant_", "fill_", "sub_", "add_", "normal_", "uniform_", "trunc_normal_"})
_MAKING = frozenset({"full", "full_like", "ones", "ones_like", "zeros", "zeros_like", "tensor", "normal", "randn"})


def read_biases(state: State) -> Iterator[SourceNote]:
    """Return the notes on biases."""
    for node in state.program.nodes:
        found = None
        if isinstance(node, ast.Call) and last_name(node.func) == "relu" and node.args:
            inner = node.args[0]
            lowered = isinstance(inner, ast.BinOp) and isinstance(inner.op, ast.Sub)
            number = _number(state, inner.right) if isinstance(inner, ast.BinOp) and lowered else None
            found = None if number is None or number < 2 else -number
        elif isinstance(node, ast.Call) and last_name(node.func) in _FILLING:
            found = _filled(state, node)
        elif isinstance(node, ast.Assign) and len(node.targets) == 1 and _is_bias(node.targets[0]):
            found = _made(state, node.value)
        elif isinstance(node, ast.AugAssign) and _is_bias(node.target) and isinstance(node.op, (ast.Sub, ast.Add)):
            number = _number(state, node.value)
            found = None if number is None else -number if isinstance(node.op, ast.Sub) else number
        if found is not None and found <= _LOWEST:
            said = f"biases start at {found:g}: what a ReLU gives behind them is zero"
            yield SourceNote("bias-negative", state.program.place(node), (f"{found:g}",), said)


def _is_bias(node: ast.AST) -> bool:
    while isinstance(node, ast.Subscript) or (isinstance(node, ast.Attribute) and node.attr == "data"):
        node = node.value
    return bool(_BIAS.search(last_name(node)))


def _number(state: State, node: ast.AST | None) -> float | None:
    """Return a number that is written there, or in a constant of the module."""
    minus = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
    inner = node.operand if isinstance(node, ast.UnaryOp) and minus else node
    value = literal(inner)
    if isinstance(inner, (ast.Name, ast.Attribute)):
        known = state.scope.find(dotted(inner))
        value = known.value if isinstance(known, Const) else _default(state, inner)
    fits = isinstance(value, (int, float)) and not isinstance(value, bool)
    return (-value if minus else value) if fits else None


def _default(state: State, name: ast.AST) -> object:
    """Return what a parameter of the function around is, if it is not given."""
    function = state.program.function(name)
    if not isinstance(function, ast.FunctionDef):
        return None
    arguments = function.args.args
    pairs = zip(reversed(arguments), reversed(function.args.defaults), strict=False)
    return next((literal(default) for argument, default in pairs if argument.arg == dotted(name)), None)


def _filled(state: State, call: ast.Call) -> float | None:
    """Return the number that biases are filled with: `nn.init.constant_(m.bias, -3.0)`, `m.bias.data.fill_(-4)`."""
    name = last_name(call.func)
    functional = bool(call.args) and _is_bias(call.args[0])
    subject = call.func.value if isinstance(call.func, ast.Attribute) else None
    if not functional and not (subject is not None and _is_bias(subject)):
        return None
    place = 1 if functional else 0
    if name == "uniform_":
        return _number(state, keyword(call, "b", position=place + 1))
    number = _number(state, keyword(call, "val", "value", "mean", "other", position=place))
    return -number if name == "sub_" and number is not None else number


def _made(state: State, value: ast.expr) -> float | None:
    """Return the number that a bias is made of: `torch.full((84,), -3.)`, `-3 * torch.ones(84)`."""
    while isinstance(value, ast.Call) and last_name(value.func) in {"Parameter", "requires_grad_"}:
        inner = value.args[0] if value.args else getattr(value.func, "value", None)
        if not isinstance(inner, ast.expr):
            return None
        value = inner
    if isinstance(value, ast.Call) and last_name(value.func) in {"full", "full_like"}:
        return _number(state, keyword(value, "fill_value", position=1))
    if isinstance(value, ast.BinOp) and isinstance(value.op, (ast.Mult, ast.Sub, ast.Add)):
        sides = [value.left, value.right]
        made = [s for s in sides if isinstance(s, ast.Call) and last_name(s.func) in _MAKING]
        number = _number(state, next((s for s in sides if s not in made), None)) if made else None
        return -number if number is not None and isinstance(value.op, ast.Sub) else number
    if isinstance(value, ast.UnaryOp) and isinstance(value.op, ast.USub) and isinstance(value.operand, ast.BinOp):
        number = _made(state, value.operand)
        return None if number is None else -number
    return None
