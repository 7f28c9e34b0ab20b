"""Every check against the evidence of a sick net and of its healthy twin, the order of questioning, the record."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from patients import Layer, Pass, layers

from conviction.findings import (
    QUESTIONS,
    Evidence,
    Finding,
    Inputs,
    Labels,
    Overfit,
    StepSize,
    UpdateRatio,
    question,
)

HEALTHY = Evidence(
    num_classes=10,
    trainable_share=1.0,
    inputs=Inputs(64, True, 2.5, 1.0, 1.0, False),
    labels=Labels(64, 0, 9, 10),
    probe=Pass(),
    step=StepSize("adamw", 0.001, 128),
    updates=UpdateRatio(0.01, 0.2),
    overfit=Overfit(2.3, 1.0, 10, 16, 2.25),
)
# A batch that was not learned, and a net that nothing has changed since.
FLAT = Overfit(2.3, 2.25, 25, 16, 2.25, input_dependence=5e-4, spread=5e-5)
STUCK = {"overfit": FLAT, "updates": UpdateRatio(1e-6, 1e-4)}


def with_pass(**changes: object) -> dict[str, object]:
    return {"probe": Pass(**changes)}


def chain(*pairs: tuple[str, tuple[float, ...]], count: int = 4) -> tuple[Layer, ...]:
    """Layers whose numbers are given by name."""
    return tuple(
        replace(Layer(), layer=f"layer{number}", **{name: values[number] for name, values in pairs})
        for number in range(count)
    )


FADING = chain(("rms", (0.03, 1e-4, 1e-6, 1e-8)), ("std", (0.01, 1e-5, 1e-7, 1e-9)))
DROWNED = chain(("std", (0.5, 0.05, 0.005, 0.0005)))
SQUASHED = chain(("slope", (0.2, 0.05, 0.05, None)), ("gradient_rms", (1e-6, 1e-5, 1e-3, 1e-2)))

# Evidence of a sick net, the cause, whether it is hard, and a healthy twin that looks alike.
CASES: list[tuple[str, bool, dict[str, object], dict[str, object]]] = [
    ("frozen-params", True, {"trainable_share": 0.0}, {"trainable_share": 0.01}),
    ("frozen-params", False, {"trainable_share": 0.01, "overfit": FLAT}, {"trainable_share": 0.06, "overfit": None}),
    ("labels-malformed", True, {"labels": Labels(64, 1, 10, 10)}, {"labels": Labels(64, 1, 9, 9)}),
    ("labels-malformed", True, {"labels": Labels(64, -1, 9, 11)}, {"labels": Labels(64, 0, 9, 10)}),
    ("labels-malformed", True, {"labels": Labels(64, 0, 0.9, 9, whole_numbers=False)}, {"labels": None}),
    ("labels-malformed", True, {"labels": Labels(5, 3, 3, 1, complete=True)}, {"labels": Labels(5, 3, 3, 1)}),
    ("labels-malformed", False, {"labels": Labels(64, 3, 3, 1)}, {"labels": Labels(64, 3, 4, 2)}),
    ("input-unscaled", True, {"inputs": Inputs(64, False, math.nan, math.nan, math.nan, False)}, {"inputs": None}),
    ("input-unscaled", True, {"inputs": Inputs(64, True, 2, 1, 1, True)}, {"inputs": Inputs(1, True, 2, 1, 1, True)}),
    ("input-unscaled", False, {"inputs": Inputs(2, True, 2, 1, 1, True)}, {"inputs": Inputs(1, True, 2, 1, 1, True)}),
    ("input-unscaled", False, {"inputs": Inputs(64, True, 255, 116, 90, False)},
     {"inputs": Inputs(64, True, 30, 1, 1, False)}),
    ("input-unscaled", False, {"inputs": Inputs(64, True, 0.004, 0.001, 0.001, False)},
     {"inputs": Inputs(64, True, 1, 0.4, 0.1, False)}),
    ("double-softmax", False, with_pass(sums_to_one=True), with_pass(made_by="logsoftmax")),
    ("double-softmax", False, with_pass(made_by="softmax"), with_pass(made_by="mean")),
    ("activation-on-logits", False, with_pass(made_by="relu"), with_pass(made_by="leakyrelu")),
    ("activation-on-logits", False, with_pass(made_by="dropout"), with_pass(made_by="addmm")),
    ("non-finite", True, with_pass(not_finite="pool"), with_pass(not_finite="")),
    ("non-finite", True, with_pass(loss=math.inf), with_pass(loss=30.0)),
    ("non-finite", True, with_pass(signals=layers(4, weight_rms=math.nan)), with_pass()),
    ("non-finite", True, with_pass(signals=layers(4, gradient_rms=math.nan)),
     with_pass(signals=layers(4, gradient_rms=None))),
    ("init-symmetric", True, with_pass(signals=layers(4, alike=True)),
     with_pass(signals=(*layers(3), replace(Layer(), alike=True)))),  # of the last layer nothing is asked
    ("init-tiny", True, {**STUCK, **with_pass(signals=FADING)}, with_pass(signals=FADING)),
    ("init-tiny", False, {**with_pass(signals=FADING), "overfit": None},
     {**with_pass(signals=layers(4, rms=5e-4, std=1e-4)), "overfit": None}),  # small images, and none fades
    ("init-huge", False, with_pass(cross_entropy=36.0, max_softmax=0.97), with_pass(cross_entropy=5, max_softmax=0.6)),
    ("init-huge", False, with_pass(cross_entropy=6.0, max_softmax=0.95),
     with_pass(cross_entropy=0.01, max_softmax=0.99)),  # a trained net is sure, and right
    ("dead-relu", True, {**STUCK, "overfit": replace(FLAT, input_dependence=0.0, spread=0.0),
                         **with_pass(signals=layers(4, dead_share=1.0))},
     with_pass(signals=layers(4, dead_share=1.0))),  # learned all the same: past a shortcut
    ("saturating-activations", True, {**STUCK, **with_pass(signals=SQUASHED, input_dependence=2e-3)},
     with_pass(signals=SQUASHED)),
    ("saturating-activations", False, {**with_pass(signals=SQUASHED), "overfit": None},
     {**with_pass(signals=layers(4, slope=0.06)), "overfit": None}),  # flat slopes, the gradient arrives
    ("init-collapse", True, {**STUCK, **with_pass(input_dependence=4e-4, signals=DROWNED)},
     with_pass(input_dependence=4e-4, signals=DROWNED)),
    ("init-collapse", False, {**with_pass(input_dependence=4e-4), "overfit": None},
     {**with_pass(input_dependence=0.02), "overfit": None}),
    ("init-collapse", False, {**with_pass(input_dependence=None, logits_rms=0.0, signals=layers(4, std=1e-4)),
                              "overfit": None},
     {**with_pass(input_dependence=None, logits_rms=0.0), "overfit": None}),  # a head that starts at zero
    ("lr-absurd", True, {"step": StepSize("sgd", 0.0, 128), "overfit": None},
     {"step": StepSize("sgd", 0.9, 128), "overfit": None}),
    ("lr-absurd", False, {"step": StepSize("adamw", 0.1, 128), "overfit": None},
     {"step": StepSize("adamw", 0.05, 512), "overfit": None}),
    ("lr-absurd", False, {"updates": UpdateRatio(0.9, 3), "overfit": FLAT}, {"updates": UpdateRatio(0.9, 3)}),
    ("lr-too-high", False, {"overfit": Overfit(2.3, 9.0, 25, 16, 2.25)}, {"overfit": FLAT}),
    ("lr-too-high", False, {"overfit": Overfit(2.3, math.nan, 5, 16, 2.25)}, {"overfit": None}),
    ("lr-too-low", False, {"updates": UpdateRatio(1e-7, 1e-6), "overfit": FLAT}, {"updates": UpdateRatio(1e-7, 1e-6)}),
]  # fmt: skip


@pytest.mark.parametrize(("cause", "hard", "sick", "twin"), CASES, ids=[f"{n}-{c[0]}" for n, c in enumerate(CASES)])
def test_sick_is_named_and_its_twin_left_alone(
    cause: str, hard: bool, sick: dict[str, object], twin: dict[str, object]
) -> None:
    found = question(replace(HEALTHY, **sick))
    assert [finding.cause for finding in found][:1] == [cause]
    assert found[0].hard is hard
    assert question(replace(HEALTHY, **twin)) == ()


def test_every_check_has_a_case_and_needs_its_evidence() -> None:
    checks = [check for _, row in QUESTIONS for check in row]
    named = {check.__name__.replace("_", "-") for check in checks}
    assert named == {cause for cause, *_ in CASES}
    assert all(check(Evidence(num_classes=10)) is None for check in checks)
    assert question(HEALTHY) == ()


def test_learning_rate_is_blamed_only_where_nothing_else_is() -> None:
    absurd = {"step": StepSize("adamw", 5.0, 128), "updates": UpdateRatio(40.0, 90.0), "overfit": FLAT}
    assert [f.cause for f in question(replace(HEALTHY, **absurd))] == ["lr-absurd"]
    assert [f.cause for f in question(replace(HEALTHY, **absurd, **with_pass(made_by="relu")))] == [
        "activation-on-logits"
    ]


def test_a_rate_is_blamed_once() -> None:
    both = {"step": StepSize("sgd", 1e-9, 128), "updates": UpdateRatio(1e-10, 1e-9), "overfit": FLAT}
    assert [f.cause for f in question(replace(HEALTHY, **both))] == ["lr-absurd"]


def test_hard_findings_come_first_then_surer_ones() -> None:
    many = replace(HEALTHY, inputs=Inputs(64, True, 255, 116, 90, False),
                   labels=Labels(64, 1, 10, 10), **with_pass(sums_to_one=True))  # fmt: skip
    assert [f.cause for f in question(many)] == ["labels-malformed", "double-softmax", "input-unscaled"]
    stuck = replace(HEALTHY, **STUCK, **with_pass(sums_to_one=True, input_dependence=5e-4))
    assert [(f.cause, f.hard) for f in question(stuck)] == [("init-collapse", True), ("double-softmax", False)]


def test_collapse_names_the_layer_where_the_signal_is_lost() -> None:
    found = question(replace(HEALTHY, **STUCK, **with_pass(input_dependence=5e-4, signals=DROWNED)))
    assert found[0].layer == "layer2"
    assert found[0].experiment == "25 steps on one batch of 16: loss 2.300 -> 2.250"


@pytest.mark.parametrize(
    "way_out",
    [
        {"overfit": replace(FLAT, spread=5e-3)},  # the logits begin to differ
        {"overfit": replace(FLAT, input_dependence=0.2)},
        {"updates": UpdateRatio(1e-2, 1e-1)},  # large steps
    ],
)
def test_collapse_that_may_end_is_a_warning(way_out: dict[str, object]) -> None:
    collapsed = {**STUCK, **with_pass(input_dependence=5e-4, signals=DROWNED)}
    (found,) = question(replace(HEALTHY, **{**collapsed, **way_out}))
    assert (found.cause, found.hard) == ("init-collapse", False)


def test_collapse_of_which_only_rounding_is_left_is_hard_at_any_step() -> None:
    gone = {"overfit": replace(FLAT, input_dependence=5e-8), "updates": UpdateRatio(0.01, 0.1)}
    (found,) = question(replace(HEALTHY, **gone, **with_pass(input_dependence=5e-4)))
    assert found.hard


def test_gradient_that_is_not_finite_is_found_nearest_to_the_loss() -> None:
    signals = chain(("gradient_rms", (math.nan, math.nan, math.nan, 0.1)))
    assert question(replace(HEALTHY, **with_pass(signals=signals)))[0].layer == "layer2"


def test_one_based_labels_are_told_from_others() -> None:
    assert "subtract 1" in question(replace(HEALTHY, labels=Labels(64, 1, 10, 10)))[0].remedy
    assert "subtract 1" not in question(replace(HEALTHY, labels=Labels(64, 0, 10, 11)))[0].remedy


def test_json_has_the_fields_that_scripts_rely_on() -> None:
    finding = Finding("dead-relu", "zeros", "signal", "restart", layer="relu1", file="a.py", line=3, confidence=0.5,
                      experiment="20 steps")  # fmt: skip
    told = finding.to_dict()
    assert told == {
        "cause": "dead-relu", "where": {"file": "a.py", "line": 3, "layer": "relu1"}, "seen": "zeros",
        "expected": "signal", "try": "restart", "confidence": 0.5, "experiment": "20 steps",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("finding", "line"),
    [
        (Finding("non-finite", "nan", "numbers", "look"), "non-finite: nan, expected numbers - look"),
        (Finding("step-missing", "0", "1", "step", file="a\n.py", line=3),
         "step-missing, a\\n.py:3: 0, expected 1 - step"),
        (Finding("init-tiny", "1e-9", "1", "restart", layer="conv", experiment="20 steps"),
         "init-tiny, layer conv: 1e-9, expected 1 (20 steps) - restart"),
    ],
)  # fmt: skip
def test_finding_reads_as_one_line(finding: Finding, line: str) -> None:
    assert str(finding) == line
