"""Notes on how a program counts: what is never set back, what only the last batch has, the length of another set."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from conviction.diagnosis.reading.notes.metrics import division, functions_of, is_count, is_loss_number, own_nodes
from conviction.diagnosis.reading.roles import split_of
from conviction.diagnosis.reading.state import State
from conviction.diagnosis.reading.syntax import dotted, last_name, literal
from conviction.findings.observation import SourceNote

_Loop = ast.For | ast.While


def read_figures(state: State) -> Iterator[SourceNote]:
    """Return the notes on counts."""
    for function in functions_of(state.program.tree):
        nodes = own_nodes(function)
        for node in nodes:
            if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], ast.Eq):
                left, right = ast.unparse(node.left), ast.unparse(node.comparators[0])
                if left == right and _is_figure(state, node):
                    said = f"`{left}` is compared with itself"
                    yield SourceNote("metric-miscounted", state.program.place(node), (left,), said)
            top, bottom = division(node)
            name = dotted(top) if top is not None else ""
            if name:
                yield from _read_quotient(state, nodes, node, name, bottom)


def _read_quotient(state: State, nodes: list[ast.AST], node: ast.AST, name: str, bottom: str) -> Iterator[SourceNote]:
    sums = [n for n in nodes if isinstance(n, ast.AugAssign) and isinstance(n.op, ast.Add) and dotted(n.target) == name]
    counting = [n for n in sums if is_count(n.value) or is_loss_number(n.value)]
    started = [n for n in nodes if isinstance(n, ast.Assign) and name in _targets(n)]
    if counting and len(counting) == len(sums):
        loop = next(iter(_loops(state, counting[0])), None)
        if isinstance(loop, ast.For) and _of_other_set(loop, bottom):
            said = f"`{name}` counts over {ast.unparse(loop.iter)[:40]} and is divided by `{bottom}`"
            yield SourceNote("metric-miscounted", state.program.place(node), (name, bottom), said)
        around = [n for n in _loops(state, node) if n is not loop and n in _loops(state, counting[0])]
        outside = bool(started) and not any(around[0] in _loops(state, n) for n in started) if around else False
        if around and outside and loop not in _loops(state, node) and _is_of_one_turn(state, nodes, around[0], bottom):
            said = f"`{name}` is never set back to 0 and `{bottom}` counts one epoch"
            yield SourceNote("metric-miscounted", state.program.place(started[-1]), (name,), said)
    last = [n for n in started if is_count(n.value) and dotted(n.targets[0]) == name and _loops(state, n)]
    if last and not sums and _loops(state, last[0])[0] not in _loops(state, node) and _is_whole(nodes, bottom):
        said = f"`{name}` holds the count of the last batch alone and is divided by `{bottom}`"
        yield SourceNote("metric-miscounted", state.program.place(last[0]), (name,), said)


def _is_figure(state: State, node: ast.AST) -> bool:
    """Say whether a comparison is counted: no test for numbers that are none, no assertion."""
    counts = [n for n in state.program.above(node)[:3] if isinstance(n, ast.Attribute)]
    return any(n.attr in {"sum", "mean", "float"} for n in counts)


def _targets(node: ast.Assign) -> set[str]:
    return {dotted(t) for target in node.targets for t in getattr(target, "elts", [target])}


def _loops(state: State, node: ast.AST) -> list[_Loop]:
    """Return the loops around a node, innermost first."""
    return [n for n in state.program.above(node) if isinstance(n, (ast.For, ast.While))]


def _of_other_set(loop: ast.For, bottom: str) -> bool:
    """Say whether a loop goes over the test data and a length is that of the training data, or the other way round."""
    if not bottom.startswith("len("):
        return False
    over = {split_of(last_name(n)) for n in ast.walk(loop.iter) if isinstance(n, (ast.Name, ast.Attribute))} - {""}
    names = ast.walk(ast.parse(bottom, mode="eval"))
    length = {split_of(last_name(n)) for n in names if isinstance(n, (ast.Name, ast.Attribute))} - {""}
    return len(over) == len(length) == 1 and over != length and "train" in over | length


def _is_of_one_turn(state: State, nodes: list[ast.AST], loop: _Loop, bottom: str) -> bool:
    """Say whether a divisor counts one turn of a loop: a length, or a number set back within the loop."""
    if bottom.startswith("len("):
        return True
    back = [n for n in nodes if isinstance(n, ast.Assign) and bottom in _targets(n)]
    return any(loop in _loops(state, n) and _is_zero(n) for n in back)


def _is_zero(node: ast.Assign) -> bool:
    value = literal(node.value)
    return value in (0, 0.0) or (isinstance(value, tuple) and set(value) == {0})


def _is_whole(nodes: list[ast.AST], bottom: str) -> bool:
    """Say whether a divisor counts more than a batch: a data set's length, or a sum over batches."""
    added = {dotted(n.target) for n in nodes if isinstance(n, ast.AugAssign)}
    return bottom in added or "dataset)" in bottom or (bottom.startswith("len(") and "set)" in bottom)
