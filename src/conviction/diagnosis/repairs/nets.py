"""Repairs of the net: what stands after the last layer, along which axis, dropout, squashing, width, batch norm."""

from __future__ import annotations

import ast
import re

from conviction.diagnosis.reading.notes.answers import last_block
from conviction.diagnosis.reading.syntax import dotted, keyword, last_name, literal, parse_text
from conviction.diagnosis.reading.values import Const, Net, Tensor
from conviction.diagnosis.repairs.drafts import Draft, is_call_of
from conviction.diagnosis.repairs.edits import add_argument, delete_argument, delete_statement
from conviction.diagnosis.repairs.starts import SQUASHING, start_weights

_MOST_OPERATIONS = 3


def drop_last_operation(draft: Draft) -> str | None:
    """Take away what stands between the last layer and the cross-entropy: softmax, activation, dropout, or several."""
    text: str | None = None
    for _ in range(_MOST_OPERATIONS):
        shorter = _drop_one(draft)
        if shorter is None:
            break
        text, draft = shorter, Draft(parse_text(shorter, ""), draft.notes, draft.finding)
    return text


def _drop_one(draft: Draft) -> str | None:
    for event in draft.state.of("loss"):
        inputs, _ = event.more
        if (
            isinstance(inputs, Tensor)
            and inputs.op in {"softmax", "relu", "sigmoid", "tanh", "dropout"}
            and inputs.op_at
        ):
            net = next((forward.net for forward in inputs.live), None)
            return _unwrap(draft, inputs.op_at, net)
    return None


def _unwrap(draft: Draft, node: ast.AST, net: Net | None) -> str | None:
    """Remove one operation: a call around an expression, a layer among a container's, or a layer's own call."""
    if not isinstance(node, ast.Call):
        return None
    if not _is_layer(draft, node):
        method = isinstance(node.func, ast.Attribute) and not draft.program.origin(node.func).startswith("torch")
        inner = (
            node.func.value if method and isinstance(node.func, ast.Attribute) else node.args[0] if node.args else None
        )
        return _replace_or_drop(draft, node, inner) if inner is not None else None
    holder = draft.program.parents.get(node)
    if isinstance(holder, ast.Call) and last_name(holder.func) == "Sequential":
        shared = last_block(draft.state, node) if net is not None else None
        if shared is not None:
            return draft.replaced({shared: f"{draft.text_of(shared)}[:-1]"})
        return delete_argument(draft.program, holder, node)
    name = draft.variable(node)
    for call in reversed(draft.program.calls(name.rpartition(".")[2])) if name else []:
        if dotted(call.func) == name and call.args:
            return _replace_or_drop(draft, call, call.args[0])
    if isinstance(holder, (ast.List, ast.Tuple)):
        return _drop_item(draft, holder, node)
    return None


def _is_layer(draft: Draft, node: ast.Call) -> bool:
    return last_name(node.func)[:1].isupper() and bool(draft.program.origin(node.func))


def _replace_or_drop(draft: Draft, node: ast.AST, inner: ast.AST) -> str | None:
    """Put an expression in the place of the call around it; `x = F.relu(x)` goes away as a whole."""
    statement = draft.program.statement(node)
    same = isinstance(statement, ast.Assign) and statement.value is node and draft.text_of(statement.targets[0])
    if same and same == draft.text_of(inner):
        return delete_statement(draft.program, statement)
    return draft.replaced({node: draft.text_of(inner)})


def _drop_item(draft: Draft, holder: ast.List | ast.Tuple, node: ast.expr) -> str | None:
    number = holder.elts.index(node) if node in holder.elts else -1
    kept = [draft.text_of(item) for n, item in enumerate(holder.elts) if n != number]
    return draft.replaced({holder: f"[{', '.join(kept)}]"}) if number >= 0 and kept else None


def fix_axis(draft: Draft) -> str | None:
    """Take softmax and argmax over the classes; permute where the sizes were put in another order."""
    changes: dict[ast.AST, str] = {}
    for note in draft.notes_of("softmax-dim"):
        for call in draft.nodes_at(note.at.line, ast.Call):
            if isinstance(call, ast.Call) and last_name(call.func).lower() in note.names:
                for given in (*(k.value for k in call.keywords if k.arg in {"dim", "axis"}), *call.args):
                    if literal(given) == 0 and not isinstance(literal(given), bool):
                        changes[given] = "1"
    for note in draft.notes_of("view-for-permute"):
        for call in draft.nodes_at(note.at.line, ast.Call):
            order = _order(draft, call) if isinstance(call, ast.Call) else []
            if order and isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
                numbers = ", ".join(str(number) for number in order)
                changes[call] = f"{draft.text_of(call.func.value)}.permute({numbers}).contiguous()"
    return draft.replaced(changes)


def _order(draft: Draft, call: ast.Call) -> list[int]:
    """Return which size of the tensor each argument of a view is."""
    if last_name(call.func) not in {"view", "reshape"} or not isinstance(call.func, ast.Attribute):
        return []
    subject = ast.unparse(call.func.value)
    unpacked: list[str] = []
    for node in ast.walk(draft.program.function(call)):
        if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple) and node.lineno <= call.lineno):
            continue
        if ast.unparse(node.value) in {f"{subject}.shape", f"{subject}.size()"}:
            unpacked = [dotted(item) for item in node.targets[0].elts]
    found = []
    for argument in call.args:
        text = ast.unparse(argument)
        sized = re.fullmatch(r".*\.(?:shape\[(\d)\]|size\((\d)\))", text)
        if sized:
            found.append(int(sized.group(1) or sized.group(2)))
        elif text in unpacked:
            found.append(unpacked.index(text))
    return found if sorted(found) == list(range(len(call.args))) else []


def lower_dropout(draft: Draft) -> str | None:
    """Bring dropout down to .3."""
    changes: dict[ast.AST, str] = {}
    for call in draft.program.calls(
        "Dropout", "Dropout2d", "dropout", "dropout2d", "AlphaDropout", "FeatureAlphaDropout"
    ):
        rate = keyword(call, "p", position=0 if last_name(call.func)[0].isupper() else 1)
        number = literal(rate)
        if rate is not None and isinstance(number, (int, float)) and number > 0.5:
            changes[rate] = "0.3"
        elif isinstance(rate, ast.Name):
            changes |= _assigned(draft, rate.id, 0.5, "0.3")
    for event in draft.state.of("layer"):
        given = event.more.get("p") or event.more.get("0")
        number = given.value if isinstance(given, Const) else None
        if event.value.kind.startswith("Dropout") and isinstance(number, (int, float)) and number > 0.5:
            changes[given.node] = "0.3"
    return draft.replaced(changes)


def _assigned(draft: Draft, name: str, most: float, new: str) -> dict[ast.AST, str]:
    """Return the change of a number that a variable is given, if it is above `most`."""
    for node in draft.program.nodes:
        if isinstance(node, ast.Assign) and dotted(node.targets[0]) == name:
            number = literal(node.value)
            if isinstance(number, (int, float)) and number > most:
                return {node.value: new}
    return {}


def relu_for_squashing(draft: Draft) -> str | None:
    """Put ReLU in the place of sigmoid and tanh layers, and start the weights for it."""
    last = {e.more[0].op_at for e in draft.state.of("loss") if isinstance(e.more[0], Tensor)}
    changes = {
        call.func: draft.text_of(call.func).replace(last_name(call.func), "ReLU")
        for call in draft.program.calls(*SQUASHING) if call not in last
    }  # fmt: skip
    changes |= {
        call.func: draft.text_of(call.func).replace(last_name(call.func), "relu")
        for call in draft.program.calls("sigmoid", "tanh")
        if call not in last and draft.program.origin(call.func).startswith("torch")
    }  # fmt: skip
    text = draft.replaced(changes)
    if text is None:
        return None
    again = Draft(parse_text(text, ""), draft.notes, draft.finding)
    return start_weights(again) or text


def widen_head(draft: Draft) -> str | None:
    """Give the last layer as many outputs as the finding counts classes."""
    head = draft.marks.head
    told = f"{draft.finding.expected} {draft.finding.remedy}"
    numbers = [int(found) for found in re.findall(r"\b(\d{1,5})\b", told)]
    if not isinstance(head, ast.Call) or not numbers:
        return None
    width = keyword(head, "out_features", "out_channels", position=1)
    for event in draft.state.of("layer"):  # the number itself, where the layer is made in a function of blocks
        given = event.more.get("out_features") or event.more.get("out_channels") or event.more.get("1")
        if event.node is head and isinstance(given, Const) and isinstance(given.node, ast.expr):
            width = given.node
    if not isinstance(literal(width), int):
        written = draft.marks.classes  # where the number is handed to the net, as in Net(num_classes=5)
        inside = ast.walk(written) if written is not None else ()
        width = next((node for node in inside if type(literal(node)) is int), None)
    return draft.replaced({width: str(numbers[0])}) if width is not None else None


def keep_images_apart(draft: Draft) -> str | None:
    """Flatten each image by itself in the place of a view over a permuted batch."""
    for note in draft.notes_of("batch-mixed"):
        for call in draft.nodes_at(note.at.line, ast.Call):
            if not is_call_of(call, "view", "reshape") or not isinstance(call.func, ast.Attribute):
                continue
            inner = call.func.value
            if is_call_of(inner, "contiguous") and isinstance(inner.func, ast.Attribute):
                inner = inner.func.value
            if is_call_of(inner, "permute", "transpose") and isinstance(inner.func, ast.Attribute):
                return draft.replaced({call: f"{draft.text_of(inner.func.value)}.flatten(1)"})
    return None


def add_eps(draft: Draft) -> str | None:
    """Keep what is divided by, or what a logarithm or root is taken of, away from zero."""
    mark = draft.marks.unsafe
    if mark is None:
        return None
    changes: dict[ast.AST, str] = {}
    for node in ast.walk(draft.program.statement(mark)):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and any(
            is_call_of(part, "std", "var", "norm", "sum", "max", "amax") for part in ast.walk(node.right)
        ):  # fmt: skip
            changes[node.right] = f"({draft.text_of(node.right)} + 1e-6)"
        if is_call_of(node, "log", "log2", "log10", "sqrt") and node.args:
            changes[node.args[0]] = f"({draft.text_of(node.args[0])}) + 1e-8"
        elif is_call_of(node, "log", "sqrt") and isinstance(node.func, ast.Attribute):
            changes[node.func.value] = f"({draft.text_of(node.func.value)} + 1e-8)"
    return draft.replaced({node: text for node, text in changes.items()
                           if not any(node is not other and node in ast.walk(other) for other in changes)})  # fmt: skip


def guard_small_batches(draft: Draft) -> str | None:
    """Give batch norm batches to average over."""
    loader = draft.marks.loader
    if loader is None:
        return None
    size = keyword(loader, "batch_size", position=1)
    number = literal(size)
    if size is not None and isinstance(number, int) and number < 8:
        return draft.replaced({size: "32"})
    if isinstance(size, ast.Name):
        for node in draft.program.nodes:
            if isinstance(node, ast.Assign) and dotted(node.targets[0]) == size.id and (literal(node.value) or 99) < 8:
                return draft.replaced({node.value: "32"})
    return add_argument(draft.program, loader, "drop_last=True") if keyword(loader, "drop_last") is None else None
