"""Notes on images and labels that do not belong together, and on test images among the training images."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from conviction.diagnosis.reading.notes.counts import chosen_apart, doubled_apart
from conviction.diagnosis.reading.roles import called, key_of, role_of, split_of
from conviction.diagnosis.reading.state import State
from conviction.diagnosis.reading.syntax import dotted, keyword, last_name, literal
from conviction.findings.observation import SourceNote

_DRAWN = frozenset({"randperm", "permutation"})  # an order of its own with every call
_REORDERED = frozenset({"sorted", "permutation", "sort", "shuffle", "permuted"})
_SEEDED = frozenset({"seed", "set_state", "setstate", "manual_seed", "RandomState", "default_rng", "Random",
                     "set_rng_state"})  # fmt: skip
_JOINING = frozenset({"cat", "concatenate", "concat", "vstack", "hstack", "stack", "append"})
_Scope = list[ast.AST]  # the nodes of a function, or of the module


def read_pairing(state: State) -> Iterator[SourceNote]:
    """Return the notes on images and labels that were put in different orders."""
    functions = [n for n in state.program.nodes if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    for scope in (state.program.tree, *functions):
        nodes = sorted(_own(scope), key=lambda n: (getattr(n, "lineno", 0), getattr(n, "col_offset", 0)))
        names = {dotted(n) for n in nodes if isinstance(n, (ast.Name, ast.Attribute)) and dotted(n)}
        names |= {a.arg for a in scope.args.args} if not isinstance(scope, ast.Module) else set()
        found = [
            *_shuffled(nodes, names),
            *_reordered(nodes, names),
            *_given(nodes),
            *_indexed(state, scope, nodes),
            *_joined(nodes),
            *chosen_apart(list(_pairs(nodes))),
            *doubled_apart(list(_pairs(nodes))),
        ]
        for node, said in sorted(found, key=lambda pair: getattr(pair[0], "lineno", 0))[:1]:
            yield SourceNote("labels-shuffled", state.program.place(node), (), said)


def _own(scope: ast.AST) -> _Scope:
    """Return the nodes of a function without those of the functions and classes within it."""
    found, waiting = [], list(ast.iter_child_nodes(scope))
    while waiting:
        node = waiting.pop()
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.append(node)
            waiting += ast.iter_child_nodes(node)
    return found


def _partners(name: str, names: set[str]) -> set[str]:
    """Return the labels that belong to images of this name, or the images that belong to labels."""
    role = role_of(name)
    other = {"images": "labels", "labels": "images"}.get(role, "-")
    return {n for n in names if role_of(n) == other and key_of(n) == key_of(name) and n != name}


def _shuffled(nodes: _Scope, names: set[str]) -> Iterator[tuple[ast.AST, str]]:
    """`np.random.shuffle(images)`, and the labels stay, or are shuffled with other random numbers."""
    calls = [n for n in nodes if isinstance(n, ast.Call)]
    shuffles = [c for c in calls if last_name(c.func) == "shuffle" and len(c.args) == 1 and dotted(c.args[0])]
    seeds = [c.lineno for c in calls if last_name(c.func) in _SEEDED]
    for call in shuffles:
        name = dotted(call.args[0])
        partners = _partners(name, names)
        beside = [c for c in shuffles if dotted(c.args[0]) in partners]
        again = any(seed > min(call.lineno, c.lineno) for c in beside for seed in seeds)
        fixed = [literal(keyword(c, "random_state", "seed")) for c in (call, *beside)]
        if partners and not (beside and (again or (None not in fixed and len(set(fixed)) == 1))):
            other = sorted(partners)[0]
            yield call, f"`{name}` is shuffled and `{other}` is not shuffled with it"


def _pairs(nodes: _Scope) -> Iterator[tuple[ast.Assign, str, ast.expr]]:
    """Give the assignments one by one: `a, b = c, d` is two."""
    for node in nodes:
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], node.value
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
                yield from ((node, dotted(t), v) for t, v in zip(target.elts, value.elts, strict=True))
            elif isinstance(target, ast.Tuple):
                yield node, dotted(target.elts[0]), value  # y, order = y.sort()
            else:
                yield node, dotted(target), value


def _reordered(nodes: _Scope, names: set[str]) -> Iterator[tuple[ast.AST, str]]:
    """`x = x[torch.randperm(len(x))]`, `y = np.random.permutation(y)`, `y = sorted(y)`: one of the two alone."""
    pairs = list(_pairs(nodes))
    orders = {target for _, target, value in pairs if _is_order(value)}
    used = [(dotted(n.value), ast.unparse(n.slice)) for n in nodes if isinstance(n, ast.Subscript)]
    for node, target, value in pairs:
        inner = _bare(value)
        partners = _partners(target, names)
        if not partners or any(split_of(target) == "" != split_of(p) for p in partners):
            continue
        if isinstance(inner, ast.Subscript) and role_of(called(inner)) == role_of(target):
            index = ast.unparse(inner.slice)
            source = dotted(inner.value)
            others = _partners(source, names) | partners
            drawn = isinstance(inner.slice, ast.Call) and last_name(inner.slice.func) in _DRAWN
            together = any(base in others and way == index for base, way in used)
            alone = not any(index in ast.unparse(n) for n in nodes if _gathers(n))
            same = source == target or key_of(source) == key_of(target)
            if same and (drawn or (index in orders and not together and alone)):
                yield node, f"`{target}` is put in another order and `{sorted(partners)[0]}` is not"
        elif isinstance(inner, ast.Call) and last_name(inner.func) in _REORDERED and _reorders(inner, target):
            beside = {dotted(n) for n in getattr(node.targets[0], "elts", [])[1:]}
            if not _made_later(pairs, partners, node) and not beside & {way for _, way in used}:
                yield node, f"`{target}` is put in another order and `{sorted(partners)[0]}` is not"
        elif _draws_labels(inner, target) and any(t == target and n.lineno < node.lineno for n, t, _ in pairs):
            yield node, f"`{target}` is drawn at random"


def _given(nodes: _Scope) -> Iterator[tuple[ast.AST, str]]:
    """`TensorDataset(x, y[torch.randperm(len(y))])`: the order is drawn for one of the two."""
    calls = [n for n in nodes if isinstance(n, ast.Call)]
    loaders = {dotted(c.args[0]): c for c in calls if last_name(c.func) == "DataLoader" and c.args
               and literal(keyword(c, "shuffle", position=2)) is True and dotted(c.args[0])}  # fmt: skip
    for name, call in loaders.items():
        if role_of(name) == "labels" and _partners(name, set(loaders)):
            yield call, f"`{name}` is shuffled by a loader of its own"
    for call in (c for c in calls if len(c.args) > 1):
        drawn = [a for a in call.args if isinstance(a, ast.Subscript) and isinstance(a.slice, ast.Call)
                 and last_name(a.slice.func) in _DRAWN and role_of(dotted(a.value))]  # fmt: skip
        others = {dotted(n) for a in call.args if a not in drawn for n in ast.walk(a)
                  if isinstance(n, (ast.Name, ast.Attribute))} - {""}  # fmt: skip
        for argument in drawn:
            name = dotted(argument.value)
            if _partners(name, others):
                yield call, f"`{name}` is put in another order and `{sorted(_partners(name, others))[0]}` is not"


def _bare(value: ast.expr) -> ast.expr:
    """Return an expression without `.clone()`, `.copy()` and the like."""
    while isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and not value.args:
        if value.func.attr not in {"clone", "copy", "contiguous", "long", "float"}:
            break
        value = value.func.value
    return value


def _gathers(node: ast.AST) -> bool:
    """`index_select(y, 0, order)`, `np.take(y, order)`: another way to put in order."""
    return isinstance(node, ast.Call) and last_name(node.func) in {"index_select", "take", "gather", "zip", "apply"}


def _is_order(value: ast.expr) -> bool:
    names = {last_name(n.func) for n in ast.walk(value) if isinstance(n, ast.Call)}
    return bool(names & (_DRAWN | {"argsort", "choice", "sample"}))


def _reorders(call: ast.Call, target: str) -> bool:
    """Say whether a call gives its only subject back in another order."""
    if call.args:
        return dotted(call.args[0]) == target and literal(keyword(call, "random_state")) is None
    subject = call.func.value if isinstance(call.func, ast.Attribute) else None
    return subject is not None and dotted(subject) == target


def _made_later(pairs: list[tuple[ast.Assign, str, ast.expr]], partners: set[str], node: ast.Assign) -> bool:
    """Say whether all partners come only afterwards: file names are sorted, then the labels read off them."""
    lines = [n.lineno for n, target, _ in pairs if target in partners]
    return bool(lines) and min(lines) > node.lineno


def _draws_labels(value: ast.expr, target: str) -> bool:
    name = last_name(value.func) if isinstance(value, ast.Call) else ""
    return role_of(target) == "labels" and name in {"randint", "randint_like"}


def _indexed(state: State, scope: ast.AST, nodes: _Scope) -> Iterator[tuple[ast.AST, str]]:
    """`x[order[i:j]]` beside `y[i:j]`: images and labels of one batch are taken from different places."""
    texts = {target: value for _, target, value in _pairs(nodes) if target.isidentifier()}
    blocks: dict[ast.AST, list[tuple[str, str, ast.expr]]] = {}
    for node in nodes:
        if not isinstance(node, ast.Subscript) or not isinstance(node.ctx, ast.Load) or not role_of(dotted(node.value)):
            continue
        around = [n for n in state.program.above(node) if isinstance(n, (ast.For, ast.While)) or n is scope]
        index = node.slice.elts[0] if isinstance(node.slice, ast.Tuple) and node.slice.elts else node.slice
        if around and literal(index) is None and _varies(index):
            blocks.setdefault(around[0], []).append((dotted(node.value), _spelled(index, texts), node))
    for call in (n for n in nodes if isinstance(n, ast.Call) and last_name(n.func) in {"index_select", "take"}):
        around = [n for n in state.program.above(call) if isinstance(n, (ast.For, ast.While)) or n is scope]
        if around and len(call.args) > 1 and role_of(dotted(call.args[0])):
            index = call.args[2 if len(call.args) > 2 else 1]
            blocks.setdefault(around[0], []).append((dotted(call.args[0]), _spelled(index, texts), call))
    for block, uses in blocks.items():
        loops = isinstance(block, (ast.For, ast.While)) or getattr(scope, "name", "") == "__getitem__"
        own = {n.id for n in ast.walk(block) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        bases = {name for name, _, _ in uses} - own
        for name in sorted(b for b in bases if role_of(b) == "images" and loops):
            ways = {way for base, way, _ in uses if base == name}
            for partner in sorted(_partners(name, bases)):
                apart = [(way, node) for base, way, node in uses if base == partner]
                if not ways & {way for way, _ in apart} and not role_of(apart[0][0]):
                    yield apart[0][1], f"`{name}` is taken at {sorted(ways)[0]}, `{partner}` at {apart[0][0]}"


def _varies(index: ast.expr) -> bool:
    """Say whether an index may pick another place with each turn: no `:`, no `...`, no mask."""
    return any(isinstance(n, ast.Name) for n in ast.walk(index)) and not any(
        isinstance(n, (ast.Compare, ast.Call, ast.Invert, ast.BitAnd)) and not _is_drawn(n) for n in ast.walk(index)
    )


def _is_drawn(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and last_name(node.func) in _DRAWN | {"len", "range", "slice", "min", "randint"}


def _spelled(index: ast.expr, texts: dict[str, ast.expr], depth: int = 2) -> str:
    """Return an index with the variables that stand for indices spelled out."""
    if isinstance(index, ast.Name) and index.id in texts and depth:
        value = texts[index.id]
        if isinstance(value, ast.Subscript) or (isinstance(value, ast.Name) and value.id != index.id):
            return _spelled(value, texts, depth - 1)
    drawn = any(isinstance(n, ast.Call) and last_name(n.func) in _DRAWN | {"randint"} for n in ast.walk(index))
    return ast.unparse(index) + (f" of line {index.lineno}.{index.col_offset}" if drawn else "")


def _joined(nodes: _Scope) -> Iterator[tuple[ast.AST, str]]:
    """`x = cat([a_x, b_x])` and `y = cat([b_y, a_y])`."""
    orders: dict[str, tuple[list[str], ast.AST]] = {}
    for node, target, value in _pairs(nodes):
        if isinstance(value, ast.Call) and last_name(value.func) in _JOINING and value.args and role_of(target):
            given = value.args[0].elts if isinstance(value.args[0], (ast.Tuple, ast.List)) else value.args
            orders[target] = ([key_of(called(item)) for item in given], node)
    for target, (order, node) in orders.items():
        for other in _partners(target, set(orders)) if role_of(target) == "labels" else ():
            first = orders[other][0]
            if order != first and sorted(order) == sorted(first) and len(set(order)) == len(order):
                yield node, f"`{target}` is put together in another order than `{other}`"
