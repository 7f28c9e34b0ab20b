"""A program about to be changed: its text, what the reader knows of it, and the finding that asks for the change."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeGuard

from conviction.diagnosis.reading.landmarks import Landmarks, find_landmarks
from conviction.diagnosis.reading.state import State
from conviction.diagnosis.reading.syntax import Syntax, dotted, last_name, parse_text
from conviction.diagnosis.reading.walk import walk_program
from conviction.diagnosis.repairs.edits import replace_nodes, source_of
from conviction.findings.observation import SourceNote
from conviction.findings.records import Finding


@dataclass(frozen=True)
class Draft:
    """The program, the notes on it and a finding; the walk is made once, when it is asked for."""

    program: Syntax
    notes: tuple[SourceNote, ...]
    finding: Finding

    @cached_property
    def state(self) -> State:
        """The walk through the program."""
        return walk_program(self.program)

    @cached_property
    def marks(self) -> Landmarks:
        """Where the parts of the training are."""
        return find_landmarks(self.program, self.state)

    def notes_of(self, *kinds: str) -> list[SourceNote]:
        """Return the notes of some kinds, those on the finding's own line first."""
        found = [note for note in self.notes if note.kind in kinds]
        return sorted(found, key=lambda note: abs(note.at.line - (self.finding.line or note.at.line)))

    def nodes_at(self, line: int, *types: type[ast.AST]) -> list[ast.AST]:
        """Return the nodes of some types that start on a line, outermost first."""
        return [n for n in self.program.nodes if isinstance(n, types) and getattr(n, "lineno", 0) == line]

    def replaced(self, changes: dict[Any, str]) -> str | None:
        """Return the text with nodes replaced, None without any."""
        return replace_nodes(self.program, changes) if changes else None

    def text_of(self, node: ast.AST | None) -> str:
        """Return a node's own characters."""
        return source_of(self.program, node) if node is not None else ""

    def receiver(self, call: ast.AST | None) -> str:
        """Return what a method is called on: `optimizer` of `optimizer.step()`."""
        function = call.func if isinstance(call, ast.Call) else None
        return self.text_of(function.value) if isinstance(function, ast.Attribute) else ""

    def variable(self, made: ast.AST | None) -> str:
        """Return the variable that holds what a call makes."""
        if made is None or made not in self.program.parents:
            return ""
        statement = self.program.statement(made)
        return self.text_of(statement.targets[0]) if isinstance(statement, ast.Assign) else ""

    def sees(self, name: str, place: ast.AST) -> bool:
        """Say whether a variable is to be had where a node is: of the same function, a parameter, or the module's."""
        root = name.split(".")[0].split("[")[0]
        around: list[ast.AST] = [self.program.function(place), self.program.tree]
        return any(root in _bound(self.program, scope) for scope in around)


def make_draft(text: str, notes: tuple[SourceNote, ...], finding: Finding) -> Draft:
    """Parse a program to be changed; raises SyntaxError."""
    return Draft(parse_text(text, finding.file or ""), notes, finding)


def _bound(program: Syntax, scope: ast.AST) -> set[str]:
    """Return the names that a function or the module itself binds."""
    found = set()
    for node in ast.walk(scope):
        inside = program.function(node) is scope or node is scope
        if isinstance(node, ast.arg) and program.parents.get(program.parents.get(node, node)) is scope:
            found.add(node.arg)
        elif inside and isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif inside and isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node is not scope:
            found.add(node.name)
    return found


def is_call_of(node: ast.AST | None, *names: str) -> TypeGuard[ast.Call]:
    """Say whether a node is a call of something with one of these last names."""
    return isinstance(node, ast.Call) and last_name(node.func) in names


def root_of(node: ast.AST) -> str:
    """Return the first name of a chain."""
    return dotted(node).split(".")[0]
