"""Verdicts: what healthy runs do is let be, what blow-ups do is seen soon, and each is called by its cause."""

from __future__ import annotations

import json
import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conviction.training.verdicts import WINDOW, Course, Verdict, is_guessing

GUESSING = math.log(10)


def falling(steps: int, start: float = GUESSING, end: float = 0.4, noise: float = 0.15, seed: int = 0) -> list[float]:
    """Losses of a run that learns: they fall and scatter, though not while all classes are as likely as each other."""
    draw = random.Random(seed)
    levels = [end + (start - end) * math.exp(-3 * step / steps) for step in range(steps)]
    return [max(0.0, level + draw.gauss(0, 0.01 + noise * level * (1 - level / (1.01 * start)))) for level in levels]


def followed(
    losses: list[float], course: Course | None = None, guessing: float = GUESSING
) -> tuple[int, Verdict | None]:
    """The index of the first loss with a verdict, and that verdict."""
    course = course or Course()
    for index, loss in enumerate(losses):
        verdict = course.look(loss, True, guessing)
        if verdict is not None:
            return index, verdict
    return len(losses), None


LEARNT = falling(200)
AFTER = falling(80, start=0.7, end=0.3, seed=1)

HEALTHY = {
    "learns": LEARNT,
    "learns from small batches": falling(400, noise=0.6),
    "never learns": [GUESSING + random.Random(2).gauss(0, 0.02) for _ in range(400)],
    "a plateau first": [*(GUESSING + random.Random(3).gauss(0, 0.02) for _ in range(150)), *falling(150)],
    "one impossible batch": [*LEARNT, 500.0, *falling(80, start=0.45)],
    "a few hard batches": [*LEARNT, *[2.5] * 6, *falling(80, start=0.45)],
    "an overshoot that comes back": [GUESSING, 9.0, 15.0, 8.0, 4.0, *falling(200)],
    "a bad start": [15.0, 14.0, *falling(200, start=12.0)],
    "down to nothing": falling(300, end=1e-5, noise=0.9),
    "rises a little": [*LEARNT, *(0.9 + 0.1 * math.sin(step) for step in range(100))],
}
SICK = {
    "explodes": ([*LEARNT, 80.0, 1e4, 1e6], 2, "lr-too-high"),
    "explodes at the start": ([GUESSING, 1e3, 1e3, 40.0], 2, "lr-too-high"),
    "forgets all": ([*LEARNT, *[GUESSING] * 40], WINDOW, "lr-too-high"),
    "forgets half": ([*LEARNT, *[1.6] * 40], WINDOW, "lr-too-high"),
    "jumps and never learns": ([GUESSING, 9.0, *[2.31] * 80], 50, "lr-too-high"),
    "nan": ([*LEARNT, math.nan], 1, "non-finite"),
    "infinity": ([*LEARNT, -math.inf], 1, "non-finite"),
    "nan at once": ([math.nan], 1, "non-finite"),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_runs_are_let_be(name: str) -> None:
    index, verdict = followed(HEALTHY[name])
    assert verdict is None, (index, verdict)


@pytest.mark.parametrize("name", SICK)
def test_blow_ups_are_seen_soon_and_by_their_cause(name: str) -> None:
    losses, within, cause = SICK[name]
    index, verdict = followed(losses)
    assert verdict is not None and verdict.cause == cause
    begun = len(LEARNT) if losses[: len(LEARNT)] == LEARNT else 0
    assert begun <= index < begun + within + 1
    assert 0 <= verdict.ago <= index - begun + 1, "it did not begin before it began"
    assert "\n" not in verdict.seen and verdict.expected


@given(st.floats(0.05, 3), st.floats(0.05, 0.3), st.integers(0, 30), st.sampled_from([2, 10, 100, 1000]))
def test_learning_is_never_taken_for_a_blow_up(end_share: float, noise: float, seed: int, classes: int) -> None:
    guessing = math.log(classes)
    losses = falling(250, guessing, min(0.9, end_share) * guessing, noise, seed)
    assert followed(losses, guessing=guessing)[1] is None


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_what_counts_is_the_loss_of_guessing(classes: int) -> None:
    guessing = math.log(classes)
    losses = falling(200, guessing, 0.2 * guessing)
    assert followed([*losses, *[guessing] * WINDOW], guessing=guessing)[1] is not None
    assert followed([*losses, *[0.45 * guessing] * WINDOW], guessing=guessing)[1] is None


def test_dead_is_no_gradient_for_long_and_a_loss_to_fall() -> None:
    course = Course()
    told = [course.look(GUESSING, False, GUESSING) for _ in range(40)]
    first = next(index for index, verdict in enumerate(told) if verdict is not None)
    assert first == 15 and told[first].cause == "dead-relu" and "exactly what guessing gives" in told[first].seen
    assert not course.lived
    for alive, loss in ((True, GUESSING), (None, GUESSING), (False, 1e-6)):
        course = Course()
        assert not any(course.look(loss, alive, GUESSING) for _ in range(40)), "alive, not looked at, or solved"
    course = Course()
    assert not any(course.look(GUESSING, index % 10 == 0, GUESSING) for index in range(200)), "dead now and then"


@pytest.mark.parametrize("level", [0.0, 0.3, 0.79, 0.9])
def test_below_guessing_nothing_is_dead(level: float) -> None:
    """0.79 is what a gated net and a masked expert had reached."""
    draw, course = random.Random(0), Course()
    losses = [(level + draw.uniform(0, 0.04)) * GUESSING if step % 3 else 1.1 * GUESSING for step in range(120)]
    assert not any(course.look(loss, False, GUESSING) for loss in losses)


@pytest.mark.parametrize("scatter", [0.0, 0.02, 0.15])
def test_dead_is_seen_through_the_scatter_of_small_batches(scatter: float) -> None:
    draw, course = random.Random(0), Course()
    told = [course.look(draw.gauss(1, scatter) * GUESSING, False, GUESSING) for _ in range(60)]
    assert any(verdict and verdict.cause == "dead-relu" for verdict in told[:48])


def test_where_nobody_looked_nothing_is_forgotten() -> None:
    course = Course()
    told = [course.look(GUESSING, False if step % 4 == 0 else None, GUESSING) for step in range(70)]
    assert next(step for step, verdict in enumerate(told) if verdict) == 60, "sixteen looks"


def test_guessing_forever_is_dead_only_without_gradient() -> None:
    assert followed([GUESSING] * 500)[1] is None


def test_only_calm_states_are_gone_back_to() -> None:
    def course(losses: list[float]) -> Course:
        made = Course()
        followed(losses, made)
        return made

    assert course(LEARNT).calm(GUESSING)
    assert not Course().calm(GUESSING)
    assert course([*LEARNT, 3.0]).calm(GUESSING), "one hard batch"
    assert not course([*LEARNT, 3.0, 3.0, 3.0]).calm(GUESSING), "rising just now"
    assert not course([*LEARNT, *[1.5] * (WINDOW - 3)]).calm(GUESSING), "has risen"
    assert not course([*LEARNT, *[1.5] * (WINDOW - 6), *[0.5] * 3]).calm(GUESSING), "hardly over it"
    assert not course([GUESSING] * 20).calm(GUESSING), "nothing learnt: no better than the start"
    assert not course([GUESSING, 6.0, 2.3, 2.3]).calm(GUESSING), "nor after a jump"
    assert course([GUESSING, 6.0, 2.3, *LEARNT]).calm(GUESSING)
    assert 0.5 < course(LEARNT).high(GUESSING) < 0.75 * GUESSING
    dead = course(LEARNT)
    dead.look(0.5, False, GUESSING)
    assert dead.calm(GUESSING), "it learns by another way"
    dead.look(GUESSING, False, GUESSING)
    assert not dead.calm(GUESSING)


def test_a_course_can_be_taken_up_where_it_was() -> None:
    losses = [*LEARNT, *[GUESSING] * 40]
    whole, cut = Course(), Course()
    for index, loss in enumerate(losses):
        cut = Course(**json.loads(json.dumps(cut.to_dict())))
        verdict = whole.look(loss, index % 3 > 0, GUESSING)
        assert cut.look(loss, index % 3 > 0, GUESSING) == verdict
        assert cut == whole
        if verdict:
            return
    raise AssertionError("never seen")


def test_beginning_again_forgets_the_last_losses_only() -> None:
    course = Course()
    followed([*LEARNT, *[GUESSING] * 10], course)
    level = course.level
    course.begin_again()
    assert followed(AFTER, course)[1] is None, "the losses before do not count any more"
    assert course.level <= level < 0.6


def test_going_back_takes_what_was_learnt_since_back_and_not_how_it_began() -> None:
    start, course = Course(), Course()
    followed([*LEARNT, *[GUESSING] * 10], course)
    back = course.back_at(start)
    assert back == Course(first=LEARNT[0], lived=True)
    assert followed([GUESSING] * 60, back)[1] is None, "nothing learnt, nothing to lose"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.01])
@pytest.mark.parametrize("images", [50, 500, 50_000])
def test_guessing_is_told_from_learning_by_the_binomial(share: float, images: int) -> None:
    draw = random.Random(0)
    rights = [sum(draw.random() < share for _ in range(images)) / images for _ in range(20_000 // images + 3)]
    assert statistics.mean(is_guessing(right, images, share) for right in rights) > 0.97
    assert not is_guessing(share + 3.5 * math.sqrt(share * (1 - share) / images), images, share)
    assert is_guessing(0.0, images, share)
