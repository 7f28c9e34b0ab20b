"""Patients: observations of training programs, made by changing a healthy one in the few fields that matter."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field, replace
from typing import Any

from conviction.findings.evidence import Evidence, Inputs, Labels, Overfit, StepSize, UpdateRatio
from conviction.findings.observation import (
    Ending,
    LoaderSeen,
    LossSeen,
    ModeGap,
    NetSeen,
    Observation,
    OptimizerSeen,
    Place,
    Printed,
    SourceNote,
    StepSeen,
    Trial,
)


@dataclass(frozen=True)
class Layer:
    """A healthy layer."""

    layer: str = "conv"
    rms: float = 1.0
    std: float = 0.5
    weight_rms: float = 0.1
    gradient_rms: float | None = 1e-3
    dead_share: float | None = 0.1
    slope: float | None = None
    alike: bool = False


@dataclass(frozen=True)
class Pass:
    """A healthy pass over a batch of ten classes."""

    classes: int = 10
    loss: float = 2.3
    cross_entropy: float = 2.3
    logits_rms: float = 0.1
    input_dependence: float | None = 0.3
    max_softmax: float = 0.11
    made_by: str = "addmm"
    sums_to_one: bool = False
    not_finite: str = ""
    signals: tuple[Layer, ...] = field(default_factory=lambda: layers())


def layers(count: int = 4, **changes: Any) -> tuple[Layer, ...]:
    return tuple(replace(Layer(), layer=f"layer{number}", **changes) for number in range(count))


def chain(**values: tuple[float | None, ...]) -> tuple[Layer, ...]:
    """Four layers whose numbers are given by name."""
    return tuple(replace(layer, **{name: row[number] for name, row in values.items()})
                 for number, layer in enumerate(layers()))  # fmt: skip


HEALTHY_EVIDENCE = Evidence(
    10,
    1.0,
    Inputs(64, True, 2.5, 1.0, 1.0, False),
    Labels(64, 0, 9, 10),
    Pass(),
    StepSize("adamw", 0.001, 64),
    UpdateRatio(0.01, 0.2),
    Overfit(2.3, 1.0, 10, 16, 2.25),
)
NET = NetSeen(
    0,
    "LeNet",
    60_000,
    60_000,
    60_000,
    60_000,
    60_000,
    ("net",),
    Place("t.py", 10),
    Place("t.py", 30),
    training_forwards=300,
    testing_forwards=40,
    test_at=Place("t.py", 40),
)
ADAM = OptimizerSeen(
    0,
    "Adam",
    (("lr", 1e-3), ("beta1", 0.9), ("beta2", 0.999), ("eps", 1e-8), ("weight_decay", 0.0), ("maximize", 0)),
    60_000,
    (0,),
    steps=300,
    zero_grads=300,
    made_at=Place("t.py", 20),
    step_at=Place("t.py", 34),
)
LOSS = LossSeen(
    "cross_entropy",
    300,
    Place("t.py", 31),
    input_shape=(64, 10),
    lowest=-4.0,
    highest=5.0,
    made_by="addmm",
    target_shape=(64,),
    target_kind="int64",
    target_lowest=0,
    target_highest=9,
    target_distinct=10,
)
LOADER = LoaderSeen(
    0,
    64,
    True,
    False,
    0,
    6400,
    True,
    Place("t.py", 15),
    300,
    64,
    entropy=2.22,
    entropy_all=2.302,
    runs=1.1,
    classes=10,
    largest_class_share=0.105,
)
TESTS = LoaderSeen(1, 64, False, False, 0, 1000, False, Place("t.py", 16), 16, 40, shared_with_training=0.0)
GAP = ModeGap(0.5, 0.55, 0.85, 0.83, 0.98)


def curve(kind: str, count: int = 60, blind: float = math.log(10), seed: int = 0) -> list[float]:
    """Return losses with a batch's noise."""
    noise = random.Random(seed)
    shapes = {
        "learns": lambda t: 0.25 + 0.75 * math.exp(-6 * t),
        "partly": lambda t: 0.75 + 0.25 * math.exp(-5 * t),
        "falls": lambda t: 1 - 0.22 * t,
        "slow": lambda t: 1 - 0.05 * t,
        "stuck": lambda t: 1.0,
        "rises": lambda t: 1 + 3 * t,
        "lost": lambda t: 0.5 if 0.3 < t < 0.5 else 1.0,
        "plateau": lambda t: 1.0 if t < 0.6 else 1 - 1.5 * (t - 0.6),
        "breaks": lambda t: 1 + t if t < 0.5 else math.nan,
        "huge": lambda t: 1.02 + 8 * math.exp(-30 * t),
    }
    jitter = 0.002 if kind in {"stuck", "slow"} else 0.03
    return [blind * shapes[kind](at / count) * (1 + jitter * noise.gauss(0, 1)) for at in range(count)]


def patient(
    curve_kind: str = "learns", *, net: dict[str, Any] | None = None, optimizer: dict[str, Any] | None = None,
    settings: dict[str, float] | None = None, loss: dict[str, Any] | None = None, loader: dict[str, Any] | None = None,
    tests: dict[str, Any] | None = None, step: dict[str, Any] | None = None, evidence: dict[str, Any] | None = None,
    seen: dict[str, Any] | None = None, lrs: list[float] | None = None, blind: float = math.log(10), **others: Any,
) -> Observation:  # fmt: skip
    """Return an observation that differs from a healthy one in the fields that are given, and in its losses."""
    trained, loss_seen = replace(NET, **(net or {})), replace(LOSS, **(loss or {}))
    rule = replace(ADAM, **(optimizer or {}))
    rule = replace(rule, settings=tuple({**dict(rule.settings), **(settings or {})}.items()))
    lr = rule.setting("lr")
    values = curve(curve_kind, blind=blind)
    common = {"samples": 64, "gradient_norm": 1.0, "weight_norm": 10.0, "update_ratio": 2e-3,
              "largest_update_ratio": 1e-2, "changed": True, "zero_gradient_share": 0.02, **(step or {})}  # fmt: skip
    measured = tuple(
        StepSeen(number * 5, rule.number, value, value, lr if lrs is None else lrs[number], **common)
        for number, value in enumerate(values)
    )
    proof = HEALTHY_EVIDENCE if seen is None else replace(HEALTHY_EVIDENCE, probe=Pass(**seen))
    base = Observation(
        300,
        20.0,
        300,
        (trained,),
        (rule,),
        (loss_seen,),
        (replace(LOADER, **(loader or {})), replace(TESTS, **(tests or {}))),
        measured,
        evidence=replace(proof, **(evidence or {})),
    )
    return replace(base, **others)


def note(kind: str, line: int = 7, *names: str, text: str = "as written") -> tuple[SourceNote, ...]:
    return (SourceNote(kind, Place("t.py", line), names, text),)


def failed(error: str, **others: Any) -> Observation:
    """Return the observation of a program that ended with an error before its first step."""
    ending = Ending("error", error, Place("t.py", 33), "features.3")
    return replace(patient(), steps=0, backwards=0, measured=(), evidence=None, ending=ending, **others)


def told(*texts: str, every: int = 100, line: int = 36) -> tuple[Printed, ...]:
    """Return lines that one statement printed, `every` steps apart."""
    return tuple(Printed(text, (), (number + 1) * every, Place("t.py", line)) for number, text in enumerate(texts))


def tried(change: str, *, helps: bool = True, control: bool = False) -> tuple[Trial, ...]:
    """Return a control that does not learn, and a trial that does where it `helps`."""
    flat, falling = (2.31, *[2.303, 2.302] * 20), tuple(2.3 * math.exp(-0.05 * at) for at in range(41))
    return (
        Trial(
            "as it is", falling if control else flat, 2.303, 0.1, "as it is: loss 2.31 -> 2.30 in 41 steps", 256, 0.11
        ),
        Trial(
            change,
            falling if helps else flat,
            2.303,
            0.7 if helps else 0.1,
            f"with {change}: loss 2.30 -> 0.31",
            256,
            0.11,
        ),
    )
