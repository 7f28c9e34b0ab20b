"""Notes on the training step: backward, step and zero_grad, and whose parameters the optimizer has."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from conviction.diagnosis.reading.state import Event, State
from conviction.diagnosis.reading.values import Const, Forward, Net, Optimizer, Tensor
from conviction.findings.observation import SourceNote


def read_steps(state: State) -> Iterator[SourceNote]:
    """Return the notes on steps."""
    for event in state.of("backward"):
        for forward in event.value.live if isinstance(event.value, Tensor) else ():
            forward.trained = True
    yield from _read_uncalled(state)
    if state.complete and not _updates_by_hand(state):
        yield from _read_missing(state)
    yield from _read_hand_steps(state)
    yield from _read_owners(state)
    yield from _read_kept(state)
    yield from _read_detached(state)


def _updates_by_hand(state: State) -> bool:
    """Say whether the program touches gradients itself: then nothing can be said to be missing."""
    grads = any(isinstance(n, ast.Attribute) and n.attr == "grad" for n in state.program.nodes)
    return grads or bool(state.of("update")) or bool(state.program.calls("grad", "manual_backward"))


def _read_uncalled(state: State) -> Iterator[SourceNote]:
    kinds = {"step": "step-missing", "zero_grad": "zero-grad-missing", "backward": "backward-missing"}
    for event in state.of("uncalled"):
        wanted = Tensor if event.more == "backward" else (Optimizer, Net)
        if event.more in kinds and (event.value is None or isinstance(event.value, wanted)):
            said = f"`{ast.unparse(event.node)}` names the method and does not call it: the parentheses are missing"
            yield SourceNote(kinds[event.more], state.program.place(event.node), (), said)


def _read_missing(state: State) -> Iterator[SourceNote]:
    backwards = state.of("backward")
    named = {event.more for event in state.of("uncalled")}
    for optimizer in state.optimizers:
        mine = [event for event in backwards if _concerns(event, optimizer)]
        steps = [event for event in state.of("step") if event.value in (optimizer, None)]
        if mine and not steps and not optimizer.escaped and "step" not in named:
            said = f"gradients are computed and {optimizer.kind} never makes a step with them"
            yield SourceNote("step-missing", state.program.place(mine[0].node), (optimizer.kind,), said)
        known = [event for event in steps if event.value is optimizer]
        if known and known[0].loops and not optimizer.escaped and "zero_grad" not in named:
            yield from _read_zero(state, optimizer, known[0], mine)
        if known and known[0].loops and not backwards and "backward" not in named and not _sends_back(state):
            said = "the optimizer steps and no loss goes backward"
            yield SourceNote("backward-missing", state.program.place(known[0].node), (), said)


def _concerns(event: Event, optimizer: Optimizer) -> bool:
    """Say whether a backward pass could give this optimizer its gradients."""
    nets = _nets_of(event.value)
    return optimizer.nets is None or not nets or bool(nets & optimizer.owned())


def _sends_back(state: State) -> bool:
    """Say whether the program has a backward pass anywhere that the walk did not come to."""
    names = (node.attr for node in state.program.nodes if isinstance(node, ast.Attribute))
    return any("backward" in name for name in names)


def _read_zero(state: State, optimizer: Optimizer, step: Event, backwards: list[Event]) -> Iterator[SourceNote]:
    if optimizer.kind == "LBFGS" or not backwards or step.value is None:
        return
    shared = [loop for loop in step.loops if loop in backwards[0].loops] or [step.loops[-1]]
    inner = shared[-1]  # the loop over batches, whatever loops are within it
    owned = optimizer.owned()
    for zero in state.of("zero"):
        concerns = (
            zero.value in (optimizer, None) or zero.value in owned or not isinstance(zero.value, (Optimizer, Net))
        )
        if concerns and inner in zero.loops:
            return
        if isinstance(zero.value, Net) and zero.value.related() & owned and inner in zero.loops:
            return
    said = "gradients are never set to zero between steps: each step adds to those of all steps before"
    yield SourceNote("zero-grad-missing", state.program.place(backwards[0].node), (optimizer.kind,), said)


def _read_hand_steps(state: State) -> Iterator[SourceNote]:
    """`w -= lr * w.grad`, and nothing anywhere that sets gradients to zero."""
    names = {node.attr for node in state.program.nodes if isinstance(node, ast.Attribute)}
    cleared = names & {"zero_", "zero_grad"} or state.program.calls("grad")
    cleared = cleared or any(
        isinstance(node, ast.Attribute) and node.attr == "grad" and isinstance(node.ctx, (ast.Store, ast.Del))
        for node in state.program.nodes
    )
    backwards = [ast.unparse(node) for node in state.program.calls("backward")]
    means = any(".mean()" in text for text in backwards) and not any(".sum()" in text for text in backwards)
    for node in state.program.nodes:
        stepping = (
            isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Sub) and ".grad" in ast.unparse(node.value)
        )
        if not stepping:
            continue
        if not cleared and state.of("backward"):
            said = "gradients are never set to zero between these steps: each adds to those of all steps before"
            yield SourceNote("zero-grad-missing", state.program.place(node), ("by hand",), said)
        if means and (size := _divided_by_size(node.value)):
            said = f"the gradient is that of a mean, and is divided by `{size}` once more"
            yield SourceNote("update-divided", state.program.place(node), (size,), said)


def _divided_by_size(value: ast.expr) -> str:
    """Return the number of samples that an expression is divided by; empty where there is none."""
    by = [ast.unparse(n.right) for n in ast.walk(value) if isinstance(n, ast.BinOp) and isinstance(n.op, ast.Div)]
    return next((size for size in by if re.search(r"batch|size|len\(|samples|shape", size)), "")


def _nets_of(value: object) -> set[Net]:
    """Return the nets that a loss leads back to, with their parts; empty where they are not known."""
    if not isinstance(value, Tensor):
        return set()
    return {part for forward in value.live for part in forward.net.related()}


def _read_owners(state: State) -> Iterator[SourceNote]:
    """An optimizer steps after backward passes of which none reached a net that it owns."""
    since: list[Event] = []
    met: set[Optimizer] = set()
    everyone = [o.owned() if o.nets is not None else None for o in state.optimizers]
    for event in state.events:
        if event.kind == "backward":
            since.append(event)
        if event.kind != "step" or not isinstance(event.value, Optimizer) or event.value in met:
            continue
        optimizer, mine = event.value, [b for b in since if b.loops[:1] == event.loops[:1]]
        nets = [_nets_of(b.value) for b in mine]
        if not mine or not all(nets) or optimizer.nets is None:
            continue
        met.add(optimizer)
        reached = set().union(*nets)
        strangers = reached.isdisjoint(optimizer.owned())
        if strangers and not any(owned is None for owned in everyone):
            forwards = [f for b in mine for f in b.value.live]
            yield _owner_note(state, optimizer, min(forwards, key=lambda f: f.node.lineno))


def _owner_note(state: State, optimizer: Optimizer, forward: Forward) -> SourceNote:
    owned = next(iter(optimizer.nets or ()), None)
    called = forward.net
    names = (_name(called), _name(owned) if owned else "")
    replaced = owned is not None and optimizer.node is not None and bool(set(owned.variables) & set(called.variables))
    if replaced and optimizer.node is not None:
        said = f"{optimizer.kind} was made of a net that `{names[0]}` no longer is when it is called"
        return SourceNote("optimizer-before-net", state.program.place(optimizer.node), (names[0], optimizer.kind), said)
    said = f"the loss comes from `{names[0]}`, {optimizer.kind} has the parameters of `{names[1]}`"
    return SourceNote("forward-other-net", state.program.place(forward.node), names, said)


def _name(net: Net) -> str:
    return net.variables[0] if net.variables else net.kind


def _read_kept(state: State) -> Iterator[SourceNote]:
    used = {name for e in state.of("backward") if isinstance(e.value, Tensor) for name in e.value.through}
    for event in state.of("kept"):
        if event.more not in used and (state.of("backward") or event.value.live):
            said = f"`{event.more}` keeps each loss with its graph"
            yield SourceNote("loss-kept", state.program.place(event.node), (event.more,), said)


def _read_detached(state: State) -> Iterator[SourceNote]:
    steps = bool(state.of("step"))
    for event in state.of("backward"):
        tensor = event.value
        if not isinstance(tensor, Tensor):
            continue
        if tensor.graph is False and tensor.cut_at is not None:
            said = "what goes backward has left the graph here: no gradient reaches the net"
            yield SourceNote("loss-detached", state.program.place(tensor.cut_at), (), said)
        if tensor.negated_at is not None and steps:
            yield SourceNote("loss-negated", state.program.place(tensor.negated_at), (), "the loss is maximised")
        if tensor.summed_at is not None and state.optimizers:
            said = "the loss is a sum over the batch: its gradient grows with the batch size"
            yield SourceNote("loss-sum", state.program.place(tensor.summed_at), (), said)
    for optimizer in state.optimizers:
        given = optimizer.settings.get("maximize")
        if isinstance(given, Const) and given.value is True:
            yield SourceNote(
                "loss-negated", state.program.place(given.node), ("maximize",), "maximize=True: the loss is raised"
            )
