"""What a method does to a net, an optimizer, a schedule or a tensor."""

from __future__ import annotations

from dataclasses import replace

from conviction.diagnosis.reading.library import answer_library
from conviction.diagnosis.reading.library_words import JUDGING, LEAVING, OPERATIONS, PASSING
from conviction.diagnosis.reading.state import Call, State
from conviction.diagnosis.reading.values import (
    Arguments,
    Const,
    Items,
    Loader,
    Net,
    Optimizer,
    Parameters,
    Scheduler,
    Tensor,
    Value,
    tensors_in,
)

_WHOLE = frozenset({
    "parameters", "named_parameters", "children", "named_children", "modules", "named_modules", "buffers",
    "named_buffers",
})  # fmt: skip
_MOVING = frozenset({
    "to", "cuda", "cpu", "double", "float", "half", "share_memory", "to_empty", "type", "compile", "bfloat16", "mps",
})  # fmt: skip


def answer_method(state: State, base: Value, call: Call) -> Value:
    """Return what a method of a known value gives, and record what it does."""
    if isinstance(base, Net):
        return _of_net(state, base, call)
    if isinstance(base, Optimizer):
        return _of_optimizer(state, base, call)
    if isinstance(base, Scheduler):
        if call.name == "step":
            state.tell("schedule", call.node, base)
        return None
    if isinstance(base, Tensor):
        return _of_tensor(state, base, call)
    if isinstance(base, Items):
        return _of_items(state, base, call)
    if isinstance(base, Loader):
        return None
    if isinstance(base, Arguments):
        return _of_arguments(base, call)
    return _of_unknown(state, call)


def _of_arguments(arguments: Arguments, call: Call) -> Value:
    if call.name == "add_argument":
        names = [value.value for value in call.args if isinstance(value, Const) and isinstance(value.value, str)]
        name = next((n for n in names if n.startswith("--") or not n.startswith("-")), "").lstrip("-").replace("-", "_")
        given = call.options.get("default")
        number = (
            isinstance(given, Const) and isinstance(given.value, (int, float)) and not isinstance(given.value, bool)
        )
        if number and name:
            arguments.defaults[name] = given
        return None
    return arguments if call.name in {"parse_args", "parse_known_args"} else None


def _of_net(state: State, net: Net, call: Call) -> Value:
    name = call.name
    if name in {"train", "eval"}:
        given = call.argument(0, "mode")
        constant = isinstance(given, Const)
        known = name == "eval" or (given is None and not call.node.args and not call.node.keywords) or constant
        on = name == "train" and (not constant or bool(given.value))
        set_mode(net, ("train" if on else "eval") if known else None, call)
        return net
    if name == "requires_grad_":
        given = call.argument(0, "requires_grad")
        _freeze(state, [net], given, call)
        return net
    if name in _WHOLE:
        return Parameters(frozenset({net}))
    if name in _MOVING:
        return net
    if name == "zero_grad":
        state.tell("zero", call.node, net)
    elif name == "load_state_dict":
        net.loaded = True
    elif name == "state_dict":
        net.uses.add("state")
    elif name == "apply":
        net.uses.add("init")
        return net
    elif name in {"add_module", "append", "extend", "insert", "register_module"}:
        net.parts += [value for value in call.given if isinstance(value, Net)]
    else:
        state.escape_all(call)
        return combine_answer(net, call)
    return None


def combine_answer(net: Net, call: Call) -> Tensor | None:
    """Return the answer of a method that nothing is known of."""
    net.uses.add("forward")
    return Tensor() if any(tensors_in(value) for value in call.given) else None


def set_mode(net: Net, mode: str | None, call: Call) -> None:
    """Switch a net and its parts."""
    for part in net.related():
        part.mode, part.mode_at = mode, call.node


def _freeze(state: State, nets: list[Net], given: Value, call: Call) -> None:
    off = isinstance(given, Const) and given.value is False
    for net in nets:
        if off:
            net.frozen_at = call.node
        else:
            net.thawed = True


def _of_optimizer(state: State, optimizer: Optimizer, call: Call) -> Value:
    if call.name == "step":
        state.tell("step", call.node, optimizer)
    elif call.name == "zero_grad":
        state.tell("zero", call.node, optimizer)
    elif call.name == "add_param_group":
        optimizer.nets = None
    return None


def _of_tensor(state: State, tensor: Tensor, call: Call) -> Value:
    name = call.name
    if name == "backward":
        state.tell("backward", call.node, tensor)
        return None
    if name in OPERATIONS:
        return tensor.made_by(OPERATIONS[name], call.node)
    if name in PASSING:
        return tensor
    if name in LEAVING:
        return tensor.cut(call.node)
    if name in JUDGING:
        state.judge(tensor)
        return tensor.cut(call.node)
    if name in {"mean", "div"}:
        return replace(tensor, op="", summed_at=None)
    if name == "sum":
        return replace(tensor, op="", summed_at=None)
    if name in {"size", "dim", "numel", "backward_", "register_hook"}:
        return None
    found = replace(tensor, op="", op_at=None, negated_at=None)
    others = [t for value in call.given for t in tensors_in(value)]
    return replace(found, forwards=found.forwards.union(*(t.forwards for t in others)),
                   live=found.live.union(*(t.live for t in others)),
                   through=found.through.union(*(t.through for t in others)),
                   graph=True if any(t.graph for t in others) else found.graph)  # fmt: skip


def _of_items(state: State, items: Items, call: Call) -> Value:
    if call.name in {"append", "add", "extend", "insert"}:
        if len(items.items) < 64:
            items.items += [value for value in call.args if value is not None]
        for value in call.args:
            if isinstance(value, Net):
                value.uses.add("escape")
    elif call.name in {"values", "copy"}:
        return items
    elif call.name == "get" and isinstance(call.argument(0), Const):
        return items.get(call.args[0].value) or call.argument(1)
    return None


def _of_unknown(state: State, call: Call) -> Value:
    """Answer a method of something that nothing is known of, by what such methods are usually called."""
    base = call.origin.rpartition(".")[0].lower()
    optimizers = [value for value in call.given if isinstance(value, Optimizer)]
    if call.name == "step" and optimizers:  # GradScaler's, an accelerator's
        for optimizer in optimizers:
            state.tell("step", call.node, optimizer)
        return None
    if call.name == "step":
        state.tell("schedule" if "sched" in base else "step", call.node)
        return None
    if call.name == "zero_grad":
        state.tell("zero", call.node)
        return None
    if call.name == "backward" and not call.args:
        state.tell("backward", call.node)
        return None
    if call.name in {"unscale_", "update"} and "scaler" in base:
        return None
    return answer_library(state, call)
