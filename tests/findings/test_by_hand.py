"""Nets that are plain tensors stepped by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from patients import NET

from conviction.findings.by_hand import pace_by_hand, start_by_hand
from conviction.findings.doctoring import ask
from conviction.findings.observation import Ending, Observation, OptimizerSeen, Place, SourceNote, StepSeen

BY_HAND = OptimizerSeen(0, "by hand", (("lr", 0.003),), 100_000, (0,), steps=320)
SCALE = SourceNote("init-scale", Place("t.py", 9), ("1e-05",))
DIVIDED = SourceNote("update-divided", Place("t.py", 36), ("batch_size",))


def tensors(first: float, last: float, *notes: SourceNote, steps: int = 320, **changes: Any) -> Observation:
    """A program without modules whose loss goes from one value to another in a straight line."""
    losses = (first + (last - first) * number / (steps - 1) for number in range(steps))
    measured = tuple(StepSeen(number, 0, loss, None, 0.003) for number, loss in enumerate(losses))
    net = replace(NET, kind="tensors", training_forwards=0, testing_forwards=0)
    return Observation(
        steps=steps, seconds=5.0, backwards=steps, nets=(net,), optimizers=(BY_HAND,), measured=measured, notes=notes,
        ending=Ending("finished"), **changes,
    )  # fmt: skip


def test_a_start_too_small_is_told_at_its_line() -> None:
    found = start_by_hand(tensors(230.26, 230.2, SCALE), "init-tiny")
    assert found is not None and (found.cause, found.line) == ("init-tiny", 9)
    assert ask(tensors(230.26, 230.2, SCALE))[0].cause == "init-tiny"


def test_a_start_too_large_is_told() -> None:
    found = start_by_hand(tensors(400.0, 900.0, replace(SCALE, names=("3",))), "init-huge")
    assert found is not None and found.cause == "init-huge"


@pytest.mark.parametrize(
    "observation",
    [
        tensors(230.26, 80.0, SCALE),  # it learns
        tensors(230.26, 230.2),  # nothing is known of its start
        replace(tensors(230.26, 230.2, SCALE), optimizers=(replace(BY_HAND, kind="SGD"),)),
    ],
    ids=["learns", "no note", "an optimizer"],
)
def test_other_starts_are_left_alone(observation: Observation) -> None:
    assert start_by_hand(observation, "init-tiny") is None


def test_a_pace_too_slow_is_told_and_the_second_division_named() -> None:
    sure, unsure = pace_by_hand(tensors(2.32, 2.2, DIVIDED)), pace_by_hand(tensors(2.32, 2.2))
    assert sure is not None and unsure is not None and sure.confidence > unsure.confidence
    assert (sure.cause, sure.line, unsure.line) == ("lr-too-low", 36, None)
    assert "once more" in sure.seen and "once more" not in unsure.seen


@pytest.mark.parametrize(
    "observation",
    [tensors(2.32, 1.2, DIVIDED), tensors(2.32, 2.32, DIVIDED), tensors(2.32, 2.2, DIVIDED, steps=60)],
    ids=["learns", "does not fall", "short"],
)
def test_other_paces_are_left_alone(observation: Observation) -> None:
    assert pace_by_hand(observation) is None
