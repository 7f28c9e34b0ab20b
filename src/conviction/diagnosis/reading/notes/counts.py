"""Notes on images and labels of which one is chosen, doubled or cut in another way than the other."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from conviction.diagnosis.reading.roles import key_of, role_of
from conviction.diagnosis.reading.syntax import dotted, last_name

_JOINING = frozenset({"cat", "concatenate", "concat", "vstack"})
_INTERLEAVING = frozenset({"repeat", "repeat_interleave"})  # 0 0 1 1, where joined copies are 0 1 0 1
Assigned = tuple[ast.Assign, str, ast.expr]


def chosen_apart(pairs: list[Assigned]) -> Iterator[tuple[ast.AST, str]]:
    """`x, y = x[keep], y[:keep.sum()]`: the same number of both, and not the same ones."""
    by_statement: dict[ast.Assign, list[tuple[str, ast.Subscript]]] = {}
    for node, target, value in pairs:
        if isinstance(value, ast.Subscript) and dotted(value.value) == target and role_of(target):
            by_statement.setdefault(node, []).append((target, value))
    for node, parts in by_statement.items():
        for target, value in parts:
            for other, beside in parts:
                if role_of(target) != "labels" or role_of(other) != "images" or key_of(target) != key_of(other):
                    continue
                if isinstance(value.slice, ast.Slice) != isinstance(beside.slice, ast.Slice):
                    yield node, f"`{other}` is taken at {ast.unparse(beside.slice)}, `{target}` at {_way(value)}"


def doubled_apart(pairs: list[Assigned]) -> Iterator[tuple[ast.AST, str]]:
    """`x = cat([x, flipped])` and `y = y.repeat_interleave(2)`: copies behind each other, labels side by side."""
    joined = {
        target: node for node, target, value in pairs
        if isinstance(value, ast.Call) and last_name(value.func) in _JOINING and role_of(target) == "images"
        and target in {dotted(n) for n in ast.walk(value) if isinstance(n, (ast.Name, ast.Attribute))}
    }  # fmt: skip
    for node, target, value in pairs:
        if not isinstance(value, ast.Call) or last_name(value.func) not in _INTERLEAVING or role_of(target) != "labels":
            continue
        # torch's own `repeat` puts whole copies behind each other, numpy's repeats each number.
        whole = last_name(value.func) == "repeat" and dotted(value.func).partition(".")[0] not in {"np", "numpy"}
        partner = next((name for name in joined if key_of(name) == key_of(target)), None)
        if partner is not None and not whole:
            yield node, f"`{partner}` is put behind itself, `{target}` is repeated number by number"


def _way(value: ast.Subscript) -> str:
    return ast.unparse(value.slice)
