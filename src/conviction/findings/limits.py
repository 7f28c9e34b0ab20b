"""Checks of what holds learning back: clipping, 16-bit numbers, dropout."""

from __future__ import annotations

import math

from conviction.findings.learning import read_learning, weigh
from conviction.findings.observation import Observation
from conviction.findings.readings import blame, line_of, main_loss, main_optimizer, measured_steps, middle, trained_net
from conviction.findings.records import Finding
from conviction.findings.trials import FULL_PRECISION, NO_CLIPPING, NO_DROPOUT

_ALWAYS, _LITTLE = 0.95, 0.01  # share of the steps that are clipped, and what clipping leaves of the gradient
_LOST = 0.2  # share of the gradients that are exactly zero in float16
_KEPT, _ON_MAPS = 0.2, 0.5  # share of the numbers that all dropouts together let through, highest p on maps


def clip_too_low(observation: Observation) -> Finding | None:
    """Every gradient is cut to almost nothing."""
    clipped = [(step.clip_norm, step.clip_found) for step in measured_steps(observation)
               if step.clip_norm is not None and step.clip_found]  # fmt: skip
    cut = [norm / found for norm, found in clipped if norm < found]
    left = middle(norm / found for norm, found in clipped)
    if len(clipped) < 3 or len(cut) <= _ALWAYS * len(clipped) or left is None or left >= _LITTLE:
        return None
    weight = weigh(observation, 0.85, NO_CLIPPING, plain=True)
    if weight is None:
        return None
    optimizer = main_optimizer(observation)
    return blame(
        "clip-too-low",
        f"{len(cut)} of {len(clipped)} gradients were clipped to {clipped[-1][0]:g}, to {left:.1g} of their norm; "
        f"{read_learning(observation)}", "clipping in a few steps, near 1",
        "clip at a norm of 1, or of ten times the usual norm",
        line_of(observation, "clip-low", otherwise=optimizer.step_at if optimizer is not None else None),
        confidence=weight[0], experiment=weight[1],
    )  # fmt: skip


def amp_underflow(observation: Observation) -> Finding | None:
    """Gradients too small for float16 become zero, without a scaler that enlarges the loss."""
    if observation.autocast != "float16" or observation.scaler:
        return None
    zero = middle(step.zero_gradient_share for step in measured_steps(observation))
    weight = weigh(observation, 0.8, FULL_PRECISION)
    if weight is None or ((zero or 0.0) <= _LOST and weight[1] is None):
        return None
    loss = main_loss(observation)
    return blame(
        "amp-underflow", f"{100 * (zero or 0):.0f} % of the gradients are exactly 0 in float16, without a scaler; "
        f"{read_learning(observation)}", "less than 20 %", "use torch.amp.GradScaler, or autocast in bfloat16",
        line_of(observation, "half-without-scaler", otherwise=loss.at if loss is not None else None),
        confidence=weight[0], experiment=weight[1],
    )  # fmt: skip


def dropout_too_high(observation: Observation) -> Finding | None:
    """Dropout leaves too little of the signal to learn from."""
    net = trained_net(observation)
    if net is None or not net.dropouts:
        return None
    kept = math.prod(1 - p for _, p, _ in net.dropouts)
    layer, worst, on_maps = max(net.dropouts, key=lambda dropout: (dropout[1] > _ON_MAPS and dropout[2], dropout[1]))
    if kept >= _KEPT and not (on_maps and worst > _ON_MAPS) and worst < 0.75:
        return None
    weight = weigh(observation, 0.8, NO_DROPOUT, plain=True)
    if weight is None:
        return None
    return blame(
        "dropout-too-high",
        f"{len(net.dropouts)} dropout{'s' * (len(net.dropouts) > 1)}, the highest with p {worst:g}, let "
        f"{100 * kept:.2g} % through together; {read_learning(observation)}",
        "p up to 0.3 after convolutions and 0.5 before the last layers", "lower p, or leave dropout out at first",
        line_of(observation, "dropout-high", otherwise=net.made_at), layer=layer,
        confidence=weight[0], experiment=weight[1],
    )  # fmt: skip
