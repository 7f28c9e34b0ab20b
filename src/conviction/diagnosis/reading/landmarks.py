"""Where the parts of a training program are: the net, the loader, the loop with its statements, the test."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, fields

from conviction.diagnosis.reading import guesses, places
from conviction.diagnosis.reading.library_words import NET_NAMES
from conviction.diagnosis.reading.notes.budgets import find_budget
from conviction.diagnosis.reading.notes.mixing import find_mixing
from conviction.diagnosis.reading.state import Event, State
from conviction.diagnosis.reading.syntax import Syntax, dotted, keyword, last_name, parse_text
from conviction.diagnosis.reading.values import Const, Forward, Loader, Net, Optimizer, Tensor
from conviction.diagnosis.reading.walk import walk_program
from conviction.findings.observation import Place

_INPUTS = re.compile(r"^(x|xs|tr_?x|train_x|x_?tr(ain)?|(train_?)?(images?|imgs|features|inputs|data)(_?train)?)$")
_LABELS = re.compile(r"^(y|ys|tr_?y|train_y|y_?tr(ain)?|(train_?)?(labels?|targets?)(_?train)?)$")
_AUGMENTS = re.compile(r"augment|transform|distort|jitter|perturb|corrupt|collate")
_TEST = re.compile(r"test|val|_te$|^te_|xt$|yt$")
_TENSORS = ("tensor(", "from_numpy(", "Tensor(", ".float()", ".astype(", "np.load(", "/ 255")
_NOISES = frozenset({"randn", "randn_like", "rand", "rand_like", "normal", "normal_", "uniform", "randperm"})
_RATES = frozenset({"lr", "learning_rate", "LR", "LEARNING_RATE", "base_lr"})


@dataclass(frozen=True)
class Landmarks:
    """Nodes of the program's tree; None for what was not found.

    `rate` is the expression that gives the learning rate, `head` the net's last layer, `loader` the training loader;
    `inputs` and `labels` are the statements that make the training images and labels into tensors, `augment` the
    strongest random thing that is done to an image. The rest say where a fault is mended that something measured has
    named: `classes` the number of outputs, `decay` of weight decay, `dropout` of dropout, `clip` of clipping, `budget`
    of epochs or steps; `scale` and `channel` what is done to images, `subset` a choice of them by their labels,
    `activation` a sigmoid or tanh, `half` the float16, `start` the weights' start, `frozen` and `schedule` what freezes
    and what steps, `mixing` what goes along the batch, `unsafe` a logarithm or deviation of what may be zero,
    `figure` an odd division, `pairing` another order of images or labels, `leak` what joins training and test data.
    """

    net: ast.AST | None = None
    head: ast.AST | None = None
    loader: ast.Call | None = None
    optimizer: ast.Call | None = None
    rate: ast.expr | None = None
    loop: ast.AST | None = None
    forward: ast.Call | None = None
    loss: ast.Call | None = None
    zero_grad: ast.AST | None = None
    backward: ast.AST | None = None
    step: ast.AST | None = None
    test: ast.Call | None = None
    inputs: ast.AST | None = None
    labels: ast.AST | None = None
    augment: ast.AST | None = None
    classes: ast.AST | None = None
    scale: ast.AST | None = None
    channel: ast.AST | None = None
    activation: ast.AST | None = None
    subset: ast.AST | None = None
    budget: ast.AST | None = None
    half: ast.AST | None = None
    start: ast.AST | None = None
    frozen: ast.AST | None = None
    schedule: ast.AST | None = None
    dropout: ast.AST | None = None
    mixing: ast.AST | None = None
    unsafe: ast.AST | None = None
    decay: ast.AST | None = None
    clip: ast.AST | None = None
    figure: ast.AST | None = None
    pairing: ast.AST | None = None
    leak: ast.AST | None = None


def find_places(text: str, filename: str = "") -> dict[str, Place]:
    """Return the places of a program's landmarks by the names of `Landmarks`; what was not found is left out."""
    try:
        program = parse_text(text, filename)
        marks = find_landmarks(program, walk_program(program))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    found = {field.name: getattr(marks, field.name) for field in fields(marks)}
    return {name: program.place(node) for name, node in found.items() if hasattr(node, "lineno")}


def find_landmarks(program: Syntax, state: State) -> Landmarks:
    """Return the landmarks of a program that was walked through."""
    backward = _backward(state)
    tensor = backward.value if backward and isinstance(backward.value, Tensor) else Tensor()
    forwards = [e.value for e in state.of("forward")]
    forward = min(tensor.live, key=lambda f: f.node.lineno, default=None) or _trained(state, forwards)
    loops = backward.loops if backward else forward.loops if forward else ()
    steps = [e for e in state.of("step") if e.loops[:1] == loops[:1]]
    optimizer = next((e.value for e in steps if isinstance(e.value, Optimizer)), None)
    optimizer = optimizer or next(iter(state.optimizers), None)
    zeros = [e for e in state.of("zero") if e.loops[:1] == loops[:1]]
    losses = [e for e in state.of("loss") if e.loops[:1] == loops[:1]]
    loss = tensor.loss_at or (losses[0].node if losses else None)
    test = next((f for f in forwards if f.judged and f not in tensor.forwards and not _beside(f, loops)), None)
    loaders = [e.value for e in state.of("iterate") if isinstance(e.value, Loader) and e.node in loops]
    head = _head(forward.net) if forward else None
    inputs, labels = _made_tensor(program, _INPUTS), _made_tensor(program, _LABELS)
    return Landmarks(
        net=forward.net.node if forward else next((net.node for net in state.nets if net.variables), None),
        head=head,
        loader=loaders[-1].node if loaders else None,
        optimizer=optimizer.node if optimizer else None,
        rate=_rate(program, optimizer),
        loop=loops[-1] if loops else None,
        forward=forward.node if forward else _guess_forward(program, loops),
        loss=loss if isinstance(loss, ast.Call) else None,
        zero_grad=zeros[0].node if zeros else None,
        backward=backward.node if backward else None,
        step=steps[0].node if steps else None,
        test=test.node if test else None,
        inputs=inputs,
        labels=labels,
        augment=_augmentation(program, loops),
        classes=places.find_classes(state, head),
        scale=places.find_scale(state, inputs),
        channel=places.find_channel(program, inputs),
        subset=places.find_subset(program, labels),
        budget=find_budget(state),
        mixing=find_mixing(state),
        figure=guesses.find_figure(state),
        pairing=guesses.find_pairing(state),
        leak=guesses.find_leak(state),
        decay=_setting(optimizer, "weight_decay"),
        **{name: find(state) for name, find in places.FINDERS.items()},
    )


def _backward(state: State) -> Event | None:
    """Return the backward pass of the training: of several, one in a loop that is known to come from a net."""
    found = state.of("backward")
    best = (
        [e for e in found if isinstance(e.value, Tensor) and e.value.live and e.loops]
        or [e for e in found if e.loops]
        or found
    )
    return best[0] if best else None


def _trained(state: State, forwards: list[Forward]) -> Forward | None:
    stepped = {loop for event in state.of("step", "backward") for loop in event.loops[-1:]}
    return next((f for f in forwards if f.loops and f.loops[-1] in stepped), None)


def _beside(forward: Forward, loops: tuple[ast.AST, ...]) -> bool:
    return bool(loops) and forward.loops[-1:] == loops[-1:]


def _head(net: Net) -> ast.AST | None:
    if net.answer is not None and net.answer.op in {"linear", "conv"}:
        return net.answer.op_at
    layers = [part.node for part in net.related() if part.kind in {"Linear", "Conv2d", "LazyLinear"}]
    return max(layers, key=lambda node: getattr(node, "lineno", 0), default=None)


def _made_tensor(program: Syntax, name: re.Pattern[str]) -> ast.AST | None:
    """Return the first statement that makes a tensor under a name of images, or of labels, that is not the test's."""
    found: list[tuple[bool, ast.Assign]] = []
    for node in sorted((n for n in program.nodes if isinstance(n, ast.Assign)), key=lambda n: n.lineno):
        if len(node.targets) == 1 and any(c in ast.unparse(node.value) for c in _TENSORS):
            target = dotted(node.targets[0]).rpartition(".")[2].lower()
            if name.search(target) and not _TEST.search(target):
                found.append((target == "data", node))  # the opened file, rather than what is in it
    return min(found, key=lambda pair: pair[0], default=(False, None))[1]


def _augmentation(program: Syntax, loops: tuple[ast.AST, ...]) -> ast.AST | None:
    """Return the strongest random thing that a data set, or a function or transform for images, does to an image."""
    found: list[ast.Call] = []
    for node in program.nodes:
        if isinstance(node, ast.Call) and re.search(r"^Random|jitter|^AutoAugment|^RandAugment", last_name(node.func)):
            found.append(node)
        around = node if isinstance(node, ast.FunctionDef) and _AUGMENTS.search(node.name) else None
        if isinstance(node, ast.ClassDef) and any(getattr(part, "name", "") == "__getitem__" for part in node.body):
            around = node
        if around is not None:
            calls = [part for part in ast.walk(around) if isinstance(part, ast.Call)]
            found += [call for call in calls if "rand" in dotted(call.func)]
    if not found and loops:
        calls = [node for node in ast.walk(loops[-1]) if isinstance(node, ast.Call)]
        found = [call for call in calls if last_name(call.func) in _NOISES]
    return places.strongest(program, found)


def _rate(program: Syntax, optimizer: Optimizer | None) -> ast.expr | None:
    """Return where the rate is written: a literal, wherever it stands, else the optimizer's argument."""
    if optimizer is not None and optimizer.node is not None:
        given = optimizer.settings.get("lr")
        if isinstance(given, Const) and isinstance(given.node, ast.expr):
            return given.node
        return keyword(optimizer.node, "lr", position=1)
    for node in program.nodes:
        if isinstance(node, ast.Assign) and dotted(node.targets[0]) in _RATES:
            return node.value
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Tuple)
            and isinstance(node.value, ast.Tuple)
        ):
            for target, value in zip(node.targets[0].elts, node.value.elts, strict=False):
                if dotted(target) in _RATES:
                    return value
    return None


def _setting(optimizer: Optimizer | None, name: str) -> ast.AST | None:
    """Return where the number of an optimizer's setting is written."""
    given = optimizer.settings.get(name) if optimizer is not None else None
    return given.node if isinstance(given, Const) and hasattr(given.node, "lineno") else None


def _guess_forward(program: Syntax, loops: tuple[ast.AST, ...]) -> ast.Call | None:
    """Return the call in the training loop that reads like one of a net."""
    calls = [n for n in ast.walk(loops[-1]) if isinstance(n, ast.Call)] if loops else []
    return next((call for call in calls if dotted(call.func).rpartition(".")[2].lower() in NET_NAMES), None)
