"""Sums and comparisons of a program's constants."""

from __future__ import annotations

import ast

from conviction.diagnosis.reading.values import Const, Value


def calculate(node: ast.BinOp, left: Const, right: Const) -> Const | None:
    """Return a sum of two numbers of the program."""
    a, b = left.value, right.value
    if not isinstance(a, (int, float)) or not isinstance(b, (int, float)):
        return None
    try:
        if isinstance(node.op, ast.Add):
            return Const(a + b, left.node if b == 1 and isinstance(node.left, (ast.Name, ast.Attribute)) else node)
        if isinstance(node.op, ast.Sub):
            return Const(a - b, node)
        if isinstance(node.op, ast.Mult):
            return Const(a * b, node)
        if isinstance(node.op, ast.Div):
            return Const(a / b, node)
        small = isinstance(node.op, ast.Pow) and 0 < a <= 100 and abs(b) <= 10
        return Const(float(a) ** b, node) if small else None
    except (ArithmeticError, ValueError):
        return None


def compare(op: ast.cmpop, left: Value, right: Value) -> bool | None:
    """Return whether a comparison holds, None where it cannot be told."""
    if isinstance(op, (ast.Is, ast.IsNot)) and isinstance(right, Const) and right.value is None:
        if left is None:
            return None
        same = isinstance(left, Const) and left.value is None
        return same if isinstance(op, ast.Is) else not same
    if not (isinstance(left, Const) and isinstance(right, Const)):
        return None
    if isinstance(op, ast.Eq):
        return left.value == right.value
    return left.value != right.value if isinstance(op, ast.NotEq) else None
