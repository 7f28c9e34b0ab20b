"""What the expressions of a program come to, as the reader follows them: calls are stepped into where they can be."""

from __future__ import annotations

import ast
from dataclasses import replace

from conviction.diagnosis.reading.constants import calculate, compare
from conviction.diagnosis.reading.state import State
from conviction.diagnosis.reading.syntax import Syntax, dotted, literal
from conviction.diagnosis.reading.values import (
    Arguments,
    Class,
    Const,
    Function,
    Instance,
    Items,
    Loader,
    Net,
    Optimizer,
    Parameters,
    Scope,
    Tensor,
    Value,
    combine,
)


class Expressions:
    """Follows expressions; statements are followed by the class built on it."""

    def __init__(self, program: Syntax) -> None:
        self.program = program
        self.state = State(program)
        self.running: list[ast.AST] = []

    def value(self, node: ast.AST | None) -> Value:
        """Return what an expression comes to, None for what is not known."""
        if node is None:
            return None
        self.state.visit()
        follow = getattr(self, f"_see_{type(node).__name__.lower()}", None)
        if follow is not None:
            return follow(node)
        return combine([self.value(child) for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)])

    def _see_constant(self, node: ast.Constant) -> Value:
        return Const(node.value, node)

    def _see_name(self, node: ast.Name) -> Value:
        return self.state.scope.find(node.id)

    def _see_lambda(self, node: ast.Lambda) -> Value:
        return Function(node, self.state.scope)

    def _see_tuple(self, node: ast.Tuple | ast.List | ast.Set) -> Value:
        return Items([self.value(item) for item in node.elts])

    _see_list = _see_set = _see_tuple

    def _see_dict(self, node: ast.Dict) -> Value:
        keys: list[object] = [key.value if isinstance(key, ast.Constant) else node for key in node.keys]
        return Items([self.value(item) for item in node.values], keys)

    def _see_starred(self, node: ast.Starred) -> Value:
        return self.value(node.value)

    def _see_namedexpr(self, node: ast.NamedExpr) -> Value:
        value = self.value(node.value)
        self.state.scope.put(node.target.id, value)
        return value

    def _see_ifexp(self, node: ast.IfExp) -> Value:
        truth = self.truth(node.test)
        if truth is not None:
            return self.value(node.body if truth else node.orelse)
        first, second = self.value(node.body), self.value(node.orelse)
        return first if isinstance(second, Const) or second is None else second

    def _see_attribute(self, node: ast.Attribute) -> Value:
        return self.attribute(self.value(node.value), node)

    def attribute(self, base: Value, node: ast.Attribute) -> Value:
        """Return what a known object keeps under a name."""
        if isinstance(base, Net):
            return self._part(base, node)
        if isinstance(base, Instance):
            method = base.body.method(node.attr)
            own = base.attributes.get(node.attr) or base.body.attributes.get(node.attr)
            return own or (Function(method, base.body.scope, base) if method else None)
        if isinstance(base, Arguments):
            return base.defaults.get(node.attr)
        if isinstance(base, Class):
            return base.attributes.get(node.attr)
        if isinstance(base, Items):
            return base.get(node.attr)
        if isinstance(base, Tensor):
            if node.attr == "data":
                return base.cut(node)
            return base if node.attr in {"T", "mT"} else None
        if isinstance(base, Parameters) and node.attr in {"data", "grad"}:
            return base
        return None

    def _part(self, net: Net, node: ast.Attribute) -> Value:
        if node.attr in net.attributes:
            return net.attributes[node.attr]
        method = net.body.method(node.attr) if net.body else None
        if method is not None:
            return Function(method, net.body.scope if net.body else self.state.scope, net)
        if net.body is None and node.attr not in {"training", "forward", "modules", "device"}:
            part = Net(node, "", loaded=net.loaded, mode=net.mode)  # a library net's stage: `net.fc`, `net[0]`
            net.parts.append(part)
            net.attributes[node.attr] = part
            return part
        return None

    def _see_subscript(self, node: ast.Subscript) -> Value:
        base = self.value(node.value)
        place = self.value(node.slice)
        if isinstance(base, Items):
            return base.get(place.value) if isinstance(place, Const) else None
        if isinstance(base, Tensor):
            return replace(base, op="data" if base.op == "data" else "", negated_at=None)
        if isinstance(base, Net):
            return cut_net(base, node)
        return base if isinstance(base, Parameters) else None

    def _see_unaryop(self, node: ast.UnaryOp) -> Value:
        value = self.value(node.operand)
        if isinstance(value, Tensor):
            direct = isinstance(node.op, ast.USub) and value.loss and value.op == "loss"
            return replace(value, negated_at=node if direct and not value.negated_at else None)
        if isinstance(value, Const) and isinstance(node.op, ast.USub) and isinstance(value.value, (int, float)):
            return Const(-value.value, value.node)
        return None

    def _see_binop(self, node: ast.BinOp) -> Value:
        left, right = self.value(node.left), self.value(node.right)
        if isinstance(left, Const) and isinstance(right, Const):
            return calculate(node, left, right)
        pair = [value for value in (left, right) if isinstance(value, Tensor)]
        if isinstance(left, (Items, Parameters)) and isinstance(right, (Items, Parameters)):
            return Items([left, right])
        if len(pair) != 1:
            return combine(pair) if pair else None
        other = right if isinstance(left, Tensor) else left
        number = other.value if isinstance(other, Const) else None
        told = pair[0]
        if isinstance(node.op, (ast.Mult, ast.Div)):
            turned = number == -1 and told.op == "loss" and told.loss
            summed = None if isinstance(node.op, ast.Div) or not isinstance(number, (int, float)) else told.summed_at
            return replace(
                told, op="loss" if turned else "", summed_at=summed, negated_at=node if turned else told.negated_at
            )
        shifted = node if number in (1, -1) and told.op == "data" and not told.forwards else None
        return replace(told, op="" if told.op != "data" else "data", negated_at=None, shifted_at=shifted)

    def _see_compare(self, node: ast.Compare) -> Value:
        values = [self.value(child) for child in (node.left, *node.comparators)]
        for value in values:
            self.state.judge(value)
        told = combine(values)
        return told.cut(node) if told else None

    def _see_listcomp(self, node: ast.ListComp | ast.GeneratorExp | ast.SetComp) -> Value:
        outer = self.state.scope
        self.state.scope = Scope(around=outer)
        try:
            for generator in node.generators:
                self.bind(generator.target, element_of(self.value(generator.iter)))
                for test in generator.ifs:
                    self.value(test)
            value = self.value(node.elt)
        finally:
            self.state.scope = outer
        return value if isinstance(value, Parameters) else Items([value])

    _see_generatorexp = _see_setcomp = _see_listcomp

    def bind(self, target: ast.AST, value: Value) -> None:
        """Assign a value to a name or to several."""
        if isinstance(target, ast.Name):
            self.state.scope.put(target.id, value)
        elif isinstance(target, (ast.Tuple, ast.List)):
            known = isinstance(value, Items) and len(value.items) == len(target.elts)
            for number, item in enumerate(target.elts):
                part = value.items[number] if known else element_of(value)
                if isinstance(part, Tensor) and not known:  # images and labels of a batch are not the same tensor
                    part = replace(part, through=part.through | {dotted(item)})
                self.bind(item, part)
        elif isinstance(target, ast.Starred):
            self.bind(target.value, value)

    def truth(self, test: ast.AST) -> bool | None:
        """Return whether a condition holds, where constants of the program decide it."""
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            inner = self.truth(test.operand)
            return None if inner is None else not inner
        if dotted(test) == "__name__":
            return None
        if isinstance(test, ast.BoolOp):
            parts, decisive = [self.truth(part) for part in test.values], isinstance(test.op, ast.Or)
            return decisive if decisive in parts else None if None in parts else not decisive
        if isinstance(test, ast.Compare) and len(test.ops) == 1:
            left, right = self.value(test.left), self.value(test.comparators[0])
            return compare(test.ops[0], left, right)
        value = self.value(test)
        if isinstance(value, Const):
            return bool(value.value)
        return True if isinstance(value, (Net, Optimizer, Loader)) else None


def cut_net(net: Net, node: ast.Subscript) -> Net:
    """Return a slice of a container as a net of its own, anything else as the net: `net[-1]`."""
    whole = isinstance(node.slice, ast.Slice) and node.slice.lower is None and net.kind == "Sequential"
    upper = literal(node.slice.upper) if whole and isinstance(node.slice, ast.Slice) else None
    return Net(node, net.kind, parts=net.parts[:upper], loaded=net.loaded) if isinstance(upper, int) else net


def element_of(value: Value) -> Value:
    """Return what a loop over a value gives each time."""
    if isinstance(value, Loader):
        return Tensor(op="data", graph=False)
    if isinstance(value, (Tensor, Parameters)):
        return value
    if isinstance(value, Items):
        kinds = {type(item) for item in value.items}
        return value.items[0] if len(kinds) == 1 else combine(value.items)
    return None
