"""Checks of the step: the learning rate as a number, what one update changes, what a few updates on one batch do."""

from __future__ import annotations

import math

from conviction.findings.evidence import Evidence, StepSize
from conviction.findings.records import Finding

_LOWEST = 1e-6
# Smallest healthy median of update over weight at batch size 128; smaller batches make up for smaller updates by their
# number. A small head makes SGD's first updates small, AdamW's it does not.
_SLOWEST = {"sgd": 1e-5, "adamw": 1e-4}


def lr_absurd(evidence: Evidence) -> Finding | None:
    """A rate that no net trains at: zero, nearly zero, or far above what its optimizer stands."""
    step = evidence.step
    if step is None or evidence.learned:
        return None
    highest = _highest(step)
    seen = f"{step.optimizer} at lr {step.lr:.3g}"
    if evidence.updates is not None and evidence.updates.median > 0.3:
        seen += f", one update changes the weights by {evidence.updates.median:.2g} of their size"
    elif _LOWEST <= step.lr <= highest:
        return None
    return Finding(
        "lr-absurd", seen, f"{_LOWEST:g} to {highest:.2g}", "leave lr open, or let `conviction lr` find one",
        confidence=0.9, experiment=evidence.tried, hard=step.lr == 0,
    )  # fmt: skip


def lr_too_high(evidence: Evidence) -> Finding | None:
    """The loss on one batch rises, or leaves the finite numbers, while updates are large."""
    overfit, updates = evidence.overfit, evidence.updates
    if overfit is None or updates is None or overfit.learned:
        return None
    rose = overfit.broke or overfit.loss_end > overfit.loss_start + 0.05 * evidence.expected_loss
    if not rose:
        return None
    return Finding(
        "lr-too-high", f"one update changes the weights by {_share(updates.median)} of their size",
        "a loss that falls", "lower lr to a third or a tenth, or set clip_norm",
        confidence=0.8, experiment=evidence.tried,
    )  # fmt: skip


def lr_too_low(evidence: Evidence) -> Finding | None:
    """The signal is healthy and the weights hardly move."""
    step, updates = evidence.step, evidence.updates
    if step is None or updates is None or evidence.learned is not False:
        return None
    if updates.median > _SLOWEST.get(step.optimizer, 1e-5) * _share_of_rate(step, min(1.0, step.batch_size / 128)):
        return None
    return Finding(
        "lr-too-low", f"one update changes the weights by {_share(updates.median)} of their size",
        "about 0.001", "raise lr tenfold, or let `conviction lr` find one",
        confidence=0.7, experiment=evidence.tried,
    )  # fmt: skip


def _highest(step: StepSize) -> float:
    return (0.03 if step.optimizer == "adamw" else 1.0) * _share_of_rate(step, max(1.0, step.batch_size / 128))


def _share_of_rate(step: StepSize, share: float) -> float:
    """AdamW's rate goes with the root of the batch size, SGD's in proportion to it."""
    return math.sqrt(share) if step.optimizer == "adamw" else share


def _share(ratio: float) -> str:
    return f"{ratio:.1g}"
