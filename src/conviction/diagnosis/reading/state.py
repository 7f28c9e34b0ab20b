"""What a walk through a program has come to: names, loops, gradients on or off, and the events on the way."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import NamedTuple

from conviction.diagnosis.reading.library_words import LOOKING
from conviction.diagnosis.reading.syntax import Syntax
from conviction.diagnosis.reading.values import (
    Function,
    Instance,
    Items,
    Net,
    Optimizer,
    Parameters,
    Scope,
    Tensor,
    Value,
)

# Enough for programs of several thousand lines, and half a second at most.
_MOST_VISITS = 60_000


class Spent(Exception):  # noqa: N818 - the walk has gone far enough; nothing is wrong
    """The walk was given up: the program is too long to follow."""


class Event(NamedTuple):
    """Something that a training program does: its kind, the expression, what it is done to, the loops around it."""

    kind: str
    node: ast.AST
    value: Value
    loops: tuple[ast.AST, ...]
    more: Value = None


class Call(NamedTuple):
    """A call with its arguments known as far as they can be."""

    node: ast.Call
    origin: str  # dotted, imports spelled out
    name: str  # its last part
    args: list[Value]
    options: dict[str, Value]

    @property
    def given(self) -> list[Value]:
        """Return all arguments."""
        return [*self.args, *self.options.values()]

    def argument(self, position: int, *names: str) -> Value:
        """Return an argument by name, else by position."""
        found = [self.options[name] for name in names if name in self.options]
        return found[0] if found else self.args[position] if position < len(self.args) else None


@dataclass(eq=False)
class State:
    """Where the walk is and what it has met."""

    program: Syntax
    events: list[Event] = field(default_factory=list)
    scope: Scope = field(default_factory=Scope)
    loops: tuple[ast.AST, ...] = ()
    gradients: bool | None = True
    gradients_at: ast.AST | None = None
    inside_net: int = 0
    nets: list[Net] = field(default_factory=list)
    optimizers: list[Optimizer] = field(default_factory=list)
    called: set[ast.AST] = field(default_factory=set)  # functions that were followed
    complete: bool = True
    visits: int = 0

    def visit(self) -> None:
        """Count one node; raises Spent when there were too many."""
        self.visits += 1
        if self.visits > _MOST_VISITS:
            raise Spent

    def tell(self, kind: str, node: ast.AST, value: Value = None, more: Value = None) -> None:
        """Record an event."""
        self.events.append(Event(kind, node, value, self.loops, more))

    def of(self, *kinds: str) -> list[Event]:
        """Return the events of some kinds, in the order in which they happened."""
        return [event for event in self.events if event.kind in kinds]

    def add_net(self, net: Net) -> Net:
        """Take up a new net."""
        self.nets.append(net)
        self.tell("net", net.node, net)
        return net

    def escape(self, value: Value, depth: int = 0) -> None:
        """Note that unknown code got hold of a value: anything may be done to it there."""
        if depth > 3:
            return
        if isinstance(value, Net):
            value.uses.add("escape")
        elif isinstance(value, Optimizer):
            value.escaped = True
        elif isinstance(value, Parameters):
            for net in value.nets or ():
                net.uses.add("parameters")
        elif isinstance(value, Items):
            for item in value.items:
                self.escape(item, depth + 1)
        elif isinstance(value, Instance):
            for item in value.attributes.values():
                self.escape(item, depth + 1)
        elif isinstance(value, Function) and value.bound is not None:
            self.escape(value.bound, depth + 1)

    def escape_all(self, call: Call) -> None:
        """Note that a call to unknown code got its arguments."""
        if call.name not in LOOKING:
            for value in call.given:
                self.escape(value)

    def judge(self, value: Value) -> None:
        """Note that an answer was compared or ranked, as in an accuracy."""
        for tensor in [value] if isinstance(value, Tensor) else []:
            for forward in tensor.forwards:
                forward.judged = True
