"""Where images and labels, or training and test data, may have been mixed up, once something measured says so."""

from __future__ import annotations

import ast
import re

from conviction.diagnosis.reading.roles import called, role_of, split_of
from conviction.diagnosis.reading.state import State
from conviction.diagnosis.reading.syntax import dotted, keyword, last_name, literal, names_read

_DRAWING = frozenset({"randperm", "permutation", "randint", "choice", "argsort", "sample", "arange", "roll", "sort"})
_REORDERING = frozenset({"roll", "flip", "flipud", "sort", "sorted", "permutation", "shuffle", "permuted", "rot90"})
_SPLITTING = frozenset({"random_split", "train_test_split"})
_Found = list[tuple[int, int, ast.AST]]


def find_pairing(state: State) -> ast.AST | None:
    """Return where images or labels are most likely put in an order of their own."""
    orders: set[str] = set()
    for node in state.program.nodes:
        if isinstance(node, ast.Assign) and any(
            isinstance(n, ast.Call) and last_name(n.func) in _DRAWING for n in ast.walk(node.value)
        ):
            orders |= {dotted(t) for target in node.targets for t in getattr(target, "elts", [target])}
    taken = {(role_of(called(n)), ast.unparse(n.slice)) for n in state.program.nodes if isinstance(n, ast.Subscript)}
    found: _Found = []
    for node in state.program.nodes:
        weight = _weigh_order(node, orders, taken)
        if weight:
            found.append((weight, -getattr(node, "lineno", 0), node))
    return max(found, key=lambda entry: entry[:2], default=(0, 0, None))[2]


def _weigh_order(node: ast.AST, orders: set[str], taken: set[tuple[str, str]]) -> int:
    """Return how likely an expression puts images or labels in an order of their own, 0 where it does not."""
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        role = role_of(called(node)) if dotted(node.value) else ""
        if not role or split_of(dotted(node.value)) in {"test", "valid"}:
            return 0
        labels, text = int(role == "labels"), ast.unparse(node.slice)
        if text == "::-1":
            return 2 + 2 * labels
        drawn = any(isinstance(n, ast.Call) and last_name(n.func) in _DRAWING for n in ast.walk(node.slice))
        ordered = bool(names_read(node.slice) & orders)
        other = "images" if labels else "labels"
        shared = (other, text) in taken
        if drawn or (ordered and not shared):
            return 3 + labels - 2 * shared * (not drawn)
        lower = literal(node.slice.lower) if isinstance(node.slice, ast.Slice) else None
        return 1 + labels if not shared and lower not in (None, 0) else 0
    if isinstance(node, ast.Call) and last_name(node.func) in _REORDERING:
        subjects = [node.func.value] if isinstance(node.func, ast.Attribute) else []
        roles = {
            role_of(dotted(s)) for s in (*subjects, *node.args[:1]) if split_of(dotted(s)) not in {"test", "valid"}
        }
        return 4 if "labels" in roles else 2 if "images" in roles else 0
    return 0


def find_figure(state: State) -> ast.AST | None:
    """Return an operation that no accuracy is made with: a whole-number division, the least likely class."""
    for node in state.program.nodes:
        if isinstance(node, ast.Call) and last_name(node.func) in {"argmin", "min"} and "net" in ast.unparse(node):
            return node
        whole = isinstance(node, ast.BinOp) and isinstance(node.op, ast.FloorDiv)
        if whole and re.search(r"right|correct|hits|good|total|acc", ast.unparse(node)):
            return node
    return None


def find_leak(state: State) -> ast.AST | None:
    """Return where training most likely gets images of the test, or the test those of the training."""
    found: _Found = []
    split = {dotted(call.args[0]) for call in state.program.calls(*_SPLITTING) if call.args} - {""}
    made: dict[str, ast.AST] = {}
    around = {loop for event in state.of("backward") for loop in event.loops}
    for node in sorted((n for n in state.program.nodes if hasattr(n, "lineno")), key=_line):
        weight = _weigh_leak(node, split)
        if isinstance(node, ast.For) and node in around and _splits(node.iter) == {"test"}:
            weight = 5
        if isinstance(node, ast.Call) and last_name(node.func).endswith("Dataset") and len(node.args) > 1:
            text = ast.unparse(node)
            weight = 2 if text in made else weight
            made.setdefault(text, node)
        if weight:
            found.append((weight, -_line(node), node))
    return max(found, key=lambda entry: entry[:2], default=(0, 0, None))[2]


def _line(node: ast.AST) -> int:
    return getattr(node, "lineno", 0)


def _weigh_leak(node: ast.AST, split: set[str]) -> int:
    if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add) and "test" in _splits(node.value):
        return 4 if split_of(dotted(node.target)) != "test" and not _is_figure(node.value) else 0
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = _splits(node.left) | _splits(node.right)
        lists = all(isinstance(side, (ast.Call, ast.Name, ast.Attribute, ast.List)) for side in (node.left, node.right))
        return 3 if "test" in sides and lists and not _is_figure(node) else 0
    if isinstance(node, ast.Call) and last_name(node.func) == "DataLoader" and node.args:
        shuffles = literal(keyword(node, "shuffle", position=2)) is True
        return 3 if dotted(node.args[0]) in split and shuffles else 0
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target, value = node.targets[0], node.value
        pairs = [(target, value)]
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
            pairs = list(zip(target.elts, value.elts, strict=True))
        for name, given in ((dotted(t), v) for t, v in pairs):
            kinds = _splits(given) or ({"train"} if role_of(called(given)) else set())
            if split_of(name) in {"test", "valid"} and kinds == {"train"} and not _is_figure(given):
                return 4 if split_of(name) == "test" else 2
            if split_of(name) == "train" and kinds == {"test"} and not _is_figure(given):
                return 4
    return 0


def _splits(node: ast.AST) -> set[str]:
    """Return the parts of the data that the names in an expression speak of."""
    words = {last_name(n) for n in ast.walk(node) if isinstance(n, (ast.Name, ast.Attribute))}
    words |= {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    found = {split_of(word) for word in words} - {""}
    plain = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and role_of(n.id) and not split_of(n.id)}
    return found | ({"train"} if plain and not found else set())


def _is_figure(node: ast.AST) -> bool:
    """Say whether an expression is a figure of a set and no set: a loss, an accuracy, a mean."""
    text = ast.unparse(node).lower()
    return any(word in text for word in ("loss", "acc", "mean", "score", "error", "len(", "sum(", "time", "std"))
