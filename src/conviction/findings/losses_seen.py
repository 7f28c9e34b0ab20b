"""Checks of the loss as it was called: what goes into it, what it is for, which way it is taken."""

from __future__ import annotations

import math

from conviction.findings.learning import Learning, read_learning, weigh, words_of
from conviction.findings.observation import LossSeen, Observation, Place
from conviction.findings.readings import (
    CLASS_LOSSES,
    blame,
    line_of,
    main_loss,
    main_optimizer,
    measured_steps,
    notes_of,
    trained_net,
)
from conviction.findings.records import Finding
from conviction.findings.trials import CROSS_ENTROPY, SIGN_TURNED, confirmed, trial

# Autograd's words for what cuts off a part of the numbers that logits may take.
_CUTTING = {"relu": "ReLU", "hardtanh": "ReLU6", "sigmoid": "sigmoid", "hardsigmoid": "hard sigmoid", "tanh": "tanh",
            "dropout": "dropout", "nativedropout": "dropout", "threshold": "ReLU", "clampmin": "clamp"}  # fmt: skip
_OF_LOGITS = frozenset({"cross_entropy", "binary_cross_entropy_with_logits"})
_DISTANCES = frozenset({"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"})
_RUNS_AWAY = 100
_MIXED = 0.05  # rounding in batched convolutions mixes images by 1e-6 of their spread


def double_softmax(observation: Observation) -> Finding | None:
    """Probabilities go into a loss that takes the softmax itself: it cannot fall below ln(e + C - 1) - 1."""
    loss = _of_kinds(observation, frozenset({"cross_entropy"}))
    if loss is None or not (loss.rows_sum_to_one or (loss.made_by == "softmax" and not _over_batch(loss))):
        return None
    classes = loss.input_shape[1] if len(loss.input_shape) > 1 else 10
    floor = math.log(math.e + classes - 1) - 1
    return blame(
        "double-softmax",
        f"probabilities go into cross-entropy, each row sums to 1: the loss cannot fall below {floor:.3f}",
        "logits of any size and sign", "leave the softmax out: cross-entropy takes logits",
        line_of(observation, "softmax-before-ce", otherwise=_end_of_net(observation, loss)),
        confidence=0.97, experiment=_tried(observation, CROSS_ENTROPY),
    )  # fmt: skip


def activation_on_logits(observation: Observation) -> Finding | None:
    """An activation or dropout after the last layer."""
    loss = _of_kinds(observation, _OF_LOGITS)
    if loss is None:
        return None
    told = notes_of(observation, "relu-on-logits")
    name, confidence = _CUTTING.get(loss.made_by), 0.93
    if loss.made_by == "mul" and any("dropout" in note.names for note in told):
        name = "dropout"  # which multiplies by zeros and something
    experiment = _tried(observation, CROSS_ENTROPY)
    if name is None:
        # Averaged after a ReLU, as NiN was published: it learns, unless too much of the signal is cut off.
        pooled = bool(told) or loss.made_by.startswith(("mean", "adaptive", "avgpool"))
        learning = read_learning(observation)
        fails = learning.fails or (bool(told) and learning.state == "partly" and learning.ended)
        if not pooled or loss.lowest is None or loss.lowest < 0 or not (experiment or fails):
            return None
        name, confidence = "ReLU, averaged", 0.9 if experiment else 0.7 if told else 0.5
    span = "" if loss.lowest is None or loss.highest is None else f", from {loss.lowest:.3g} to {loss.highest:.3g}"
    shape = "x".join(str(size) for size in loss.input_shape)
    return blame(
        "activation-on-logits", f"the logits ({shape or '1 batch'}) come out of a {name}{span}",
        "logits straight from the last layer, of any size and sign", f"leave out the {name} after the last layer",
        line_of(observation, "relu-on-logits", otherwise=_end_of_net(observation, loss)),
        confidence=confidence, experiment=experiment,
    )  # fmt: skip


def nll_on_logits(observation: Observation) -> Finding | None:
    """NLLLoss of numbers that are no log-probabilities: it falls for ever and says nothing."""
    loss = _of_kinds(observation, frozenset({"nll_loss"}))
    if loss is None or loss.highest is None or loss.highest <= 1e-3:
        return None
    return blame(
        "nll-on-logits", f"NLLLoss got values up to {loss.highest:.3g}; {read_learning(observation)}",
        "log-probabilities, none above 0", "use nn.CrossEntropyLoss(), or log_softmax before NLLLoss",
        line_of(observation, "nll-without-log-softmax", otherwise=loss.at), confidence=0.97,
        experiment=_tried(observation, CROSS_ENTROPY),
    )  # fmt: skip


def mixed_batch(observation: Observation) -> Finding | None:
    """In eval mode an image's logits change with the other images of its batch."""
    mixing, net, loss = observation.mixing or 0.0, trained_net(observation), main_loss(observation)
    told = notes_of(observation, "softmax-dim", "view-for-permute", "batch-mixed")
    at = next((note.at for note in told if "argmax" not in note.names), None)
    if loss is not None and loss.kind in CLASS_LOSSES and _is_over_batch(observation, loss, told=at is not None):
        return blame(
            "mixed-batch", f"{loss.made_by} was taken over the {loss.input_shape[0]} images of a batch, not classes",
            "each image's probabilities sum to 1", "take it over dim 1, or leave it to the cross-entropy",
            at or _end_of_net(observation, loss), confidence=0.95,
        )  # fmt: skip
    if mixing < _MIXED or (at is None and mixing < 0.2 and read_learning(observation).learns):
        return None
    return blame(
        "mixed-batch", f"in eval mode other images change an image's logits by {mixing:.2g} of their spread",
        "less than 0.001: each image is answered by itself",
        "look for a softmax, mean or norm over dim 0, or a view that runs across images",
        at or (net.made_at if net is not None else None), confidence=0.93 if at else 0.85,
    )  # fmt: skip


def wrong_loss(observation: Observation) -> Finding | None:
    """A loss that does not fit the task, or adds up where it should average."""
    return _broadcast(observation) or _distance_of_classes(observation) or _summed(observation)


def sign_flipped(observation: Observation) -> Finding | None:
    """The loss is made larger."""
    learning, optimizer = read_learning(observation), main_optimizer(observation)
    if _runs_away(learning):
        return blame(
            "sign-flipped", f"the loss is below zero and falls without end: {learning}",
            "a loss with a floor, near zero",
            "take the minus the other way: the logarithm of a probability is negative, its loss is not",
            line_of(observation, "loss-negated", "landmark-loss", "landmark-backward",
                    otherwise=_called_at(observation)), confidence=0.8,
        )  # fmt: skip
    if learning.learns or learning.state == "slow":
        return None
    pairs = [(step.loss, step.told) for step in measured_steps(observation)
             if step.loss is not None and step.told is not None and step.told > 0]  # fmt: skip
    turned = sum(1 for went, told in pairs if abs(went + told) <= 0.05 * told)
    maximised = optimizer is not None and bool(optimizer.setting("maximize"))
    experiment = _tried(observation, SIGN_TURNED)
    rose = learning.state in {"rose", "broke"}
    likelihood = learning.first is not None and learning.last is not None and learning.first < learning.last <= 0
    if maximised and (turned or likelihood):
        return None  # minus the loss, or a logarithm of probabilities, is made larger: that is meant
    if not (len(pairs) >= 3 and turned >= 0.9 * len(pairs)) and not (maximised and rose) and not (experiment and rose):
        return None
    seen = f"what goes backward is minus the loss in {turned} of {len(pairs)} steps" if turned else (
        f"the optimizer maximises, in {learning.steps} steps")  # fmt: skip
    return blame(
        "sign-flipped", f"{seen}; {learning}", "a loss that is made smaller",
        "take the minus away, or maximize=True",
        line_of(observation, "loss-negated", otherwise=_called_at(observation)),
        confidence=0.97 if turned or maximised else 0.8, experiment=experiment,
    )  # fmt: skip


def _runs_away(learning: Learning) -> bool:
    """Whether a loss began below zero and is a hundred times as far below it: no loss of classes does."""
    first, last = learning.first, learning.last
    return first is not None and last is not None and first < 0 and last < _RUNS_AWAY * first


def _broadcast(observation: Observation) -> Finding | None:
    """Outputs [N, 1] against targets [N]: PyTorch compares every output with every target."""
    loss = _of_kinds(observation, _DISTANCES)
    if loss is None:
        return None
    given, wanted = loss.input_shape, loss.target_shape
    if not (len(given) == 2 and len(wanted) == 1 and given[1] == 1 and given[0] == wanted[0] > 1):
        return None
    return blame(
        "wrong-loss", f"outputs of {given[0]}x1 against targets of {wanted[0]}: "
        f"each output is compared with all {wanted[0]} targets", "outputs and targets of the same shape",
        "give the targets a column, or take the outputs' away: outputs.squeeze(1)", loss.at, confidence=0.95,
    )  # fmt: skip


def _distance_of_classes(observation: Observation) -> Finding | None:
    """A distance to class numbers, or to one-hot rows, which a net can learn from but slowly."""
    loss = _of_kinds(observation, _DISTANCES)
    if loss is None or loss.target_lowest is None or loss.target_highest is None:
        return None
    one_hot = (loss.target_shape == loss.input_shape and len(loss.input_shape) == 2 and loss.input_shape[1] > 1
               and loss.target_distinct == 2 and (loss.target_lowest, loss.target_highest) == (0, 1))  # fmt: skip
    classes = next((loader.classes for loader in observation.loaders if loader.trains), None)
    told = line_of(observation, "mse-on-classes")
    if not told and not (one_hot and classes in {loss.input_shape[1], None}):
        return None
    weight = weigh(observation, 0.8, CROSS_ENTROPY)
    usual = trial(observation, CROSS_ENTROPY)
    if weight is None and usual is not None and confirmed(observation, CROSS_ENTROPY):
        weight = 0.75, words_of(usual)
    if weight is None:
        return None
    return blame(
        "wrong-loss", f"{loss.kind} of classes from {loss.target_lowest:g} to {loss.target_highest:g}; "
        f"{read_learning(observation)}", "cross-entropy of logits and class numbers", "use nn.CrossEntropyLoss()",
        told or loss.at, confidence=weight[0], experiment=weight[1],
    )  # fmt: skip


def _summed(observation: Observation) -> Finding | None:
    """A sum over the batch: gradients, and with plain SGD steps, are as many times larger as there are images."""
    loss = main_loss(observation)
    if loss is None:
        return None
    factors = [step.loss / (step.told * step.samples) for step in measured_steps(observation)
               if step.loss is not None and step.told and step.samples and step.samples > 1]  # fmt: skip
    by_hand = len(factors) >= 3 and all(0.8 < factor < 1.25 for factor in factors)
    if loss.reduction != "sum" and not by_hand:
        return None
    weight = weigh(observation, 0.8, CROSS_ENTROPY)
    if weight is None:
        return None
    batch = loss.input_shape[0] if loss.input_shape else "?"
    return blame(
        "wrong-loss", f"{loss.kind} is summed over {batch} images; {read_learning(observation)}",
        "a mean over the batch", 'use reduction="mean", or divide lr by the batch size',
        line_of(observation, "loss-sum", otherwise=loss.at), confidence=weight[0], experiment=weight[1],
    )  # fmt: skip


def _of_kinds(observation: Observation, kinds: frozenset[str]) -> LossSeen | None:
    """Return the most called loss function of some kinds, unless it is a small part of what is trained on."""
    found = max((loss for loss in observation.losses if loss.kind in kinds), key=lambda loss: loss.calls, default=None)
    most = max((loss.calls for loss in observation.losses if loss.kind not in CLASS_LOSSES), default=0)
    return None if found is None or found.calls < 0.2 * most else found


def _over_batch(loss: LossSeen) -> bool:
    """Whether what a softmax made is no row of probabilities, so that it was taken over another dimension."""
    return len(loss.input_shape) == 2 and not loss.rows_sum_to_one


def _is_over_batch(observation: Observation, loss: LossSeen, *, told: bool) -> bool:
    """Whether a softmax was taken over the batch; of its logarithm the first loss tells, ln(images) for ln(classes)."""
    if loss.made_by == "softmax":
        return _over_batch(loss)
    if loss.made_by != "logsoftmax" or loss.kind != "nll_loss" or len(loss.input_shape) != 2:
        return False
    images, classes = (math.log(size) for size in loss.input_shape)
    first = next((step.told for step in measured_steps(observation)[:1] if step.told is not None), math.nan)
    return told or (abs(images - classes) > 0.3 and abs(first - images) < 0.15)


def _end_of_net(observation: Observation, loss: LossSeen) -> Place | None:
    net = trained_net(observation)
    return loss.at if loss.at is not None or net is None else net.made_at


def _called_at(observation: Observation) -> Place | None:
    loss = main_loss(observation)
    return None if loss is None else loss.at


def _tried(observation: Observation, change: str) -> str | None:
    seen = trial(observation, change)
    return seen.line or None if seen is not None and confirmed(observation, change) else None
