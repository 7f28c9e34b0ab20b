"""Repairs of what goes in and what is told: scale, order, labels, arguments, figures."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable

from conviction.diagnosis.reading.notes.names import match_arguments
from conviction.diagnosis.reading.syntax import dotted, keyword, last_name, literal, parse_text
from conviction.diagnosis.reading.values import Tensor
from conviction.diagnosis.repairs.drafts import Draft
from conviction.diagnosis.repairs.edits import add_argument, insert_lines

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")
_LARGEST_PIXEL = 255


def scale_inputs(draft: Draft) -> str | None:
    """Scale the images wherever the net is called: by 255, else to mean 0 and deviation 1."""
    told = [abs(float(found)) for found in _NUMBER.findall(draft.finding.seen)]
    pixels = any(100 <= number <= _LARGEST_PIXEL for number in told)
    if "nan" in draft.finding.seen.lower():
        return _change_inputs(draft, lambda x: f"torch.nan_to_num({x})")
    return _change_inputs(
        draft, (lambda x: f"{x} / 255") if pixels else (lambda x: f"({x} - {x}.mean()) / ({x}.std() + 1e-8)")
    )


def permute_inputs(draft: Draft) -> str | None:
    """Put the channels before height and width."""
    return _change_inputs(draft, lambda x: f"{x}.permute(0, 3, 1, 2)")


def _change_inputs(draft: Draft, change: Callable[[str], str]) -> str | None:
    forward = draft.marks.forward
    trained = {e.value.net for e in draft.state.of("forward") if e.value.node is forward}
    calls = {e.value.node for e in draft.state.of("forward") if e.value.net in trained}
    if not calls and forward is not None:
        calls = {forward}
    changes: dict[ast.AST, str] = {}
    for call in calls:
        if call.args and not isinstance(call.args[0], ast.Starred):
            text = draft.text_of(call.args[0])
            simple = isinstance(call.args[0], (ast.Name, ast.Attribute, ast.Call, ast.Subscript))
            changes[call.args[0]] = change(text if simple else f"({text})")
    return draft.replaced(changes)


def shuffle(draft: Draft) -> str | None:
    """Shuffle the training loader; arrays that batches are cut out of get a random order before each epoch."""
    loader = draft.marks.loader
    if loader is not None:
        given = keyword(loader, "shuffle", position=2)
        if given is not None:
            return draft.replaced({given: "True"})
        return add_argument(draft.program, loader, "shuffle=True")
    loop = draft.marks.loop
    if not isinstance(loop, ast.For):
        return None
    cut = {
        dotted(node.value)
        for node in ast.walk(loop)
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice) and isinstance(node.value, ast.Name)
        and dotted(loop.target) in {n.id for n in ast.walk(node.slice) if isinstance(n, ast.Name)}
    }  # fmt: skip
    names = sorted(cut, key=lambda name: _first_use(loop, name))
    if not names or draft.program.function(loop) is not draft.program.tree:
        return None
    lines = [
        f"order = torch.randperm(len({names[0]}))",
        f"{', '.join(names)} = {', '.join(f'{name}[order]' for name in names)}",
    ]
    return insert_lines(draft.program, loop, lines, after=False)


def _first_use(loop: ast.AST, name: str) -> tuple[int, int]:
    return min((n.lineno, n.col_offset) for n in ast.walk(loop) if isinstance(n, ast.Name) and n.id == name)


def order_arguments(draft: Draft) -> str | None:
    """Put each argument at the place of its parameter."""
    for note in draft.notes_of("arguments-swapped"):
        for call in draft.nodes_at(note.at.line, ast.Call):
            if not isinstance(call, ast.Call) or last_name(call.func) != note.names[0]:
                continue
            order = match_arguments(draft.state, call)
            moved = {call.args[n]: draft.text_of(call.args[source]) for n, source in order.items()}
            if moved:
                return draft.replaced(dict(moved))
    return None


def train_unused(draft: Draft) -> str | None:
    """Train the net that was made and never used, in the place of the one that was."""
    forward = draft.marks.forward
    trained = next((e.value.net for e in draft.state.of("forward") if e.value.node is forward), None)
    for note in draft.notes_of("net-unused"):
        name = note.names[0]
        if trained is None or not trained.variables:
            continue
        changes = {
            node: name
            for node in draft.program.nodes
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in trained.variables
            and node.lineno > note.at.line and draft.sees(name, node) and _same_variable(draft, node, trained.node)
        }  # fmt: skip
        if changes:
            return draft.replaced(dict(changes))
    return None


def _same_variable(draft: Draft, node: ast.AST, made: ast.AST) -> bool:
    """Say whether a name is read where the net's own variable is, not a function's parameter of that name."""
    return made in draft.program.parents and draft.program.function(node) is draft.program.function(made)


def shift_labels(draft: Draft) -> str | None:
    """Count labels from 0: leave out the sum that shifts them, else take one off in each loop over batches."""
    changes = {
        node: draft.text_of(node.left)
        for note in draft.notes_of("labels-shifted")
        for node in draft.nodes_at(note.at.line, ast.BinOp)
        if isinstance(node, ast.BinOp) and literal(node.right) == 1
    }
    if changes:
        return draft.replaced(dict(changes))
    if not re.search(r"one-based|from (?:1|one)\b|1\.\.|1 to ", f"{draft.finding.seen} {draft.finding.remedy}"):
        return None
    targets = {name for e in draft.state.of("loss") for name in _target_names(e.more[1])}
    text, done = draft.program.text, 0
    loops = [n for n in draft.program.nodes if isinstance(n, ast.For)]
    for loop in sorted(loops, key=lambda n: -n.lineno):
        names = {dotted(item) for item in ast.walk(loop.target)} & targets
        if len(names) == 1:
            program = parse_text(text, "")
            body = next(n for n in program.nodes if isinstance(n, ast.For) and n.lineno == loop.lineno).body
            name = names.pop()
            text, done = insert_lines(program, body[0], [f"{name} = {name} - 1"], after=False), done + 1
    return text if done else None


def _target_names(target: object) -> frozenset[str]:
    return target.through if isinstance(target, Tensor) else frozenset()


def divide_once(draft: Draft) -> str | None:
    """Divide a sum of means by their number, a count by the samples."""
    for note in draft.notes_of("metric-divided"):
        for node in draft.nodes_at(note.at.line, ast.BinOp, ast.AugAssign):
            if isinstance(node, ast.AugAssign) and isinstance(node.value, ast.BinOp) and not note.names[1:]:
                return draft.replaced({node.value: draft.text_of(node.value.left)})
            bottom = (
                node.right if isinstance(node, ast.BinOp) else node.value if isinstance(node, ast.AugAssign) else None
            )
            text = draft.text_of(bottom)
            if bottom is None or len(note.names) < 2 or ast.unparse(bottom) != note.names[1]:
                continue
            if text.endswith(".dataset)"):
                return draft.replaced({bottom: text.removesuffix(".dataset)") + ")"})
            if re.fullmatch(r"len\(\w+\)", text) and "samples" in note.text and "counts" in note.text:
                return draft.replaced({bottom: text[:-1] + ".dataset)"})
            loaders = [draft.variable(e.value.node) for e in draft.state.of("loader")]
            test = [name for name in loaders if name and draft.sees(name, node)]
            if "means" in note.text and test:
                return draft.replaced({bottom: f"len({test[-1]})"})
    return None


def use_test_data(draft: Draft) -> str | None:
    """Make the test's loader of the test data, where the program has them."""
    for note in draft.notes_of("data-on-test"):
        for statement in draft.nodes_at(note.at.line, ast.Assign):
            changes: dict[ast.AST, str] = {}
            for node in ast.walk(statement.value) if isinstance(statement, ast.Assign) else ():
                other = node.id.replace("train", "test").replace("Train", "Test") if isinstance(node, ast.Name) else ""
                if isinstance(node, ast.Name) and other != node.id and draft.sees(other, node):
                    changes[node] = other
                if isinstance(node, ast.keyword) and node.arg == "train" and literal(node.value) is True:
                    changes[node.value] = "False"
            if changes:
                return draft.replaced(changes)
    return None
