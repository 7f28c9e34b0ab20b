"""Notes on loaders and data sets."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from conviction.diagnosis.reading.state import State
from conviction.diagnosis.reading.syntax import dotted, keyword, last_name, literal, names_read
from conviction.diagnosis.reading.values import Const, Instance, Loader
from conviction.findings.observation import SourceNote

_TEST = re.compile(r"(^|_)(test|te|val|valid|validation|holdout)(_|$|set|loader|data)", re.IGNORECASE)
_TRAIN = re.compile(r"(^|_)(train|tr|training)(_|$|set|loader|data)", re.IGNORECASE)
_SPLITTING = frozenset(
    {"random_split", "Subset", "SubsetRandomSampler", "train_test_split", "KFold", "StratifiedKFold"}
)
_GENERATORS = frozenset({"RandomState", "default_rng", "Random", "Generator"})
_ITERABLE = "IterableDataset"


def read_data(state: State) -> Iterator[SourceNote]:
    """Return the notes on data."""
    yield from _read_order(state)
    if not state.program.calls(*_SPLITTING):
        yield from _read_splits(state)
    yield from _read_workers(state)


def _read_order(state: State) -> Iterator[SourceNote]:
    inner = {event.loops[-1] for event in state.of("backward") if event.loops}
    around = {loop for event in state.of("backward") for loop in event.loops}
    streams = any(isinstance(n, ast.Name) and n.id == _ITERABLE for n in state.program.nodes)
    stepped = {event.loops[-1] for event in state.of("step") if event.loops}
    for event in state.of("iterate"):
        loader = event.value.items[0] if hasattr(event.value, "items") and event.value.items else event.value
        if isinstance(loader, Loader) and loader.shuffled is False and not streams:
            trains = (
                event.node in inner
                or event.node in stepped
                or (event.node in around and not _has_loader(state, event.node))
            )
            if trains and not _TEST.search(_variable(state, loader.node)):
                said = "the loader of the training data does not shuffle"
                yield SourceNote("shuffle-false", state.program.place(loader.node), (), said)


def _has_loader(state: State, loop: ast.AST) -> bool:
    """Say whether a loop over a loader lies within this one."""
    return any(
        event.node is not loop and loop in event.loops and isinstance(event.value, Loader)
        for event in state.of("iterate")
    )


def _variable(state: State, node: ast.AST) -> str:
    statement = state.program.statement(node)
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    return dotted(targets[0]).rpartition(".")[2] if targets else ""


def _read_splits(state: State) -> Iterator[SourceNote]:
    """Something called test or valid that is made of the training data alone."""
    for node in state.program.nodes:
        if not isinstance(node, ast.Assign) or len(node.targets) != 1 or not isinstance(node.value, ast.Call):
            continue
        name = dotted(node.targets[0]).rpartition(".")[2]
        if not _TEST.search(name) or _TRAIN.search(name):
            continue
        call = node.value
        if last_name(call.func) in {"DataLoader", "TensorDataset"} and call.args:
            given = call.args[:1] if last_name(call.func) == "DataLoader" else call.args
            names = [dotted(argument).rpartition(".")[2] for argument in given]
            same = all(names) and all(_TRAIN.search(n) and not _TEST.search(n) for n in names)
        else:
            flag = keyword(call, "train")
            same = literal(flag) is True and bool(_train_twice(state, call))
        if same:
            said = f"`{name}` is made of the training data"
            yield SourceNote("data-on-test", state.program.place(node), (name,), said)


def _train_twice(state: State, call: ast.Call) -> list[ast.Call]:
    """Return the other calls that make the training part of the same data set."""
    return [
        other for other in state.program.calls(last_name(call.func))
        if other is not call and literal(keyword(other, "train")) is True
    ]  # fmt: skip


def _read_workers(state: State) -> Iterator[SourceNote]:
    """A data set that keeps a generator of its own is copied, state and all, into each worker."""
    for node in state.program.nodes:
        if isinstance(node, ast.ClassDef) and any(
            isinstance(i, ast.FunctionDef) and i.name == "__getitem__" for i in node.body
        ):
            owned = {dotted(t) for n in ast.walk(node) if isinstance(n, ast.Assign) and isinstance(n.value, ast.Call)
                     and last_name(n.value.func) in _GENERATORS for t in n.targets
                     if dotted(t).startswith("self.")}  # fmt: skip
            item = next(i for i in node.body if isinstance(i, ast.FunctionDef) and i.name == "__getitem__")
            used = {dotted(n) for n in ast.walk(item) if isinstance(n, ast.Attribute)}
            if owned & used:
                yield from _read_copies(state, node)
    for call in state.program.calls("DataLoader"):
        start = keyword(call, "worker_init_fn")
        if isinstance(start, ast.Lambda) and not names_read(start.body) & {a.arg for a in start.args.args}:
            said = "each worker starts from the same seed"
            seeds = [n for n in ast.walk(start) if isinstance(n, ast.Call) and "seed" in last_name(n.func) and n.args]
            if any(literal(seed.args[0]) is not None for seed in seeds):
                yield SourceNote("loader-worker-random", state.program.place(call), (), said)


def _read_copies(state: State, node: ast.ClassDef) -> Iterator[SourceNote]:
    for event in state.of("loader"):
        loader = event.value
        mine = isinstance(loader.data, Instance) and loader.data.body.node is node
        workers = loader.workers.value if isinstance(loader.workers, Const) else None
        if mine and isinstance(workers, int) and workers > 1 and keyword(loader.node, "worker_init_fn") is None:
            said = f"{node.name} keeps a generator of its own: {workers} workers each get a copy in the same state"
            yield SourceNote("loader-worker-random", state.program.place(loader.node), (node.name,), said)
