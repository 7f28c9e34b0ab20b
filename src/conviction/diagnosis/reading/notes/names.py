"""Notes on names: nets that are never used, hyperparameters that nothing reads, arguments at each other's places."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from conviction.diagnosis.reading.state import State
from conviction.diagnosis.reading.syntax import dotted, last_name, literal, names_read, parameters_of
from conviction.diagnosis.reading.values import Class, Net, Tensor
from conviction.findings.observation import SourceNote

_SETTINGS = re.compile(
    r"^(base_|initial_|init_|max_)?(lr|learning_rate|lrate|weight_decay|wd|momentum|batch_size|bs|n?um_epochs|epochs"
    r"|n_epochs|max_epochs|dropout(_rate|_p)?|label_smoothing|clip(_norm)?|grad_clip|warmup\w*|optimi[sz]er|opt"
    r"|scheduler|criterion|loss_fn|shuffle)$", re.IGNORECASE,
)  # fmt: skip
_PASSED_SETTINGS = frozenset(
    {"lr", "learning_rate", "weight_decay", "wd", "momentum", "num_epochs", "epochs", "n_epochs"}
)
# Spellings of one thing, for arguments that do not have the parameter's exact name.
_SPELLINGS = (
    (re.compile(r"^(base_|init_|initial_)?(lr|learning_rate|lrate)$"), "lr"),
    (re.compile(r"^(num_|n_|max_|nb_)?epochs?$"), "epochs"),
    (re.compile(r"^(batch_size|bs|batch)$"), "batch_size"),
    (re.compile(r"^(weight_decay|wd)$"), "weight_decay"),
    (re.compile(r"^(test|val|valid|eval)_?(iter|loader|dl|data|set|dataset|dataloader)$"), "test_data"),
    (re.compile(r"^train(ing)?_?(iter|loader|dl|data|set|dataset|dataloader)$"), "train_data"),
    (re.compile(r"^(net|model|network)$"), "net"),
    (re.compile(r"^(opt|optim|optimizer|optimiser)$"), "optimizer"),
    (re.compile(r"^(criterion|loss_fn|loss_func|loss_function)$"), "loss"),
)
_KNOWN = frozenset(name for _, name in _SPELLINGS) | {"momentum", "dropout", "hidden", "num_classes", "device"}
_DYNAMIC = frozenset({"locals", "globals", "eval", "exec", "vars"})


def read_names(state: State) -> Iterator[SourceNote]:
    """Return the notes on names."""
    if state.complete:
        yield from _read_nets(state)
    yield from _read_classes(state)
    if not any(isinstance(c, ast.Call) and dotted(c.func) in _DYNAMIC for c in state.program.nodes):
        yield from _read_variables(state)
        yield from _read_parameters(state)
    for call in (node for node in state.program.nodes if isinstance(node, ast.Call)):
        yield from _read_call(state, call)


def _read_nets(state: State) -> Iterator[SourceNote]:
    """A net that is made and held by a variable while another is trained, and that nothing calls, or only a test."""
    trained = {f.net for e in state.of("backward") if isinstance(e.value, Tensor) for f in e.value.live}
    busy = {part for net in trained for part in net.related()}
    forwards = [event.value for event in state.of("forward")]
    if not trained:
        return
    for net in state.nets:
        idle = bool(net.variables) and not any("." in name for name in net.variables) and net not in busy
        if not idle or net.loaded or net.uses & {"escape", "part", "copy", "state"} or net.related() & busy:
            continue
        calls = [forward for forward in forwards if forward.net is net]
        if any(net in optimizer.owned() for optimizer in state.optimizers):
            continue  # an optimizer's other net: that is a note of its own
        name, place = net.variables[0], state.program.place(net.node)
        if not calls and "forward" not in net.uses:
            said = f"`{name}` ({net.kind}) is made and never called"
            yield SourceNote("net-unused", place, (name, net.kind), said)
        elif calls and all(f.judged and not f.trained for f in calls) and not _tried(state, net, calls):
            yield SourceNote(
                "net-unused", place, (name, net.kind), f"`{name}` ({net.kind}) is tested and never trained"
            )


def _tried(state: State, net: Net, calls: list) -> bool:
    """Say whether it is only looked at before the training: a baseline."""
    first = next((n for n, event in enumerate(state.events) if event.kind == "backward"), len(state.events))
    told = [n for n, event in enumerate(state.events) if event.kind == "forward" and event.value in calls]
    return max(told, default=0) < first


def _read_classes(state: State) -> Iterator[SourceNote]:
    modules = [value for value in state.scope.names.values() if isinstance(value, Class) and value.module]
    read = names_read(state.program.tree) | {n.attr for n in state.program.nodes if isinstance(n, ast.Attribute)}
    made = {event.more for event in state.of("made")}
    for body in modules:
        if body.node.name not in read and any(other in made for other in modules):
            yield SourceNote(
                "class-unused",
                state.program.place(body.node),
                (body.node.name,),
                f"class {body.node.name} is never used",
            )
    for node in state.program.tree.body:
        weights = isinstance(node, ast.FunctionDef) and "init" in node.name.lower() and _initialises(node)
        if isinstance(node, ast.FunctionDef) and weights and node.name not in read:
            said = f"{node.name} initialises weights and is never used"
            yield SourceNote("init-unused", state.program.place(node), (node.name,), said)


def _initialises(function: ast.FunctionDef) -> bool:
    names = {dotted(node) for node in ast.walk(function) if isinstance(node, ast.Attribute)}
    return any(name.startswith(("nn.init.", "torch.nn.init.", "init.")) or name.endswith(".weight") for name in names)


def _read_variables(state: State) -> Iterator[SourceNote]:
    """A hyperparameter that is assigned and that nothing reads, anywhere in the text."""
    read = names_read(state.program.tree)
    for node in state.program.nodes:
        if not isinstance(node, ast.Assign) or len(node.targets) != 1 or not isinstance(node.targets[0], ast.Name):
            continue
        name = node.targets[0].id
        inside = isinstance(state.program.parents.get(node), ast.ClassDef)  # a configuration's field
        if _SETTINGS.match(name) and name not in read and not inside:
            said = f"`{name} = {ast.unparse(node.value)[:40]}` is never read"
            yield SourceNote("variable-unused", state.program.place(node), (name,), said)


def _read_parameters(state: State) -> Iterator[SourceNote]:
    """A training function that is given a rate and does not read it."""
    for node in state.program.nodes:
        if not isinstance(node, ast.FunctionDef) or not any(_is_backward(n) for n in ast.walk(node)):
            continue
        read = set().union(*(names_read(statement) for statement in node.body))
        for name in parameters_of(node):
            if name in _PASSED_SETTINGS and name not in read:
                said = f"{node.name} is given `{name}` and never reads it"
                yield SourceNote("variable-unused", state.program.place(node), (name, node.name), said)


def _is_backward(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "backward"


def _read_call(state: State, call: ast.Call) -> Iterator[SourceNote]:
    names = _parameters(state, call)
    if len(names) < 2 or any(isinstance(argument, ast.Starred) for argument in call.args):
        return
    wanted = [_spelling(name) for name in names]
    given = [_spelling(last_name(argument)) if last_name(argument) else "" for argument in call.args]
    moved = [n for n, name in enumerate(given) if name and name in wanted and n < len(wanted) and wanted[n] != name]
    places = {n: wanted.index(given[n]) for n in moved}
    cycle = sorted(places) == sorted(places.values()) and len(places) > 1
    if cycle and _KNOWN & {given[n] for n in moved} and not _called_in_order(state, call, names):
        said = f"{ast.unparse(call)[:90]} against ({', '.join(names)})"
        moved_names = tuple(last_name(call.args[n]) for n in moved)
        yield SourceNote("arguments-swapped", state.program.place(call), (last_name(call.func), *moved_names), said)
    else:
        yield from _read_numbers(state, call, names)


def _read_numbers(state: State, call: ast.Call, names: list[str]) -> Iterator[SourceNote]:
    """A rate of 10 and .1 epochs: numbers at each other's places."""
    known = [_spelling(name) for name in names[: len(call.args)]]
    if "lr" not in known or "epochs" not in known:
        return
    rate, epochs = (literal(call.args[known.index(name)]) for name in ("lr", "epochs"))
    if isinstance(rate, (int, float)) and isinstance(epochs, float) and rate >= 1 and epochs < 1:
        said = f"{ast.unparse(call)[:90]} against ({', '.join(names)})"
        yield SourceNote("arguments-swapped", state.program.place(call), (last_name(call.func), "lr", "epochs"), said)


def _parameters(state: State, call: ast.Call) -> list[str]:
    """Return the parameters of the program's own function or class that a call fills."""
    if isinstance(call.func, ast.Name):
        found = [
            node
            for node in state.program.tree.body
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == call.func.id
        ]
        before = [node for node in found if node.lineno < call.lineno] or found
        node = before[-1] if before else None
        if isinstance(node, ast.ClassDef):
            starts = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
            return parameters_of(starts[0])[1:] if starts else []
        return parameters_of(node) if isinstance(node, ast.FunctionDef) else []
    methods = [
        item
        for node in state.program.tree.body
        if isinstance(node, ast.ClassDef)
        for item in node.body
        if isinstance(item, ast.FunctionDef) and item.name == last_name(call.func) and not item.decorator_list
    ]
    return parameters_of(methods[0])[1:] if len(methods) == 1 else []


def match_arguments(state: State, call: ast.Call) -> dict[int, int]:
    """Return, for each place of a call that holds another's argument, the place at which its own argument stands."""
    wanted = [_spelling(name) for name in _parameters(state, call)]
    given = [_spelling(last_name(argument)) if last_name(argument) else "" for argument in call.args]
    moved = [n for n, name in enumerate(given) if name and name in wanted and wanted.index(name) != n]
    found = {wanted.index(given[n]): n for n in moved}
    if len(found) > 1 and sorted(found) == sorted(found.values()):
        return found
    if "lr" in wanted and "epochs" in wanted:
        return {wanted.index("lr"): wanted.index("epochs"), wanted.index("epochs"): wanted.index("lr")}
    return {}


def _called_in_order(state: State, call: ast.Call, names: list[str]) -> bool:
    """Say whether the same function is also called the right way round: then the other way is meant."""
    wanted = [_spelling(name) for name in names]
    for other in state.program.calls(last_name(call.func)):
        given = [_spelling(last_name(argument)) for argument in other.args]
        if other is not call and len(given) > 1 and given == wanted[: len(given)]:
            return True
    return False


def _spelling(name: str) -> str:
    lower = name.lower()
    return next((one for pattern, one in _SPELLINGS if pattern.match(lower)), lower)
