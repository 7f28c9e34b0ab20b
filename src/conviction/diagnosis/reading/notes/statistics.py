"""Notes on batch norm's running statistics, on weights written by hand, and on labels that do not begin at 0."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from conviction.diagnosis.reading.notes.biases import read_biases
from conviction.diagnosis.reading.state import State
from conviction.diagnosis.reading.syntax import dotted, keyword, last_name, literal
from conviction.diagnosis.reading.values import Const
from conviction.findings.observation import SourceNote

_STATISTICS = re.compile(r"^self\.(moving|running|run|ema|avg)_(mean|var|variance|std)$")
_LABELS = re.compile(
    r"^(self\.)?(y|Y|labels?|targets?|(y|Y|labels?|targets?)_?(train|test|valid|val|tr|te)|(train|test|valid|val)_?(y|Y|labels?|targets?))$"
)
_SMALLEST_SCALE = 2e-3


def read_statistics(state: State) -> Iterator[SourceNote]:
    """Return the notes on statistics, hand-made weights and labels."""
    for event in state.of("layer"):
        if event.value.kind.startswith(("BatchNorm", "SyncBatchNorm")):
            given = (event.more or {}).get("momentum") or (event.more or {}).get("2")
            number = given.value if isinstance(given, Const) else None
            if isinstance(number, (int, float)) and given is not None and (number < 1e-3 or number > 0.9):
                said = f"batch norm with momentum {number:g}: the part of each new batch in the running statistics"
                yield SourceNote("bn-momentum", state.program.place(given.node), (f"{number:g}",), said)
            tracked = (event.more or {}).get("track_running_stats")
            if isinstance(tracked, Const) and tracked.value is False:
                said = "batch norm without running statistics: a test is answered with those of its own batch"
                yield SourceNote("bn-untracked", state.program.place(tracked.node), (event.value.kind,), said)
    yield from _read_functions(state)
    yield from read_biases(state)
    for node in state.program.nodes:
        if isinstance(node, ast.ClassDef):
            yield from _read_kept_statistics(state, node)
        if isinstance(node, ast.Assign):
            yield from _read_weight(state, node)
            yield from _read_labels(state, node)


def _read_functions(state: State) -> Iterator[SourceNote]:
    """`F.batch_norm(x, None, None, training=True)`, `F.dropout(x, .5)`, `m.momentum = 0.0`: as in training, always."""
    for call in state.program.calls("batch_norm"):
        if literal(keyword(call, "training", position=5)) is True:
            said = "batch norm that answers a test with the statistics of its own batch"
            yield SourceNote("bn-untracked", state.program.place(call), ("batch_norm",), said)
    for call in state.program.calls("dropout"):
        functional = state.program.origin(call.func).startswith("torch.nn.functional")
        if functional and keyword(call, "training", position=2) is None and call.args:
            said = "F.dropout without `training=self.training` drops in a test as well"
            yield SourceNote("dropout-always", state.program.place(call), (), said)
    for node in state.program.nodes:
        if isinstance(node, ast.Assign) and dotted(node.targets[0]).endswith(".momentum"):
            number = literal(node.value)
            own = dotted(node.targets[0]) == "self.momentum"
            if isinstance(number, float) and not own and (number < 1e-3 or number > 0.9999):
                said = f"batch norm with momentum {number:g}: the part of each new batch in the running statistics"
                yield SourceNote("bn-momentum", state.program.place(node), (f"{number:g}",), said)


def _read_kept_statistics(state: State, node: ast.ClassDef) -> Iterator[SourceNote]:
    """Running statistics that are made, read, and never changed."""
    methods = [item for item in node.body if isinstance(item, ast.FunctionDef)]
    start = next((item for item in methods if item.name == "__init__"), None)
    rest = [n for item in methods if item is not start for n in ast.walk(item)]
    if start is None:
        return
    made = {dotted(t) for n in ast.walk(start) if isinstance(n, ast.Assign) for t in n.targets}
    made |= {f"self.{literal(c.args[0])}" for c in ast.walk(start)
             if isinstance(c, ast.Call) and last_name(c.func) == "register_buffer" and c.args}  # fmt: skip
    stored = {dotted(n) for n in rest if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)}
    stored |= {dotted(n.value) for n in rest if isinstance(n, (ast.Attribute, ast.Subscript)) and _changes(n)}
    if any(_STATISTICS.match(name) for name in made):
        yield from _read_own_momentum(state, node, start)
    for name in sorted(made):
        reads = [n for n in rest if isinstance(n, ast.Attribute) and dotted(n) == name]
        if _STATISTICS.match(name) and reads and name not in stored:
            place = state.program.place(min(reads, key=lambda n: n.lineno))
            said = f"`{name}` is read and never changed: eval mode answers with the statistics of the start"
            yield SourceNote("statistics-kept", place, (node.name, name), said)


def _read_own_momentum(state: State, node: ast.ClassDef, start: ast.FunctionDef) -> Iterator[SourceNote]:
    """Hand-written running statistics with a momentum of 0 or 1: one of the two parts is never taken."""
    arguments = [*start.args.args, *start.args.kwonlyargs]
    defaults = [*start.args.defaults, *start.args.kw_defaults]
    given = [d for a, d in zip(arguments[len(arguments) - len(defaults) :], defaults, strict=False)
             if a.arg == "momentum"]  # fmt: skip
    given += [keyword(call, "momentum") for call in state.program.calls(node.name)]
    for number in given:
        if literal(number) in (0, 1) and number is not None:
            said = f"running statistics with momentum {ast.unparse(number)}: they never move, or keep nothing"
            yield SourceNote("bn-momentum", state.program.place(number), (ast.unparse(number),), said)


def _changes(node: ast.Attribute | ast.Subscript) -> bool:
    """Say whether an attribute of a tensor changes it: `x.mul_`, `x.data`, `x[:] =`."""
    if isinstance(node, ast.Subscript):
        return isinstance(node.ctx, ast.Store)
    return node.attr.endswith("_") or node.attr == "data"


def _read_weight(state: State, node: ast.Assign) -> Iterator[SourceNote]:
    """`W = torch.randn(784, 10) * 1e-5`."""
    value = node.value
    while (
        isinstance(value, ast.Call)
        and last_name(value.func) in {"Parameter", "requires_grad_"}
        and (value.args or _base(value))
    ):
        value = value.args[0] if value.args else _base(value) or value
    factor = None
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Mult):
        sides = (value.left, value.right)
        drawn = [s for s in sides if isinstance(s, ast.Call) and state.program.origin(s.func) == "torch.randn"]
        factor = literal(next((s for s in sides if s not in drawn), None)) if drawn else None
    elif isinstance(value, ast.Call) and state.program.origin(value.func) == "torch.normal":
        factor = literal(keyword(value, "std", position=1))
    if isinstance(factor, (int, float)) and 0 < factor < _SMALLEST_SCALE:
        said = f"weights start at a scale of {factor:g}"
        yield SourceNote("init-scale", state.program.place(node), (f"{factor:g}",), said)


def _base(call: ast.Call) -> ast.expr | None:
    return call.func.value if isinstance(call.func, ast.Attribute) else None


def _read_labels(state: State, node: ast.Assign) -> Iterator[SourceNote]:
    """`y_train = torch.tensor(labels + 1)` with a cross-entropy."""
    if not _LABELS.match(dotted(node.targets[0])) or not state.program.calls(
        "CrossEntropyLoss", "cross_entropy", "NLLLoss", "nll_loss"
    ):
        return
    for part in ast.walk(node.value):
        shifted = isinstance(part, ast.BinOp) and isinstance(part.op, ast.Add) and literal(part.right) == 1
        if (
            shifted
            and isinstance(part, ast.BinOp)
            and re.search(r"\b(y|label|target)|y_|_y|label", ast.unparse(part.left), re.IGNORECASE)
        ):
            said = "one is added to the labels: classes are counted from 0"
            yield SourceNote("labels-shifted", state.program.place(part), (dotted(node.targets[0]),), said)
