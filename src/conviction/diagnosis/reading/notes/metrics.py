"""Notes on figures that a program tells: what was added up, and what the sum is divided by."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from conviction.diagnosis.reading.state import State
from conviction.diagnosis.reading.syntax import dotted, keyword, last_name, literal
from conviction.findings.observation import SourceNote

_SAMPLES = re.compile(
    r"dataset\)|^len\(\w*(set|data|ds|X|x|y|labels|targets)\w*\)$|\.size\(0\)|\.shape\[0\]|^(n_)?samples$"
)
_BATCHES = re.compile(r"^len\(\w*(loader|iter|dl|batches)\w*\)$|^(num_|n_)?batches$", re.IGNORECASE)
_BATCH = re.compile(
    r"^(batch_size|bs|BATCH_SIZE|len\((x|y|xb|yb|X|images|labels|inputs|targets)\)|\w+\.size\(0\)|\w+\.shape\[0\])$"
)


def read_metrics(state: State) -> Iterator[SourceNote]:
    """Return the notes on figures."""
    sums = any(
        literal(keyword(call, "reduction")) in {"sum", "none"}
        for call in state.program.nodes
        if isinstance(call, ast.Call)
    )
    for function in _functions(state.program.tree):
        means, counts = _sums(function)
        for node in _own(function):
            top, bottom = _division(node)
            name = _numerator(top)
            if name in means and _SAMPLES.search(bottom) and not sums:
                said = f"`{name}` adds up means over batches and is divided by the number of samples"
                yield SourceNote("metric-divided", state.program.place(node), (name, bottom), said)
            elif name in counts and _BATCHES.search(bottom) and not sums:
                said = f"`{name}` counts samples and is divided by the number of batches"
                yield SourceNote("metric-divided", state.program.place(node), (name, bottom), said)
        for node in _own(function):
            if isinstance(node, ast.AugAssign) and not sums:
                yield from _read_term(state, node)


def _read_term(state: State, node: ast.AugAssign) -> Iterator[SourceNote]:
    """`total += loss.item() / batch_size`: the loss was a mean already."""
    value = node.value
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Div):
        loss = _is_loss_number(value.left)
        if loss and _BATCH.search(ast.unparse(value.right)):
            said = f"`{ast.unparse(value)[:60]}`: the loss is a mean over the batch and is divided by its size again"
            yield SourceNote("metric-divided", state.program.place(node), (dotted(node.target),), said)


def _functions(tree: ast.Module) -> list[ast.AST]:
    return [tree, *(n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)))]


def _own(function: ast.AST) -> list[ast.AST]:
    """Return the nodes of a function without those of the functions within it."""
    found, waiting = [], list(ast.iter_child_nodes(function))
    while waiting:
        node = waiting.pop()
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.append(node)
            waiting += ast.iter_child_nodes(node)
    return found


def _sums(function: ast.AST) -> tuple[set[str], set[str]]:
    """Return the variables that add up means of losses or accuracies, and those that count samples."""
    means, counts, mixed = set(), set(), set()
    for node in _own(function):
        if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
            name = dotted(node.target)
            if _is_loss_number(node.value) or _is_mean_accuracy(node.value):
                means.add(name)
            elif _is_count(node.value):
                counts.add(name)
            else:
                mixed.add(name)
    return means - mixed - counts, counts - mixed - means


def _is_loss_number(node: ast.AST) -> bool:
    """`loss.item()`, `float(loss)`."""
    if isinstance(node, ast.Call) and last_name(node.func) in {"item", "float"}:
        inner = node.func.value if isinstance(node.func, ast.Attribute) else node.args[0] if node.args else node
        name = last_name(inner.func if isinstance(inner, ast.Call) else inner).lower()
        return "loss" in name or name in {"l", "cross_entropy", "criterion"}
    return False


def _is_mean_accuracy(node: ast.AST) -> bool:
    text = ast.unparse(node)
    return "==" in text and ".mean()" in text and "*" not in text


def _is_count(node: ast.AST) -> bool:
    text = ast.unparse(node)
    return "==" in text and ".sum()" in text and "/" not in text


def _division(node: ast.AST) -> tuple[ast.AST | None, str]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return node.left, ast.unparse(node.right)
    if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Div):
        return node.target, ast.unparse(node.value)
    return None, ""


def _numerator(node: ast.AST | None) -> str:
    """Return the variable above a division, without a factor of 100 or `.item()`."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        inner = node.right if isinstance(node.left, ast.Constant) else node.left
        return _numerator(inner)
    if isinstance(node, ast.Call) and last_name(node.func) in {"item", "float"}:
        inner = node.func.value if isinstance(node.func, ast.Attribute) else node.args[0] if node.args else None
        return _numerator(inner)
    return dotted(node) if node is not None else ""
