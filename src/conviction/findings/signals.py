"""Checks of the signal on its way through a net and of the gradient on its way back."""

from __future__ import annotations

import math
from collections.abc import Sequence

from conviction.findings.evidence import Evidence, Signal
from conviction.findings.records import Finding

# Median update ratio below which no collapsed net was seen to recover: the small NiN under the framework's start does
# in 350 steps of SGD at lr 0.05 (4e-5), and has not after 400 at lr 0.02 (1.5e-5).
_STILL = 2e-5
_START_AGAIN = "use init=auto or kaiming (fan-in, zero bias, small head), lsuv, or batch norm"


def non_finite(evidence: Evidence) -> Finding | None:
    """NaN or infinity in the weights, on the way forward, in the loss or on the way back; the first of them."""
    probe = evidence.probe
    if probe is None:
        return None
    weights = next((s.layer for s in probe.signals if math.isnan(s.weight_rms)), None)
    # Backwards the one nearest to the loss comes first.
    gradients = next((s.layer for s in reversed(probe.signals) if _is_nan(s.gradient_rms)), None)
    if weights is not None:
        seen, layer = "its weights are not finite", weights
    elif probe.not_finite:
        seen, layer = "its outputs are not finite", probe.not_finite
    elif not math.isfinite(probe.loss):
        seen, layer = f"the loss is {probe.loss}", None
    elif gradients is not None:
        seen, layer = "its gradient is not finite", gradients
    else:
        return None
    return Finding("non-finite", seen, "finite numbers", "look for log 0, 0/0 and overflow there",
                   layer=layer, hard=True)  # fmt: skip


def init_symmetric(evidence: Evidence) -> Finding | None:
    """All units of a hidden layer are the same and get the same gradient: together they are one unit, for good."""
    hidden = [] if evidence.probe is None else evidence.probe.signals[:-1]
    layer = next((s.layer for s in hidden if s.alike), None)
    if layer is None:
        return None
    return Finding(
        "init-symmetric", "its units all have the same weights and the same gradients", "units that differ",
        "start from random weights, such as init=kaiming", layer=layer, hard=True,
    )  # fmt: skip


def init_tiny(evidence: Evidence) -> Finding | None:
    """The signal fades from layer to layer until next to nothing of it is left."""
    hidden = _hidden(evidence)
    if len(hidden) < 2 or evidence.learned or not hidden[-1].rms < min(1e-3, 0.1 * hidden[0].rms):
        return None
    small = next(s for s in hidden if s.rms < 1e-3)
    return _of_start(
        evidence, "init-tiny", f"outputs fall from rms {hidden[0].rms:.2g} to {hidden[-1].rms:.2g}",
        "about 1 in every layer", small.layer,
    )  # fmt: skip


def init_huge(evidence: Evidence) -> Finding | None:
    """The signal grows until the net is sure of wrong answers before it has learnt anything."""
    probe = evidence.probe
    if probe is None or not (probe.cross_entropy > 2 * evidence.expected_loss + 1 and probe.max_softmax > 0.9):
        return None
    large = max(probe.signals, key=lambda s: s.rms, default=None)
    return Finding(
        "init-huge", f"first loss {probe.cross_entropy:.3g}, the likeliest class has {probe.max_softmax:.2f}",
        f"a loss near ln {evidence.num_classes} = {evidence.expected_loss:.3f}", _START_AGAIN,
        layer=large.layer if large else None, confidence=0.6 if evidence.learned else 0.9,
        experiment=evidence.tried,
    )  # fmt: skip


def saturating_activations(evidence: Evidence) -> Finding | None:
    """Sigmoids or tanhs, one after another, let next to nothing of the gradient through."""
    hidden = _hidden(evidence)
    squashing = [s for s in hidden if s.slope is not None]
    product = math.prod(s.slope or 0.0 for s in squashing)
    if len(squashing) < 2 or product > 1e-3 or evidence.learned:
        return None
    # Against the last hidden layer: a small head gets a large gradient whatever lies before it.
    first, last = _relative_gradient(hidden[0]), _relative_gradient(hidden[-1])
    if first is None or not last or first > 1e-2 * last:
        return None  # large weights make up for flat slopes
    flattest = min(squashing, key=lambda s: s.slope or 0.0)
    return Finding(
        "saturating-activations",
        f"the slopes of {len(squashing)} sigmoids or tanhs multiply to {product:.1g}, and {first / last:.1g} of the "
        "gradient reaches the first layer", "slopes that multiply to more than 0.001",
        "use ReLU with init=kaiming, or batch norm before them", layer=flattest.layer,
        confidence=0.95, experiment=evidence.tried, hard=_stuck(evidence),
    )  # fmt: skip


def dead_relu(evidence: Evidence) -> Finding | None:
    """All units of a layer are zero on every image: nothing passes, forwards or back."""
    signals = () if evidence.probe is None else evidence.probe.signals
    layer = next((s.layer for s in signals if s.dead_share == 1.0), None)
    if layer is None or evidence.learned is not False:
        return None  # a shortcut may lead past it
    return Finding(
        "dead-relu", "all its units are zero on every image", "units that answer to some images",
        "start from zero biases and init=kaiming", layer=layer, confidence=0.95, experiment=evidence.tried,
        hard=_stuck(evidence),
    )  # fmt: skip


def init_collapse(evidence: Evidence) -> Finding | None:
    """Whatever the image, the logits are the same: the signal has drowned in the biases."""
    probe = evidence.probe
    if probe is None or evidence.learned:
        return None
    dependence = probe.input_dependence
    if dependence is None and probe.logits_rms == 0 and _hidden(evidence):
        dependence = _dependence(_hidden(evidence)[-1])  # of a head that starts at zero, what reaches it counts
    if dependence is None or not dependence < 1e-2:
        return None
    first = next((s.layer for s in probe.signals if (_dependence(s) or 0.0) < 1e-2), None)
    return _of_start(
        evidence, "init-collapse", f"logits differ from image to image by {dependence:.1g} of their size",
        "more than 0.01", first,
    )  # fmt: skip


def _of_start(evidence: Evidence, cause: str, seen: str, expected: str, layer: str | None) -> Finding:
    """Make a finding about the starting weights."""
    stuck = _stuck(evidence)
    return Finding(
        cause, seen, expected, _START_AGAIN, layer=layer, experiment=evidence.tried,
        confidence=0.9 if stuck else 0.7 if evidence.overfit else 0.6, hard=stuck,
    )  # fmt: skip


def _stuck(evidence: Evidence) -> bool:
    """Whether the logits do not begin to differ from image to image, and steps are too small to change that.

    A collapsed net can find its way out: LeNet under the framework's start (sigmoids, dependence 6e-4) does in 100
    steps of AdamW, its spread growing twentyfold in the first 30, and in 300 of SGD at lr 0.9 with its large updates.
    """
    probe, overfit, updates = evidence.probe, evidence.overfit, evidence.updates
    if probe is None or overfit is None or updates is None or overfit.learned or overfit.spread is None:
        return False
    now = overfit.input_dependence or 0.0
    if now < 1e-6:  # rounding in float32: nothing of the image is left
        return True
    before = (probe.input_dependence or 0.0) * probe.logits_rms
    return now < 1e-2 and overfit.spread < 10 * before and updates.median < _STILL


def _hidden(evidence: Evidence) -> Sequence[Signal]:
    return () if evidence.probe is None else evidence.probe.signals[:-1]


def _dependence(signal: Signal) -> float | None:
    return signal.std / signal.rms if signal.rms else None


def _relative_gradient(signal: Signal) -> float | None:
    if signal.gradient_rms is None or not signal.weight_rms:
        return None
    return signal.gradient_rms / signal.weight_rms


def _is_nan(value: float | None) -> bool:
    return value is not None and math.isnan(value)
