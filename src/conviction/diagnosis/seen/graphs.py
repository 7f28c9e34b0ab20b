"""Autograd's graphs, read and never changed: which parameters and which outputs of nets a loss was computed from.

Each output of a net gets a `Token` into the metadata of the graph's node that made it. A token lives as long as its
node: whether it is still there tells whether somebody keeps the graph.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

_MOST_NODES = 20_000
# What autograd calls the operations that move numbers and change none.
_MOVES = {"view", "unsafeview", "reshapealias", "squeeze", "unsqueeze", "clone", "alias", "tocopy"}


@dataclass(eq=False)
class Token:
    """Marks a node: `entry` is the number of the forward pass, `path` where in the net's output the tensor was."""

    entry: int
    path: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Between:
    """An operation between a net's output and its loss, by autograd's name; `dim` where it has one."""

    name: str
    dim: int | None = None


class Marks:
    """The tokens of one observer, which do not get in the way of another's."""

    def __init__(self) -> None:
        self._key = f"conviction {id(self)}"

    def put(self, tensor: Tensor, token: Token) -> None:
        """Attach a token to the node that made a tensor; one that is there already stays."""
        if tensor.grad_fn is not None:
            node: Any = tensor.grad_fn
            node.metadata.setdefault(self._key, token)

    def token_of(self, node: Any) -> Token | None:
        """Return a node's token."""
        return node.metadata.get(self._key)

    def sources(self, tensors: list[Tensor]) -> tuple[list[Tensor], set[int]]:
        """Return the leaf tensors that gradients of `tensors` reach, and the numbers of the forward passes between."""
        leaves: list[Tensor] = []
        entries: set[int] = set()
        for tensor in tensors:
            if tensor.grad_fn is None:
                leaves += [tensor] if tensor.requires_grad else []
                continue
            for node in _nodes(tensor.grad_fn):
                if type(node).__name__ == "AccumulateGrad":
                    leaves.append(node.variable)
                elif (token := self.token_of(node)) is not None:
                    entries.add(token.entry)
        return leaves, entries

    def path_back(self, tensor: Tensor, most: int = 12) -> tuple[Token | None, tuple[Between, ...]]:
        """Follow a tensor back to the output of a net: its token, and the operations between, the first one first.

        Operations that move numbers are left out. No token where the way forks before any output of a net.
        """
        node, between = tensor.grad_fn, []
        for _ in range(most):
            if node is None:
                break
            if (token := self.token_of(node)) is not None:
                return token, tuple(reversed(between))
            name = name_of(node)
            if name not in _MOVES:
                between.append(Between(name, _dim_of(node)))
            ways = [following for following, _ in node.next_functions if following is not None]
            node = ways[0] if len(ways) == 1 else None
        return None, tuple(reversed(between))


def _nodes(root: Any) -> Iterator[Any]:
    """Give every node that a tensor was computed by, the last one first."""
    waiting, seen = [root], set()
    kept = []  # a node that nobody holds would be made anew, under another id, when it is met again
    while waiting and len(seen) < _MOST_NODES:
        node = waiting.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        kept.append(node)
        yield node
        waiting += [following for following, _ in node.next_functions]


def name_of(node: Any) -> str:
    """Return the operation of a node in autograd's words (`addmm`, `softmax`)."""
    return re.sub(r"Backward\d*$", "", node.name()).lower()


def made_by(tensor: Tensor) -> str:
    """Name the operation that made a tensor; views and copies are looked through."""
    node = tensor.grad_fn
    while node is not None:
        name = name_of(node)
        if name not in _MOVES or not node.next_functions:
            return name
        node = node.next_functions[0][0]
    return ""


def _dim_of(node: Any) -> int | None:
    dim = getattr(node, "_saved_dim", None)
    if not isinstance(dim, int):
        return None
    return dim - 2**64 if dim > 2**63 else dim  # autograd tells negative dimensions as unsigned numbers
