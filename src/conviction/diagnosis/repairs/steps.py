"""Repairs of the training step: steps, zeros, detached losses, modes, whose parameters the optimizer has."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from conviction.diagnosis.reading.syntax import Syntax, dotted, last_name, literal, parse_text
from conviction.diagnosis.reading.values import Forward
from conviction.diagnosis.repairs.drafts import Draft, is_call_of
from conviction.diagnosis.repairs.edits import delete_statement, insert_lines, replace_nodes

_WRAPPING = frozenset({"tensor", "as_tensor", "Variable", "FloatTensor", "Tensor", "float"})
_LEAVING = frozenset(
    {"item", "detach", "requires_grad_", "numpy", "tolist", "detach_", "clone", "argmax", "round", "cpu"}
)


def add_parentheses(draft: Draft) -> str | None:
    """`optimizer.step` alone does nothing."""
    for note in draft.notes_of("step-missing", "zero-grad-missing", "backward-missing"):
        for node in draft.nodes_at(note.at.line, ast.Expr):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Attribute):
                return draft.replaced({node.value: draft.text_of(node.value) + "()"})
    return None


def add_step(draft: Draft) -> str | None:
    """Insert the optimizer's step after the backward pass."""
    backward, name = draft.marks.backward, _optimizer_name(draft)
    if backward is None or not name or draft.marks.step is not None:
        return None
    return insert_lines(draft.program, draft.program.statement(backward), [f"{name}.step()"], after=True)


def add_zero_grad(draft: Draft) -> str | None:
    """Insert zero_grad before the backward pass, or after the step where gradients are gathered over several."""
    for note in draft.notes_of("zero-grad-missing"):
        for node in draft.nodes_at(note.at.line, ast.AugAssign):
            if isinstance(node, ast.AugAssign) and "by hand" in note.names:
                return insert_lines(
                    draft.program,
                    node,
                    [f"{draft.text_of(node.target).removesuffix('.data')}.grad.zero_()"],
                    after=True,
                )
    backward, step, name = draft.marks.backward, draft.marks.step, _optimizer_name(draft)
    if backward is None or step is None or not name:
        return None
    at, before = draft.program.statement(step), draft.program.statement(backward)
    if draft.program.block(at) is draft.program.block(before) and draft.sees(name, before):
        return insert_lines(draft.program, before, [f"{name}.zero_grad()"], after=False)
    return insert_lines(draft.program, at, [f"{name}.zero_grad()"], after=True) if draft.sees(name, at) else None


def _optimizer_name(draft: Draft) -> str:
    """Return what the optimizer is called where the backward pass is."""
    place = draft.marks.backward
    near = [draft.marks.step, draft.marks.zero_grad]
    names = [draft.receiver(call) for call in near if call is not None]
    if is_call_of(draft.marks.step, "step") and isinstance(draft.marks.step, ast.Call):
        names += [draft.text_of(argument) for argument in draft.marks.step.args]
        if "scaler" in draft.receiver(draft.marks.step).lower():
            names = names[-1:]
    names.append(draft.variable(draft.marks.optimizer))
    seen = [name for name in names if name and place is not None and draft.sees(name, place)]
    return seen[0] if seen else ""


def keep_graph(draft: Draft) -> str | None:
    """Take out what leaves the graph before the backward pass."""
    for note in draft.notes_of("loss-detached"):
        for node in draft.nodes_at(note.at.line, ast.With):
            for call in (n for n in ast.walk(node) if is_call_of(n, "no_grad", "inference_mode")):
                return draft.replaced({call: "torch.enable_grad()"})
        for node in draft.nodes_at(note.at.line, ast.Assign, ast.Expr, ast.Return):
            value = getattr(node, "value", None)
            changed = _without_leaving(draft, value) if value is not None else ""
            target = draft.text_of(node.targets[0]) if isinstance(node, ast.Assign) else ""
            if changed and changed == target and isinstance(node, ast.stmt):
                return delete_statement(draft.program, node)
            if changed and value is not None and changed != draft.text_of(value):
                return draft.replaced({value: changed})
        for node in draft.nodes_at(note.at.line, ast.Call):
            if is_call_of(node, "set_grad_enabled") and node.args:
                return draft.replaced({node.args[0]: "True"})
    return None


def _without_leaving(draft: Draft, value: ast.AST) -> str:
    """Return an expression without `.item()`, `.detach()`, `.data` and `torch.tensor(...)` around and within it."""
    changes: dict[ast.AST, str] = {}
    for node in ast.walk(value):
        if any(node in ast.walk(outer) for outer in changes):
            continue
        core = _core(node)
        if core is not node:
            changes[node] = _without_leaving(draft, core)
    if not changes:
        return draft.text_of(value)
    whole = draft.text_of(value)
    local = parse_text(f"({whole})", "")
    pairs = zip(ast.walk(value), _expression_nodes(local), strict=True)
    same = dict(pairs)
    return replace_nodes(local, {same[node]: new for node, new in changes.items()})[1:-1]


def _expression_nodes(program: Syntax) -> Iterator[ast.AST]:
    """Return the nodes of the expression that a text consists of."""
    first = program.tree.body[0]
    return ast.walk(first.value if isinstance(first, ast.Expr) else first)


def _core(node: ast.AST) -> ast.AST:
    while True:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _LEAVING:
            node = node.func.value
        elif isinstance(node, ast.Attribute) and node.attr == "data":
            node = node.value
        elif isinstance(node, ast.Call) and last_name(node.func) in _WRAPPING and len(node.args) == 1:
            node = node.args[0]
        elif is_call_of(node, "float") and isinstance(node.func, ast.Attribute):
            inner = _core(node.func.value)
            if inner is node.func.value:
                return node
            node = inner
        else:
            return node


def add_train_mode(draft: Draft) -> str | None:
    """Insert `net.train()` where each epoch's training begins, or each step's if evaluation is within the epoch."""
    forward, loop = draft.marks.forward, draft.marks.loop
    if forward is None or not dotted(forward.func):
        return None
    net = draft.text_of(forward.func).removesuffix(".forward")
    record = next((e.value for e in draft.state.of("forward") if e.value.node is forward and e.value.mode_at), None)
    evals = {id(e) for e in _eval_loops(draft, record)}
    apart = loop is None or draft.program.function(loop) is not draft.program.function(forward)
    if apart or id(loop) in evals or not draft.sees(net, loop):
        return insert_lines(draft.program, draft.program.statement(forward), [f"{net}.train()"], after=False)
    return insert_lines(draft.program, draft.program.statement(loop), [f"{net}.train()"], after=False)


def move_statistics(draft: Draft) -> str | None:
    """Let batch norm's running statistics move."""
    changes: dict[ast.AST, str] = {}
    for note in draft.notes_of("bn-momentum"):
        for node in draft.nodes_at(note.at.line, ast.Constant):
            number = literal(node)
            if not isinstance(number, bool) and number == float(note.names[0]):
                changes[node] = "0.1"
    return draft.replaced(changes)


def _eval_loops(draft: Draft, record: Forward | None) -> list[ast.AST]:
    """Return the loops around the eval() that a training forward met, or around the calls that lead to it."""
    place = record.mode_at if record else None
    if place is None:
        return []
    found = list(draft.program.above(place))
    function = draft.program.function(place)
    name = getattr(function, "name", "")
    return found + [node for call in draft.program.calls(name) for node in draft.program.above(call)] if name else found


def add_eval_mode(draft: Draft) -> str | None:
    """Insert `net.eval()` before the test, and `net.train()` before training where nothing else calls it."""
    places = [note.at.line for note in draft.notes_of("eval-missing")]
    calls = [call for line in places for call in draft.nodes_at(line, ast.Call)]
    known = {e.value.node for e in draft.state.of("forward")}
    test = next((call for call in calls if call in known), draft.marks.test)
    if not isinstance(test, ast.Call) or not dotted(test.func):
        return None
    net = draft.text_of(test.func).removesuffix(".forward")
    loops = [n for n in draft.program.above(test) if isinstance(n, (ast.For, ast.While, ast.FunctionDef))]
    around = loops[0] if loops and isinstance(loops[0], (ast.For, ast.While)) else draft.program.statement(test)
    training = draft.marks.loop
    if training is around:  # tested within the training loop: only around this statement
        around = draft.program.statement(test)
    text = insert_lines(draft.program, around, [f"{net}.eval()"], after=False)
    if draft.program.calls("train"):
        return text
    again = Draft(parse_text(text, ""), draft.notes, draft.finding)
    return add_train_mode(again) or text


def turn_sign(draft: Draft) -> str | None:
    """Lower the loss instead of raising it."""
    for note in draft.notes_of("loss-negated"):
        for node in draft.nodes_at(note.at.line, ast.UnaryOp, ast.BinOp, ast.keyword, ast.Constant):
            if (
                isinstance(node, ast.UnaryOp)
                and isinstance(node.op, ast.USub)
                and not isinstance(node.operand, ast.Constant)
            ):
                return _bare(draft, node, node.operand)
            if isinstance(node, ast.BinOp) and literal(node.right) == -1:
                return draft.replaced({node: draft.text_of(node.left)})
            if isinstance(node, ast.BinOp) and literal(node.left) == -1:
                return draft.replaced({node: draft.text_of(node.right)})
            if isinstance(node, ast.Constant) and node.value is True and "maximize" in note.names:
                return draft.replaced({node: "False"})
    for node in draft.program.nodes:  # a step written by hand: `w += lr * w.grad`
        if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add) and ".grad" in draft.text_of(node.value):
            text = draft.text_of(node)
            return draft.replaced({node: text.replace("+=", "-=", 1)})
    return None


def _bare(draft: Draft, node: ast.AST, inner: ast.expr) -> str | None:
    """Put an expression in the place of the one around it, without parentheses that only that one needed."""
    text = draft.replaced({node: draft.text_of(inner)}) or ""
    simple = isinstance(inner, (ast.Name, ast.Attribute))
    return text.replace(f"({draft.text_of(inner)}).backward(", f"{draft.text_of(inner)}.backward(") if simple else text


def drop_graph(draft: Draft) -> str | None:
    """Keep the loss without its graph."""
    for note in draft.notes_of("loss-kept"):
        for node in draft.nodes_at(note.at.line, ast.AugAssign, ast.Assign, ast.Expr):
            value = getattr(node, "value", None)
            if isinstance(value, ast.Call) and last_name(value.func) == "append" and value.args:
                value = value.args[0]
            elif isinstance(node, ast.Assign) and isinstance(value, ast.BinOp):
                value = value.right
            if isinstance(value, ast.expr):
                text = draft.text_of(value)
                simple = isinstance(value, (ast.Name, ast.Attribute, ast.Call, ast.Subscript))
                return draft.replaced({value: f"{text}.detach()" if simple else f"({text}).detach()"})
    return None


def thaw(draft: Draft) -> str | None:
    """Let the parameters train, or register layers that a plain list hides."""
    for note in draft.notes_of("parameters-frozen"):
        for node in draft.nodes_at(note.at.line, ast.Assign, ast.Call):
            value = (
                node.value
                if isinstance(node, ast.Assign)
                else node.args[0]
                if isinstance(node, ast.Call) and node.args
                else None
            )
            freezing = isinstance(node, ast.Assign) or literal(value) is False
            if value is not None and freezing and literal(value) is not True:
                return draft.replaced({value: "True"})
    return register_layers(draft)


def register_layers(draft: Draft) -> str | None:
    """Make a module of a plain list or dictionary of layers."""
    for note in draft.notes_of("layers-in-list"):
        for node in draft.nodes_at(note.at.line, ast.Assign):
            if isinstance(node, ast.Assign):
                kind = "ModuleDict" if isinstance(node.value, ast.Dict) else "ModuleList"
                return draft.replaced({node.value: f"nn.{kind}({draft.text_of(node.value)})"})
    return None
