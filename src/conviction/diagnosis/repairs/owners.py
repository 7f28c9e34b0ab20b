"""Repairs of whose parameters the optimizer has and which net is called."""

from __future__ import annotations

import ast

from conviction.diagnosis.reading.syntax import dotted, parse_text
from conviction.diagnosis.repairs.drafts import Draft, is_call_of
from conviction.diagnosis.repairs.edits import delete_statement, insert_lines


def give_optimizer_net(draft: Draft) -> str | None:
    """Make the optimizer of the net that is trained: move it behind the net's assignment, or name the other net."""
    optimizer, forward = draft.marks.optimizer, draft.marks.forward
    if optimizer is None or forward is None or draft.variable(optimizer) == "":
        return None
    statement = draft.program.statement(optimizer)
    called = next((e.value.net for e in draft.state.of("forward") if e.value.node is forward), None)
    if called is None or called.node not in draft.program.parents or not called.variables:
        return None
    made = draft.program.statement(called.node)
    owned = _owned_name(optimizer)
    text = draft.text_of(statement)
    if owned is not None and dotted(owned) not in called.variables:
        text = text.replace(f"{dotted(owned)}.", f"{called.variables[0]}.", 1) if _once(text, owned) else ""
        if text and made.lineno < statement.lineno and draft.sees(called.variables[0], statement):
            return draft.replaced({owned: called.variables[0]})
    if not text or made.lineno < statement.lineno:
        return None
    if draft.program.function(made) is not draft.program.function(statement):
        twins = {net.kind for o in draft.state.optimizers if o.node is optimizer for net in o.nets or ()}
        return delete_statement(draft.program, made) if twins == {called.kind} else None
    last = max(
        (s for s in draft.program.block(made) if _assigns(s, called.variables) and s.lineno >= made.lineno),
        key=lambda s: s.lineno,
    )
    after = insert_lines(draft.program, last, text.splitlines(), after=True)
    again = parse_text(after, "")
    old = next(n for n in ast.walk(again.tree) if isinstance(n, ast.stmt) and n.lineno == statement.lineno)
    return delete_statement(again, old)


def _assigns(statement: ast.stmt, names: list[str]) -> bool:
    return isinstance(statement, ast.Assign) and any(dotted(target) in names for target in statement.targets)


def _owned_name(optimizer: ast.Call) -> ast.expr | None:
    """Return the net of `net.parameters()` in an optimizer's arguments."""
    for node in ast.walk(optimizer):
        if (
            is_call_of(node, "parameters", "named_parameters")
            and isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
        ):
            return node.func.value
    return None


def _once(text: str, node: ast.expr) -> bool:
    return text.count(f"{dotted(node)}.") == 1


def forward_owned_net(draft: Draft) -> str | None:
    """Call the net that the optimizer has, here or where the function is called."""
    optimizer = draft.marks.optimizer
    owned = _owned_name(optimizer) if optimizer is not None else None
    for note in draft.notes_of("forward-other-net"):
        for call in draft.nodes_at(note.at.line, ast.Call):
            known = [e.value for e in draft.state.of("forward") if e.value.node is call]
            if not known or not isinstance(call, ast.Call) or owned is None:
                continue
            function = draft.program.function(call)
            parameter = dotted(call.func) in {a.arg for a in getattr(getattr(function, "args", None), "args", [])}
            if not parameter:
                name = dotted(owned)
                parameters = {a.arg for a in getattr(getattr(function, "args", None), "args", [])}
                usual = next((p for p in ("model", "net", "network") if p in parameters), "")
                if usual and not draft.sees(name, call):
                    name = usual
                return draft.replaced({call.func: usual or name})
            changes = {
                argument: dotted(owned)
                for outer in draft.program.calls(getattr(function, "name", ""))
                for argument in outer.args
                if dotted(argument) in known[0].net.variables and _steps_with(draft, outer)
            }
            if changes:
                return draft.replaced(changes)
    return None


def _steps_with(draft: Draft, call: ast.Call) -> bool:
    """Say whether the optimizer is among a call's arguments."""
    name = draft.variable(draft.marks.optimizer)
    return name in {dotted(argument) for argument in (*call.args, *(k.value for k in call.keywords))}
