"""How the reader follows calls: into the program's functions, classes and nets, and around everything else."""

from __future__ import annotations

import ast
from dataclasses import replace

from conviction.diagnosis.reading.expressions import Expressions
from conviction.diagnosis.reading.library import answer_library, apply_loss
from conviction.diagnosis.reading.library_words import LAYER_OPS, PASSING_LAYERS
from conviction.diagnosis.reading.methods import answer_method
from conviction.diagnosis.reading.state import Call
from conviction.diagnosis.reading.syntax import keyword, last_name, literal
from conviction.diagnosis.reading.values import (
    Class,
    Forward,
    Function,
    Instance,
    Items,
    Loss,
    Net,
    Optimizer,
    Scope,
    Tensor,
    Value,
    combine,
)

_DEEPEST = 9
_UNTOLD = object()  # a callee is of no kind that is known


class Calls(Expressions):
    """Follows calls."""

    def run_body(self, function: Function, scope: Scope) -> Value:
        """Follow a function's statements and return what it returns."""
        raise NotImplementedError

    def _see_call(self, node: ast.Call) -> Value:
        method = node.func if isinstance(node.func, ast.Attribute) else None
        base = self.value(method.value) if method else None
        callee = self._bound(base, method) if method else self.value(node.func)
        call = Call(
            node, self.program.origin(node.func), last_name(node.func), self._arguments(node),
            {k.arg: self.value(k.value) for k in node.keywords if k.arg},
        )  # fmt: skip
        for extra in (k.value for k in node.keywords if k.arg is None):
            self.state.escape(self.value(extra))
        answer = self._answer_own(callee, call)
        if answer is not _UNTOLD:
            return answer
        if call.name == "forward" and isinstance(base, Net):
            return self._answer_own(base, call)
        if call.name == "step" and isinstance(base, Optimizer):
            for closure in [value for value in call.given if isinstance(value, Function)]:
                self.run(closure, call._replace(args=[], options={}))
        if base is not None:
            return answer_method(self.state, base, call)
        if isinstance(node.func, ast.Attribute):
            return answer_method(self.state, None, call)
        return answer_library(self.state, call)

    def _arguments(self, node: ast.Call) -> list[Value]:
        """Return the positional arguments; a starred list of known items is spread out."""
        found: list[Value] = []
        for argument in node.args:
            value = self.value(argument)
            spread = isinstance(argument, ast.Starred) and isinstance(value, Items)
            found += value.items if spread else [value]
        return found

    def _bound(self, base: Value, function: ast.Attribute) -> Value:
        """Return a method of the program's own object, or what it keeps under that name."""
        if isinstance(base, Instance):
            return self.attribute(base, function)
        if isinstance(base, Net):
            found = base.attributes.get(function.attr)
            method = base.body.method(function.attr) if base.body else None
            if found is None and method is not None and base.body is not None and function.attr != "forward":
                return Function(method, base.body.scope, base)
            return found
        return None

    def _answer_own(self, callee: Value, call: Call) -> Value:
        """Answer a call of something that the program itself made."""
        if isinstance(callee, Function):
            return self.run(callee, call)
        if isinstance(callee, Class):
            return self.make(callee, call)
        if isinstance(callee, Net):
            return self.forward(callee, call)
        if isinstance(callee, Loss):
            return apply_loss(self.state, call, callee)
        return _UNTOLD

    def run(self, function: Function, call: Call) -> Value:
        """Step into a function of the program; what is too deep or calls itself is left alone."""
        if function.node in self.running or len(self.running) >= _DEEPEST:
            self.state.escape_all(call)
            return combine(call.given)
        self.state.called.add(function.node)
        scope = Scope(around=function.scope)
        self._fill(function, call, scope)
        outer, self.state.scope = self.state.scope, scope
        gradients = self.state.gradients, self.state.gradients_at
        for decorator in getattr(function.node, "decorator_list", ()):
            name = last_name(decorator.func if isinstance(decorator, ast.Call) else decorator)
            if name in {"no_grad", "inference_mode"}:
                self.state.gradients, self.state.gradients_at = False, decorator
        self.running.append(function.node)
        try:
            return self.run_body(function, scope)
        finally:
            self.running.pop()
            self.state.scope = outer
            if getattr(function.node, "decorator_list", ()):
                self.state.gradients, self.state.gradients_at = gradients

    def _fill(self, function: Function, call: Call, scope: Scope) -> None:
        """Bind a function's parameters to the arguments, else to their defaults."""
        arguments = function.node.args
        names = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
        given = ([function.bound] if function.bound is not None else []) + call.args
        for name, default in zip(reversed(names), reversed(arguments.defaults), strict=False):
            scope.names[name] = self.value(default)
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=False):
            scope.names[argument.arg] = self.value(default)
        scope.names |= self._options_of(function)
        scope.names |= dict.fromkeys([n for n in names if n not in scope.names])
        scope.names |= dict(zip(names, given, strict=False))
        scope.names |= {name: value for name, value in call.options.items() if name is not None}
        if arguments.vararg:
            scope.names[arguments.vararg.arg] = Items(given[len(names) :])

    def _options_of(self, function: Function) -> dict[str, Value]:
        """Return the defaults that decorators give: `@click.option("--lr", default=0.1)`."""
        found: dict[str, Value] = {}
        for decorator in getattr(function.node, "decorator_list", ()):
            if isinstance(decorator, ast.Call) and last_name(decorator.func) == "option":
                words = [literal(argument) for argument in decorator.args]
                name = next((w for w in words if isinstance(w, str) and w.startswith("--")), "")
                default = keyword(decorator, "default")
                if name and default is not None:
                    found[name.lstrip("-").replace("-", "_")] = self.value(default)
        return found

    def make(self, body: Class, call: Call) -> Value:
        """Make an object of one of the program's classes and follow its `__init__`."""
        made: Value = Net(call.node, body.node.name, body) if body.module else Instance(body)
        if isinstance(made, Net):
            self.state.add_net(made)
        start = body.method("__init__")
        if start is not None:
            self.run(Function(start, body.scope, made), call)
        elif isinstance(made, Instance):
            made.attributes |= call.options  # a dataclass
        elif isinstance(made, Net):
            made.parts += [value for value in call.given if isinstance(value, Net)]
        self.state.tell("made", call.node, made, body)
        return made

    def forward(self, net: Net, call: Call) -> Value:
        """Follow a net's forward pass and record it, unless it is a part of another's."""
        if net.answer is None:
            net.answer = Tensor()  # what a net that calls itself finds
            net.answer = self._through(net, call)
        net.uses.add("forward")
        told = net.answer or Tensor()
        before = combine(call.given)
        if self.state.inside_net:
            passing = not told.op and net.body is None and before is not None
            return replace(before, op="", op_at=None) if passing and before else told
        on = self.state.gradients
        record = Forward(net, call.node, net.mode, net.mode_at, on, self.state.loops, tuple(call.given))
        self.state.tell("forward", call.node, record)
        live = frozenset({record}) if on is not False else frozenset()
        return Tensor(
            told.op, told.op_at, frozenset({record}) | (before.forwards if before else frozenset()),
            live | (before.live if before and on is not False else frozenset()),
            on, self.state.gradients_at if on is False else None,
            through=before.through if before else frozenset(),
        )  # fmt: skip

    def _through(self, net: Net, call: Call) -> Tensor:
        """Return what comes out of a net, as far as its last operation goes."""
        self.state.inside_net += 1
        try:
            method = net.body.method("forward") if net.body else None
            if method is not None and net.body is not None:
                found = self.run(Function(method, net.body.scope, net), call)
                return found if isinstance(found, Tensor) else Tensor()
            if net.kind in {"Sequential", "DataParallel"} or (net.body and net.parts):
                return self._last(net, call)
            return Tensor(LAYER_OPS.get(net.kind, ""), net.node)
        finally:
            self.state.inside_net -= 1

    def _last(self, net: Net, call: Call) -> Tensor:
        for part in reversed(net.parts):
            if part.kind not in PASSING_LAYERS:
                told = self._through(part, call) if part.answer is None else part.answer
                return told if isinstance(told, Tensor) else Tensor()
        return Tensor()
