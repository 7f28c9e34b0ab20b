"""Learning: whether a program learns, told from its measured losses and answers with their noise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from conviction.findings.observation import LoaderSeen, LossSeen, Observation, StepSeen, Trial
from conviction.findings.readings import CLASS_LOSSES, class_count, main_loss, measured_steps, training_loader
from conviction.findings.trials import AS_IT_IS, confirmed, control_learns, is_ahead, trial

# Measured losses below which nothing is said, and the share of the blind loss under which a net has learned something
# (as in the preflight's overfit) or much.
_LEAST, _LEARNED, _WELL = 6, 0.9, 0.6
_EXPLODED = 2.0  # times the blind loss
_ENOUGH = 100  # steps in which a program that can learn has learned more than a little
# The same by answers: share of what lies above always answering the most frequent class.
_LEARNED_ANSWERS, _WELL_ANSWERS = 0.1, 0.5
_ERRORS = 3.0  # standard errors that a trend has to exceed
_SURE_BY_TRIAL = 0.95


@dataclass(frozen=True)
class Learning:
    """How training went. `blind` is the loss of a net that never looks at the images, None where it is not known.

    `state`: `well` or `partly` learned; `slow` (falls, not yet below blind), `stuck`, `rose`, `lost` (learned, then
    fell back), `broke` (not finite); `unknown` where too little was measured or several nets play against each other.
    """

    state: str
    first: float | None = None
    last: float | None = None
    blind: float | None = None
    accuracy: float | None = None
    steps: int = 0
    still_falling: bool = False
    ended: bool = False
    latest: float | None = None  # loss of the very last steps, where `last` is that of the last fifth

    @property
    def fails(self) -> bool:
        """Whether the program clearly does not learn."""
        return self.state in {"stuck", "rose", "lost", "broke"}

    @property
    def learns(self) -> bool:
        """Whether it has learned something."""
        return self.state in {"well", "partly"}

    @property
    def poor(self) -> bool:
        """Whether it has learned little, and no more is to come: it has levelled off, or the program has ended."""
        if self.state != "partly" or self.steps < _ENOUGH or (self.still_falling and not self.ended):
            return False
        return self.latest is None or self.blind is None or self.latest > _WELL * self.blind

    def __str__(self) -> str:
        if self.first is None or self.last is None:
            return f"{self.steps} steps"
        of_blind = "" if self.blind is None else f" (guessing gives {self.blind:.4g})"
        return f"loss {self.first:.4g} -> {self.last:.4g} in {self.steps} steps{of_blind}"


def read_learning(observation: Observation) -> Learning:
    """Tell from the measured steps whether the program learns."""
    steps, loss = measured_steps(observation), main_loss(observation)
    values = [value for step in steps if (value := _value(step, loss)) is not None]
    blind = blind_loss(observation)
    total = max((step.index for step in steps), default=0) + bool(steps)
    broken = any(not math.isfinite(value) for value in values[-3:])
    if broken:
        finite = [value for value in values if math.isfinite(value)]
        return Learning("broke", finite[0] if finite else math.nan, math.nan, blind, steps=total)
    values = [value for value in values if math.isfinite(value)]
    if len(values) < _LEAST or _is_contest(observation, loss):
        return Learning("unknown", *_ends(values), blind=blind, steps=total)
    accuracy = _late_accuracy(steps)
    first, last = _ends(values)
    state = _state(values, blind) if blind else _relative_state(values)
    state = _better(state, _answers_state(accuracy, training_loader(observation), class_count(observation)))
    falling = _falls(values[len(values) // 2 :] if len(values) >= 24 else values)
    latest = statistics.fmean(values[-max(3, len(values) // 20) :])
    return Learning(state, first, last, blind, accuracy, total, falling, has_ended(observation), latest)


def has_ended(observation: Observation) -> bool:
    """Whether the program came to its own end."""
    return observation.ending.how in {"finished", "exit"}


def blind_loss(observation: Observation) -> float | None:
    """Return the loss of always giving each class its frequency; None where the loss is not of classes."""
    loss, classes, loader = main_loss(observation), class_count(observation), training_loader(observation)
    if loss is not None and loss.kind not in CLASS_LOSSES:
        return _blind_of_one_hot(loss, loader)
    if classes is None or classes < 2:
        return None
    entropy = loader.entropy_all if loader is not None else None
    if loader is not None and loader.batches and loader.batches < 3:
        entropy = None  # too few labels to tell
    even = math.log(classes)
    # Labels of (nearly) one class leave nothing to learn: what such a net shows is told against even classes.
    return entropy if entropy is not None and 0.02 * even < entropy <= even and not (loss and loss.weighted) else even


def weigh(
    observation: Observation, confidence: float, *changes: str, plain: bool = False
) -> tuple[float, str | None] | None:
    """Return how sure a cause is, and the words of the trial that made it so; None where the program shows no need.

    Each of `changes` is a trial that would mend the cause. Where one is confirmed it decides, whatever the losses say
    yet; where none was tried the program has to fail; where it was tried in vain the cause is less likely. A `plain`
    cause, which no healthy program shows, is believed of one that learns poorly, too.
    """
    cure = next((found for change in changes if confirmed(observation, change)
                 if (found := trial(observation, change)) is not None), None)  # fmt: skip
    learning = read_learning(observation)
    if learning.state == "well":
        return None
    if cure is not None:
        return (_SURE_BY_TRIAL if learning.fails else 0.8), words_of(cure)
    in_vain = any(trial(observation, change) is not None for change in changes)
    if plain and learning.poor and not in_vain:
        return 0.9 * confidence, None
    # A clone that learns where the program does not: the fault lies in the loop, unless it came with the steps.
    if not learning.fails or (control_learns(observation) and learning.state in {"stuck", "rose"}):
        return None
    return (0.6 * confidence if in_vain else confidence), None


def ahead(observation: Observation, change: str) -> str | None:
    """Return the words of the trial of a change that is ahead of the control; None where it is not, or was not made."""
    changed, control = trial(observation, change), trial(observation, AS_IT_IS)
    return words_of(changed) if changed is not None and control is not None and is_ahead(changed, control) else None


def words_of(seen: Trial) -> str:
    """Return a trial in a few words."""
    if seen.line or not seen.losses:
        return seen.line or seen.change
    return f"{seen.change}: loss {seen.losses[0]:.3g} -> {seen.losses[-1]:.3g} in {len(seen.losses)} steps"


def _value(step: StepSeen, loss: LossSeen | None) -> float | None:
    """Return the mean loss of an image: what the loss function said, or what went backward."""
    value = step.told if step.told is not None else step.loss
    if value is None or loss is None or loss.reduction != "sum" or not step.samples:
        return value
    # The sum is over the batch, and for losses without classes over everything that an image has.
    each = 1 if loss.kind in CLASS_LOSSES else math.prod(loss.input_shape[1:]) or 1
    return value / (step.samples * each)


def _is_contest(observation: Observation, loss: LossSeen | None) -> bool:
    """Whether several optimizers train different nets (as of GANs), whose losses need not fall."""
    stepping = [optimizer for optimizer in observation.optimizers if optimizer.steps]
    return len({optimizer.nets for optimizer in stepping}) > 1 and not (loss and loss.kind in CLASS_LOSSES)


def _blind_of_one_hot(loss: LossSeen, loader: LoaderSeen | None) -> float | None:
    """The blind loss of one-hot labels under squares or binary cross-entropy; None for other targets."""
    if len(loss.input_shape) != 2 or loss.target_shape != loss.input_shape or loss.target_distinct != 2:
        return None
    classes = loss.input_shape[1]
    if loader is None or loader.classes != classes or classes < 3 or loss.target_lowest != 0:
        return None
    share = 1 / classes
    if loss.kind == "mse_loss":
        return share * (1 - share)
    if loss.kind.startswith("binary_cross_entropy"):
        return -share * math.log(share) - (1 - share) * math.log(1 - share)
    return None


def _ends(values: Sequence[float]) -> tuple[float | None, float | None]:
    if not values:
        return None, None
    return statistics.fmean(values[: max(1, min(3, len(values) // 4))]), statistics.fmean(_tail(values))


def _tail(values: Sequence[float]) -> Sequence[float]:
    return values[-max(3, len(values) // 5) :]


def _state(values: Sequence[float], blind: float) -> str:
    """Judge losses against that of a blind net."""
    last, first = statistics.fmean(_tail(values)), statistics.fmean(values[:3])
    if last < _LEARNED * blind:
        return "well" if last < _WELL * blind else "partly"
    windows = [statistics.fmean(values[at : at + 4]) for at in range(len(values) - 3)]
    if min(windows) < 0.8 * blind:
        return "lost" if last > 0.95 * blind else "slow"
    if last > first + max(0.05 * blind, _ERRORS * _error(_tail(values))):
        return "rose"
    third = max(3, len(values) // 3)
    values = [min(value, _EXPLODED * blind) for value in values]  # to come down from there is not to learn
    falls = _falls(values[third:]) or (_falls(values) and last < 0.985 * blind)
    return "slow" if falls and last < 1.2 * blind else "stuck"


def _relative_state(values: Sequence[float]) -> str:
    """Judge losses without a known blind value by their own start: what falls learns, what does not is unknown."""
    first, last = _ends(values)
    if first is None or last is None:
        return "unknown"
    if last > first + max(0.5 * abs(first), _ERRORS * _error(values)):
        return "rose"
    if not _falls(values):
        return "stuck" if len(values) >= 20 and abs(last - first) < 0.02 * abs(first) else "unknown"
    return "well" if last < 0.5 * first else "partly" if last < 0.9 * first else "slow"


def _falls(values: Sequence[float]) -> bool:
    """Whether the last third lies below the first by more than its noise."""
    third = len(values) // 3
    if third < 2:
        return False
    start, end = values[:third], values[-third:]
    drop = statistics.fmean(start) - statistics.fmean(end)
    return drop > max(_ERRORS * math.hypot(_error(start), _error(end)), 1e-3 * abs(statistics.fmean(start)))


def _error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def _late_accuracy(steps: Sequence[StepSeen]) -> float | None:
    """Share of right answers in the last fifth; None where fewer than 100 answers are known, which tell nothing."""
    known = [(step.accuracy, step.samples or 1) for step in steps if step.accuracy is not None]
    late = known[-max(3, len(known) // 5) :]
    count = sum(samples for _, samples in late)
    return sum(share * samples for share, samples in late) / count if count >= 100 else None


def _answers_state(accuracy: float | None, loader: LoaderSeen | None, classes: int | None) -> str:
    if accuracy is None:
        return "unknown"
    chance = loader.largest_class_share if loader is not None else None
    if chance is None:
        chance = 1 / classes if classes else None
    if chance is None or chance >= 1:
        return "unknown"
    lift = (accuracy - chance) / (1 - chance)
    return "well" if lift > _WELL_ANSWERS else "partly" if lift > _LEARNED_ANSWERS else "unknown"


def _better(by_loss: str, by_answers: str) -> str:
    """Answers can only speak for a net: many right ones prove that it learns, few do not prove that it does not."""
    if by_answers == "well" or (by_answers == "partly" and by_loss != "well"):
        return by_answers
    return by_loss
