"""How the reader follows assignments: variables, attributes of nets, frozen parameters, losses that are added up."""

from __future__ import annotations

import ast
from dataclasses import replace

from conviction.diagnosis.reading.calls import Calls
from conviction.diagnosis.reading.syntax import Syntax, dotted
from conviction.diagnosis.reading.values import (
    Arguments,
    Class,
    Const,
    Instance,
    Items,
    Net,
    Parameters,
    Tensor,
    Value,
    combine,
)


class Assignments(Calls):
    """Follows assignments."""

    def __init__(self, program: Syntax) -> None:
        super().__init__(program)
        self.assigned: dict[str, tuple[ast.AST, ...]] = {}  # the loops around a variable's last assignment

    def _do_assign(self, node: ast.Assign) -> None:
        value = self.value(node.value)
        for target in node.targets:
            self.assign(target, value, node)

    def _do_annassign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.assign(node.target, self.value(node.value), node)

    def assign(self, target: ast.AST, value: Value, node: ast.stmt) -> None:
        """Assign, and tell what kinds of assignment mean."""
        key = dotted(target)
        if isinstance(value, Net) and key:
            value.variables.append(key)
        if isinstance(value, Tensor):
            kept = key and key in value.through and value.loss and value.graph
            if kept:  # total = total + loss
                self._tell_kept(key, node, value)
            value = replace(value, through=value.through | {key}) if key else value
        if key and not (
            isinstance(node, ast.Assign) and isinstance(value, Tensor) and value.loss and key in self.assigned
        ):
            self.assigned[key] = self.state.loops
        if isinstance(target, (ast.Tuple, ast.List)):
            self.bind(target, value)
            for item in target.elts:
                self.assigned[dotted(item)] = self.state.loops
            known = value.items if isinstance(value, Items) else []
            for item, part in zip(target.elts, known, strict=False):
                if isinstance(part, Net):
                    part.variables.append(dotted(item))
        elif isinstance(target, ast.Attribute):
            self._set_attribute(target, value, node)
        elif isinstance(target, ast.Subscript):
            self._set_item(target, value)
        else:
            self.bind(target, value)

    def _set_attribute(self, target: ast.Attribute, value: Value, node: ast.stmt) -> None:
        base = self.value(target.value)
        if isinstance(base, (Net, Instance, Class)):
            base.attributes[target.attr] = value
        if isinstance(base, Arguments):
            base.defaults[target.attr] = value
        if isinstance(base, Net) and isinstance(value, Net):
            base.parts.append(value)
            value.uses.add("part")
            base.answer = None
        if isinstance(base, Parameters):
            if target.attr == "requires_grad":
                for net in base.nets or ():
                    off = value.value is False if isinstance(value, Const) else _selects(node)
                    net.frozen_at, net.thawed = (node, net.thawed) if off else (net.frozen_at, True)
            else:
                self.state.tell("update" if target.attr == "data" else "zero", node, base)

    def _set_item(self, target: ast.Subscript, value: Value) -> None:
        base = self.value(target.value)
        if isinstance(base, Net) and isinstance(value, Net):
            base.parts.append(value)
            base.answer = None
        elif isinstance(base, Items):
            key = self.value(target.slice)
            if isinstance(key, Const) and key.value in base.keys:
                base.items[base.keys.index(key.value)] = value
                return
            if isinstance(key, Const) and len(base.keys) == len(base.items):
                base.keys.append(key.value)
            base.items.append(value)
        else:
            self.state.escape(value)

    def _do_augassign(self, node: ast.AugAssign) -> None:
        value = self.value(node.value)
        key = dotted(node.target) or ast.unparse(node.target)
        before = self.value(node.target)
        if isinstance(before, Parameters):
            self.state.tell("update", node, before)
            return
        if isinstance(value, Tensor) and value.loss and value.graph and isinstance(node.op, ast.Add):
            self._tell_kept(key, node, value)
        told = combine([before, value])
        scaled = isinstance(node.op, (ast.Mult, ast.Div)) and isinstance(before, Tensor)
        if scaled:
            told = replace(before, op="")
        if told is not None:
            self.bind(node.target, replace(told, through=told.through | {key}))
        elif isinstance(before, Items) and isinstance(value, Items):
            before.items += value.items[:32]
        else:
            self.bind(node.target, None)

    def _tell_kept(self, key: str, node: ast.stmt, value: Tensor) -> None:
        """A loss is added to something from outside the innermost loop, graph and all."""
        if self.state.loops and self.assigned.get(key, ()) != self.state.loops:
            self.state.tell("kept", node, value, key)


def _selects(node: ast.stmt) -> bool:
    """Say whether a condition on the name or place decides which parameters train: `p.requires_grad = "fc" in name`."""
    return isinstance(getattr(node, "value", None), (ast.Call, ast.Compare, ast.BoolOp))
