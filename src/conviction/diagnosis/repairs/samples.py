"""Repairs of which images are learned from, with which labels, how altered, and how often."""

from __future__ import annotations

import ast
import re

from conviction.diagnosis.reading.source import read_source
from conviction.diagnosis.reading.syntax import Syntax, dotted, last_name, literal, parse_text
from conviction.diagnosis.repairs.drafts import Draft
from conviction.diagnosis.repairs.edits import delete_statement

_MOST_CUTS = 3  # ways in which one program may end early
_EPOCHS, _STEPS = 10, 1000
_DRAWS = re.compile(r"rand|normal|uniform|choice|shuffle")


def pair_again(draft: Draft) -> str | None:
    """Leave out what puts images or labels alone in another order; cut labels out as the images are."""
    for note in draft.notes_of("labels-shuffled"):
        for statement in draft.nodes_at(note.at.line, ast.Expr, ast.Assign):
            if isinstance(statement, (ast.Expr, ast.Assign)) and _reorders(statement):
                return delete_statement(draft.program, statement)
        index = _index_of_images(draft)
        around = [node for node in draft.nodes_at(note.at.line, ast.Subscript) if isinstance(node, ast.Subscript)]
        images = {dotted(node.value) for node in index}
        odd = [node for node in around if dotted(node.value) and dotted(node.value) not in images]
        if index and odd and draft.text_of(odd[0].slice) != draft.text_of(index[0].slice):
            return draft.replaced({odd[0].slice: draft.text_of(index[0].slice)})
    return None


def _reorders(statement: ast.Expr | ast.Assign) -> bool:
    """Whether a statement does nothing but put one thing in another order: `shuffle(x)`, `x = x[order]`."""
    value = statement.value
    if isinstance(statement, ast.Expr):
        return isinstance(value, ast.Call) and last_name(value.func) == "shuffle" and len(value.args) == 1
    target = dotted(statement.targets[0])
    return bool(target) and isinstance(value, ast.Subscript) and dotted(value.value) == target


def _index_of_images(draft: Draft) -> list[ast.Subscript]:
    """Return how the net's input is cut out of the images: `x[order]`, in the call or in an assignment before it."""
    forward = draft.marks.forward
    given = forward.args[0] if forward is not None and forward.args else None
    if isinstance(given, ast.Name):
        made = [
            node.value for node in draft.program.nodes
            if isinstance(node, ast.Assign) and dotted(node.targets[0]) == given.id
            and node.lineno <= getattr(forward, "lineno", 0) and isinstance(node.value, ast.Subscript)
        ]  # fmt: skip
        given = made[-1] if made else None
    return [given] if isinstance(given, ast.Subscript) else []


def keep_all(draft: Draft) -> str | None:
    """Learn from all images again: leave out the choice of some of them."""
    mark = draft.marks.subset
    if mark is None:
        return None
    statement = draft.program.statement(mark)
    chosen = {dotted(target) for target in getattr(statement, "targets", [])}
    for node in sorted((n for n in draft.program.nodes if isinstance(n, ast.Assign)), key=lambda n: n.lineno):
        if node.lineno >= statement.lineno and _cuts_itself(node, chosen if node is not statement else set()):
            return delete_statement(draft.program, node)
    for call in draft.program.calls("Subset"):
        if len(call.args) == 2 and dotted(call.args[1]) in chosen:
            return draft.replaced({call: draft.text_of(call.args[0])})
    return None


def _cuts_itself(statement: ast.Assign, chosen: set[str]) -> bool:
    """Whether a statement is `x, y = x[chosen], y[chosen]`, or one of the two; any index where none is given."""
    target, value = statement.targets[0], statement.value
    pairs = (
        list(zip(target.elts, value.elts, strict=False))
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
        else [(target, value)]
    )
    return all(
        isinstance(new, ast.Subscript) and dotted(new.value) == dotted(old) != ""
        and (not chosen or dotted(new.slice) in chosen)
        for old, new in pairs
    )  # fmt: skip


def leave_images(draft: Draft) -> str | None:
    """Take out what is drawn at random and put onto an image, where it stands or in the whole function around it."""
    mark = draft.marks.augment
    if not isinstance(mark, ast.Call):
        return None
    holder = draft.program.parents.get(mark)
    if isinstance(holder, (ast.List, ast.Tuple)) and last_name(mark.func).startswith("Random"):
        kept = [draft.text_of(item) for item in holder.elts if item is not mark]
        return draft.replaced({holder: f"[{', '.join(kept)}]"})
    function = draft.program.function(mark)
    changes: dict[ast.AST, str] = {}
    for statement in ast.walk(function):
        value = getattr(statement, "value", None)
        if isinstance(statement, (ast.Assign, ast.Return)) and value is not None and _draws(value):
            kept = _without_draws(value)
            name = dotted(statement.targets[0]) if isinstance(statement, ast.Assign) else ""
            if kept is not None and (not name or name in {n.id for n in ast.walk(value) if isinstance(n, ast.Name)}):
                changes[value] = draft.text_of(kept)
    text = draft.replaced(changes)
    while text is not None and (idle := _idle(text)) is not None:
        text = delete_statement(*idle)
    return text


def _idle(text: str) -> tuple[Syntax, ast.stmt] | None:
    """Return the first `x = x` of a text."""
    program = parse_text(text, "")
    found = (n for n in program.nodes if isinstance(n, ast.Assign) and isinstance(n.value, ast.Name)
             and len(n.targets) == 1 and dotted(n.targets[0]) == n.value.id)  # fmt: skip
    return next(((program, node) for node in found), None)


def _draws(node: ast.AST) -> bool:
    return any(isinstance(part, ast.Call) and _DRAWS.search(dotted(part.func)) for part in ast.walk(node))


def _without_draws(value: ast.AST) -> ast.AST | None:
    """Return the part of an expression that was there before anything was drawn; None where none can be told."""
    if not _draws(value):
        return value
    parts: list[ast.AST] = []
    if isinstance(value, ast.BinOp):
        parts = [value.left, value.right]
    elif isinstance(value, ast.Call):
        method = isinstance(value.func, ast.Attribute) and isinstance(value.func.value, (ast.Name, ast.Call))
        own = [value.func.value] if method and isinstance(value.func, ast.Attribute) else []
        calm = [part for part in (*value.args, *own) if isinstance(part, ast.Name) and part.id not in {"np", "torch"}]
        parts = [*calm, *value.args]
    elif isinstance(value, ast.Subscript):
        parts = [value.value]
    found = (_without_draws(part) for part in parts if not isinstance(part, ast.Constant))
    return next((part for part in found if part is not None), None)


def train_longer(draft: Draft) -> str | None:
    """Leave out what ends the training early, and raise budgets of a few epochs or steps."""
    text: str | None = None
    for _ in range(_MOST_CUTS):
        longer = _raise_one(draft)
        if longer is None:
            break
        text = longer
        draft = Draft(parse_text(longer, ""), read_source(longer, ""), draft.finding)
    return text


def _raise_one(draft: Draft) -> str | None:
    for note in draft.notes_of("epochs"):
        for node in draft.nodes_at(note.at.line, ast.If):
            if isinstance(node, ast.If) and not node.orelse and isinstance(node.body[-1], (ast.Break, ast.Return)):
                return delete_statement(draft.program, node if len(node.body) == 1 else node.body[-1])
        for number in draft.nodes_at(note.at.line, ast.Constant):
            if note.names and str(literal(number)) == note.names[0]:
                words = draft.text_of(draft.program.statement(number)).lower()
                counts_steps = re.search(r"step|iter|batch", words) and "epoch" not in words
                return draft.replaced({number: str(_STEPS if counts_steps else _EPOCHS)})
    mark = draft.marks.budget
    for number in ast.walk(draft.program.statement(mark)) if mark is not None else ():
        holder = draft.program.parents.get(number)
        told = holder.arg or "" if isinstance(holder, ast.keyword) else draft.text_of(getattr(holder, "target", None))
        told += " ".join(dotted(target) for target in getattr(holder, "targets", []))
        if literal(number) in {1, 2} and not isinstance(literal(number), bool) and "epoch" in told.lower():
            return draft.replaced({number: str(_EPOCHS)})
    return None
