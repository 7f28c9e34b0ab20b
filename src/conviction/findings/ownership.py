"""Checks of who steps whom: the optimizer's net against the one that is run, steps, gradients, what may move."""

from __future__ import annotations

from conviction.findings.learning import ahead, read_learning, weigh
from conviction.findings.observation import Observation, OptimizerSeen, Place
from conviction.findings.readings import (
    BY_HAND,
    COPIES,
    blame,
    called,
    line_of,
    main_loss,
    main_optimizer,
    notes_of,
    trained_net,
    variable_of,
)
from conviction.findings.records import Finding
from conviction.findings.trials import UNFROZEN

_FEW = 0.05  # share of the parameters below which a net without pretrained weights has nothing to learn with
_SOME = 0.5  # and one below which the trial decides, where the text freezes the rest
_SOME_BACKWARDS = 3  # fewer than this may be somebody who only looks at gradients
_MANY_BACKWARDS = 100  # no accumulation is that long


def optimizer_owns_other_net(observation: Observation) -> Finding | None:
    """The optimizer was made for an older net than the one that is trained, or holds none of its layers."""
    optimizer = _stranger(observation)
    if optimizer is None or _runs_older_net(observation, optimizer):
        return _unregistered(observation)
    net = trained_net(observation)
    assert net is not None
    return blame(
        "optimizer-owns-other-net",
        f"gradients reach {net.graded:,} parameters of {called(net)} and {optimizer.kind} has 0 of them: "
        f"its {optimizer.params:,} are {_owner(observation, optimizer)}'s",
        "an optimizer that has the parameters of the net that is trained",
        f"make the optimizer after the net, from {variable_of(net)}.parameters()",
        line_of(observation, "optimizer-before-net", otherwise=optimizer.made_at), confidence=0.98, hard=True,
    )  # fmt: skip


def forward_uses_other_net(observation: Observation) -> Finding | None:
    """The loop runs an older net than the one that the optimizer was made for."""
    optimizer = _stranger(observation)
    if optimizer is None or not _runs_older_net(observation, optimizer):
        return None
    net = trained_net(observation)
    assert net is not None
    return blame(
        "forward-uses-other-net",
        f"the loop ran {called(net)} {net.training_forwards:,} times, the optimizer's "
        f"{_owner(observation, optimizer)} 0 times",
        "the same net in the loop and in the optimizer",
        "run the net whose parameters the optimizer has, or make the optimizer for the one that is run",
        line_of(observation, "forward-other-net", otherwise=net.forward_at), confidence=0.98, hard=True,
    )  # fmt: skip


def step_missing(observation: Observation) -> Finding | None:
    """Gradients are computed and the optimizer that has the weights never steps."""
    for optimizer in observation.optimizers:
        trained = [net for net in observation.nets if net.number in optimizer.nets and net.training_forwards]
        idle = optimizer.steps == 0 and bool(trained) and all(net.graded and not net.moved for net in trained)
        if idle and observation.backwards >= _SOME_BACKWARDS and _is_over(observation, optimizer):
            return blame(
                "step-missing",
                f"{observation.backwards:,} backward passes and 0 steps of {optimizer.kind}: no weight has moved",
                "a step after every backward pass, or after a few", "call optimizer.step() after loss.backward()",
                line_of(observation, "step-missing", "landmark-step", otherwise=_loss_line(observation)),
                confidence=0.98, hard=True,
            )  # fmt: skip
    return None


def zero_grad_missing(observation: Observation) -> Finding | None:
    """Every step adds to the gradients of all steps before it. Accumulation clears them after each step."""
    for optimizer in observation.optimizers:
        most = max(1, optimizer.steps - 1)
        if optimizer.steps < 5 or optimizer.carried < 0.8 * most or optimizer.zero_grads > 0.2 * optimizer.steps:
            continue
        return blame(
            "zero-grad-missing",
            f"before {optimizer.carried:,} of {optimizer.steps:,} steps the gradients of the step before were still "
            f"there, and zero_grad() was called {optimizer.zero_grads} times",
            "gradients of one step only", "call optimizer.zero_grad() before loss.backward()",
            line_of(observation, "zero-grad-missing", otherwise=optimizer.step_at or optimizer.made_at),
            confidence=0.95,
        )  # fmt: skip
    return _not_cleared_by_hand(observation)


def loss_detached(observation: Observation) -> Finding | None:
    """The loss was cut from the net: backward passes, if any, reach no weight."""
    optimizer, loss = main_optimizer(observation), main_loss(observation)
    cut = loss is not None and not loss.requires_grad
    owned = [seen for seen in observation.nets if optimizer is not None and seen.number in optimizer.nets]
    reached = any(seen.graded or seen.moved for seen in observation.nets)
    told, learning = notes_of(observation, "loss-detached"), read_learning(observation)
    if reached and told and learning.state == "stuck":
        return blame(
            "loss-detached", f"{told[0].text}; {learning}", "a gradient of this loss for every weight",
            "pass the loss itself backward: no .item(), .detach(), .data or torch.tensor() on the way",
            told[0].at, confidence=0.9,
        )  # fmt: skip
    if optimizer is None or optimizer.steps < 1 or reached or not any(seen.trainable for seen in owned):
        return None
    if not (cut or observation.backwards or loss is not None):
        return None
    passes = f"{observation.backwards:,} backward passes"
    remedy = "pass the loss itself backward: no .item(), .detach(), .data, torch.tensor() or no_grad on the way"
    if observation.backwards == 0 and not cut:
        remedy = "call loss.backward() before optimizer.step()"
    return blame(
        "loss-detached", f"{passes} and {optimizer.steps:,} steps, and 0 weights got a gradient",
        "a gradient for every weight",
        remedy, line_of(observation, "loss-detached", "backward-missing", otherwise=_loss_line(observation)),
        confidence=0.97, hard=True,
    )  # fmt: skip


def frozen_params(observation: Observation) -> Finding | None:
    """Almost no parameter may move, and they are not those of a net that was trained before."""
    net = trained_net(observation)
    if net is None or not net.params or net.pretrained or net.moved > net.trainable:
        return None
    share = net.trainable / net.params
    told = bool(notes_of(observation, "parameters-frozen"))
    better = ahead(observation, UNFROZEN) if told else None
    if share >= (_FEW if better is None else _SOME):
        return None
    weight = (1.0, None) if share == 0 else weigh(observation, 0.85, UNFROZEN, plain=told)
    if weight is None and better is not None:
        weight = 0.75, better
    if weight is None:
        return None
    return blame(
        "frozen-params", f"{net.trainable:,} of {net.params:,} parameters of {called(net)} are trainable",
        "all of them, or a head on pretrained features", "leave requires_grad on for the layers that are to learn",
        line_of(observation, "parameters-frozen", otherwise=net.made_at), confidence=weight[0], experiment=weight[1],
        hard=share == 0,
    )  # fmt: skip


def _not_cleared_by_hand(observation: Observation) -> Finding | None:
    """Of steps by hand nothing tells whether gradients were cleared before, but the text does."""
    optimizer = main_optimizer(observation)
    note = next(iter(notes_of(observation, "zero-grad-missing")), None)
    learning = read_learning(observation)
    if note is None or optimizer is None or optimizer.kind != BY_HAND or learning.learns or optimizer.zero_grads:
        return None
    return blame(
        "zero-grad-missing", f"nothing clears the gradients in {optimizer.steps} steps by hand; {learning}",
        "gradients of one step only", "set param.grad to zero after every step", note.at, confidence=0.9,
    )  # fmt: skip


def _stranger(observation: Observation) -> OptimizerSeen | None:
    """Return an optimizer that steps and has nothing of the net that is trained, which nothing else moves."""
    net = trained_net(observation)
    if net is None or not net.graded or net.owned or net.moved or read_learning(observation).learns:
        return None
    graded = {seen.number for seen in observation.nets if seen.graded}
    for optimizer in observation.optimizers:
        if optimizer.steps and not graded & set(optimizer.nets) and (optimizer.nets or not net.pretrained):
            return optimizer
    return None


def _runs_older_net(observation: Observation, optimizer: OptimizerSeen) -> bool:
    """Whether the net that is run is older than the optimizer's; what the source says comes first."""
    for kind, answer in (("optimizer-before-net", False), ("forward-other-net", True)):
        if notes_of(observation, kind):
            return answer
    net = trained_net(observation)
    if net is None or not optimizer.nets:
        return False
    if any(word in name.lower() for name in net.names for word in COPIES):
        return True  # a copy that follows the net is not meant to be trained
    mine = [seen for seen in observation.nets if seen.number in optimizer.nets]
    places = [net.made_at, optimizer.made_at, *(seen.made_at for seen in mine)]
    if mine and all(place is not None for place in places) and len({place.file for place in places if place}) == 1:
        lines = [place.line for place in places if place]
        # Nets are made in the order of their lines, but for one function that makes them all.
        if lines[0] != lines[2]:
            return lines[0] < lines[1]
    return min(optimizer.nets) > net.number


def _unregistered(observation: Observation) -> Finding | None:
    """Layers in a plain list, of which no optimizer hears."""
    note = next(iter(notes_of(observation, "layers-in-list")), None)
    weight = weigh(observation, 0.8)
    if note is None or weight is None:
        return None
    net = trained_net(observation)
    params = 0 if net is None else net.params
    return blame(
        "optimizer-owns-other-net", f"layers in a plain list are not registered: parameters() gives {params:,} numbers",
        "every layer's parameters", "put the layers in an nn.ModuleList", note.at, confidence=weight[0],
    )  # fmt: skip


def _owner(observation: Observation, optimizer: OptimizerSeen) -> str:
    """Name the net that an optimizer was made for."""
    mine = next((net for net in observation.nets if net.number in optimizer.nets), None)
    return "another net" if mine is None else called(mine)


def _is_over(observation: Observation, optimizer: OptimizerSeen) -> bool:
    """Whether a step could not be still to come, as in a long accumulation of gradients or with a scaler that skips."""
    if notes_of(observation, "step-missing"):
        return True
    cleared = optimizer.zero_grads >= 0.5 * observation.backwards
    finished = observation.ending.how in {"finished", "exit"}
    return not observation.scaler and (cleared or finished or observation.backwards >= _MANY_BACKWARDS)


def _loss_line(observation: Observation) -> Place | None:
    loss = main_loss(observation)
    return observation.ending.at if loss is None or loss.at is None else loss.at
