"""The order of questioning: every check in its place, and the findings in the order of their likelihood."""

from __future__ import annotations

from collections.abc import Callable

from conviction.findings.evidence import Evidence
from conviction.findings.heads import activation_on_logits, double_softmax
from conviction.findings.inputs import frozen_params, input_unscaled, labels_malformed
from conviction.findings.rates import lr_absurd, lr_too_high, lr_too_low
from conviction.findings.records import Finding
from conviction.findings.signals import (
    dead_relu,
    init_collapse,
    init_huge,
    init_symmetric,
    init_tiny,
    non_finite,
    saturating_activations,
)

Check = Callable[[Evidence], Finding | None]

# Each check names one cause. A row is asked after those above it, because what it looks at depends on them.
QUESTIONS: tuple[tuple[str, tuple[Check, ...]], ...] = (
    ("ownership", (frozen_params,)),
    ("labels and images", (labels_malformed, input_unscaled)),
    ("head", (double_softmax, activation_on_logits)),
    ("signal", (non_finite, init_symmetric, init_tiny, init_huge, dead_relu, saturating_activations, init_collapse)),
    ("step size", (lr_absurd, lr_too_high, lr_too_low)),
)
# A learning rate is blamed only where nothing else is (most other faults look like a bad rate), and once.
_LAST_RESORT = "step size"


def question(evidence: Evidence, *, step_size: bool = True) -> tuple[Finding, ...]:
    """Ask everything that the evidence can answer; the most likely cause comes first.

    Without `step_size` the learning rate is not asked about: whoever looks for one knows that it is not the cause.

    Hard findings come before the others, surer ones before less sure ones, else the order of questioning decides.
    """
    found: list[Finding] = []
    for topic, checks in QUESTIONS:
        if topic == _LAST_RESORT and not step_size:
            continue
        answers = [finding for check in checks if (finding := check(evidence)) is not None]
        if topic == _LAST_RESORT:
            answers = [] if found else answers[:1]
        found += answers
    return tuple(sorted(found, key=lambda finding: (not finding.hard, -finding.confidence)))
