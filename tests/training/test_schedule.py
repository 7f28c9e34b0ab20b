"""The learning rate as a function of the step: warm-up rises, the end is near nothing, the peak is `lr`."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conviction.recipe import Recipe
from conviction.training.schedule import lr_at

SCHEDULES = ["cosine", "onecycle", "linear", "constant"]


def curve(schedule: str, steps: int, warmup_epochs: float = 0.0, steps_per_epoch: int = 10, lr: float = 0.2) -> list:
    recipe = Recipe(schedule=schedule, lr=lr, warmup_epochs=warmup_epochs)
    return [lr_at(step, steps, recipe, steps_per_epoch) for step in range(steps)]


@settings(deadline=None)
@given(
    st.sampled_from(SCHEDULES), st.integers(1, 300), st.floats(0, 40), st.integers(1, 50), st.floats(1e-6, 10)
)  # fmt: skip
def test_rates_are_finite_positive_and_at_most_the_peak(
    schedule: str, steps: int, warmup_epochs: float, steps_per_epoch: int, lr: float
) -> None:
    rates = curve(schedule, steps, warmup_epochs, steps_per_epoch, lr)
    assert all(0 < rate <= lr * (1 + 1e-12) for rate in rates)
    assert rates == curve(schedule, steps, warmup_epochs, steps_per_epoch, lr)  # pure
    turn = rates.index(max(rates))
    assert rates[: turn + 1] == sorted(rates[: turn + 1])  # rises once
    assert rates[turn:] == sorted(rates[turn:], reverse=True)  # and falls once


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_peak_is_lr(schedule: str) -> None:
    assert max(curve(schedule, 100, warmup_epochs=1)) == pytest.approx(0.2)


@pytest.mark.parametrize("schedule", ["cosine", "onecycle", "linear"])
def test_the_end_is_almost_nothing(schedule: str) -> None:
    last = curve(schedule, 1000, warmup_epochs=1)[-1]
    assert 0 < last <= 0.2 * 0.0011


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_warmup_rises_in_equal_parts(schedule: str) -> None:
    rates = curve(schedule, 100, warmup_epochs=1.5)
    assert rates[:15] == pytest.approx([0.2 * step / 16 for step in range(1, 16)])
    assert rates[15] == 0.2
    assert (rates[16] < 0.2) == (schedule != "constant")


def test_cosine_is_the_papers() -> None:
    assert curve("cosine", 8) == pytest.approx([0.1 * (1 + math.cos(math.pi * step / 8)) for step in range(8)])


def test_linear_is_a_line() -> None:
    assert curve("linear", 5) == pytest.approx([0.2, 0.16, 0.12, 0.08, 0.04])


def test_constant_stays() -> None:
    assert set(curve("constant", 50)) == {0.2}


def test_one_cycle_rises_for_three_tenths_and_ignores_the_warmup() -> None:
    rates = curve("onecycle", 100)
    assert rates.index(max(rates)) == 29
    assert rates[0] < 0.05 * 0.2
    assert rates == curve("onecycle", 100, warmup_epochs=3)
    # Half-way up and half-way down the cosine is half-way between its ends.
    assert rates[14] == pytest.approx(0.2 * (1 + 0.04) / 2)
    assert rates[64] == pytest.approx(0.2 * (1 + 1e-4) / 2)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_warmup_longer_than_the_run_takes_half_of_it(schedule: str) -> None:
    rates = curve(schedule, 10, warmup_epochs=100)
    assert max(rates[:6]) == max(rates)
