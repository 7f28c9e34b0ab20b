"""Notes on operations of a net that mix the images of a batch."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from conviction.diagnosis.reading.state import State
from conviction.diagnosis.reading.syntax import dotted, keyword, last_name, literal
from conviction.findings.observation import SourceNote

_TURNING = frozenset({"permute", "transpose", "swapaxes", "t", "movedim", "moveaxis"})
_CUTTING = frozenset({"view", "reshape", "flatten"})
_ALONG = frozenset({"softmax", "log_softmax", "mean", "std", "var", "sum", "cumsum", "roll", "flip", "max", "amax",
                    "sort", "normalize", "layer_norm"})  # fmt: skip


def read_mixing(state: State) -> Iterator[SourceNote]:
    """`x.permute(1, 2, 3, 0).reshape(-1, 400)`: the batch is no longer the first dimension, and is cut so."""
    for function in _forwards(state):
        turned: dict[str, ast.Call] = {}
        for node in _ordered(function):
            if isinstance(node, ast.Assign) and len(node.targets) == 1:
                moved = _moves_batch(node.value)
                name = dotted(node.targets[0])
                before = (
                    moved is not None and isinstance(moved.func, ast.Attribute) and dotted(moved.func.value) in turned
                )
                if moved is not None and not before:
                    turned[name] = moved
                elif before or not _of_turned(node.value, turned):
                    turned.pop(name, None)
            if not isinstance(node, ast.Call) or last_name(node.func) not in _CUTTING:
                continue
            subject = node.func.value if isinstance(node.func, ast.Attribute) else None
            subject = node.args[0] if subject is not None and dotted(subject) == "torch" and node.args else subject
            moved = _moves_batch(subject) or turned.get(dotted(subject) if subject is not None else "")
            if moved is not None and _cuts_first(node):
                said = "the images of the batch are no longer the first dimension where this is cut into rows"
                yield SourceNote("batch-mixed", state.program.place(node), (last_name(moved.func),), said)


def find_mixing(state: State) -> ast.AST | None:
    """Return the operation of a net's forward pass that most likely mixes images: along the batch, or of its order."""
    found: list[tuple[int, ast.AST]] = []
    for function in _forwards(state):
        for node in _ordered(function):
            weight = _weight(node)
            if weight:
                found.append((weight, node))
    for event in state.of("backward"):
        for node in ast.walk(event.loops[-1]) if event.loops else ():
            moved = _moves_batch(node)
            found += [(3, moved)] if moved is not None else []
    return max(found, key=lambda pair: (pair[0], -getattr(pair[1], "lineno", 0)), default=(0, None))[1]


def _forwards(state: State) -> list[ast.FunctionDef]:
    functions = [n for n in state.program.nodes if isinstance(n, ast.FunctionDef)]
    inside = [f for f in functions if isinstance(state.program.parents.get(f), ast.ClassDef) and f.name != "__init__"]
    return [f for f in inside if f.name in {"forward", "__call__", "forward_features", "features"}] + [
        f for f in functions if f not in inside and f.name in {"net", "model", "forward", "network"}
    ]


def _ordered(function: ast.FunctionDef) -> list[ast.AST]:
    nodes = [n for n in ast.walk(function) if hasattr(n, "lineno")]
    return sorted(nodes, key=lambda n: (getattr(n, "lineno", 0), isinstance(n, ast.stmt)))


def _of_turned(value: ast.expr, turned: dict[str, ast.Call]) -> bool:
    """Say whether a value is still a turned tensor: no other turn brought the batch back."""
    calls = [n for n in ast.walk(value) if isinstance(n, ast.Call)]
    back = any(last_name(call.func) in _TURNING | _CUTTING for call in calls)
    return not back and any(isinstance(n, ast.Name) and n.id in turned for n in ast.walk(value))


def _moves_batch(node: ast.AST | None) -> ast.Call | None:
    """Return the call that moves the batch away from the first dimension."""
    while isinstance(node, ast.Call) and last_name(node.func) in {"contiguous", "clone"}:
        node = node.func.value if isinstance(node.func, ast.Attribute) else None
    if not isinstance(node, ast.Call) or last_name(node.func) not in _TURNING:
        return None
    name = last_name(node.func)
    functional = isinstance(node.func, ast.Attribute) and dotted(node.func.value) == "torch"
    numbers = [literal(a) for a in (node.args[1:] if functional else node.args)]
    if len(numbers) == 1 and isinstance(numbers[0], (tuple, list)):
        numbers = list(numbers[0])
    if not all(isinstance(number, int) for number in numbers):
        return None
    if name == "permute":
        return node if len(numbers) > 1 and numbers[0] != 0 else None
    if name == "t":
        return node if not numbers else None
    return node if len(numbers) == 2 and 0 in numbers and numbers[0] != numbers[1] else None


def _cuts_first(call: ast.Call) -> bool:
    """Say whether rows are made of what lies first: `view(-1, 400)`, `flatten(1)`, `reshape(len(x), -1)`."""
    sizes = call.args
    if last_name(call.func) == "flatten":
        return True
    return len(sizes) == 2 and not any(isinstance(s, ast.Starred) for s in sizes)


def _weight(node: ast.AST) -> int:
    """Return how likely an operation is to mix images, 0 where it does not."""
    if isinstance(node, ast.Attribute) and node.attr in {"T", "mT"}:
        return 2
    if isinstance(node, ast.Subscript) and "randperm" in ast.unparse(node.slice):
        return 4
    if not isinstance(node, ast.Call):
        return 0
    name = last_name(node.func)
    if _moves_batch(node) is not None:
        return 4
    if name == "flatten" and literal(keyword(node, "start_dim", position=0)) == 0:
        return 3
    if name in {"view", "reshape"} and node.args:
        first, second = literal(node.args[0]), literal(node.args[1]) if len(node.args) > 1 else None
        return 3 if first == 1 else 1 if first == -1 and isinstance(second, int) else 0
    method = isinstance(node.func, ast.Attribute) and dotted(node.func.value) not in {"F", "torch", "nn.functional"}
    place = (0 if method else 1) + (name == "roll")
    dim = literal(keyword(node, "dim", "axis", "dims", position=place))
    return 3 if name in _ALONG and dim in (0, (0,), [0]) and dim is not False else 0
