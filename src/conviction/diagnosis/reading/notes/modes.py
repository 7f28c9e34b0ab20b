"""Notes on train and eval mode, and on gradients while testing."""

from __future__ import annotations

from collections.abc import Iterator

from conviction.diagnosis.reading.state import State
from conviction.diagnosis.reading.values import Forward, Tensor
from conviction.findings.observation import SourceNote


def read_modes(state: State) -> Iterator[SourceNote]:
    """Return the notes on modes."""
    yield from _read_training(state)
    if state.of("backward"):
        for event in state.of("forward"):
            yield from _read_testing(state, event.value)


def _read_training(state: State) -> Iterator[SourceNote]:
    owned = [optimizer.owned() if optimizer.nets is not None else None for optimizer in state.optimizers]
    known = set().union(*(nets for nets in owned if nets is not None)) if owned and None not in owned else None
    for event in state.of("backward"):
        forwards = event.value.live if isinstance(event.value, Tensor) else frozenset()
        nets = {forward.net for forward in forwards}
        for forward in forwards:
            mine = forward.net.related() & known if known is not None else len(nets) == 1
            if forward.mode == "eval" and forward.mode_at is not None and mine and not forward.net.loaded:
                name = forward.net.variables[0] if forward.net.variables else "the net"
                said = f"`{name}` is still in eval mode when it is trained again: no train() follows this eval()"
                yield SourceNote("eval-without-train", state.program.place(forward.mode_at), (name,), said)


def _read_testing(state: State, forward: Forward) -> Iterator[SourceNote]:
    """A forward that was judged and that no loss went back through."""
    if not forward.judged or forward.trained or _trains_beside(state, forward):
        return
    name = forward.net.variables[0] if forward.net.variables else "the net"
    place = state.program.place(forward.node)
    if forward.mode == "train" and forward.net.noisy():
        said = f"`{name}` has batch norm or dropout and is tested without eval()"
        yield SourceNote("eval-missing", place, (name,), said)
    if forward.gradients is True and forward.loops:
        yield SourceNote("no-grad-missing", place, (name,), f"`{name}` is tested with gradients on")


def _trains_beside(state: State, forward: Forward) -> bool:
    """Say whether its innermost loop trains as well: an accuracy on training batches is none of a test."""
    return bool(forward.loops) and any(
        event.loops and event.loops[-1] is forward.loops[-1] for event in state.of("backward")
    )
