"""A program's text as a tree: parents, imports, dotted names, the block that holds a statement. Nothing is executed."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from conviction.findings.observation import Place

# What everybody calls these modules, for cells and snippets whose imports are elsewhere.
_USUAL = {"nn": "torch.nn", "F": "torch.nn.functional", "optim": "torch.optim", "np": "numpy",
          "models": "torchvision.models", "init": "torch.nn.init"}  # fmt: skip
_LINE_ENDS = re.compile(r"(?<=\n)|(?<=\r)(?!\n)")


@dataclass(frozen=True)
class Syntax:
    """A parsed program: its tree, each node's parent, and what its imported names stand for."""

    text: str
    filename: str
    tree: ast.Module
    parents: dict[ast.AST, ast.AST] = field(repr=False)
    aliases: dict[str, str] = field(repr=False)

    def place(self, node: ast.AST) -> Place:
        """Return the file and line of a node."""
        return Place(self.filename, getattr(node, "lineno", 1))

    def statement(self, node: ast.AST) -> ast.stmt:
        """Return the statement that a node is part of."""
        while not isinstance(node, ast.stmt):
            node = self.parents[node]
        return node

    def above(self, node: ast.AST) -> list[ast.AST]:
        """Return the nodes around a node, innermost first."""
        found = []
        while node in self.parents:
            node = self.parents[node]
            found.append(node)
        return found

    def function(self, node: ast.AST) -> ast.AST:
        """Return the function that a node belongs to, else the module."""
        around = (n for n in self.above(node) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))
        return next(around, self.tree)

    def block(self, statement: ast.stmt) -> list[ast.stmt]:
        """Return the list of statements that holds a statement."""
        for name in ("body", "orelse", "finalbody"):
            found = getattr(self.parents.get(statement), name, None)
            if isinstance(found, list) and statement in found:
                return found
        return [statement]

    def origin(self, node: ast.AST) -> str:
        """Return a dotted name with imports spelled out (`torch.nn.functional.relu`), or an empty string."""
        name = dotted(node)
        root, _, rest = name.partition(".")
        root = self.aliases.get(root, root)
        return f"{root}.{rest}" if rest else root

    def calls(self, *names: str) -> list[ast.Call]:
        """Return the calls whose function's last name is one of `names`."""
        found = [call for name in names for call in self._calls.get(name, ())]
        return sorted(found, key=lambda call: (call.lineno, call.col_offset)) if len(names) > 1 else found

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """All nodes of the tree."""
        return tuple(ast.walk(self.tree))

    @cached_property
    def _calls(self) -> dict[str, list[ast.Call]]:
        found: dict[str, list[ast.Call]] = {}
        for node in self.nodes:
            if isinstance(node, ast.Call):
                found.setdefault(last_name(node.func), []).append(node)
        return found


def parse_text(text: str, filename: str) -> Syntax:
    """Parse a program; raises SyntaxError (ValueError for null bytes, RecursionError for absurd nesting)."""
    tree = ast.parse(text, filename)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    return Syntax(text, filename, tree, parents, _imports(tree))


def _imports(tree: ast.Module) -> dict[str, str]:
    found = dict(_USUAL)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {
                a.asname or a.name.split(".")[0]: a.name if a.asname else a.name.split(".")[0] for a in node.names
            }
        elif isinstance(node, ast.ImportFrom):
            found |= {a.asname or a.name: f"{node.module or ''}.{a.name}".lstrip(".") for a in node.names}
    return found


def dotted(node: ast.AST) -> str:
    """Return `a.b.c` for a chain of names, else an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


def last_name(node: ast.AST) -> str:
    """Return the last part of a dotted name, whatever stands before it."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def literal(node: ast.AST | None) -> Any:
    """Return the value of a literal, None for anything else."""
    if node is None:
        return None
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def keyword(call: ast.Call, *names: str, position: int | None = None) -> ast.expr | None:
    """Return the argument given by one of these names or at this position."""
    for argument in call.keywords:
        if argument.arg in names:
            return argument.value
    if position is not None and position < len(call.args) and not any(isinstance(a, ast.Starred) for a in call.args):
        return call.args[position]
    return None


def parameters_of(function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> list[str]:
    """Return the names that positional arguments fill, in order."""
    return [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]


def names_read(node: ast.AST) -> set[str]:
    """Return the names that are read anywhere within a node."""
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def split_lines(text: str) -> list[str]:
    """Split as Python's parser counts lines (form feeds and the like are no line ends), ends kept."""
    return [line for line in _LINE_ENDS.split(text) if line]
