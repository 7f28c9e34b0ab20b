"""What a call into torch makes: nets, optimizers, losses, loaders, tensors, and the events that go with them."""

from __future__ import annotations

import ast

from conviction.diagnosis.reading.library_words import (
    CONTAINERS,
    JUDGING,
    LOSS_FUNCTIONS,
    LOSSES,
    OPERATIONS,
    OPTIMIZERS,
    PASSING,
    POSITIONS,
    REMAKING,
    SCHEDULES,
    SEEDS,
)
from conviction.diagnosis.reading.state import Call, State
from conviction.diagnosis.reading.values import (
    Arguments,
    Const,
    Items,
    Loader,
    Loss,
    Net,
    Optimizer,
    Parameters,
    Scheduler,
    Tensor,
    Value,
    combine,
    nets_in,
    parameters_in,
    tensors_in,
)


def answer_library(state: State, call: Call) -> Value:
    """Return what a call to code that is not the program's own gives, and record what it does."""
    for answer in (_make, _use_tensors, _arrange):
        found, value = answer(state, call)
        if found:
            return value
    state.escape_all(call)
    if any(isinstance(value, Optimizer) for value in call.given) and call.name == "step":
        return None
    if "acc" in call.name.lower():
        for value in call.given:
            state.judge(value)
    return combine(call.given)


def _make(state: State, call: Call) -> tuple[bool, Value]:
    name, origin = call.name, call.origin
    if name in SCHEDULES:
        return True, Scheduler(call.node, name)
    if name in OPTIMIZERS:
        return True, make_optimizer(state, call)
    if name in LOSSES or (origin.startswith("torch.nn.") and name.endswith("Loss")):
        return True, Loss(call.node, LOSSES.get(name, name), _reduction(call))
    if name in LOSS_FUNCTIONS:
        return True, apply_loss(state, call, Loss(None, name, _reduction(call)))
    if name == "DataLoader":
        return True, _make_loader(state, call)
    if origin.startswith("torch.nn.") and name[:1].isupper() and "utils" not in origin and name != "Parameter":
        return True, make_module(state, call)
    if origin.startswith(("torchvision.models.", "timm.")) or origin == "torch.hub.load":
        return True, _make_pretrained(state, call)
    return False, None


def make_optimizer(state: State, call: Call) -> Optimizer:
    """Return a new optimizer with what is known of its parameters and settings."""
    nets = parameters_in(call.argument(0, "params"))
    settings = dict(zip(POSITIONS.get(call.name, ("lr",)), call.args[1:], strict=False))
    settings |= {name: value for name, value in call.options.items() if name != "params"}
    for net in nets or ():
        net.uses.add("parameters")
    optimizer = Optimizer(call.node, call.name, nets, settings=settings)
    state.optimizers.append(optimizer)
    state.tell("optimizer", call.node, optimizer)
    return optimizer


def make_module(state: State, call: Call) -> Net:
    """Return a module of torch.nn, with the modules that it was given as its parts."""
    parts = [net for value in call.given for net in nets_in(value)]
    net = Net(call.node, call.name, parts=parts)
    for part in parts:
        part.uses.add("part")
    if call.name in CONTAINERS:
        state.add_net(net)
    state.tell("layer", call.node, net, call.options | {str(n): value for n, value in enumerate(call.args)})
    return net


def _make_pretrained(state: State, call: Call) -> Net:
    given = [call.options[name] for name in ("weights", "pretrained") if name in call.options] or call.args[:1]
    fresh = all(isinstance(value, Const) and not value.value for value in given)
    return state.add_net(Net(call.node, call.name, loaded=not fresh))


def _make_loader(state: State, call: Call) -> Loader:
    shuffle = call.argument(2, "shuffle")
    if any(name in call.options for name in ("sampler", "batch_sampler")) or len(call.args) > 3:
        shuffled = None
    elif shuffle is None:
        shuffled = False if "shuffle" not in call.options and len(call.args) < 3 else None
    else:
        shuffled = bool(shuffle.value) if isinstance(shuffle, Const) else None
    if any(k.arg is None for k in call.node.keywords) or any(isinstance(a, ast.Starred) for a in call.node.args):
        shuffled = None
    loader = Loader(call.node, shuffled, call.argument(0, "dataset"), call.argument(5, "num_workers"),
                    call.argument(1, "batch_size"))  # fmt: skip
    state.tell("loader", call.node, loader)
    return loader


def _reduction(call: Call) -> str:
    given = call.options.get("reduction")
    average = call.options.get("size_average")
    if isinstance(average, Const) and average.value is False:
        return "sum"
    return given.value if isinstance(given, Const) and isinstance(given.value, str) else "mean"


def apply_loss(state: State, call: Call, loss: Loss) -> Tensor:
    """Return a loss function's value and record what went into it."""
    inputs, target = call.argument(0, "input"), call.argument(1, "target")
    told = combine(call.given) or Tensor()
    if not isinstance(inputs, Tensor):
        told = Tensor(graph=told.graph if told.graph is False and told.cut_at else None, cut_at=told.cut_at,
                      forwards=told.forwards, live=told.live)  # fmt: skip
    state.tell("loss", call.node, loss, (inputs, target))
    summed = loss.node or call.node if loss.reduction == "sum" else None
    return Tensor("loss", call.node, told.forwards, told.live, told.graph, told.cut_at, loss.kind or "loss", call.node,
                  summed_at=summed, through=told.through)  # fmt: skip


def _use_tensors(state: State, call: Call) -> tuple[bool, Value]:
    name = call.name
    first = call.args[0] if call.args else None
    if name == "backward" or name.endswith("_backward"):  # accelerator.backward(loss), fabric's, Lightning's
        state.tell("backward", call.node, next((t for v in call.args for t in tensors_in(v)), None))
        return True, None
    if name in SEEDS:
        state.tell("seed", call.node, None, call.args)
        return True, None
    if name == "dropout":
        state.tell("dropout", call.node, call.argument(1, "p"))
    if not isinstance(first, Tensor):
        return False, None
    if name in OPERATIONS:
        return True, first.made_by(OPERATIONS[name], call.node)
    if name in REMAKING or (name == "float" and call.origin == "float"):
        return True, first.cut(call.node)
    if name in PASSING:
        return True, first
    if name in JUDGING:
        state.judge(first)
        return True, first.cut(call.node)
    return False, None


def _arrange(state: State, call: Call) -> tuple[bool, Value]:
    name, origin = call.name, call.origin
    first = call.args[0] if call.args else None
    if name == "deepcopy" and isinstance(first, Net):
        copy = Net(call.node, first.kind, first.body, list(first.parts), dict(first.attributes), loaded=True)
        copy.uses.add("copy")
        return True, state.add_net(copy)
    if origin in {"torch.compile", "torch.jit.script", "torch.jit.trace", "torch.jit.optimize_for_inference"}:
        return True, first
    if name in {"clip_grad_norm_", "clip_grad_value_"}:
        state.tell("clip", call.node, call.argument(1, "max_norm", "clip_value"))
    if origin.startswith("torch.nn.init.") or name in {"clip_grad_norm_", "clip_grad_value_"}:
        return True, first
    if name in {"list", "tuple", "iter", "set", "sorted", "reversed", "tqdm", "enumerate", "cycle"}:
        return True, first
    if name == "filter" and len(call.args) > 1:
        return True, call.args[1]
    if name == "chain" or (name == "add" and any(isinstance(value, Parameters) for value in call.args)):
        return True, Items(call.args)
    if name in {"SimpleNamespace", "EasyDict", "Namespace", "AttrDict", "Box"} and isinstance(first, Items):
        return True, first
    if name in {"OrderedDict", "dict", "zip", "SimpleNamespace", "EasyDict", "Namespace", "AttrDict", "Box"}:
        return True, Items(call.given, [] if call.args else list(call.options))
    if name == "field":  # of a dataclass
        return True, call.options.get("default")
    if origin in {"os.environ.get", "os.getenv"}:
        return True, call.argument(1, "default")
    if origin in {"int", "float"} and isinstance(first, Const):
        return True, _convert(origin, first)
    if name == "ArgumentParser":
        return True, Arguments()
    if name == "next":
        return True, Tensor(op="data", graph=False)
    if name == "set_grad_enabled":
        state.gradients = bool(first.value) if isinstance(first, Const) else None
        state.gradients_at = call.node
        return True, None
    if origin in {"torch.save", "torch.load"}:
        for net in (net for value in call.given for net in nets_in(value)):
            net.uses.add("state")
        return True, None
    return False, None


def _convert(name: str, given: Const) -> Const | None:
    """Return a number of a constant: `float(os.environ.get("LR", "0.1"))`."""
    try:
        number = float(given.value) if isinstance(given.value, (str, int, float)) else None
    except ValueError:
        return None
    return None if number is None else Const(int(number) if name == "int" and number < 1e9 else number, given.node)
