"""Notes on how long a program trains: few epochs, few steps, a loop that is left at once, few images."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from conviction.diagnosis.reading.roles import role_of, split_of
from conviction.diagnosis.reading.state import Event, State
from conviction.diagnosis.reading.syntax import dotted, last_name
from conviction.diagnosis.reading.values import Const
from conviction.findings.observation import SourceNote

FEW_STEPS = 30  # no net that is worth training has learned by then
_WAITING = re.compile(r"patien|bad|wait|stall|best|improve|since|worse|acc|stop|nan|inf", re.IGNORECASE)


def read_budgets(state: State) -> Iterator[SourceNote]:
    """Return the notes on budgets."""
    around = {loop for event in state.of("backward") for loop in event.loops}
    inner = {event.loops[-1] for event in state.of("backward") if event.loops}
    for event in state.of("leave"):
        if any(loop in around for loop in event.loops[-1:]):
            yield from _read_leaving(state, event)
    for loop in inner:
        body = getattr(loop, "body", [])
        if body and isinstance(body[-1], ast.Break):
            said = "the loop is left in its first turn"
            yield SourceNote("epochs", state.program.place(body[-1]), ("1",), said)
    for event in state.of("turns"):
        number = event.value.value if isinstance(event.value, Const) else None
        if event.node not in around or isinstance(number, bool) or not isinstance(number, int) or number < 1:
            continue
        small = number <= FEW_STEPS if event.more in {"while", "islice"} or _draws_batches(state, event.node) else False
        whiles = event.more == "while" and _counts_epochs(event.node)
        if small and not whiles:
            said = f"the training ends after {number} steps"
            yield SourceNote("epochs", state.program.place(event.value.node), (str(number),), said)


def _read_leaving(state: State, event: Event) -> Iterator[SourceNote]:
    """`if step > 5: break` with a count that grows with every turn; that of a patience grows with some of them."""
    loop, test = event.loops[-1], getattr(event.node, "test", None)
    if test is None or not isinstance(event.node, ast.If) or event.node not in getattr(loop, "body", []):
        return
    parts = test.values if isinstance(test, ast.BoolOp) else [test]
    compares = [part for part in parts if isinstance(part, ast.Compare)]
    for part, bound in zip(compares, event.more or [], strict=False):
        name, number = dotted(part.left), bound.value if isinstance(bound, Const) else None
        grows = isinstance(part.ops[0], (ast.Gt, ast.GtE, ast.Eq))
        few = isinstance(number, (int, float)) and not isinstance(number, bool) and 0 <= number <= FEW_STEPS
        if grows and few and not _WAITING.search(ast.unparse(test)) and _counts_turns(loop, name):
            said = f"the loop is left as soon as {ast.unparse(part)}"
            at = event.node if bound.node in ast.walk(test) else bound.node
            yield SourceNote("epochs", state.program.place(at), (f"{number:g}",), said)


def _counts_turns(loop: ast.AST, name: str) -> bool:
    """Say whether a variable grows with every turn of the loop over batches."""
    if not name or not _is_of_batches(loop):
        return False
    counted = {dotted(n) for n in ast.walk(loop.target)} if isinstance(loop, ast.For) else set()
    added = {dotted(n.target) for n in getattr(loop, "body", []) if isinstance(n, ast.AugAssign)}
    return name in counted | added


def _is_of_batches(loop: ast.AST) -> bool:
    """Say whether no loop lies within this one that is not a comprehension."""
    return not any(isinstance(n, (ast.For, ast.While)) and n is not loop for n in ast.walk(loop))


def _draws_batches(state: State, loop: ast.AST) -> bool:
    """Say whether each turn of a loop is one step that draws its own batch: no data loader within or around it."""
    backward = next((e for e in state.of("backward") if e.loops and e.loops[-1] is loop), None)
    return backward is not None and len(backward.loops) == 1 and _is_of_batches(loop) and _draws(loop)


def _draws(loop: ast.AST) -> bool:
    names = {last_name(n.func) for n in ast.walk(loop) if isinstance(n, ast.Call)}
    return bool(names & {"randint", "next", "choice", "randperm", "sample"})


def _counts_epochs(loop: ast.AST) -> bool:
    """Say whether a while loop counts epochs: what it counts is added to outside the loop over batches."""
    test = getattr(loop, "test", None)
    return test is not None and ("epoch" in ast.unparse(test).lower())


def find_budget(state: State) -> ast.AST | None:
    """Return where the number of epochs or steps is written, or a small part of the training images is taken."""
    around = [loop for event in state.of("backward") for loop in event.loops]
    turns = [e for e in state.of("turns") if e.node in around and isinstance(e.value, Const)]
    numbers = [(e.value.value, e) for e in turns if isinstance(e.value.value, int) and hasattr(e.value.node, "lineno")]
    left = _find_leaving(state)
    first = left or next((e.value.node for n, e in numbers if n <= 2 and e.more != "step"), None)
    first = first or _find_part(state) or _find_batch(state, numbers)
    if first is None and numbers:
        first = min(numbers, key=lambda pair: (len(pair[1].loops), pair[0]))[1].value.node
    loop = around[0] if around else None
    return first or (loop if isinstance(loop, (ast.For, ast.While)) and _bounds(loop) else None)


def _find_leaving(state: State) -> ast.AST | None:
    """Return a condition that leaves the loop over batches, or passes over them, other than after many steps."""
    inner = {event.loops[-1] for event in state.of("backward") if event.loops}
    for loop in (n for n in state.program.nodes if n in inner):
        for node in (n for n in ast.walk(loop) if isinstance(n, ast.If) and n in getattr(loop, "body", [])):
            leaves = isinstance(node.body[-1], (ast.Break, ast.Return, ast.Continue)) if node.body else False
            if leaves and not _WAITING.search(ast.unparse(node.test)) and not _is_late(state, node.test):
                return node
    return None


def _is_late(state: State, test: ast.expr) -> bool:
    """Say whether a condition comes true after many steps only, or is switched off."""
    for part in ast.walk(test):
        known = state.scope.find(part.id) if isinstance(part, ast.Name) else None
        number = part.value if isinstance(part, ast.Constant) else known.value if isinstance(known, Const) else None
        if number is False or (isinstance(number, (int, float)) and number > 2 * FEW_STEPS):
            return True
    return "size" in ast.unparse(test) or "len(" in ast.unparse(test)


def _find_batch(state: State, numbers: list[tuple[int, Event]]) -> ast.AST | None:
    """Return where a batch of a thousand and more is written, or a loop over batches that ends after a few images."""
    for event in state.of("loader"):
        size = event.value.batch
        trains = split_of(_variable(state, event.node)) not in {"test", "valid"}
        if trains and isinstance(size, Const) and isinstance(size.value, int) and size.value >= 1000:
            return size.node
    inner = {event.loops[-1] for event in state.of("backward") if len(event.loops) > 1}
    small = [e.value.node for n, e in numbers if e.node in inner and n <= 512 and e.more != "step"]
    large = [e.value.node for n, e in numbers if e.more == "step" and n >= 1000]
    return next(iter(small + large), None)


def _variable(state: State, node: ast.AST) -> str:
    statement = state.program.statement(node)
    return dotted(statement.targets[0]) if isinstance(statement, ast.Assign) else ""


def _bounds(loop: ast.For | ast.While) -> bool:
    return isinstance(loop, ast.While) or "range" in ast.unparse(loop.iter)


def _find_part(state: State) -> ast.AST | None:
    """Return where a small part of the training images is taken: `x[:200]`, `Subset(train, range(200))`."""
    for node in sorted((n for n in state.program.nodes if isinstance(n, ast.Assign)), key=lambda n: n.lineno):
        for target in (t for whole in node.targets for t in getattr(whole, "elts", [whole])):
            name = dotted(target)
            drawn = re.search(r"randperm|permutation|arange|range\(|choice", ast.unparse(node.value))
            if split_of(name) in {"test", "valid"} or not (role_of(name) or split_of(name) or drawn):
                continue
            if any(isinstance(n, (ast.For, ast.While)) for n in state.program.above(node)):
                continue
            for part in ast.walk(node.value):
                number = _size_of(state, part)
                if number is not None and number <= 500:
                    return part
    return None


def _size_of(state: State, part: ast.AST) -> int | None:
    """Return how many images an expression takes, where it is a slice from the start or a subset."""
    bound: ast.expr | None = None
    if isinstance(part, ast.Subscript) and isinstance(part.slice, ast.Slice) and part.slice.lower is None:
        bound = part.slice.upper
    elif isinstance(part, ast.Call) and last_name(part.func) == "Subset" and len(part.args) > 1:
        inner = part.args[1]
        bound = inner.args[-1] if isinstance(inner, ast.Call) and inner.args else None
    if isinstance(bound, ast.Name):
        known = state.scope.find(bound.id)
        return known.value if isinstance(known, Const) and isinstance(known.value, int) else None
    number = bound.value if isinstance(bound, ast.Constant) else None
    return number if isinstance(number, int) and number > 1 else None
