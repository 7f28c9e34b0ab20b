"""Checks of a net's end: what makes the logits that enter the cross-entropy."""

from __future__ import annotations

from conviction.findings.evidence import Evidence
from conviction.findings.records import Finding

# In autograd's words, which all cut off a part of the numbers that logits may take.
_CUTTING = {"relu": "ReLU", "hardtanh": "ReLU6", "sigmoid": "sigmoid", "hardsigmoid": "hard sigmoid", "tanh": "tanh",
            "dropout": "dropout", "nativedropout": "dropout"}  # fmt: skip


def double_softmax(evidence: Evidence) -> Finding | None:
    """Probabilities go into a loss that takes the softmax itself: it cannot fall below ln(e + C - 1) - 1."""
    probe = evidence.probe
    if probe is None or not (probe.sums_to_one or probe.made_by == "softmax"):
        return None
    return Finding(
        "double-softmax", "the outputs are probabilities: each row sums to 1", "logits of any size and sign",
        "leave the softmax out: cross-entropy takes logits",
    )  # fmt: skip


def activation_on_logits(evidence: Evidence) -> Finding | None:
    """An activation or dropout after the last layer."""
    probe = evidence.probe
    if probe is None or probe.made_by not in _CUTTING:
        return None
    name = _CUTTING[probe.made_by]
    return Finding(
        "activation-on-logits", f"the logits come out of a {name}", "logits straight from the last layer",
        f"leave out the {name} after the last layer", confidence=0.9,
    )  # fmt: skip
