"""Checks of what goes into training: parameters that may move, labels, images."""

from __future__ import annotations

import math

from conviction.findings.evidence import Evidence
from conviction.findings.records import Finding

_FEW = 0.05  # share of the parameters below which a net without pretrained weights has nothing to learn with
_CHANCE = 1e-6  # how rarely a fair sample may look like this before it is called one of a single class


def frozen_params(evidence: Evidence) -> Finding | None:
    """Almost no parameter may move. A head on pretrained features learns all the same, so it has to fail first."""
    share = evidence.trainable_share
    if share is None or (share > 0 and (share >= _FEW or evidence.learned is not False)):
        return None
    return Finding(
        "frozen-params", f"{100 * share:.2g} % of the parameters are trainable",
        "all of them, or a head on pretrained features", "set requires_grad on the layers that are to learn",
        confidence=1.0 if share == 0 else 0.7, experiment=evidence.tried, hard=share == 0,
    )  # fmt: skip


def labels_malformed(evidence: Evidence) -> Finding | None:
    """Labels that are no class numbers, out of range, or all the same."""
    labels, classes = evidence.labels, evidence.num_classes
    if labels is None or not labels.count:
        return None
    span = f"{labels.lowest:g} to {labels.highest:g}"
    expected = f"whole numbers from 0 to {classes - 1}"
    if not labels.whole_numbers:
        return Finding("labels-malformed", f"labels are fractions from {span}", expected,
                       "give class numbers (int64)", hard=True)  # fmt: skip
    if labels.lowest < 0 or labels.highest >= classes:
        from_one = labels.lowest >= 1 and labels.highest == classes
        remedy = "subtract 1: they count from one" if from_one else "map them to 0, 1, 2 ..."
        return Finding("labels-malformed", f"labels go from {span}", expected, remedy, hard=True)
    # By chance n labels of C fair classes are all the same once in C^(n-1) samples.
    by_chance = (labels.count - 1) * math.log(max(2, classes)) < -math.log(_CHANCE)
    if labels.distinct > 1 or classes < 2 or (by_chance and not labels.complete):
        return None
    return Finding(
        "labels-malformed", f"all {labels.count} labels are {labels.lowest:g}", f"{classes} classes",
        "look at how labels are read, and whether the images are shuffled",
        confidence=1.0 if labels.complete else 0.8, hard=labels.complete,
    )  # fmt: skip


def input_unscaled(evidence: Evidence) -> Finding | None:
    """Images that are not finite, all the same, or far from deviation 1."""
    inputs = evidence.inputs
    if inputs is None:
        return None
    seen, remedy, hard = "", "standardise the images: subtract the mean, divide by the deviation", False
    if not inputs.finite:
        seen, remedy, hard = "the images hold NaN or infinite values", "look for the files that hold them", True
    elif inputs.count > 1 and inputs.same:
        seen, remedy = f"all {inputs.count} images are the same", "look at how images are read"
        hard = inputs.count >= 8  # a few may be copies of each other
    elif inputs.largest > 10 and inputs.rms > 3:  # strokes on an empty ground have a large maximum at rms 1
        seen = f"values up to {inputs.largest:.3g}, rms {inputs.rms:.3g}"
    elif inputs.std < 0.02:
        seen = f"deviation {inputs.std:.2g}"
    else:
        return None
    return Finding("input-unscaled", seen, "images that differ, with a deviation near 1", remedy,
                   confidence=1.0 if hard else 0.8, hard=hard)  # fmt: skip
