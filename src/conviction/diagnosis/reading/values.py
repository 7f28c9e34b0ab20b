"""What the reader takes a value of a program to be: a net, an optimizer, a loss, a tensor. None is unknown."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

Value = Any  # one of the classes below, or None

_NOISY = ("BatchNorm", "Dropout", "SyncBatchNorm", "LazyBatchNorm")
_NOISY_MODELS = ("resnet", "densenet", "googlenet", "inception", "mobilenet", "efficientnet", "alexnet", "vgg",
                 "convnext")  # fmt: skip


@dataclass(eq=False)
class Scope:
    """Names of a function's run or of the module, and those around it."""

    names: dict[str, Value] = field(default_factory=dict)
    around: Scope | None = None
    everywhere: set[str] = field(default_factory=set)  # declared global

    def find(self, name: str) -> Value:
        """Return what a name stands for."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.around
        return None

    def knows(self, name: str) -> bool:
        """Say whether a name was assigned here or around."""
        return name in self.names or (self.around is not None and self.around.knows(name))

    def put(self, name: str, value: Value) -> None:
        """Assign a name."""
        scope = self
        while name in self.everywhere and scope.around is not None:
            scope = scope.around
        scope.names[name] = value


@dataclass(frozen=True)
class Const:
    """A literal, with the node that wrote it."""

    value: object
    node: ast.AST


@dataclass(eq=False)
class Function:
    """A function of the program; `bound` is its `self`."""

    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    scope: Scope
    bound: Value = None


@dataclass(eq=False)
class Class:
    """A class of the program; `module` says that it derives from nn.Module."""

    node: ast.ClassDef
    scope: Scope
    bases: list[Value]
    module: bool
    attributes: dict[str, Value] = field(default_factory=dict)

    def method(self, name: str) -> ast.FunctionDef | None:
        """Return a method of the class or of one it derives from."""
        for item in self.node.body:
            if isinstance(item, ast.FunctionDef) and item.name == name:
                return item
        found = (base.method(name) for base in self.bases if isinstance(base, Class))
        return next((method for method in found if method is not None), None)


@dataclass(eq=False)
class Instance:
    """An object of one of the program's classes that is no module."""

    body: Class
    attributes: dict[str, Value] = field(default_factory=dict)


@dataclass(eq=False)
class Net:
    """A module: one of the program's classes, a container, a library's net or a single layer.

    `uses` tells what the program did with it: `forward`, `parameters`, `state`, `escape` (given to unknown code).
    """

    node: ast.AST
    kind: str
    body: Class | None = None
    parts: list[Net] = field(default_factory=list)
    attributes: dict[str, Value] = field(default_factory=dict)
    variables: list[str] = field(default_factory=list)
    mode: str | None = "train"
    mode_at: ast.AST | None = None
    loaded: bool = False
    frozen_at: ast.AST | None = None
    thawed: bool = False
    uses: set[str] = field(default_factory=set)
    answer: Tensor | None = None

    def related(self) -> set[Net]:
        """Return this net and all that it is made of."""
        found: set[Net] = set()
        waiting: list[Net] = [self]
        while waiting:
            net = waiting.pop()
            if net not in found:
                found.add(net)
                waiting.extend(net.parts)
        return found

    def noisy(self) -> bool:
        """Say whether it holds batch norm or dropout, which answer differently in train and eval mode."""
        library = [net.kind for net in self.related() if net.body is None]  # the program's own classes may be named so
        return any(kind.startswith(_NOISY) or kind.startswith(_NOISY_MODELS) for kind in library)


@dataclass(eq=False)
class Parameters:
    """Parameters of nets; `nets` is None where some of them are unknown."""

    nets: frozenset[Net] | None


@dataclass(eq=False)
class Optimizer:
    """An optimizer; `nets` is None where its parameters are unknown."""

    node: ast.Call | None
    kind: str
    nets: frozenset[Net] | None
    escaped: bool = False
    settings: dict[str, Value] = field(default_factory=dict)

    def owned(self) -> set[Net]:
        """Return its nets with their parts."""
        return {part for net in self.nets or () for part in net.related()}


@dataclass(eq=False)
class Scheduler:
    """A learning-rate schedule."""

    node: ast.Call
    kind: str


@dataclass(eq=False)
class Loss:
    """A loss module by its functional name; an empty kind is one that is not known."""

    node: ast.Call | None
    kind: str
    reduction: str = "mean"


@dataclass(eq=False)
class Loader:
    """A DataLoader; `shuffled` is None where it cannot be told."""

    node: ast.Call
    shuffled: bool | None
    data: Value = None
    workers: Value = None
    batch: Value = None


@dataclass(eq=False)
class Items:
    """A list, tuple or the values of a dictionary with the `keys` that are known."""

    items: list[Value]
    keys: list[object] = field(default_factory=list)

    def get(self, key: object) -> Value:
        """Return the value of a dictionary's key or of a place in a list."""
        if key in self.keys:
            return self.items[self.keys.index(key)]
        inside = isinstance(key, int) and not self.keys and -len(self.items) <= key < len(self.items)
        return self.items[key] if inside and isinstance(key, int) else None


@dataclass(eq=False)
class Arguments:
    """An argparse parser, or what it parsed: defaults by name (numbers only: a switch may be on)."""

    defaults: dict[str, Value] = field(default_factory=dict)


@dataclass(eq=False)
class Forward:
    """One call of a net; `judged` when its answer was compared or ranked, `trained` when a loss went back."""

    net: Net
    node: ast.Call
    mode: str | None
    mode_at: ast.AST | None
    gradients: bool | None
    loops: tuple[ast.AST, ...]
    inputs: tuple[Value, ...] = ()
    judged: bool = False
    trained: bool = False


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor: the last operation on it, the forward passes it came from, whether a graph leads back to them.

    `live` are the passes that gradients can still reach, `cut_at` where the graph was left; `through` the variables
    that it passed on its way.
    """

    op: str = ""
    op_at: ast.AST | None = None
    forwards: frozenset[Forward] = frozenset()
    live: frozenset[Forward] = frozenset()
    graph: bool | None = None
    cut_at: ast.AST | None = None
    loss: str = ""
    loss_at: ast.AST | None = None
    negated_at: ast.AST | None = None
    summed_at: ast.AST | None = None
    shifted_at: ast.AST | None = None
    through: frozenset[str] = frozenset()

    def cut(self, node: ast.AST) -> Tensor:
        """Return it without its graph."""
        return replace(self, live=frozenset(), graph=False, cut_at=self.cut_at or node, op="")

    def made_by(self, op: str, node: ast.AST) -> Tensor:
        """Return what an operation makes of it."""
        return replace(self, op=op, op_at=node, negated_at=None, summed_at=None, shifted_at=None)


def combine(values: Iterable[Value]) -> Tensor | None:
    """Return the tensor that an unknown operation makes of several values; None without any tensor."""
    tensors = [tensor for value in values for tensor in tensors_in(value)]
    if not tensors:
        return None
    graphs = [tensor.graph for tensor in tensors]
    graph = True if True in graphs else None if None in graphs else False
    return Tensor(
        forwards=frozenset().union(*(t.forwards for t in tensors)),
        live=frozenset().union(*(t.live for t in tensors)),
        graph=graph,
        cut_at=next((t.cut_at for t in tensors if t.cut_at), None) if graph is False else None,
        loss=next((t.loss for t in tensors if t.loss), ""),
        loss_at=next((t.loss_at for t in tensors if t.loss), None),
        through=frozenset().union(*(t.through for t in tensors)),
    )


def tensors_in(value: Value) -> list[Tensor]:
    """Return the tensors that a value is or holds."""
    if isinstance(value, Tensor):
        return [value]
    return [t for item in value.items for t in tensors_in(item)] if isinstance(value, Items) else []


def nets_in(value: Value) -> list[Net]:
    """Return the nets that a value is or holds."""
    if isinstance(value, Net):
        return [value]
    return [net for item in value.items for net in nets_in(item)] if isinstance(value, Items) else []


def parameters_in(value: Value) -> frozenset[Net] | None:
    """Return the nets whose parameters a value holds, None where some are unknown."""
    if isinstance(value, Parameters):
        return value.nets
    if isinstance(value, Items):
        found: set[Net] = set()
        for item in value.items:
            if isinstance(item, Const):
                continue  # lr and the like in a group's dictionary
            nets = parameters_in(item)
            if nets is None:
                return None
            found |= nets
        return frozenset(found) or None
    return None
