"""What trials prove: a change has to be clearly ahead of the control, whatever the loss and however noisy."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from conviction.findings.observation import Observation, Trial
from conviction.findings.trials import (
    AS_IT_IS,
    BY_HEART,
    BY_HEART_BLIND,
    LOWER_LR,
    NEW_INIT,
    PIXELS,
    STATISTICS,
    broke,
    by_heart,
    confirmed,
    control_learns,
    cures,
    labels_unrelated,
    learned,
    settled,
    trial,
)

LN10 = math.log(10)


def course(change: str, end: float, *, accuracy: float | None = None, noise: float = 0.02, judged: int = 256) -> Trial:
    """Forty steps from ln 10 down to `end`."""
    draws = random.Random(change + str(end))
    losses = [LN10 + (end - LN10) * min(1.0, step / 25) + draws.gauss(0, noise) for step in range(40)]
    return Trial(change, tuple(losses), LN10, accuracy, "", judged if accuracy is not None else 0, 0.1)


def tried(*trials: Trial) -> Observation:
    return Observation(10, 1.0, trials=trials)


FLAT = course(AS_IT_IS, LN10, accuracy=0.1)


@pytest.mark.parametrize(
    ("changed", "control", "holds"),
    [
        (course(LOWER_LR, 1.0, accuracy=0.6), FLAT, True),
        (course(LOWER_LR, LN10, accuracy=0.12), FLAT, False),  # two of 256 more are chance
        (course(LOWER_LR, 2.2, accuracy=0.14), FLAT, False),
        (course(LOWER_LR, 0.8, accuracy=0.7), course(AS_IT_IS, 1.0, accuracy=0.6), False),  # both learn
        (course(LOWER_LR, 0.5, accuracy=0.11), FLAT, False),  # learned by heart: the answers to others are guesses
        (course(LOWER_LR, 1.0), course(AS_IT_IS, LN10), True),  # no answers: the loss alone
        (course(LOWER_LR, 1.9), course(AS_IT_IS, LN10), True),
        (course(LOWER_LR, 1.9, noise=1.5), course(AS_IT_IS, LN10, noise=1.5), False),
        (course(LOWER_LR, 1.0, accuracy=0.6), course(AS_IT_IS, 3e4, accuracy=0.1), True),  # exploded
        (course(LOWER_LR, 3e4, accuracy=0.6), course(AS_IT_IS, LN10, accuracy=0.6), False),
        (replace(course(LOWER_LR, 1.0), losses=(2.3, math.nan)), FLAT, False),
        (course(LOWER_LR, 1.0, accuracy=0.6), replace(FLAT, losses=(2.3, math.nan), accuracy=0.1), True),
        (course(LOWER_LR, 1.0, accuracy=0.6), replace(FLAT, blind_loss=-1e30, losses=(-1e3, -1e9)), True),  # no floor
    ],
)  # fmt: skip
def test_change_is_confirmed_where_it_is_clearly_ahead(changed: Trial, control: Trial, holds: bool) -> None:
    assert confirmed(tried(control, changed), LOWER_LR) is holds
    assert cures(tried(control, changed)) == ((LOWER_LR,) if holds else ())


@pytest.mark.parametrize("seed", range(40))
def test_noise_confirms_nothing(seed: int) -> None:
    draws = random.Random(seed)
    pair = []
    for change in (AS_IT_IS, LOWER_LR):
        losses = tuple(LN10 + draws.gauss(0, 0.3) for _ in range(40))
        right = sum(draws.random() < 0.1 for _ in range(100))
        pair.append(Trial(change, losses, LN10, right / 100, "", 100, 0.1))
    assert not confirmed(tried(*pair), LOWER_LR) and not any(map(learned, pair))


def test_nothing_is_confirmed_without_both_trials() -> None:
    cured = course(LOWER_LR, 1.0)
    assert not confirmed(tried(cured), LOWER_LR) and not confirmed(tried(FLAT), LOWER_LR)
    assert not confirmed(tried(FLAT, cured), NEW_INIT) and not confirmed(tried(), AS_IT_IS)
    assert control_learns(tried()) is None and by_heart(tried()) is None and labels_unrelated(tried()) is None
    assert trial(tried(FLAT, cured), LOWER_LR) is cured and trial(tried(), LOWER_LR) is None


def test_control_tells_whether_the_net_could_learn() -> None:
    assert control_learns(tried(FLAT)) is False
    assert control_learns(tried(course(AS_IT_IS, 1.0, accuracy=0.5))) is True


def test_settled_is_the_mean_of_the_last_quarter() -> None:
    some = Trial(AS_IT_IS, (9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 1.0, 3.0), LN10)
    assert settled(some) == 2.0 and not broke(some)
    assert settled(Trial(AS_IT_IS, (1.0,), LN10)) == 1.0 and settled(Trial(AS_IT_IS, (), LN10)) == math.inf
    assert settled(replace(some, losses=(1.0, math.inf))) == math.inf and broke(replace(some, losses=(math.nan,)))


@pytest.mark.parametrize(
    ("seen", "blank", "known"), [(0.1, LN10, True), (LN10, LN10, False), (1.0, 0.9, False), (1.0, LN10, True)]
)
def test_by_heart_needs_the_inputs(seen: float, blank: float, known: bool) -> None:
    assert by_heart(tried(course(BY_HEART, seen), course(BY_HEART_BLIND, blank))) is known


@pytest.mark.parametrize(("accuracy", "unrelated"), [(0.1, True), (0.15, True), (0.2, False), (0.7, False)])
def test_labels_are_unrelated_within_chance(accuracy: float, unrelated: bool) -> None:
    # 3 standard errors of a share of 0.1 in 200 are 0.064.
    assert labels_unrelated(tried(Trial(PIXELS, (), math.nan, accuracy, "", 200, 0.1))) is unrelated


@pytest.mark.parametrize(
    ("losses", "mended"), [((5.0, 0.5), True), ((0.6, 0.5), False), ((5.0, math.nan), False), ((math.nan, 0.5), True)]
)
def test_statistics_mend_where_they_close_the_gap(losses: tuple[float, float], mended: bool) -> None:
    assert confirmed(tried(Trial(STATISTICS, losses, math.nan)), STATISTICS) is mended
