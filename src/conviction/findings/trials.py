"""Trials: what an experiment on a clone proves. Pure functions of what `diagnosis/experiments` has put down."""

from __future__ import annotations

import math
import statistics

from conviction.findings.observation import Observation, Trial

# What a trial changes; everything else is as in the control, down to the order of the batches and dropout's draws.
AS_IT_IS = "as it is"
LOWER_LR = "lr / 10"
HIGHER_LR = "lr x 10"
USUAL_LR = "usual lr"
NEW_INIT = "init"
NEW_INIT_AND_LR = "init and usual lr"  # tried where neither alone cures
STANDARDISED = "inputs standardised"
CROSS_ENTROPY = "cross-entropy on the logits"
NO_DROPOUT = "without dropout"
NO_DECAY = "without weight decay"
USUAL_SETTINGS = "default optimizer settings"
NO_CLIPPING = "without clipping"
SIGN_TURNED = "sign turned"
SHUFFLED = "shuffled"
FULL_PRECISION = "fp32"
RELU = "ReLU for sigmoid"
UNFROZEN = "unfrozen"
TRAIN_MODE = "train mode"
NO_AUGMENTATION = "without augmentation"
# Two without a control of their own: see `by_heart` and `labels_unrelated`.
BY_HEART = "one batch by heart"
BY_HEART_BLIND = "one batch by heart, inputs blank"
PIXELS = "linear probe on pixels"
# Its losses are two: eval mode before, and after batch norm's statistics were computed anew.
STATISTICS = "batch-norm statistics recomputed"

_ALONE = {AS_IT_IS, BY_HEART, BY_HEART_BLIND, PIXELS}

# A trial has to know this share more of what there is to know than the control, and twice as much.
_CLEARLY, _TIMES = 0.1, 2.0
_NOTICEABLY, _MANY = 0.05, 64
# Standard errors by which it has to be ahead, and those that a share correct may be off chance.
_ERRORS = 3.0
_SPREAD = 0.25  # of a sample's loss over the blind loss, in nets that begin to learn
_SURE_ERRORS = 4.0  # of few samples 3 come by chance more often than a normal distribution says


def trial(observation: Observation, change: str) -> Trial | None:
    """Return the trial of one change; None where it was not tried."""
    return next((trial for trial in observation.trials if trial.change == change), None)


def confirmed(observation: Observation, change: str) -> bool:
    """Whether the clone with the change learns clearly more than the one as it is; False where it was not tried.

    Learned is what share of the blind loss is gone at the end, or what share of the images beyond chance is answered
    correctly; one of them has to be ahead by 3 standard errors, by 0.1 and by a factor of two, the other not behind.
    The loss of samples that were held out may decide, too.
    """
    changed, control = trial(observation, change), trial(observation, AS_IT_IS)
    if change == STATISTICS:
        return changed is not None and _mended(changed)
    if changed is None or control is None or change in _ALONE or not learned(changed):
        return False
    ahead, behind = False, False
    for gain, before, error in _comparisons(changed, control):
        ahead |= gain - before > max(_CLEARLY, _ERRORS * error) and gain > _TIMES * before
        behind |= before - gain > max(_CLEARLY, _ERRORS * error)
    held, before = _held_progress(changed), _held_progress(control)
    if held is not None and before is not None:
        error = math.hypot(_held_error(changed), _held_error(control))
        ahead |= held - max(0.0, before) > max(_CLEARLY, _ERRORS * error) and held > _TIMES * before
    return ahead and not behind


def is_ahead(changed: Trial, control: Trial) -> bool:
    """Whether the clone with the change knows more than the one as it is, by 3 standard errors of whatever tells."""
    held, before = _held_progress(changed), _held_progress(control)
    ahead = [gain - known > _ERRORS * error for gain, known, error in _comparisons(changed, control)]
    if held is not None and before is not None:
        ahead.append(held - before > _ERRORS * math.hypot(_held_error(changed), _held_error(control)))
    return any(ahead) and learned(changed)


def cures(observation: Observation) -> tuple[str, ...]:
    """Return the changes that `confirmed` holds for, in the order in which they were tried."""
    return tuple(trial.change for trial in observation.trials if confirmed(observation, trial.change))


def control_learns(observation: Observation) -> bool | None:
    """Whether a clone trained as the program means to learns; None where it was not tried.

    Where it does and the program does not, the fault lies in the loop around the net: what is stepped, on what, when.
    """
    control = trial(observation, AS_IT_IS)
    return None if control is None else learned(control)


def by_heart(observation: Observation) -> bool | None:
    """Whether one small batch is learned by heart, and not without its inputs; None where it was not tried."""
    seen, blank = trial(observation, BY_HEART), trial(observation, BY_HEART_BLIND)
    if seen is None or blank is None:
        return None
    return learned(seen) and settled(seen) < 0.9 * settled(blank)


def labels_unrelated(observation: Observation) -> bool | None:
    """Whether a linear model on the pixels does no better than chance on images it has not seen; None if not tried."""
    pixels = trial(observation, PIXELS)
    if pixels is None or pixels.accuracy is None or pixels.chance is None or not pixels.judged:
        return None
    return pixels.accuracy <= pixels.chance + _ERRORS * _error_of_share(pixels.chance, pixels.judged)


def learned(trial: Trial) -> bool:
    """Whether the inputs told the net something: by its answers beyond chance, or by its loss.

    A loss also falls on labels that are learned by heart: that of the steps counts where few samples were held out.
    """
    loss, held, share = _progress(trial), _held_progress(trial), _lift(trial)
    by_answers = share is not None and share > max(_NOTICEABLY, _SURE_ERRORS * _lift_error(trial, trial.chance))
    by_held = held is not None and held > max(_CLEARLY, _ERRORS * _held_error(trial))
    by_loss = loss is not None and loss > _CLEARLY and (share is None or trial.judged < _MANY)
    return not broke(trial) and (by_answers or by_held or by_loss)


def broke(trial: Trial) -> bool:
    """Whether the loss left the finite numbers."""
    return not all(math.isfinite(loss) for loss in trial.losses)


def settled(trial: Trial) -> float:
    """Return the mean loss of the last quarter of the steps."""
    return statistics.fmean(_tail(trial)) if trial.losses and not broke(trial) else math.inf


def _comparisons(changed: Trial, control: Trial) -> list[tuple[float, float, float]]:
    """What both have learned, by loss and by answers, each with the standard error of the difference."""
    found = []
    loss, before = _progress(changed), _progress(control)
    if loss is not None and before is not None:
        error = math.hypot(_loss_error(changed), _loss_error(control))
        found.append((loss, max(0.0, before), error))
    share, share_before = _lift(changed), _lift(control)
    if share is not None and share_before is not None:
        error = math.hypot(_lift_error(changed), _lift_error(control))
        found.append((share, max(0.0, share_before), error))
    return found


def _progress(trial: Trial) -> float | None:
    """Share of the blind loss that is gone at the end; None where there is no such thing (a loss without a floor)."""
    if not (math.isfinite(trial.blind_loss) and trial.blind_loss > 0) or not trial.losses:
        return None
    return statistics.fmean(_gone(trial))


def _gone(trial: Trial) -> list[float]:
    """Step by step, at the end; a loss that has exploded is not worse than one of twice the blind loss."""
    return [max(-1.0, 1 - loss / trial.blind_loss) if math.isfinite(loss) else -1.0 for loss in _tail(trial)]


def _held_progress(trial: Trial) -> float | None:
    """The same of the samples that were held out; a net that is sure of wrong answers is not counted as behind."""
    if trial.held_loss is None or not (math.isfinite(trial.blind_loss) and trial.blind_loss > 0):
        return None
    return max(-1.0, 1 - trial.held_loss / trial.blind_loss) if math.isfinite(trial.held_loss) else -1.0


def _held_error(trial: Trial) -> float:
    return _SPREAD / math.sqrt(trial.judged) if trial.judged else 1.0


def _lift(trial: Trial) -> float | None:
    """Share of the images beyond chance that are answered correctly."""
    if trial.accuracy is None or trial.chance is None or trial.chance >= 1:
        return None
    return (trial.accuracy - trial.chance) / (1 - trial.chance)


def _loss_error(trial: Trial) -> float:
    gone = _gone(trial)
    return statistics.stdev(gone) / math.sqrt(len(gone)) if len(gone) > 1 else 0.0


def _lift_error(trial: Trial, expected: float | None = None) -> float:
    """Standard error of what `_lift` gives, of a net that answers the share `expected` correctly (None: as it did)."""
    chance = trial.chance or 0.0
    share = max(trial.accuracy or 0.0, chance) if expected is None else expected
    return _error_of_share(share, trial.judged) / (1 - chance)


def _error_of_share(share: float, count: int) -> float:
    return math.sqrt(share * (1 - share) / count) if count else 1.0


def _tail(trial: Trial) -> tuple[float, ...]:
    return trial.losses[-max(1, len(trial.losses) // 4) :]


def _mended(trial: Trial) -> bool:
    """Whether the second loss has closed most of what the first was above it."""
    before, after = trial.losses[0], trial.losses[-1]
    return math.isfinite(after) and not before < 1.5 * after
