"""Checks of the step: learning rate, schedule, the optimizer's settings, weight decay."""

from __future__ import annotations

import math
from collections.abc import Sequence

from conviction.findings import inputs
from conviction.findings.by_hand import pace_by_hand
from conviction.findings.learning import ahead, read_learning, weigh
from conviction.findings.observation import Observation, OptimizerSeen, Place, StepSeen
from conviction.findings.readings import (
    batch_size,
    blame,
    early_steps,
    is_adaptive,
    line_of,
    main_optimizer,
    measured_steps,
    middle,
    notes_of,
    rule_of,
    training_loader,
)
from conviction.findings.records import Finding
from conviction.findings.trials import (
    HIGHER_LR,
    LOWER_LR,
    NO_DECAY,
    USUAL_LR,
    USUAL_SETTINGS,
    confirmed,
)

_LOWEST = 1e-6
# Rates above which no net was seen to learn at batch size 128, by kind; others are measured by their updates only.
_HIGHEST = {"adam": 0.03, "adamw": 0.03, "nadam": 0.03, "radam": 0.03, "adamax": 0.1, "rmsprop": 0.03, "sgd": 1.0,
            "lion": 0.01, "adagrad": 1.0}  # fmt: skip
_ABSURD_UPDATE, _LARGE_UPDATE = 0.3, 0.1  # of the weights' size, in one step
# Smallest healthy median of update over weight (findings/rates): small heads make SGD's first updates small.
_SLOW_UPDATE, _SLOW_ADAPTIVE_UPDATE = 3e-5, 1e-4
_FAR_ABOVE = 10  # times the highest rate, where a loss that falls slowly is no excuse
_DEAD_LR = 0.01  # share of the highest rate at which nothing is learned any more
_GONE_LR = 1e-4  # and at which nothing can be


def lr_absurd(observation: Observation) -> Finding | None:
    """A rate that no net trains at: nothing, nearly nothing, or far above what its optimizer stands."""
    optimizer, learning = main_optimizer(observation), read_learning(observation)
    lr = _highest_lr(observation)
    if optimizer is None or lr is None or learning.learns:
        return None
    ratio = middle(step.update_ratio for step in early_steps(observation))
    highest = _highest_of(optimizer, batch_size(observation))
    unscaled = observation.evidence is not None and inputs.input_unscaled(observation.evidence) is not None
    by_number = (
        lr <= 0
        or (lr > highest and (learning.state != "slow" or lr > _FAR_ABOVE * highest))
        or (lr < _LOWEST and _has_run(observation))
    )
    by_update = ratio is not None and ratio > _ABSURD_UPDATE and learning.fails and not unscaled
    if not by_number and not (by_update and (confirmed(observation, LOWER_LR) or lr > 0.3 * highest)):
        return None
    cure = weigh(observation, 0.9, USUAL_LR, LOWER_LR if lr > highest else HIGHER_LR)
    updates = "" if ratio is None else f", one step changes the weights by {ratio:.2g} of their size"
    return blame(
        "lr-absurd", f"{rule_of(optimizer)} at lr {lr:g}{updates}; {learning}", f"{_LOWEST:g} to {highest:.2g}",
        f"use {'0.001' if is_adaptive(optimizer) else '0.1 or less'}, or let `conviction lr` find one",
        _line_of_rate(observation, optimizer),
        confidence=max(0.93 if by_number else 0.8, cure[0] if cure else 0.0), experiment=cure[1] if cure else None,
        hard=lr == 0,
    )  # fmt: skip


def lr_too_high(observation: Observation) -> Finding | None:
    """The loss rises or breaks while updates are large, or a tenth of the rate mends it."""
    optimizer, learning = main_optimizer(observation), read_learning(observation)
    weight = weigh(observation, 0.8, LOWER_LR, USUAL_LR)
    lr = _highest_lr(observation)
    better = _learns_better(observation) if weight is None and learning.learns else None
    if better is not None and optimizer is not None and lr is not None:
        return blame(
            "lr-too-high", f"{rule_of(optimizer)} at lr {lr:g}, the same in all steps; {learning}",
            "a rate at which as many steps learn more", "lower lr to a third or a tenth, or let it fall by a schedule",
            _line_of_rate(observation, optimizer), confidence=0.65, experiment=better,
        )  # fmt: skip
    if optimizer is None or lr is None or weight is None:
        return None
    ratio = middle(step.update_ratio for step in early_steps(observation))
    largest = max(
        (step.largest_update_ratio or step.update_ratio or 0.0 for step in early_steps(observation)), default=0
    )
    lower = confirmed(observation, LOWER_LR)
    unstable = learning.state in {"rose", "lost", "broke"} and (largest > _LARGE_UPDATE or ratio is None)
    if not lower and not unstable and not ((ratio or 0.0) > _LARGE_UPDATE and learning.fails):
        return None
    updates = "" if ratio is None else f", one step changes the weights by {ratio:.2g} of their size"
    return blame(
        "lr-too-high", f"{rule_of(optimizer)} at lr {lr:g}{updates}; {learning}",
        "a loss that falls, with steps near 0.001 of the weights",
        "lower lr to a third or a tenth, warm it up, or clip the gradient's norm",
        _line_of_rate(observation, optimizer),
        confidence=weight[0] if lower else min(weight[0], 0.75), experiment=weight[1] if lower else None,
    )  # fmt: skip


def lr_too_low(observation: Observation) -> Finding | None:
    """The weights hardly move, or ten times the rate is clearly faster; a warm-up that has just begun is neither."""
    return _steps_too_small(observation) or pace_by_hand(observation)


def _steps_too_small(observation: Observation) -> Finding | None:
    optimizer, learning = main_optimizer(observation), read_learning(observation)
    higher = confirmed(observation, HIGHER_LR)
    # Steps this small say it themselves; the steps of a trial are too few to disprove it.
    weight = weigh(observation, 0.75, HIGHER_LR) if higher else weigh(observation, 0.75)
    lr = _highest_lr(observation)
    if optimizer is None or lr is None or weight is None or _is_rising(measured_steps(observation)):
        return None
    ratio = middle(step.update_ratio for step in early_steps(observation))
    slow = _SLOW_ADAPTIVE_UPDATE if is_adaptive(optimizer) else _SLOW_UPDATE
    # With larger updates than the usual thousandth the next factor of ten is a matter of taste.
    if learning.state in {"rose", "lost", "broke"} or not (
        (higher and (ratio is None or ratio < 5e-3)) or (ratio is not None and ratio < slow and _has_run(observation))
    ):
        return None
    updates = "" if ratio is None else f", one step changes the weights by {ratio:.1g} of their size"
    return blame(
        "lr-too-low", f"{rule_of(optimizer)} at lr {lr:g}{updates}; {learning}", "steps near 0.001 of the weights",
        "raise lr tenfold, or let `conviction lr` find one",
        _line_of_rate(observation, optimizer),
        confidence=weight[0], experiment=weight[1] if higher else None,
    )  # fmt: skip


def schedule_kills_lr(observation: Observation) -> Finding | None:
    """The rate falls to nothing long before the end. A cosine that ends at zero does so in its last steps only."""
    learning = read_learning(observation)
    steps = [step for step in measured_steps(observation) if math.isfinite(step.lr)]
    if len(steps) < 6:
        return None
    highest = max(step.lr for step in steps)
    top = next(step.index for step in steps if step.lr == highest)
    dead = next((step for step in steps if step.index > top and step.lr < _DEAD_LR * highest), None)
    if dead is None or steps[-1].lr >= _DEAD_LR * highest:
        return None
    last = steps[-1].index
    share = (last - dead.index) / max(1, last)
    told = notes_of(observation, "scheduler-per-batch")
    # A healthy schedule may end at a small rate; nothing learns at one that is gone altogether.
    if learning.state == "well" and not (told and steps[-1].lr < _GONE_LR * highest):
        return None
    loader = training_loader(observation)
    epoch = loader.samples / loader.batch_size if loader and loader.samples and loader.batch_size else math.inf
    within_epoch = dead.index < epoch
    if share < (0.25 if within_epoch and learning.fails else 0.5):
        return None
    return blame(
        "schedule-kills-lr",
        f"lr fell from {highest:.3g} to {dead.lr:.2g} by step {dead.index} of {last + 1}; "
        f"{observation.schedule or 'the schedule'} moved {observation.schedule_steps} times; {learning}",
        "a rate above 0.01 of its highest for most of the steps",
        "step the schedule once an epoch, or count its settings in steps",
        line_of(observation, "scheduler-per-batch", otherwise=observation.schedule_at), confidence=0.93,
    )  # fmt: skip


def optimizer_settings(observation: Observation) -> Finding | None:
    """Momentum, betas or eps with which the optimizer cannot work."""
    optimizer = main_optimizer(observation)
    odd = None if optimizer is None else _odd_setting(optimizer)
    if optimizer is None or odd is None:
        return None
    name, value, expected, impossible = odd
    weight = weigh(observation, 0.8, USUAL_SETTINGS, plain=True)
    if weight is None:
        if read_learning(observation).learns:
            better = ahead(observation, USUAL_SETTINGS)
            weight = None if better is None else (0.7, better)
        elif impossible:
            weight = 0.9, None
    if weight is None:
        return None
    return blame(
        "optimizer-settings", f"{rule_of(optimizer)} with {name} {value:g}; {read_learning(observation)}",
        f"{name} {expected}", f"leave {name} at its default",
        line_of(observation, "optimizer-settings", otherwise=optimizer.made_at),
        confidence=weight[0], experiment=weight[1],
    )  # fmt: skip


def weight_decay_dominates(observation: Observation) -> Finding | None:
    """Decay pulls harder at the weights than the gradient does."""
    optimizer = main_optimizer(observation)
    decay = None if optimizer is None else optimizer.setting("weight_decay")
    steps = early_steps(observation)
    if optimizer is None or not decay or not steps:
        return None if optimizer is None else _penalty_dominates(observation, optimizer)
    lr = _highest_lr(observation) or 0.0
    pulls = [decay * step.weight_norm / step.gradient_norm for step in steps if step.weight_norm and step.gradient_norm]
    pull = middle(pulls)
    sizes = [step.weight_norm for step in measured_steps(observation) if step.weight_norm]
    shrunk = sizes[-1] / sizes[0] if len(sizes) > 1 else 1.0
    # Decoupled decay does not pass through the gradient: it takes lr x decay off the weights in every step.
    strong = lr * decay > 1e-3 if optimizer.kind.lower() == "adamw" else (pull or 0.0) > 1
    weight = weigh(observation, 0.85, NO_DECAY, plain=True)
    if not strong or shrunk > 0.9 or weight is None:
        return None
    against = "" if pull is None else f", {pull:.2g} times the gradient"
    return blame(
        "weight-decay-dominates",
        f"weight decay {decay:g}{against}; the weights shrank to {shrunk:.2g} of their size; "
        f"{read_learning(observation)}",
        "a pull below 0.1 of the gradient", "use a weight_decay of 1e-4 to 5e-4",
        optimizer.made_at, confidence=weight[0], experiment=weight[1],
    )  # fmt: skip


def _penalty_dominates(observation: Observation, optimizer: OptimizerSeen) -> Finding | None:
    """A penalty on the weights, added to the loss, is most of what goes backward, and the weights shrink away."""
    shares = [(step.loss - step.told) / step.loss for step in early_steps(observation)[:3]
              if step.loss is not None and step.told is not None and step.loss > step.told > 0]  # fmt: skip
    sizes = [step.weight_norm for step in measured_steps(observation) if step.weight_norm]
    learning, share = read_learning(observation), middle(shares)
    if share is None or share < 0.5 or len(sizes) < 2 or sizes[-1] > 0.5 * sizes[0] or not learning.fails:
        return None
    return blame(
        "weight-decay-dominates",
        f"{100 * share:.0f} % of what goes backward is no loss of the answers; the weights shrank to "
        f"{sizes[-1] / sizes[0]:.2g} of their size; {learning}", "a penalty that is a small part of the loss",
        "take a hundredth of the factor, or the optimizer's weight_decay=5e-4",
        optimizer.made_at, confidence=0.85,
    )  # fmt: skip


def _highest_lr(observation: Observation) -> float | None:
    """Return the highest rate that was used, so that a warm-up is not judged by its start."""
    used = [step.lr for step in measured_steps(observation) if math.isfinite(step.lr)]
    optimizer = main_optimizer(observation)
    return max(used) if used else None if optimizer is None else optimizer.setting("lr")


def _line_of_rate(observation: Observation, optimizer: OptimizerSeen) -> Place | None:
    """Return where the rate was written, else where the optimizer was made or, by hand, the weights are changed."""
    told = [note.at for note in notes_of(observation, "optimizer-settings") if note.names[:1] == ("lr",)]
    return told[0] if told else optimizer.made_at or optimizer.step_at


def _highest_of(optimizer: OptimizerSeen, size: int | None) -> float:
    """Adaptive rates go with the root of the batch size, SGD's in proportion to it, above 128 images."""
    times = max(1.0, (size or 128) / 128)
    highest = _HIGHEST.get(optimizer.kind.lower(), math.inf)
    return highest * (math.sqrt(times) if is_adaptive(optimizer) else times)


def _has_run(observation: Observation) -> bool:
    """Whether the rate could have shown what it does: enough steps, and not still in a warm-up."""
    steps = measured_steps(observation)
    return observation.steps >= 20 and not _is_rising(steps)


def _is_rising(steps: Sequence[StepSeen]) -> bool:
    """Whether the rate is on its way up."""
    return len(steps) > 2 and steps[-1].lr > 1.05 * steps[0].lr and steps[-1].lr >= max(step.lr for step in steps)


def _learns_better(observation: Observation) -> str | None:
    """Return the words of a trial that is ahead with a tenth of a rate that no schedule changes; None without."""
    rates = {step.lr for step in measured_steps(observation)}
    return ahead(observation, LOWER_LR) if len(rates) == 1 else None


def _odd_setting(optimizer: OptimizerSeen) -> tuple[str, float, str, bool] | None:
    """Return the first setting out of its range, its value, the range, and whether nothing can work with it."""
    ranges = (
        ("momentum", 0.0, 0.985, "0.9", 1.0),
        ("beta1", 0.0, 0.985, "0.9", 1.0),
        ("beta2", 0.8, 0.99999, "0.999", 1.0),
        ("eps", 1e-13, 1e-3, "1e-8", 10.0),
        ("dampening", 0.0, 0.5, "0", 0.95),
    )
    for name, low, high, usual, impossible in ranges:
        value = optimizer.setting(name)
        if value is not None and not low <= value <= high:
            return name, value, f"from {low:g} to {high:g}, usually {usual}", value >= impossible or value < 0
    return None
