"""The rules of published tools, written anew from their descriptions, on a plain recording of `recorder.py`.

Thirty steps stand for an epoch, which all four count in. Sources: AutoTrainer (Zhang et al., ICSE 2021; thresholds of
`monitor.py` in its repository), DeepDiagnosis (Wardat et al., ICSE 2022; `callbacks.py`), UMLAUT (Schoop et al., CHI
2021; its heuristics), SageMaker Debugger ("List of Debugger built-in rules", default parameters). What they say of
Keras alone is left out: DeepDiagnosis' and UMLAUT's complaint about logits that no softmax follows would flag every
program here.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterable
from typing import Any

EPOCH_STEPS = 30
Record = dict[str, Any]

# What a tool's word may mean in our vocabulary.
_STEP_SIZE = {"lr-absurd", "lr-too-high", "lr-too-low", "schedule-kills-lr"}
_WEIGHTS = {"init-collapse", "init-tiny", "init-huge", "init-symmetric", "dead-relu"}
MEANINGS: dict[str, set[str]] = {
    "vanishing gradient": {"init-collapse", "init-tiny", "saturating-activations", "amp-underflow"},
    "exploding gradient": {"lr-absurd", "lr-too-high", "init-huge", "non-finite", "zero-grad-missing"},
    "dying relu": {"dead-relu", "activation-on-logits"},
    "oscillating loss": {"lr-absurd", "lr-too-high", "optimizer-settings", "zero-grad-missing"},
    "slow convergence": _STEP_SIZE | {"too-few-steps", "optimizer-settings", "clip-too-low"},
    "learning rate": _STEP_SIZE,
    "poor weight": _WEIGHTS,
    "normalize the data": {"input-unscaled", "non-finite"},
    "activation of the last layer": {"activation-on-logits", "double-softmax", "nll-on-logits", "wrong-loss"},
    "saturated activation": {"saturating-activations", "init-huge", "input-unscaled"},
    "numerical error": {"non-finite", "lr-absurd", "lr-too-high", "nll-on-logits"},
    "change the optimizer": {"optimizer-settings", "step-missing", "weight-decay-dominates", "clip-too-low"},
    "overfitting": {"train-test-leak", "no-eval-at-test"},
    "accuracy too good": {"train-test-leak", "metric-wrong"},
    "input shape": {"channel-order"},
    "loss not decreasing": _STEP_SIZE | {"step-missing", "loss-detached", "labels-shuffled", "sign-flipped"},
    "tensor variance": _WEIGHTS,
    "update ratio": {*_STEP_SIZE, "step-missing", "frozen-params"},
    "unchanged tensor": {"step-missing", "loss-detached", "frozen-params", "lr-too-low"},
}  # fmt: skip


def epochs_of(values: list[float]) -> list[float]:
    """Return the means over runs of thirty steps."""
    runs = [values[i : i + EPOCH_STEPS] for i in range(0, len(values), EPOCH_STEPS)]
    return [statistics.fmean(run) for run in runs if len(run) == EPOCH_STEPS or len(runs) == 1]


def is_broken(values: Iterable[float | None]) -> bool:
    """Tell whether a value is not finite."""
    return any(value is not None and not math.isfinite(value) for value in values)


def ask_autotrainer(record: Record) -> list[str]:
    """Return AutoTrainer's problems: its repository's parameters (beta 1e-3, 1e-4, 70; gamma .7; zeta .03, eta .2)."""
    accuracy = epochs_of(record["accuracies"])
    if is_broken(record["losses"]) or max(record["losses"], default=0) >= 1e5:
        return ["exploding gradient"]
    gains = [b - a for a, b in itertools.pairwise(accuracy)]
    stuck = max(gains, default=0) < 0.01
    if not accuracy or max(accuracy) < 0.7 or stuck:
        for row in record["steps"][::3]:
            norms = [layer["grad_norm"] or 0.0 for layer in row["layers"]]
            zeros = [layer["grad_zeros"] or 0.0 for layer in row["layers"]]
            if norms and statistics.fmean(zeros) >= 0.7:
                return ["dying relu"]
            ratio = norms[0] / max(norms[-1], 1e-30) if norms else 1.0
            if ratio > 70:
                return ["exploding gradient"]
            if ratio < 1e-3 and norms[0] < 1e-4:
                return ["vanishing gradient"]
        return ["slow convergence"] if stuck else []
    tops = [b for a, b, c in zip(accuracy, accuracy[1:], accuracy[2:], strict=False) if b >= a and b >= c]
    lows = [b for a, b, c in zip(accuracy, accuracy[1:], accuracy[2:], strict=False) if b <= a and b <= c]
    swings = sum(top - low >= 0.03 for top, low in zip(tops, lows, strict=False))
    return ["oscillating loss"] if swings >= 0.2 * len(accuracy) else []


def ask_deepdiagnosis(record: Record) -> list[str]:
    """Return DeepDiagnosis' fix for its first symptom: eight symptoms, then its decision tree over the causes."""
    last = record["steps"][-1]["layers"] if record["steps"] else []
    grads = [layer["grad_mean"] for layer in last if layer["grad_mean"] is not None]
    means, kinds = epochs_of(record["losses"]), record["activations"][-40:]
    symptom = (
        is_broken(record["losses"]) or any(grad == 0 for grad in grads) or is_broken(grads)
        or any(row["kind"] == "relu" and row["zeros"] >= 0.7 for row in kinds)
        or any(row["kind"] != "relu" and row["saturated"] > 0.5 for row in kinds)
        or any(grad < 1e-7 for grad in grads) or (len(means) > 5 and len(set(means[-5:])) == 1)
    )  # fmt: skip
    if not symptom:
        return []
    if any(layer["weight_var"] < 1e-5 or layer["weight_var"] > 10 for layer in last):
        return ["poor weight"]
    if record["inputs"] and (record["inputs"]["low"] < -1 or record["inputs"]["high"] > 1):
        return ["normalize the data"]
    rates = [ratio for row in record["steps"] for ratio in row.get("updates", [])]
    if any(rate > 0.1 or rate < 1e-5 for rate in rates):
        return ["learning rate"]
    if any(row["kind"] != "relu" and row["saturated"] > 0.5 for row in kinds):
        return ["saturated activation"]
    return ["change the optimizer"]


def ask_umlaut(record: Record) -> list[str]:
    """Return UMLAUT's errors: inputs beyond -1..1, lr beyond 1e-7..1e-2, shape, over-fitting, too good a validation.

    Its check for a missing softmax reads Keras' `from_logits`; here the last module before a loss on probabilities.
    """
    words, seen = [], record["inputs"]
    if record["last_module"] in ("ReLU", "Sigmoid", "Softmax", "Dropout"):
        words.append("activation of the last layer")
    if seen and len(seen["shape"]) == 4 and seen["shape"][2] != seen["shape"][3]:
        words.append("input shape")
    if seen and (seen["low"] < -1 or seen["high"] > 1):
        words.append("normalize the data")
    if is_broken(record["losses"]):
        words.append("numerical error")
    if any(row["lr"] > 0.01 or row["lr"] < 1e-7 for row in record["steps"]):
        words.append("learning rate")
    tests, trains = record["tests"], epochs_of(record["accuracies"])
    if len(tests) > 2 and trains and any(later < earlier for earlier, later in itertools.pairwise(tests)):
        words.append("overfitting")
    if len(tests) > 3 and (max(tests) > 0.95 or (trains and tests[-1] > trains[-1])):
        words.append("accuracy too good")
    return words


def ask_sagemaker(record: Record) -> list[str]:
    """Return the built-in rules that fire with their default parameters.

    ExplodingTensor (not finite), VanishingGradient (mean below 1e-7), DeadRelu (half of a layer's units active in under
    1 % of cases), SaturatedActivation (half beyond +-9.4999 for tanh, -23..16.99999 for sigmoid: the range that float32
    can tell), WeightUpdateRatio (beyond 1e-8..10), LossNotDecreasing (under .1 % in 10 steps), UnchangedTensor (3 equal
    steps), NotNormalizedInput (mean beyond .2), PoorWeightInitialization (variances of layers differ 10-fold).
    """
    words, rows = [], record["steps"]
    layers = [layer for row in rows for layer in row["layers"]]
    if is_broken(record["losses"]) or any(not layer["grad_finite"] for layer in layers):
        words.append("numerical error")
    if any(layer["grad_mean"] is not None and layer["grad_mean"] < 1e-7 for layer in layers):
        words.append("vanishing gradient")
    if any(row["kind"] == "relu" and row["silent"] > 0.5 for row in record["activations"]):
        words.append("dying relu")
    if any(row["kind"] != "relu" and (row["low"] < -23 or row["high"] > 17) and row["saturated"] > 0.5
           for row in record["activations"]):  # fmt: skip
        words.append("saturated activation")
    first = [layer["weight_var"] for layer in rows[0]["layers"]] if rows else []
    if first and max(first) > 10 * max(min(first), 1e-30):
        words.append("poor weight")
    if any(ratio > 10 or ratio < 1e-8 for row in rows for ratio in row.get("updates", [])):
        words.append("update ratio")
    norms = [[layer["weight_norm"] for layer in row["layers"]] for row in rows[:4]]
    if len(norms) == 4 and all(norm == norms[0] for norm in norms):
        words.append("unchanged tensor")
    means = [statistics.fmean(record["losses"][i : i + 10]) for i in range(0, len(record["losses"]) - 9, 10)]
    if any(later > earlier * 0.999 for earlier, later in itertools.pairwise(means)):
        words.append("loss not decreasing")
    if record["inputs"] and abs(record["inputs"]["mean"]) > 0.2:
        words.append("normalize the data")
    return words


TOOLS: dict[str, Callable[[Record], list[str]]] = {
    "AutoTrainer": ask_autotrainer, "DeepDiagnosis": ask_deepdiagnosis, "UMLAUT": ask_umlaut,
    "SageMaker Debugger": ask_sagemaker,
}  # fmt: skip

# AutoTrainer's remedies in the order of its paper, those that a running program can be given.
MENU = {
    "vanishing gradient": ("selu", "he-init"), "exploding gradient": ("selu", "clip"),
    "dying relu": ("selu", "he-init", "leaky-relu"), "oscillating loss": ("adam", "lr/10"),
    "slow convergence": ("adam", "lr*10"),
}  # fmt: skip
