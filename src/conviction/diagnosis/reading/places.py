"""Where particular faults are mended, once something measured has named them: of a healthy program they say nothing."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable

from conviction.diagnosis.reading.roles import called, role_of, split_of
from conviction.diagnosis.reading.state import State
from conviction.diagnosis.reading.syntax import Syntax, dotted, keyword, last_name, literal
from conviction.diagnosis.reading.values import Const, Net, Scheduler

_SQUASHING = frozenset({"Sigmoid", "Tanh", "sigmoid", "tanh", "Hardtanh", "Softsign"})
_SCALING = (ast.Div, ast.Mult, ast.Add, ast.Sub)
_JUDGED = re.compile(r"pred|argmax|output|logit|answer|guess|\bout\b|max\(|hat|correct")
_STRENGTHS = (
    (re.compile(r"^Random(Rotation|Affine)$"), 45.0), (re.compile(r"^RandomErasing$"), 0.8),
    (re.compile(r"^GaussianBlur$"), 11.0), (re.compile(r"^(normal|gauss|normalvariate)$"), 0.5),
    (re.compile(r"^ColorJitter$"), 0.9), (re.compile(r"^(randint|integers|uniform)$"), 9.0),
    (re.compile(r"^(randn|randn_like|rand|rand_like|random)$"), 0.8),
)  # fmt: skip


def find_classes(state: State, head: ast.AST | None) -> ast.AST | None:
    """Return where the number of outputs of the last layer is written: a constant, a default, the caller's argument."""
    for event in state.of("layer"):
        if event.node is head and isinstance(event.more, dict):
            given = event.more.get("out_features") or event.more.get("out_channels")
            given = given or event.more.get("0" if event.value.kind.startswith("Lazy") else "1")
            if isinstance(given, Const) and hasattr(given.node, "lineno"):
                return given.node
    return head


def find_scale(state: State, inputs: ast.AST | None) -> ast.AST | None:
    """Return where images are scaled, the oddest way first; where none are, the statement that makes them tensors."""
    nodes = state.program.nodes
    found = [(weight, -getattr(n, "lineno", 0), n) for n in nodes if (weight := _scales(state, n))]
    best = max(found, key=lambda entry: entry[:2], default=None)
    if best is None or (best[0] <= 1 and inputs is not None and len(found) < 2):
        return inputs
    again = [entry for entry in found if entry[0] == best[0] == 1]
    return max(again, key=lambda entry: -entry[1])[2] if again else best[2]


def _scales(state: State, node: ast.AST) -> int:
    """Return how odd a scaling is: 1 for a division by 255, 0 for no scaling at all."""
    if isinstance(node, ast.Call) and last_name(node.func) == "Normalize":
        numbers = literal(keyword(node, "std", position=1))
        odd = isinstance(numbers, (tuple, list)) and any(isinstance(n, (int, float)) and n < 0.05 for n in numbers)
        large = literal(keyword(node, "mean", position=0))
        large = isinstance(large, (tuple, list)) and any(isinstance(n, (int, float)) and n > 1 for n in large)
        return 4 if odd or large else 0
    if isinstance(node, ast.AugAssign) and isinstance(node.op, _SCALING):
        operation, left, right = node.op, node.target, node.value
    elif isinstance(node, ast.BinOp) and isinstance(node.op, _SCALING):
        operation, left, right = node.op, node.left, node.right
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and len(node.args) == 1:
        methods = {"mul": ast.Mult(), "mul_": ast.Mult(), "div": ast.Div(), "div_": ast.Div()}
        if node.func.attr not in methods:
            return 0
        operation, left, right = methods[node.func.attr], node.func.value, node.args[0]
    else:
        return 0
    if any(isinstance(n, (ast.For, ast.While)) for n in state.program.above(state.program.statement(node))):
        return 0
    text, number = ast.unparse(right), literal(right)
    if isinstance(right, ast.Name):
        text, number = _told(state, right, text)
    if isinstance(operation, ast.Div) and re.search(r"\.std\((0|dim=0|axis=0)", text):
        return 5  # a deviation of each pixel of its own: where a pixel never changes, it is zero
    if isinstance(operation, (ast.Add, ast.Sub)):
        return 3 if isinstance(number, (int, float)) and abs(number) >= 10 and _holds_images(left) else 0
    if isinstance(operation, ast.Mult):
        sides = [literal(left), number]
        large = any(isinstance(side, (int, float)) and abs(side) >= 50 for side in sides)
        return 4 if large and _holds_images(left, right) else 0
    if number in (255, 255.0, 256) and not isinstance(number, bool):
        return 1
    if isinstance(number, (int, float)) and (number >= 1000 or 0 < number < 0.05) and _holds_images(left, right):
        return 3
    return 0


def _told(state: State, name: ast.Name, text: str) -> tuple[str, object]:
    """Return the text that a name stands for, where it is a deviation, and its number, where it is a constant."""
    for node in state.program.nodes:
        if isinstance(node, ast.Assign) and "std(" in (whole := ast.unparse(node.value)):
            targets = [t for target in node.targets for t in getattr(target, "elts", [target])]
            if name.id in {dotted(target) for target in targets}:
                return whole[whole.index("std(") - 2 :], None
    known = state.scope.find(name.id)
    return text, known.value if isinstance(known, Const) else None


def _holds_images(*nodes: ast.AST) -> bool:
    """Say whether an expression has the name of images, or of a tensor that may be some."""
    names = {n.id for node in nodes for n in ast.walk(node) if isinstance(n, ast.Name)}
    names |= {called(n) for node in nodes for n in ast.walk(node) if isinstance(n, ast.Subscript)}
    return any(role_of(name) == "images" or name in {"t", "data", "arr", "a"} for name in names)


def find_channel(program: Syntax, inputs: ast.AST | None) -> ast.AST | None:
    """Return where the channel of the images is put at another place than the second."""
    found = [(weight, -getattr(n, "lineno", 0), n) for n in program.nodes if (weight := _moves_channel(n))]
    return max(found, key=lambda entry: entry[:2], default=(0, 0, inputs))[2]


def _moves_channel(node: ast.AST) -> int:
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple):
        parts = [ast.unparse(part) for part in node.slice.elts]
        return 3 if parts[-1] in {"None", "np.newaxis"} and (parts[0] == "..." or len(parts) > 2) else 0
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return 0
    name, sizes = node.func.attr, [literal(argument) for argument in node.args]
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = list(sizes[0])
    if name in {"unsqueeze", "expand_dims", "unsqueeze_"}:
        return 3 if sizes[-1:] in ([3], [-1]) else 2 if sizes[-1:] == [2] else 0
    if name in {"view", "reshape"} and len(sizes) == 4:
        last = sizes[-1] in (1, 3) and isinstance(sizes[1], int) and sizes[1] > 3
        return 3 if last else 0
    functional = dotted(node.func.value) in {"torch", "np", "numpy"}
    order = sizes[1:] if functional else sizes
    if name in {"permute", "transpose", "movedim", "moveaxis", "swapaxes"} and all(isinstance(s, int) for s in order):
        right = order in ([0, 3, 1, 2], [2, 0, 1], [-1, 1], [3, 1], [-1, -3], [-1, 0])
        return 0 if right else 2
    return 1 if name in {"transpose", "swapaxes"} else 0


def find_activation(state: State) -> ast.AST | None:
    """Return the activation in the middle of those that squash: sigmoids and tanhs, in the order of the text."""
    found = [c for c in state.program.calls(*_SQUASHING) if not _gates(state, c)]
    lines = sorted({call.lineno for call in found})
    if not lines:
        return None
    repeated = [line for line in lines if sum(call.lineno == line for call in found) > 1]
    middle = repeated[0] if len(repeated) == 1 else lines[(len(lines) + 1) // 2 if len(lines) > 2 else 0]
    return next(call for call in found if call.lineno == middle)


def _gates(state: State, call: ast.Call) -> bool:
    """Say whether a sigmoid is applied to answers, in no net: a probability that is told."""
    around = state.program.function(call)
    return isinstance(around, ast.Module) and last_name(call.func).islower()


def find_subset(program: Syntax, labels: ast.AST | None) -> ast.AST | None:
    """Return where images are chosen by their labels: `keep = (labels == 3) | ...`, a sampler's weights."""
    found: list[tuple[int, int, ast.AST]] = []
    for node in program.nodes:
        if isinstance(node, ast.Compare) and role_of(called(node.left)) == "labels":
            text = ast.unparse(program.statement(node)) if not _is_block(program.statement(node)) else ""
            if not _JUDGED.search(text) and "sum(" not in text and split_of(called(node.left)) not in {"test", "valid"}:
                found.append((3, -node.lineno, node))
        elif isinstance(node, ast.Assign) and isinstance(node.value, (ast.Subscript, ast.Tuple)):
            loops = any(isinstance(n, (ast.For, ast.While)) for n in program.above(node))
            if not loops and _cuts_labels(node):
                found.append((2, -node.lineno, node))
        elif isinstance(node, ast.Call) and last_name(node.func) in {"WeightedRandomSampler", "Subset"}:
            found.append((1, -node.lineno, node))
    return max(found, key=lambda entry: entry[:2], default=(0, 0, labels))[2]


def _is_block(node: ast.stmt) -> bool:
    return isinstance(node, (ast.For, ast.While, ast.With, ast.FunctionDef, ast.ClassDef))


def _cuts_labels(node: ast.Assign) -> bool:
    """`labels = labels[keep]`."""
    targets = {dotted(t) for target in node.targets for t in getattr(target, "elts", [target])}
    cut = {dotted(n.value) for n in ast.walk(node.value) if isinstance(n, ast.Subscript)}
    return any(role_of(name) == "labels" and split_of(name) not in {"test", "valid"} for name in targets & cut)


def find_half(state: State) -> ast.AST | None:
    """Return where float16 is asked for: the constant, the autocast, the `.half()`."""
    halves = [n for n in state.program.nodes if isinstance(n, ast.Attribute) and n.attr in {"float16", "half"}]
    casts = state.program.calls("autocast")
    return min((*halves, *casts), key=lambda node: node.lineno, default=None)


def find_start(state: State) -> ast.AST | None:
    """Return where weights are started by hand, convolutions' and linear layers' before others."""
    calls = [n for n in state.program.nodes if isinstance(n, ast.Call) and last_name(n.func).endswith("_")]
    weights = [
        c for c in calls
        if (state.program.origin(c.func).startswith("torch.nn.init.") and c.args and _is_weight(c.args[0]))
        or (isinstance(c.func, ast.Attribute) and _is_weight(c.func.value) and last_name(c.func) in _STARTING)
    ]  # fmt: skip
    sizes = [
        n for n in state.program.nodes
        if isinstance(n, ast.AugAssign) and isinstance(n.op, (ast.Mult, ast.Div)) and dotted(n.target).endswith(".data")
    ]  # fmt: skip
    return min([*weights, *sizes], key=lambda node: node.lineno, default=None)


_STARTING = frozenset({"normal_", "uniform_", "fill_", "zero_", "mul_", "div_", "trunc_normal_", "copy_"})


def _is_weight(node: ast.AST) -> bool:
    name = dotted(node).removesuffix(".data")
    return bool(name) and not re.search(r"bias|bn|norm|gamma", name, re.IGNORECASE)


def find_frozen(state: State) -> ast.AST | None:
    """Return where parameters are told not to train."""
    found: list[ast.AST] = [
        call for call in state.program.calls("requires_grad_")
        if literal(keyword(call, "requires_grad", position=0)) is False
    ]  # fmt: skip
    for node in state.program.nodes:
        named = isinstance(node, ast.Assign) and dotted(node.targets[0]).endswith("requires_grad")
        if named and isinstance(node, ast.Assign) and literal(node.value) is not True:
            found.append(node)
    return min(found, key=lambda node: getattr(node, "lineno", 0), default=None)


def find_schedule(state: State) -> ast.AST | None:
    """Return where the schedule is made that steps; without one the place where a rate is set by hand."""
    for event in state.of("schedule"):
        if isinstance(event.value, Scheduler):
            return event.value.node
    for node in state.program.nodes:
        if isinstance(node, (ast.Assign, ast.AugAssign)):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Subscript) and literal(target.slice) == "lr":
                return node
    return None


def find_dropout(state: State) -> ast.AST | None:
    """Return where the strongest dropout is written."""
    found: list[tuple[float, ast.AST]] = []
    for event in state.of("layer", "dropout"):
        given = event.value if event.kind == "dropout" else (event.more or {}).get("p") or (event.more or {}).get("0")
        if event.kind == "layer" and not (isinstance(event.value, Net) and event.value.kind.startswith("Dropout")):
            continue
        if isinstance(given, Const) and isinstance(given.value, (int, float)) and hasattr(given.node, "lineno"):
            found.append((float(given.value), given.node))
    return max(found, key=lambda pair: pair[0], default=(0.0, None))[1]


def strongest(program: Syntax, calls: list[ast.Call]) -> ast.Call | None:
    """Return the random operation whose numbers are furthest beyond what an image bears; of none, the last one."""
    weighed = [(_strength(program, call), call.lineno, call) for call in calls]
    return max(weighed, key=lambda entry: entry[:2], default=(0.0, 0, None))[2]


def _strength(program: Syntax, call: ast.Call) -> float:
    name = last_name(call.func)
    bound = next((most for pattern, most in _STRENGTHS if pattern.search(name)), None)
    given = [*call.args, *(k.value for k in call.keywords if k.arg not in {"size", "shape"})]
    around = program.parents.get(call)
    if isinstance(around, ast.BinOp) and isinstance(around.op, ast.Mult):  # torch.randn_like(image) * 5
        given = [around.left if around.right is call else around.right]
    found = [literal(n) for part in given for n in ast.walk(part) if isinstance(n, ast.Constant)]
    numbers = [abs(n) for n in found if isinstance(n, (int, float)) and not isinstance(n, bool)]
    return 0.0 if bound is None or not numbers else min(3.0, max(numbers) / bound) if max(numbers) >= bound else 0.0


def find_unsafe(state: State) -> ast.AST | None:
    """Return the operation that most likely leaves the numbers: a deviation or logarithm of what may be zero."""
    found: list[tuple[int, int, ast.AST]] = []
    for node in state.program.nodes:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            deviation = re.search(r"\.std\((0|dim=0|axis=0)", ast.unparse(node.right))
            if deviation and not re.search(r"\+|clamp|max\(", ast.unparse(node.right)):
                found.append((4, -node.lineno, node))
        elif isinstance(node, ast.Call) and last_name(node.func) in {"log", "sqrt", "exp", "log2"}:
            text = ast.unparse(node)
            if not re.search(r"\+ *\w|clamp|clip|max\(|eps|^math\.|^np\.|log_softmax", text):
                found.append(
                    (3 if "softmax" in text else 2 if last_name(node.func) == "log" else 1, -node.lineno, node)
                )
    return max(found, key=lambda entry: entry[:2], default=(0, 0, None))[2]


def find_clip(state: State) -> ast.AST | None:
    """Return where the bound of the gradients' norm is written."""
    event = next(iter(state.of("clip")), None)
    if event is None:
        hand = [c for c in state.program.calls("clamp_", "clamp", "clip_", "mul_") if ".grad" in ast.unparse(c)]
        return hand[0] if hand else None
    return event.value.node if isinstance(event.value, Const) else event.node


FINDERS: dict[str, Callable[[State], ast.AST | None]] = {
    "activation": find_activation, "half": find_half, "start": find_start, "frozen": find_frozen,
    "schedule": find_schedule, "dropout": find_dropout,
    "unsafe": find_unsafe, "clip": find_clip,
}  # fmt: skip
