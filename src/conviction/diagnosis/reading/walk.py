"""A walk through a program in the order in which it would run, without running it: what is made, called and changed.

Loops are walked twice (what an iteration leaves behind meets the next one), branches one after the other unless a
constant decides, functions of the program are stepped into with the arguments of each call. What stays unknown is None
and nothing is concluded from it.
"""

from __future__ import annotations

import ast
from dataclasses import replace

from conviction.diagnosis.reading.assignments import Assignments
from conviction.diagnosis.reading.expressions import element_of
from conviction.diagnosis.reading.library_words import EXITS, LOSS_NAMES, NET_NAMES, OPTIMIZER_NAMES
from conviction.diagnosis.reading.state import Call, Spent, State
from conviction.diagnosis.reading.syntax import Syntax, dotted, last_name, parameters_of
from conviction.diagnosis.reading.values import (
    Class,
    Function,
    Instance,
    Items,
    Loss,
    Net,
    Optimizer,
    Scope,
    Tensor,
    Value,
)

_MODULE_BASES = frozenset({"Module", "LightningModule", "Sequential", "ModuleList"})
_MOST_ITEMS = 4


def walk_program(program: Syntax) -> State:
    """Walk through a program; functions that it never calls are walked last, if nothing was trained before."""
    walk = Walk(program)
    try:
        walk.statements(program.tree.body)
        if not walk.state.of("backward", "step"):
            walk.walk_uncalled()
    except (Spent, RecursionError):
        walk.state.complete = False
    return walk.state


class Walk(Assignments):
    """Follows statements."""

    def __init__(self, program: Syntax) -> None:
        super().__init__(program)
        self.returned: list[Value] = []

    def run_body(self, function: Function, scope: Scope) -> Value:
        """Follow a function's statements and return what it returns last."""
        if isinstance(function.node, ast.Lambda):
            return self.value(function.node.body)
        outer, self.returned = self.returned, []
        self.statements(function.node.body)
        known = [value for value in self.returned if value is not None]
        self.returned = outer
        return known[-1] if known else None

    def walk_uncalled(self) -> None:
        """Walk the functions that nothing calls, with what their parameters are usually called."""
        for node in self.program.nodes:
            if (
                isinstance(node, ast.FunctionDef)
                and node not in self.state.called
                and self.program.function(node) is self.program.tree
            ):
                owner = self.program.parents[node]
                body = self.state.scope.find(owner.name) if isinstance(owner, ast.ClassDef) else None
                bound = self._stand_in(body) if isinstance(body, Class) else None
                if bound is None and isinstance(owner, ast.ClassDef):
                    continue
                names = parameters_of(node)[1 if bound is not None else 0 :]
                known = {name: value for name in names if (value := guess(name)) is not None}
                call = Call(ast.Call(ast.Name(node.name), [], []), node.name, node.name, [], known)
                inside, self.state.inside_net = self.state.inside_net, int(node.name == "forward")
                self.run(Function(node, self.state.scope, bound), call)
                self.state.inside_net = inside

    def _stand_in(self, body: Class) -> Value:
        return Net(body.node, body.node.name, body, mode=None) if body.module else Instance(body)

    def statements(self, body: list[ast.stmt]) -> None:
        """Follow statements one after the other."""
        for statement in body:
            self.state.visit()
            follow = getattr(self, f"_do_{type(statement).__name__.lower()}", None)
            if follow is not None:
                follow(statement)
            else:
                for child in ast.iter_child_nodes(statement):
                    if isinstance(child, ast.expr):
                        self.value(child)

    def _do_functiondef(self, node: ast.FunctionDef) -> None:
        self.state.scope.put(node.name, Function(node, self.state.scope))

    _do_asyncfunctiondef = _do_functiondef

    def _do_classdef(self, node: ast.ClassDef) -> None:
        bases = [self.value(base) for base in node.bases]
        module = any(isinstance(base, Class) and base.module for base in bases)
        module = module or any(last_name(base) in _MODULE_BASES for base in node.bases)
        made = Class(node, self.state.scope, bases, module)
        self.state.scope.put(node.name, made)
        for item in node.body:
            if isinstance(item, (ast.Assign, ast.AnnAssign)) and item.value is not None:
                target = item.targets[0] if isinstance(item, ast.Assign) else item.target
                made.attributes[dotted(target)] = self.value(item.value)

    def _do_return(self, node: ast.Return) -> None:
        value = self.value(node.value)
        self.returned.append(value)
        if len(self.running) == 1 and not self.state.called:
            self.state.escape(value)

    def _do_global(self, node: ast.Global) -> None:
        self.state.scope.everywhere |= set(node.names)

    def _do_expr(self, node: ast.Expr) -> None:
        call = node.value
        if isinstance(call, ast.Attribute):
            base = self.value(call.value)
            self.state.tell("uncalled", node, base, call.attr)
            return
        if (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and call.func.attr == "append"
            and call.args
        ):
            value = self.value(call.args[0])
            answer = isinstance(value, Tensor) and bool(value.live) and not self.state.inside_net and bool(call.args)
            if isinstance(value, Tensor) and (value.loss or answer) and value.graph:
                self._tell_kept(dotted(call.func.value), node, value)
                value = replace(value, through=value.through | {dotted(call.func.value)})
                base = self.value(call.func.value)
                if isinstance(base, Items):
                    base.items.append(value)
                return
        self.value(call)

    def _do_if(self, node: ast.If) -> None:
        truth = True if _is_main(node.test) else self.truth(node.test)
        if truth is not None:
            self.statements(node.body if truth else node.orelse)
            return
        if any(isinstance(statement, (ast.Break, ast.Return)) for statement in node.body[-1:]):
            bounds = [self.value(test.comparators[-1]) for test in _comparisons(node.test)]
            self.state.tell("leave", node, None, bounds)
        before = self._modes()
        self.statements(node.body)
        after = self._modes()
        if _leaves(node.body):  # what was done here is over: `if args.test: evaluate(net); return`
            self._set_modes(before)
            self.statements(node.orelse)
        elif node.orelse:
            self._set_modes(before)
            self.statements(node.orelse)
            for net, mode in self._modes().items():
                if net in after and after[net][0] != mode[0] and not _leaves(node.orelse):
                    net.mode = None

    def _modes(self) -> dict[Net, tuple[str | None, ast.AST | None]]:
        return {net: (net.mode, net.mode_at) for net in self.state.nets}

    def _set_modes(self, modes: dict[Net, tuple[str | None, ast.AST | None]]) -> None:
        for net, (mode, place) in modes.items():
            net.mode, net.mode_at = mode, place

    def _do_for(self, node: ast.For) -> None:
        source = self.value(node.iter)
        self.state.tell("iterate", node, source)
        self._tell_turns(node)
        few = isinstance(source, Items) and 1 < len(source.items) <= _MOST_ITEMS and not isinstance(node.iter, ast.Call)
        turns = source.items if few else [_turn_of(node.iter, source)] * 2
        if isinstance(source, Items) and not few:
            self.state.escape(source)
        for turn in turns:
            self.state.loops = (*self.state.loops, node)
            self.bind(node.target, turn)
            for name in ast.walk(node.target):
                self.assigned[dotted(name)] = self.state.loops
            self.statements(node.body)
            self.state.loops = self.state.loops[:-1]
        self.statements(node.orelse)

    _do_asyncfor = _do_for

    def _tell_turns(self, node: ast.For) -> None:
        """Tell how often a loop turns, where a number of the program says it: `for epoch in tqdm(range(epochs))`."""
        for call in (n for n in ast.walk(node.iter) if isinstance(n, ast.Call)):
            name = last_name(call.func)
            if name in {"range", "trange", "islice"} and call.args:
                self.state.tell("turns", node, self.value(call.args[0 if len(call.args) == 1 else 1]), name)
                if len(call.args) > 2:
                    self.state.tell("turns", node, self.value(call.args[2]), "step")

    def _do_while(self, node: ast.While) -> None:
        if isinstance(node.test, ast.Compare) and len(node.test.ops) == 1:
            self.state.tell("turns", node, self.value(node.test.comparators[0]), "while")
        for _ in range(2):
            self.state.loops = (*self.state.loops, node)
            self.value(node.test)
            self.statements(node.body)
            self.state.loops = self.state.loops[:-1]

    def _do_with(self, node: ast.With) -> None:
        before = self.state.gradients, self.state.gradients_at
        for item in node.items:
            name = last_name(item.context_expr.func) if isinstance(item.context_expr, ast.Call) else ""
            value = self.value(item.context_expr)
            if name in {"no_grad", "inference_mode"}:
                self.state.gradients, self.state.gradients_at = False, node
            elif name == "enable_grad":
                self.state.gradients = True
            elif name == "set_grad_enabled":
                self.state.gradients_at = node
            if item.optional_vars is not None:
                self.bind(item.optional_vars, value)
        self.statements(node.body)
        self.state.gradients, self.state.gradients_at = before

    _do_asyncwith = _do_with

    def _do_try(self, node: ast.Try) -> None:
        self.statements([*node.body, *node.orelse])
        scope = dict(self.state.scope.names)
        for handler in node.handlers:
            self.statements(handler.body)
        self.state.scope.names |= {name: value for name, value in scope.items() if value is not None}
        self.statements(node.finalbody)


def guess(name: str) -> Value:
    """Return what a parameter of this name usually is, for functions that nothing calls."""
    if name in NET_NAMES:
        return Net(ast.Pass(lineno=1), "", mode=None)
    if name in OPTIMIZER_NAMES:
        return Optimizer(None, "", None)
    return Loss(None, "") if name in LOSS_NAMES else None


def _turn_of(source: ast.AST, value: Value) -> Value:
    """Return what one turn of a loop binds; `enumerate` counts before it gives."""
    if isinstance(source, ast.Call) and last_name(source.func) == "enumerate":
        inner = element_of(value) if value is not None else None
        return Items([None, inner])
    return element_of(value)


def _comparisons(test: ast.expr) -> list[ast.Compare]:
    """Return the comparisons of which a condition is made."""
    parts = test.values if isinstance(test, ast.BoolOp) else [test]
    return [part for part in parts if isinstance(part, ast.Compare)]


def _is_main(test: ast.AST) -> bool:
    return isinstance(test, ast.Compare) and dotted(test.left) == "__name__"


def _leaves(body: list[ast.stmt]) -> bool:
    """Say whether a block ends the function or the program."""
    last = body[-1] if body else None
    if isinstance(last, (ast.Return, ast.Raise)):
        return True
    return isinstance(last, ast.Expr) and isinstance(last.value, ast.Call) and last_name(last.value.func) in EXITS
