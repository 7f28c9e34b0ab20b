"""Forward passes of nets: each waits until a backward pass makes it one of training, else it was one of testing."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from conviction.diagnosis.seen.graphs import Marks, Token
from conviction.diagnosis.seen.loaders import LoaderRecord
from conviction.diagnosis.seen.nets import NetRecord
from conviction.findings.observation import Place

_MOST_WAITING = 64
# Backward passes of one and the same line after which a graph that is still there is said to be kept.
_KEPT = 4


@dataclass(eq=False)
class Forward:
    """One pass through one net. `inputs` is the batch, if it is one tensor; a copy where experiments need it."""

    number: int
    record: NetRecord
    training: bool
    graded: bool
    at: Place | None
    inputs: Tensor | None
    copied: bool
    source: LoaderRecord | None
    tokens: list[Any] = field(default_factory=list)  # weak
    outputs: list[tuple[Any, tuple[Any, ...]]] = field(default_factory=list)  # weak tensors and where they were
    targets: Tensor | None = None
    beside: int = 0  # passes before it whose graphs were still there

    @property
    def samples(self) -> int | None:
        """Images in its batch."""
        return len(self.inputs) if self.inputs is not None and self.inputs.ndim else None

    @property
    def alive(self) -> bool:
        """Whether its graph is still there, so that a backward pass may come."""
        return any(token() is not None for token in self.tokens)


@dataclass
class ForwardsSeen:
    """The passes that wait, and the graphs that were seen to outlive their steps."""

    marks: Marks
    waiting: list[Forward] = field(default_factory=list)
    graphs_kept: int = 0
    test_graphs_kept: int = 0  # most that were there at once, of passes that no backward came to
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _spent: dict[Place | None, list[Any]] = field(default_factory=dict)

    def next_number(self) -> int:
        """Return the number of a new pass."""
        return next(self._numbers)

    def end(self, forward: Forward, output: Any) -> bool:
        """Note a pass's output; False where gradients cannot come back through it."""
        forward.tokens.clear()
        forward.outputs.clear()
        for tensor, path in tensors_in(output):
            forward.outputs.append((weakref.ref(tensor), path))
            if tensor.grad_fn is not None:
                token = Token(forward.number, path)
                self.marks.put(tensor, token)
                if self.marks.token_of(tensor.grad_fn) is token:
                    forward.tokens.append(weakref.ref(token))
        return bool(forward.tokens)

    def wait(self, forward: Forward) -> list[Forward]:
        """Let a pass wait for its backward; returns those that have waited in vain."""
        gone = [one for one in self.waiting if not one.alive and one is not forward]
        if forward not in self.waiting:
            forward.beside = len(self.waiting) - len(gone)
            self.waiting.append(forward)
        gone += self.waiting[: max(0, len(self.waiting) - len(gone) - _MOST_WAITING)]
        return self._drop(gone)

    def _drop(self, gone: list[Forward]) -> list[Forward]:
        self.waiting = [one for one in self.waiting if one not in gone]
        return gone

    def end_test(self, forward: Forward) -> None:
        """Note that no backward pass came: the graphs that were there beside its own were kept for nothing."""
        if forward.tokens and not forward.alive:
            self.test_graphs_kept = max(self.test_graphs_kept, forward.beside)

    def confirm(self, tensors: list[Tensor], exact: bool) -> tuple[list[Forward], list[Forward], list[Tensor] | None]:
        """Sort the passes at a backward pass: those it goes through, and those that have waited in vain.

        Third come the leaves of the graph; None where it was not read: that is done where `exact` asks for it, and
        where several passes might be meant.
        """
        vain = self._drop([one for one in self.waiting if not one.alive])
        leaves = None
        through = list(self.waiting)
        if exact or len(through) > 1:
            leaves, entries = self.marks.sources(tensors)
            through = [one for one in through if one.number in entries]
        self._drop(through)
        return through, vain, leaves

    def watch_graph(self, forwards: list[Forward], tensors: list[Tensor], at: Place | None) -> None:
        """Count the graphs that are still there several backward passes of the same line later."""
        tokens = [token for one in forwards for token in one.tokens[:1]]
        for tensor in tensors[:1]:
            if not tokens and tensor.grad_fn is not None:
                token = Token(-1)
                self.marks.put(tensor, token)
                tokens.append(weakref.ref(token))
        spent = self._spent.setdefault(at, [])
        spent.append(tokens)
        if len(spent) > _KEPT:
            self.graphs_kept += any(token() is not None for token in spent.pop(0))

    def of_token(self, token: Token | None, source: Any) -> Forward | None:
        """Return the waiting pass that an output belongs to, by its token or as the tensor itself."""
        for one in reversed(self.waiting):
            if token is not None and one.number == token.entry:
                return one
            if token is None and any(ref() is source for ref, _ in one.outputs):
                return one
        return None


def tensors_in(output: Any, path: tuple[Any, ...] = (), deep: int = 3) -> list[tuple[Tensor, tuple[Any, ...]]]:
    """Return the tensors of an output (a tensor, or tuples, lists and dictionaries of some), each with its place."""
    if isinstance(output, Tensor):
        return [(output, path)]
    if deep == 0:
        return []
    if isinstance(output, dict):
        parts = list(output.items())
    elif isinstance(output, (tuple, list)):
        parts = list(enumerate(output))
    else:
        return []
    return [found for key, part in parts[:16] for found in tensors_in(part, (*path, key), deep - 1)]


def only_tensor(args: tuple[Any, ...]) -> Tensor | None:
    """Return the one tensor that a net was called with; None where it was called with more, or with something else."""
    tensors = [part for part in args if isinstance(part, Tensor)]
    return tensors[0] if len(tensors) == 1 and len(args) == 1 and not torch.is_inference(tensors[0]) else None
