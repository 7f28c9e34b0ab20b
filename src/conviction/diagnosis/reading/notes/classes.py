"""Notes on module classes and on how weights start."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from conviction.diagnosis.reading.state import State
from conviction.diagnosis.reading.syntax import dotted, keyword, last_name, literal, names_read
from conviction.diagnosis.reading.values import Class, Const, Net
from conviction.findings.observation import SourceNote

_REGISTERING = frozenset({"ModuleList", "Sequential", "ModuleDict", "add_module", "register_module", "setattr"})
_NORMS = re.compile(r"norm|bn\d*\b|gamma|scale", re.IGNORECASE)
_LEAST_STD, _LEAST_CONV_STD, _MOST_STD = 2e-3, 0.0101, 0.9


def read_classes(state: State) -> Iterator[SourceNote]:
    """Return the notes on classes, views and initialisations."""
    made = {event.more for event in state.of("made")}
    for node in state.program.nodes:
        if isinstance(node, ast.ClassDef):
            body = state.scope.find(node.name)
            if isinstance(body, Class) and body.module and body.node is node and (body in made or not made):
                yield from _read_class(state, node)
    for call in state.program.calls("view", "reshape"):
        if _turns_sizes(state, call):
            said = "the sizes are put in another order and the numbers stay where they are: this mixes pixels or images"
            yield SourceNote("view-for-permute", state.program.place(call), (), said)
    yield from _read_starts(state)
    yield from _read_frozen(state)


def _read_class(state: State, node: ast.ClassDef) -> Iterator[SourceNote]:
    start = next((item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"), None)
    if start is None:
        return
    calls = [n for n in ast.walk(start) if isinstance(n, ast.Call)]
    if not any(last_name(call.func) == "__init__" for call in calls) and _sets_self(start):
        said = f"{node.name}.__init__ does not call super().__init__()"
        yield SourceNote("super-init-missing", state.program.place(start), (node.name,), said)
    registered = {dotted(n) for c in ast.walk(node) if isinstance(c, ast.Call) and last_name(c.func) in _REGISTERING
                  for a in (*c.args, *(k.value for k in c.keywords)) for n in ast.walk(a)}  # fmt: skip
    for statement in ast.walk(start):
        if not isinstance(statement, ast.Assign) or not isinstance(statement.value, (ast.List, ast.Dict, ast.ListComp)):
            continue
        target = dotted(statement.targets[0])
        if not target.startswith("self.") or target in registered or not _holds_layers(state, start, statement, target):
            continue
        if any(isinstance(n, ast.Call) and last_name(n.func) in {"setattr", "add_module"} for n in ast.walk(node)):
            continue
        said = f"`{target}` is a plain list: its layers are not among {node.name}'s parameters"
        yield SourceNote("layers-in-list", state.program.place(statement), (node.name, target), said)


def _sets_self(function: ast.FunctionDef) -> bool:
    targets = [t for n in ast.walk(function) if isinstance(n, ast.Assign) for t in n.targets]
    return any(dotted(target).startswith("self.") for target in targets)


def _holds_layers(state: State, start: ast.FunctionDef, statement: ast.Assign, target: str) -> bool:
    """Say whether modules are written into a list, or appended to it."""
    appended = [
        argument
        for call in ast.walk(start)
        if isinstance(call, ast.Call) and last_name(call.func) == "append"
        and isinstance(call.func, ast.Attribute) and dotted(call.func.value) == target
        for argument in call.args
    ]  # fmt: skip
    items: list[ast.AST] = [statement.value, *appended]
    for call in (n for item in items for n in ast.walk(item) if isinstance(n, ast.Call)):
        origin, name = state.program.origin(call.func), last_name(call.func)
        own = state.scope.find(name)
        if isinstance(own, Class) and own.module:
            return True
        if (
            origin.startswith("torch.nn.")
            and name[:1].isupper()
            and name not in {"Parameter", "ModuleList", "Sequential"}
        ):
            return True
    return False


def _turns_sizes(state: State, call: ast.Call) -> bool:
    """Say whether all sizes of a view are sizes of the same tensor, in another order."""
    if len(call.args) < 2 or not isinstance(call.func, ast.Attribute):
        return False
    subject = ast.unparse(call.func.value)
    order = [_size_number(state, call, subject, argument) for argument in call.args]
    known = [number for number in order if number is not None]
    if len(known) == len(order):
        return (
            sorted(known) == list(range(len(known)))
            and known != sorted(known)
            and not _transposed(state, call, subject)
        )
    return False


def _transposed(state: State, call: ast.Call, subject: str) -> bool:
    """Say whether the tensor was transposed or permuted first, on the way to the view."""
    around = state.program.function(call)
    turned = [
        n
        for n in ast.walk(around)
        if isinstance(n, ast.Attribute) and n.attr in {"permute", "transpose", "swapaxes", "T"}
    ]
    return any(ast.unparse(n.value) == subject or n.lineno == call.lineno for n in turned)


def _size_number(state: State, call: ast.Call, subject: str, argument: ast.expr) -> int | None:
    """Return which size of `subject` an argument is: `x.shape[1]`, `x.size(1)`, or a name unpacked from `x.shape`."""
    text = ast.unparse(argument)
    found = re.fullmatch(re.escape(subject) + r"\.(?:shape\[(\d)\]|size\((\d)\))", text)
    if found:
        return int(found.group(1) or found.group(2))
    if not isinstance(argument, ast.Name):
        return None
    for node in ast.walk(state.program.function(call)):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple) and node.lineno <= call.lineno:
            names = [dotted(item) for item in node.targets[0].elts]
            if ast.unparse(node.value) in {f"{subject}.shape", f"{subject}.size()"} and argument.id in names:
                return names.index(argument.id)
    return None


def _read_starts(state: State) -> Iterator[SourceNote]:
    """Weights that start equal, or at a scale that dies out or blows up."""
    for call in state.program.calls(
        "zeros_", "ones_", "constant_", "fill_", "zero_", "normal_", "uniform_", "trunc_normal_"
    ):
        name = last_name(call.func)
        functional = state.program.origin(call.func).startswith("torch.nn.init.")
        if functional and call.args:
            subject, numbers = ast.unparse(call.args[0]), call.args[1:]
        elif isinstance(call.func, ast.Attribute):
            subject, numbers = ast.unparse(call.func.value).removesuffix(".data"), call.args
        else:
            continue
        if not _is_many(state, call, subject) or _NORMS.search(subject):
            continue
        if name in {"zeros_", "ones_", "constant_", "fill_", "zero_"}:
            said = f"{ast.unparse(call)[:70]}: all weights start equal, and stay equal"
            yield SourceNote("init-constant", state.program.place(call), (), said)
            continue
        given = keyword(call, "std", "b") or (numbers[-1] if numbers else None)
        std = 1.0 if given is None else literal(given)
        std = abs(std) if isinstance(std, (int, float)) else None
        least = _LEAST_CONV_STD if "Conv" in _condition(state, call) else _LEAST_STD
        if std is not None and (std < least or std > _MOST_STD) and name != "trunc_normal_":
            said = f"{ast.unparse(call)[:70]}: weights start at a scale of {std:g}"
            yield SourceNote("init-scale", state.program.place(call), (f"{std:g}",), said)


def _condition(state: State, call: ast.Call) -> str:
    """Return the condition under which an initialisation is made, without that of other layers."""
    tests = [ast.unparse(n.test) for n in state.program.above(call) if isinstance(n, ast.If)]
    return tests[0] if tests else ""


def _is_many(state: State, call: ast.Call, subject: str) -> bool:
    """Say whether it starts the weights of all layers: of any module given, or of every parameter, biases aside."""
    if not (subject.endswith(".weight") or _loops_parameters(state, call, subject)):
        return False
    for node in state.program.above(call):
        if isinstance(node, ast.If):
            test = ast.unparse(node.test)
            inside = any(call in ast.walk(statement) for statement in node.body)
            if inside and (_NORMS.search(test) or "bias" in test or "Embedding" in test) and "Linear" not in test:
                return False
    root = subject.split(".")[0]
    function = state.program.function(call)
    given = isinstance(function, ast.FunctionDef) and root in {a.arg for a in function.args.args} and root != "self"
    looped = any(
        isinstance(n, ast.For) and root in {dotted(t) for t in ast.walk(n.target)} for n in state.program.above(call)
    )
    return given or looped


def _loops_parameters(state: State, call: ast.Call, subject: str) -> bool:
    for node in state.program.above(call):
        if isinstance(node, ast.For) and subject in names_read(node.iter) | {dotted(t) for t in ast.walk(node.target)}:
            return (
                isinstance(node.iter, ast.Call)
                and last_name(node.iter.func) in {"parameters", "named_parameters"}
                and not any(isinstance(n, ast.If) for n in state.program.above(call))
            )
    return False


def _read_frozen(state: State) -> Iterator[SourceNote]:
    """A net that is trained and was frozen without weights of its own."""
    nets = [*state.nets, *(event.value for event in state.of("layer") if isinstance(event.value, Net))]
    owned = {part for optimizer in state.optimizers for part in optimizer.owned()}
    used = {part for event in state.of("forward") for part in event.value.net.related()}
    parts = {part for net in nets for part in net.related()}
    for net in sorted(parts, key=lambda n: getattr(n.node, "lineno", 0)):
        frozen = net.frozen_at is not None and not net.thawed and not net.loaded
        if (
            frozen
            and net in used
            and net in owned
            and "copy" not in net.uses
            and not any(o.loaded for o in parts if net in o.parts)
        ):
            name = net.variables[0] if net.variables else net.kind
            said = f"`{name}` is frozen and no trained weights were loaded into it"
            yield SourceNote("parameters-frozen", state.program.place(net.frozen_at), (name,), said)
    for event in state.of("layer", "dropout"):
        given = event.value if event.kind == "dropout" else (event.more or {}).get("p") or (event.more or {}).get("0")
        high = isinstance(given, Const) and isinstance(given.value, float) and given.value >= 0.7
        if high and (event.kind == "dropout" or event.value.kind.startswith("Dropout")):
            said = f"dropout of {given.value:g}"
            yield SourceNote("dropout-high", state.program.place(given.node), (f"{given.value:g}",), said)
