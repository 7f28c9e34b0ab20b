"""Notes on test data that training gets."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from conviction.diagnosis.reading.roles import called, role_of, split_of
from conviction.diagnosis.reading.state import State
from conviction.diagnosis.reading.syntax import dotted, keyword, last_name, literal
from conviction.findings.observation import SourceNote

_JOINING = frozenset({"cat", "concatenate", "concat", "vstack", "hstack", "append", "ConcatDataset", "chain"})
_SPLITTING = frozenset({"random_split", "train_test_split", "KFold", "StratifiedKFold", "SubsetRandomSampler",
                        "ShuffleSplit"})  # fmt: skip
_LOOKING = frozenset({"mean", "std", "min", "max", "unique", "print", "len", "fit", "imshow", "amax", "amin", "var",
                      "get_dummies", "plot", "hist", "set", "sorted", "shape", "quantile", "cov"})  # fmt: skip
_SETS = re.compile(r"(Dataset|DataLoader|Loader|Set)$")


def read_leaks(state: State) -> Iterator[SourceNote]:
    """Return the notes on test data that were put among the training data."""
    if state.program.calls(*_SPLITTING):
        return
    held = any(split_of(n.id) == "test" for n in state.program.nodes if isinstance(n, ast.Name))
    tests = {"test"} if held else {"test", "valid"}
    for node in sorted((n for n in state.program.nodes if isinstance(n, ast.expr)), key=lambda n: n.lineno):
        parts = _parts(node)
        splits = {split_of(called(part)) or _plain(called(part)) for part in parts}
        if len(parts) > 1 and splits & tests and "train" in splits and _trains(state, node):
            said = "test data are put together with the training data"
            yield SourceNote("test-joined", state.program.place(node), (), said)
            return
    yield from _read_renamed(state, tests)


def _plain(name: str) -> str:
    """Images or labels that are not said to be a test's are those of the training."""
    return "train" if role_of(name) else ""


def _parts(node: ast.expr) -> list[ast.expr]:
    """Return what an expression puts together."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        whole = (node.left, node.right)
        sets = all(re.search(r"(set|data|ds|samples|pairs|list|files)$", last_name(side), re.I) for side in whole)
        return list(whole) if sets else []
    if not isinstance(node, ast.Call):
        if isinstance(node, ast.Subscript) and dotted(node.value).endswith((".r_", ".c_")):
            return list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else []
        return []
    name = last_name(node.func)
    if name == "extend" and isinstance(node.func, ast.Attribute):
        return [node.func.value, *node.args]
    if name not in _JOINING or not node.args:
        return []
    along = literal(keyword(node, "dim", "axis", position=1))
    if along not in (None, 0):
        return []
    first = node.args[0]
    return list(first.elts) if isinstance(first, (ast.Tuple, ast.List)) else list(node.args)


def _trains(state: State, node: ast.expr) -> bool:
    """Say whether what was put together is trained on: it has the training data's name, or goes into a data set."""
    statement = state.program.statement(node)
    above = [n for n in state.program.above(node) if isinstance(n, ast.Call)]
    if any(last_name(call.func) in _LOOKING for call in above):
        return False
    if any(_SETS.search(last_name(call.func)) for call in above) or isinstance(statement, ast.Expr):
        return True
    if not isinstance(statement, ast.Assign):
        return False
    targets = [t for target in statement.targets for t in getattr(target, "elts", [target])]
    names = {dotted(target) for target in targets} - {""}
    if any(split_of(name) == "train" for name in names):
        return True
    if any(split_of(name) in {"test", "valid"} for name in names):
        return False
    given = {dotted(part) for part in _parts(node)} & names  # x = cat([x, xt])
    return bool(given) or any(_is_used(state, name) for name in names)


def _is_used(state: State, name: str) -> bool:
    """Say whether a variable goes into a data set, a loader, a training function, or is cut into batches."""
    around = {loop for event in state.of("backward") for loop in event.loops}
    for node in state.program.nodes:
        if isinstance(node, ast.Call) and name in {dotted(argument) for argument in node.args}:
            callee = last_name(node.func)
            if _SETS.search(callee) or "train" in callee or callee in {"fit", "loader", "batches"}:
                return True
        if isinstance(node, ast.Subscript) and dotted(node.value) == name:
            return any(loop in around for loop in state.program.above(node))
    return False


def _read_renamed(state: State, tests: set[str]) -> Iterator[SourceNote]:
    """`train_loader = DataLoader(test_set, shuffle=True)`, `x_train = data["x_test"]`."""
    for node in state.program.nodes:
        if not isinstance(node, ast.Assign) or len(node.targets) != 1:
            continue
        target, value = node.targets[0], node.value
        pairs = [(target, value)]
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
            pairs = list(zip(target.elts, value.elts, strict=True))
        for name, given in ((dotted(t), v) for t, v in pairs):
            words = {split_of(word) for word in _words(given)}
            if split_of(name) == "train" and words & tests and "train" not in words and _is_data(given):
                said = f"`{name}` is made of the test data"
                yield SourceNote("test-joined", state.program.place(node), (name,), said)
                return


def _words(node: ast.expr) -> set[str]:
    found = {last_name(n) for n in ast.walk(node) if isinstance(n, (ast.Name, ast.Attribute))}
    return found | {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def _is_data(node: ast.expr) -> bool:
    """Say whether it is data, no figure of a test: a loader, a data set, or an array taken from where they are kept."""
    while True:
        if isinstance(node, ast.BinOp):
            node = node.left
        elif isinstance(node, ast.Subscript) and not role_of(called(node)):
            node = node.value
        elif isinstance(node, ast.Call) and not _SETS.search(last_name(node.func)):
            given = node.func.value if isinstance(node.func, ast.Attribute) else None
            if node.args and (given is None or last_name(given) in {"torch", "np", "numpy"}):
                given = node.args[0]
            if given is None:
                return False
            node = given
        else:
            return isinstance(node, (ast.Call, ast.Subscript))
