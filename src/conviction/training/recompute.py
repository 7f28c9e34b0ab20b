"""Activation checkpointing: parts of a net keep their inputs alone and run again when the backward pass needs the rest.

Memory then holds the activations between the parts and those within one of them: with parts of about the square root
of the number of layers it grows with that root, for about one more forward (Chen et al. 2016, "Training deep nets with
sublinear memory cost", section 3).
"""

from __future__ import annotations

import contextlib
import itertools
import math
import random
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils.checkpoint import CheckpointError, checkpoint

from conviction.errors import UsageError

# A module that is no sequence is one part up to so many times its layers; up to the second number also where it holds
# no sequence with most of its layers.
_LARGE, _FAR_TOO_LARGE = 2, 4


@dataclass(frozen=True)
class _Run:
    """Children of a module that are recomputed together: consecutive ones of a sequence, else a single one.

    `first` is the index of the first within a sequence.
    """

    parent: nn.Module
    name: str
    modules: tuple[nn.Module, ...]
    first: int = 0


def segments(net: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the parts of `net` that `recomputing` recomputes, by name, in the order of its modules.

    A function of the net's modules alone, so a copy on the meta device has the same. Several layers of a sequence are
    one part, given as a sequence of their own that shares them. What is not listed keeps its activations, such as the
    end of a sequential net, whose activations are needed as soon as they are made.
    """
    return [(run.name, run.modules[0] if len(run.modules) == 1 else nn.Sequential(*run.modules))
            for run in _runs_of(net)]  # fmt: skip


@contextlib.contextmanager
def recomputing(net: nn.Module) -> Generator[None]:
    """Let the parts of `net` (see `segments`) be recomputed; active around forward and backward.

    Outputs, gradients, buffers and random draws (torch's, NumPy's, Python's) are as without it. Module hooks inside a
    part run twice. Without gradients nothing changes. Afterwards the net has its own forwards back.

    Raises `UsageError` where the backward finds that a part cannot be recomputed.
    """
    with _taking_place(_forwards_of(_runs_of(net))), _refusing_what_differs():
        yield


def _forwards_of(runs: list[_Run]) -> dict[nn.Module, Callable[..., Any]]:
    """Return the forwards that modules have while `runs` are recomputed."""
    alone = [run for run in runs if len(run.modules) == 1]
    long = [run for run in runs if len(run.modules) > 1]
    parents = dict.fromkeys(run.parent for run in long)
    forwards = {parent: _in_steps(parent, [run for run in long if run.parent is parent]) for parent in parents}
    return forwards | {run.modules[0]: _recomputed(run.modules[0].forward, run.modules) for run in alone}


@contextlib.contextmanager
def _taking_place(forwards: dict[nn.Module, Callable[..., Any]]) -> Generator[None]:
    """Let modules have other forwards; those of the instance come back, else those of the class."""
    own = {module: vars(module).get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            vars(module)["forward"] = forward
        yield
    finally:
        for module, forward in own.items():
            vars(module).pop("forward", None)
            if forward is not None:
                vars(module)["forward"] = forward


@contextlib.contextmanager
def _refusing_what_differs() -> Generator[None]:
    """Turn what torch says of parts that change between their two forwards into a refusal in one line."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, CheckpointError) or "modified by an inplace operation" in str(error):
            what = "a part of the net is not the same when it is computed a second time"
            remedy = "use checkpointing = false, or layers that do not work in place"
            raise UsageError(what, "checkpointing", remedy) from error
        raise


def _in_steps(sequence: nn.Module, runs: list[_Run]) -> Callable[[Any], Any]:
    """Return the forward of a sequence in which some runs of its children are recomputed."""
    starts = {run.first: run for run in runs}
    steps: list[Callable[..., Any]] = []
    index = 0
    children = [child for child in sequence._modules.values() if child is not None]
    while index < len(children):
        run = starts.get(index)
        steps.append(children[index] if run is None else _recomputed(_one_after_another(run.modules), run.modules))
        index += 1 if run is None else len(run.modules)
    return _one_after_another(steps)


def _one_after_another(steps: Any) -> Callable[[Any], Any]:
    def forward(x: Any) -> Any:
        for step in steps:
            x = step(x)
        return x

    return forward


def _recomputed(forward: Callable[..., Any], modules: tuple[nn.Module, ...]) -> Callable[..., Any]:
    """Return a forward of `modules` that keeps its arguments alone where there is a backward to come."""

    def kept(*inputs: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs, **named)
        return checkpoint(
            forward, *inputs, use_reentrant=False, preserve_rng_state=True, determinism_check="default",
            context_fn=lambda: (contextlib.nullcontext(), _AsBefore(modules)), **named,
        )  # fmt: skip

    return kept


class _AsBefore:
    """Modules as they were when this was made: within it they have that state, afterwards the one they had come to.

    State is the buffers, plain attributes that are tensors or numbers, and the random states that `checkpoint` does not
    keep. So batch norm moves copies of its running statistics when it runs again, and what reads its own state reads
    what it read. The tensors themselves are never written to: autograd may have saved them.
    """

    def __init__(self, modules: tuple[nn.Module, ...]) -> None:
        every = dict.fromkeys(itertools.chain.from_iterable(module.modules() for module in modules))
        copies: dict[int, Tensor] = {}  # by identity: what is shared stays shared
        self.states = [state for module in every if module.training  # in eval mode a layer changes nothing
                       for state in (vars(module)["_buffers"], vars(module))]  # fmt: skip
        self.before = [{name: _copied(value, copies) for name, value in state.items()
                        if isinstance(value, (Tensor, int, float))} for state in self.states]  # fmt: skip
        self.draws = random.getstate(), np.random.get_state()
        self.modes = _get_current_function_mode_stack()  # a backward runs without them

    def __enter__(self) -> None:
        self.entered = contextlib.ExitStack()
        [self.entered.enter_context(mode) for mode in self.modes]
        self.after = [{name: state[name] for name in old if name in state}
                      for state, old in zip(self.states, self.before, strict=True)]  # fmt: skip
        self.later = random.getstate(), np.random.get_state()
        self._put(self.before, self.draws)

    def __exit__(self, *raised: object) -> None:
        self._put(self.after, self.later)
        self.entered.close()

    def _put(self, values: list[dict[str, Any]], draws: tuple[Any, Any]) -> None:
        for state, told in zip(self.states, values, strict=True):
            state.update(told)
        random.setstate(draws[0])
        np.random.set_state(draws[1])


def _copied(value: Any, copies: dict[int, Tensor]) -> Any:
    """Copy a tensor once; what is computed from weights stays itself, or it would have no gradient."""
    if not isinstance(value, Tensor) or value.requires_grad:
        return value
    if id(value) not in copies:
        copies[id(value)] = value.clone()
    return copies[id(value)]


def _runs_of(net: nn.Module) -> list[_Run]:
    """Cut a net into runs of about the square root of the number of its layers."""
    if any(isinstance(module, torch.jit.ScriptModule) for module in net.modules()):
        raise UsageError("parts of a scripted net cannot be recomputed", "checkpointing",
                         "give the module that it was made from, or use checkpointing = false")  # fmt: skip
    return list(_cut(net, "", math.ceil(math.sqrt(_layers_in(net))), ends=True))


def _cut(module: nn.Module, name: str, limit: int, *, ends: bool) -> Iterator[_Run]:
    """Cut a module into runs of about `limit` layers. `ends` tells that the net ends with it."""
    children = [(f"{name}.{key}".lstrip("."), child) for key, child in module._modules.items() if child is not None]
    if _is_sequence(module):
        yield from _cut_sequence(module, children, limit, ends=ends)
        return
    for key, child in children:
        if _is_divisible(child, limit):
            yield from _cut(child, key, limit, ends=False)
        elif _is_worth_it((child,)):
            yield _Run(module, key, (child,))


def _cut_sequence(
    sequence: nn.Module, children: list[tuple[str, nn.Module]], limit: int, *, ends: bool
) -> Iterator[_Run]:
    """Cut a sequence behind pooling, where a run has its layers, and around children that are cut themselves.

    The net's last run is left out: to recompute it at once would save nothing.
    """
    first, run = 0, ()
    for start, unit in _units(children, limit):
        apart = _is_divisible(unit[0], limit)
        if run and (apart or _is_full(run, unit, limit)):
            yield from _worth_it(sequence, children, first, run)
            run = ()
        if apart:
            yield from _cut(unit[0], children[start][0], limit, ends=ends and start == len(children) - 1)
        else:
            first, run = (first if run else start), run + unit
    if run and not ends:
        yield from _worth_it(sequence, children, first, run)


def _units(children: list[tuple[str, nn.Module]], limit: int) -> Iterator[tuple[int, tuple[nn.Module, ...]]]:
    """Yield each child with a weight matrix, with the children that follow up to the next, and the index of the first.

    What is cut itself stands alone.
    """
    start, unit = 0, ()
    for index, (_, child) in enumerate(children):
        if unit and (_is_divisible(child, limit) or _is_divisible(unit[0], limit) or _leads(child)):
            yield start, unit
            start, unit = index, ()
        unit = (*unit, child)
    if unit:
        yield start, unit


def _worth_it(
    sequence: nn.Module, children: list[tuple[str, nn.Module]], first: int, run: tuple[nn.Module, ...]
) -> Iterator[_Run]:
    """Yield a run without what it begins with in place, if that leaves several layers."""
    while run and _writes_into_its_input(run[0]):
        first, run = first + 1, run[1:]
    if run and _is_worth_it(run):
        names = [key for key, _ in children[first : first + len(run)]]
        yield _Run(sequence, names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}", run, first)


def _leads(child: nn.Module) -> bool:
    """Whether a run may begin with a child: norms, activations and pooling go with the layer in front of them."""
    return _has_matrix(child) and not _writes_into_its_input(child)


def _is_full(run: tuple[nn.Module, ...], unit: tuple[nn.Module, ...], limit: int) -> bool:
    """Whether a run ends before `unit`: because it ends in pooling, behind which maps are small, or has its layers."""
    layers = [layer for module in run for layer in module.modules() if not layer._modules]
    behind = itertools.takewhile(lambda layer: not _has_matrix(layer), reversed(layers))
    return any("Pool" in type(layer).__name__ for layer in behind) or len(layers) + sum(map(_layers_in, unit)) > limit


def _has_matrix(module: nn.Module) -> bool:
    return any(parameter.ndim > 1 for parameter in module.parameters())


def _is_worth_it(run: tuple[nn.Module, ...]) -> bool:
    """Whether recomputing saves anything: the input of a single layer is kept all the same."""
    several = sum(map(_layers_in, run)) > 1 and any(next(module.parameters(), None) is not None for module in run)
    return several and not _writes_into_its_input(run[0])


def _is_divisible(module: nn.Module, limit: int) -> bool:
    """Whether a module is too large for a run: a sequence, what mostly is one inside, or anything far too large."""
    layers = _layers_in(module)
    if type(module).forward is nn.Module.forward:  # a list of modules, which never runs itself
        return True
    if _is_sequence(module) or layers <= _LARGE * limit:
        return _is_sequence(module) and layers > limit
    mostly = any(_is_sequence(inner) and 2 * _layers_in(inner) > layers for inner in module.modules())
    return mostly or layers > _FAR_TOO_LARGE * limit


def _is_sequence(module: nn.Module) -> bool:
    return type(module).forward is nn.Sequential.forward and "forward" not in vars(module)


def _layers_in(module: nn.Module) -> int:
    """Count the modules without children."""
    return sum(not inner._modules for inner in module.modules())


def _writes_into_its_input(module: nn.Module) -> bool:
    """Whether a module begins in place, so that its input cannot be kept."""
    first = next(inner for inner in module.modules() if not inner._modules)
    return bool(getattr(first, "inplace", False))
