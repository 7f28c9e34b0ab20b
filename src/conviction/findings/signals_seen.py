"""Checks of the signal in the trained net at its first step, of numbers that are not finite, and of dead units."""

from __future__ import annotations

import math
from collections.abc import Callable

from conviction.findings import signals
from conviction.findings.by_hand import start_by_hand
from conviction.findings.evidence import Evidence
from conviction.findings.learning import read_learning, weigh, words_of
from conviction.findings.observation import Observation
from conviction.findings.readings import (
    blame,
    early_steps,
    line_of,
    main_loss,
    main_optimizer,
    measured_steps,
    middle,
    trained_net,
)
from conviction.findings.records import Finding
from conviction.findings.trials import NEW_INIT, RELU, confirmed, trial

# What squashes logits makes them all alike without a fault of the start.
_SQUASHED = frozenset({"softmax", "sigmoid", "tanh", "hardsigmoid"})
_LARGE_UPDATE = 0.1
_MOST = 0.5  # of the matrices: a head may start at zero
_NEARLY_ALL = 0.99  # of the gradients: more than half of the units of a healthy net answer to some image


def init_symmetric(observation: Observation) -> Finding | None:
    """All units of a hidden layer are the same, for good."""
    return _of_start(observation, signals.init_symmetric, NEW_INIT) or _alike(observation)


def init_tiny(observation: Observation) -> Finding | None:
    """The signal fades from layer to layer."""
    return _of_start(observation, signals.init_tiny, NEW_INIT) or start_by_hand(observation, "init-tiny")


def init_huge(observation: Observation) -> Finding | None:
    """The net is sure of wrong answers before it has learnt anything."""
    return _of_start(observation, signals.init_huge, NEW_INIT, plain=True) or start_by_hand(observation, "init-huge")


def init_collapse(observation: Observation) -> Finding | None:
    """Whatever the image, the logits are the same."""
    loss = main_loss(observation)
    if loss is not None and (loss.made_by in _SQUASHED or loss.rows_sum_to_one):
        return None
    if observation.evidence is not None and signals.dead_relu(observation.evidence) is not None:
        return None  # nothing comes through a layer of dead units either
    return _of_start(observation, signals.init_collapse, NEW_INIT)


def saturating_activations(observation: Observation) -> Finding | None:
    """Sigmoids or tanhs let next to nothing of the gradient through."""
    return _of_start(observation, signals.saturating_activations, RELU, NEW_INIT)


def dead_relu(observation: Observation) -> Finding | None:
    """Units that no image wakes: from the start, or since a step that was too large."""
    return _of_start(observation, signals.dead_relu, NEW_INIT) or _died(observation)


def non_finite(observation: Observation) -> Finding | None:
    """NaN or infinity, that no large update came before."""
    learning = read_learning(observation)
    found = None if observation.evidence is None else signals.non_finite(observation.evidence)
    at_step, loss = observation.not_finite_at_step, main_loss(observation)
    broke = learning.state == "broke" or (bool(observation.not_finite) and not learning.learns)
    if not broke and (found is None or learning.learns):
        return None
    if found is None and at_step is None and loss is None and not observation.measured:
        return None
    ratio = middle(step.largest_update_ratio or step.update_ratio for step in early_steps(observation))
    early = found is not None or (at_step is not None and at_step <= 1)
    updates = "" if ratio is None else f", after updates of {ratio:.1g} of the weights"
    where = f"at step {at_step}" if at_step is not None else f"in {learning.steps} steps"
    return blame(
        "non-finite", f"the loss or an output is not a finite number {where}{'' if early else updates}",
        "finite numbers", "look for log 0, 0/0 and overflow there; add a small eps, or use log_softmax",
        line_of(observation, "non-finite", otherwise=loss.at if loss is not None else None),
        layer=observation.not_finite or (found.layer or "" if found is not None else ""),
        confidence=0.95 if early else 0.6 if (ratio or 0.0) > _LARGE_UPDATE else 0.85, hard=early,
    )  # fmt: skip


def _of_start(
    observation: Observation, check: Callable[[Evidence], Finding | None], *cures: str, plain: bool = False
) -> Finding | None:
    """Ask a check of the preflight's; believe it where the program fails, or a trial with another start does not."""
    found = None if observation.evidence is None else check(observation.evidence)
    if found is None:
        return None
    learning, net = read_learning(observation), trained_net(observation)
    weight = weigh(observation, found.confidence, *cures, plain=plain)
    # That a start is stuck for good is told by its numbers; the steps of a trial may be too few for a cure to show.
    if found.hard and (learning.state == "unknown" or (weight is not None and weight[1] is None)):
        weight = found.confidence, found.experiment
    if weight is None:
        return None
    # The program's words of a start set by hand are the line to change.
    at = line_of(observation, "init-constant", "init-scale", otherwise=net.made_at if net is not None else None)
    return blame(
        found.cause, f"{found.seen}; {learning}", found.expected, _in_plain_words(found.remedy), at,
        layer=found.layer or "", confidence=weight[0], experiment=weight[1] or found.experiment, hard=found.hard,
    )  # fmt: skip


def _alike(observation: Observation) -> Finding | None:
    """The same told by the numbers themselves, of nets that are no modules, or that cannot be probed."""
    optimizer, learning = main_optimizer(observation), read_learning(observation)
    if optimizer is None or (optimizer.alike or 0.0) < _MOST or learning.state == "well":
        return None
    net = trained_net(observation)
    return blame(
        "init-symmetric",
        f"{100 * (optimizer.alike or 0):.0f} % of the weight matrices start as one number; {learning}",
        "units that differ", "draw the weights at random, as nn.init.kaiming_normal_ does",
        line_of(observation, "init-constant", otherwise=net.made_at if net is not None else optimizer.made_at),
        confidence=0.9, hard=True,
    )  # fmt: skip


def _died(observation: Observation) -> Finding | None:
    """The loss no longer changes by a millionth and every gradient is exactly zero."""
    late = measured_steps(observation)[-4:]
    losses = [step.told if step.told is not None else step.loss for step in late]
    known = [loss for loss in losses if loss is not None and math.isfinite(loss)]
    still = [step for step in late if step.gradient_norm == 0.0 or (step.zero_gradient_share or 0.0) > 0.9]
    learning = read_learning(observation)
    early = [step.zero_gradient_share or 0.0 for step in early_steps(observation)[:3]]
    cured = trial(observation, NEW_INIT) if confirmed(observation, NEW_INIT) else None
    if early and min(early) > _NEARLY_ALL and learning.fails and cured is not None:
        return blame(
            "dead-relu", f"{100 * min(early):.2f} % of the gradients are exactly 0 in the first steps; {learning}",
            "gradients that reach most weights", "start biases at zero, and weights as Kaiming's",
            None if (net := trained_net(observation)) is None else net.made_at, confidence=0.9,
            experiment=words_of(cured),
        )  # fmt: skip
    if len(late) < 4 or len(still) < len(late) or len(known) < 4 or not learning.fails:
        return None
    zero = middle(step.zero_gradient_share for step in late)
    share = 100.0 if zero is None else 100 * zero
    return blame(
        "dead-relu",
        f"{share:.0f} % of the gradients are exactly 0 in the last steps, with the loss at {known[-1]:.6g}",
        "gradients that reach most weights", "start again with Kaiming weights and a tenth of the learning rate",
        None if (net := trained_net(observation)) is None else net.made_at, confidence=0.75,
    )  # fmt: skip


def _in_plain_words(remedy: str) -> str:
    """Our own recipe's words mean nothing in a program of plain PyTorch."""
    if "init=" not in remedy:
        return remedy
    kept = "use ReLU, with " if remedy.startswith("use ReLU") else ""
    return (f"{kept}nn.init.kaiming_normal_ for the weights of every convolution and linear layer and zeros for the "
            "biases, or batch norm after them")  # fmt: skip
