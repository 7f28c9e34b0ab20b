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
_ONE_BATCH = re.compile(r"^(batch|batch_size|bs|BATCH|BATCH_SIZE)$")
_SIZE = re.compile(r"^len\(|\.numel\(\)$|\.size\(0\)$|\.shape\[0\]$|^(batch_size|bs|n)$")


def read_metrics(state: State) -> Iterator[SourceNote]:
    """Return the notes on figures."""
    sums = any(
        literal(keyword(call, "reduction")) in {"sum", "none"}
        for call in state.program.nodes
        if isinstance(call, ast.Call)
    )
    for function in functions_of(state.program.tree):
        means, counts, turns = _sums(function)
        yield from _read_accumulated(state, function, sums)
        for node in own_nodes(function):
            top, bottom = division(node)
            name = _numerator(top)
            if name in means and _SAMPLES.search(bottom) and not sums:
                said = f"`{name}` adds up means over batches and is divided by the number of samples"
                yield SourceNote("metric-divided", state.program.place(node), (name, bottom), said)
            elif name in counts and _BATCHES.search(bottom) and not sums:
                said = f"`{name}` counts samples and is divided by the number of batches"
                yield SourceNote("metric-divided", state.program.place(node), (name, bottom), said)
            elif _is_whole_by_batches(state, node, top, bottom):
                said = f"the right answers of all samples are divided by `{bottom}`, the number of batches"
                yield SourceNote("metric-miscounted", state.program.place(node), (ast.unparse(node)[:40], bottom), said)
            elif _is_whole(state, node, top, bottom) and not sums:
                said = f"the right answers of all samples are divided by `{bottom}`"
                yield SourceNote("metric-divided", state.program.place(node), (ast.unparse(node)[:40],), said)
            elif name in counts and bottom in turns and not sums:
                said = f"`{name}` counts samples and `{bottom}` counts batches"
                yield SourceNote("metric-divided", state.program.place(node), (name, bottom), said)
        for node in own_nodes(function):
            if isinstance(node, ast.AugAssign) and not sums:
                yield from _read_term(state, node)
        yield from _read_percents(state, function)


def _is_whole(state: State, node: ast.AST, top: ast.AST | None, bottom: str) -> bool:
    """Say whether right answers are counted at once, in no loop over batches, and divided by the size of one batch."""
    loops = any(isinstance(n, (ast.For, ast.While, ast.FunctionDef)) for n in state.program.above(node))
    return not loops and top is not None and is_count(top) and bool(_ONE_BATCH.match(bottom))


def _is_whole_by_batches(state: State, node: ast.AST, top: ast.AST | None, bottom: str) -> bool:
    """Say whether right answers are counted at once, in no loop over batches, and divided by a number of batches."""
    loops = any(isinstance(n, (ast.For, ast.While)) for n in state.program.above(node))
    return not loops and top is not None and is_count(top) and bool(_BATCHES.search(bottom))


def _read_accumulated(state: State, function: ast.AST, sums: bool) -> Iterator[SourceNote]:
    """`metric.add(l, hits, len(y))`, then `metric[0] / metric[2]`: a sum of means over the number of samples."""
    places: dict[str, tuple[set[int], set[int]]] = {}
    for call in (n for n in own_nodes(function) if isinstance(n, ast.Call)):
        if isinstance(call.func, ast.Attribute) and call.func.attr in {"add", "update"} and len(call.args) > 1:
            means = {n for n, given in enumerate(call.args) if _is_loss(given) or is_loss_number(given)}
            sizes = {n for n, given in enumerate(call.args) if _SIZE.search(ast.unparse(given))}
            places[dotted(call.func.value)] = means, sizes
    for node in () if sums else own_nodes(function):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            top, bottom = node.left, node.right
            if isinstance(top, ast.Subscript) and isinstance(bottom, ast.Subscript):
                name = dotted(top.value)
                means, sizes = places.get(name, (set(), set()))
                if name == dotted(bottom.value) and literal(top.slice) in means and literal(bottom.slice) in sizes:
                    said = f"`{ast.unparse(top)}` adds up means over batches and is divided by the number of samples"
                    yield SourceNote("metric-divided", state.program.place(node), (name,), said)


def _is_loss(node: ast.AST) -> bool:
    """`l`, `loss`, `loss.detach()`."""
    if isinstance(node, ast.Call) and last_name(node.func) == "detach" and isinstance(node.func, ast.Attribute):
        return _is_loss(node.func.value)
    return isinstance(node, ast.Name) and node.id in {"l", "loss", "ls", "batch_loss"}


def _read_percents(state: State, function: ast.AST) -> Iterator[SourceNote]:
    """`acc = 100 * hits / n`, and told as `100 * acc`."""
    nodes = own_nodes(function)
    percents = {dotted(t) for n in nodes if isinstance(n, ast.Assign) and _times_hundred(n.value) for t in n.targets}
    for node in nodes:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            name = _numerator(node)
            again = 100 in (literal(node.left), literal(node.right)) and "==" not in ast.unparse(node)
            if again and name and name in percents:
                said = f"`{name}` is a percentage and is multiplied by 100 again"
                yield SourceNote("metric-scaled", state.program.place(node), (name,), said)


def _times_hundred(value: ast.expr) -> bool:
    """Say whether a quotient was multiplied by 100."""
    parts = [n for n in ast.walk(value) if isinstance(n, ast.BinOp)]
    times = any(isinstance(n.op, ast.Mult) and 100 in (literal(n.left), literal(n.right)) for n in parts)
    return times and any(isinstance(n.op, ast.Div) for n in parts)


def _read_term(state: State, node: ast.AugAssign) -> Iterator[SourceNote]:
    """`total += loss.item() / batch_size`: the loss was a mean already."""
    value = node.value
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Div):
        loss = is_loss_number(value.left)
        if loss and _BATCH.search(ast.unparse(value.right)):
            said = f"`{ast.unparse(value)[:60]}`: the loss is a mean over the batch and is divided by its size again"
            yield SourceNote("metric-divided", state.program.place(node), (dotted(node.target),), said)


def functions_of(tree: ast.Module) -> list[ast.AST]:
    """Return the module and its functions."""
    return [tree, *(n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)))]


def own_nodes(function: ast.AST) -> list[ast.AST]:
    """Return the nodes of a function without those of the functions within it."""
    found, waiting = [], list(ast.iter_child_nodes(function))
    while waiting:
        node = waiting.pop()
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.append(node)
            waiting += ast.iter_child_nodes(node)
    return found


def _sums(function: ast.AST) -> tuple[set[str], set[str], set[str]]:
    """Return the variables that add up means of losses or accuracies, those that count samples, and batches."""
    means, counts, mixed = set(), set(), set()
    for node in own_nodes(function):
        if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
            name = dotted(node.target) or ast.unparse(node.target)
            if is_loss_number(node.value) or _is_mean_accuracy(node.value):
                means.add(name)
            elif is_count(node.value) or _is_weighted(node.value):
                counts.add(name)
            else:
                mixed.add(name)
    turns = {name for name, value in _added(function) if literal(value) == 1}
    turns -= {name for name, value in _added(function) if literal(value) != 1}
    return means - mixed - counts, counts - mixed - means, turns


def _added(function: ast.AST) -> list[tuple[str, ast.expr]]:
    """Return what is added to which variable."""
    sums = [n for n in own_nodes(function) if isinstance(n, ast.AugAssign) and isinstance(n.op, ast.Add)]
    return [(dotted(n.target), n.value) for n in sums]


def _is_weighted(node: ast.AST) -> bool:
    """`loss.item() * len(y)`: the sum over a batch."""
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Mult):
        return False
    for loss, size in ((node.left, node.right), (node.right, node.left)):
        if is_loss_number(loss) and (_BATCH.search(ast.unparse(size)) or _SIZE.search(ast.unparse(size))):
            return True
    return False


def is_loss_number(node: ast.AST) -> bool:
    """`loss.item()`, `float(loss)`."""
    if isinstance(node, ast.Call) and last_name(node.func) in {"item", "float"}:
        inner = node.func.value if isinstance(node.func, ast.Attribute) else node.args[0] if node.args else node
        name = last_name(inner.func if isinstance(inner, ast.Call) else inner).lower()
        return "loss" in name or name in {"l", "cross_entropy", "criterion"}
    return False


def _is_mean_accuracy(node: ast.AST) -> bool:
    text = ast.unparse(node)
    return "==" in text and ".mean()" in text and "*" not in text


def is_count(node: ast.AST) -> bool:
    """`(answers == labels).sum()`."""
    text = ast.unparse(node)
    return "==" in text and ".sum()" in text and "/" not in text


def division(node: ast.AST) -> tuple[ast.AST | None, str]:
    """Return what is divided, and the text of what it is divided by."""
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
    if isinstance(node, ast.Subscript):
        return ast.unparse(node)
    return dotted(node) if node is not None else ""
