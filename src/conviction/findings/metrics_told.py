"""Checks of the numbers that a program prints against those that were measured."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from conviction.findings.observation import Observation, Place, StepSeen
from conviction.findings.readings import batch_size, blame, line_of, main_loss, measured_steps, notes_of
from conviction.findings.records import Finding

_NUMBER = r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
_LOSS = re.compile(rf"\b(?:\w*loss|ce|nll)\b\W{{0,12}}(?:is\W{{1,3}})?{_NUMBER}(?![\d.eE]*\s*/)", re.IGNORECASE)
_ACCURACY = re.compile(
    rf"\b(?:\w*acc|\w*accuracy)\b\W{{0,12}}(?:is\W{{1,3}})?{_NUMBER}(?![\d.eE]*\s*/)(\s*%)?", re.IGNORECASE
)
# Who says that it is a sum is understood.
_SUMS = re.compile(r"total|\bsum|cumulat|running", re.IGNORECASE)
# Who tells about other images than those trained on may tell another loss.
_OTHERS = re.compile(r"test|val|eval|dev", re.IGNORECASE)
_NEAR = 0.2  # share by which a printed number may be off the factor that explains it
_FAR = 3.0  # a factor below this may be the difference between a mean and one step


@dataclass(frozen=True)
class _Told:
    """A printed number, the line that printed it, and the number that was measured."""

    value: float
    measured: tuple[float, ...]  # at that step, the mean since the line before, the mean of all
    batches: int  # steps since the line before
    at: Place | None
    text: str
    slack: float = 0.0  # half of the last printed digit


def metric_wrong(observation: Observation) -> Finding | None:
    """A printed loss or accuracy is the measured one times or divided by the batch, or no share at all."""
    return (
        _loss_scaled(observation)
        or _accuracy_over(observation)
        or _accuracy_scaled(observation)
        or _counted_wrong(observation)
    )


def _counted_wrong(observation: Observation) -> Finding | None:
    """Right answers that are counted over others than they are divided by, as the text says."""
    note = next(iter(notes_of(observation, "metric-miscounted", "metric-scaled")), None)
    if note is None:
        return None
    return blame(
        "metric-wrong", f"{note.text}, line {note.at.line}",
        "right answers of one set, divided once by the images of that set",
        "set the counts to 0 before each test, count every batch, and divide by all its images", note.at,
        confidence=0.75,
    )  # fmt: skip


def told_accuracies(observation: Observation) -> list[float]:
    """Return the accuracies that were printed, as fractions, in order; those that can be none are left out."""
    found = []
    for printed in observation.printed:
        for value, percent in _ACCURACY.findall(printed.text):
            share = float(value) / (100 if percent or float(value) > 1 else 1)
            if 0 <= share <= 1:
                found.append(share)
    return found


def _loss_scaled(observation: Observation) -> Finding | None:
    """Two printed losses or more (one if the text says so), off by the same factor, which the batch explains."""
    loss, size = main_loss(observation), batch_size(observation)
    if loss is None or loss.reduction != "mean" or not size or size < _FAR:
        return None
    least = 1 if notes_of(observation, "metric-divided", "metric-miscounted", "metric-scaled") else 2
    told = [line for line in _losses_told(observation) if not _SUMS.search(line.text)]
    if len(told) < least or any(_is_explained(line, scale) for line in told for scale in (1.0, 100.0)):
        return None
    factors = {f"1/{size}": [1 / size] * len(told), f"{size}": [float(size)] * len(told)}
    if len({line.batches for line in told}) == 1:
        factors["the number of batches"] = [float(line.batches) for line in told]
        factors["1/batches"] = [1 / max(1, line.batches) for line in told]
    for name, scales in factors.items():
        fits = [line for line, scale in zip(told, scales, strict=True)
                if max(scale, 1 / scale) > _FAR and _is_explained(line, scale)]  # fmt: skip
        if len(fits) >= max(least, 0.8 * len(told)):
            return _told_wrong(observation, fits, "loss", name, size)
    return None


def _told_wrong(observation: Observation, fits: Sequence[_Told], what: str, name: str, size: int) -> Finding:
    last = fits[-1]
    return blame(
        "metric-wrong",
        f"{what} {last.value:.3g} is printed where {last.measured[0]:.3g} was measured: {name} times as much, in "
        f"{len(fits)} printed lines, with {size} images a batch",
        f"a mean {what} near {last.measured[0]:.3g}",
        "the loss is a mean over the batch already: weigh it by the batch's size and divide once by the images, "
        "or add it up and divide once by the batches" if what == "loss" else
        "divide the number of right answers once by the number of images",
        line_of(observation, "metric-divided", otherwise=last.at), confidence=0.9,
    )  # fmt: skip


def _accuracy_over(observation: Observation) -> Finding | None:
    """An accuracy above 100 %."""
    over = [(printed, float(value)) for printed in observation.printed
            for value, _ in _ACCURACY.findall(printed.text) if float(value) > 100.5]  # fmt: skip
    if not over or (len(over) < 2 and observation.ending.how != "finished"):
        return None
    printed, value = over[-1]
    return blame(
        "metric-wrong", f"accuracy {value:.5g} is printed, in {len(over)} lines", "a share from 0 to 1, or to 100 %",
        "divide the number of right answers once by the number of images",
        line_of(observation, "metric-divided", otherwise=printed.at), confidence=0.9,
    )  # fmt: skip


def _accuracy_scaled(observation: Observation) -> Finding | None:
    """At least two printed accuracies that are the measured ones divided by the batch, or times the batch."""
    size, steps = batch_size(observation), measured_steps(observation)
    if not size or size < 8:
        return None
    for name, scale in ((f"1/{size}", 1 / size), (f"{size}", float(size))):
        fits, others = [], 0
        for printed in observation.printed:
            found = _ACCURACY.search(printed.text)
            known = [step.accuracy for step in steps if step.accuracy is not None and step.index < max(1, printed.step)]
            if not found or not known:
                continue
            value, recent = float(found.group(1)), statistics.fmean(known[-8:])
            percent = abs(value - 100 * recent) < _NEAR * 100 * recent
            near = abs(value - scale * recent) < 1.5 * _NEAR * scale * recent and not percent
            others += not near
            fits += [_Told(value, (recent,), 1, printed.at, printed.text)] * near
        if len(fits) >= 2 and not others:
            return _told_wrong(observation, fits, "accuracy", name, size)
    return None


def _losses_told(observation: Observation) -> list[_Told]:
    """Pair each printed training loss with what was measured before it."""
    steps = [step for step in measured_steps(observation) if _loss_of(step) is not None]
    found: list[_Told] = []
    before: dict[Place | None, int] = {}  # a line that prints by step is not one that prints by epoch
    for printed in observation.printed:
        match = _LOSS.search(printed.text)
        since = before.get(printed.at, 0)
        before[printed.at] = printed.step
        past = [step for step in steps if step.index < max(1, printed.step)]
        if match is None or not past or _OTHERS.search(printed.text[: match.end()]):
            continue
        recent = [step for step in past if step.index >= since] or past[-1:]
        values = (_mean(past[-1:]), _mean(recent), _mean(past))
        if all(math.isfinite(value) and value > 0 for value in values):
            batches, slack = max(1, printed.step - since), 0.5 * 10.0 ** -_places(match.group(1))
            found.append(_Told(float(match.group(1)), values, batches, printed.at, printed.text, slack))
    return found


def _mean(steps: Sequence[StepSeen]) -> float:
    return statistics.fmean(_loss_of(step) or 0.0 for step in steps)


def _loss_of(step: StepSeen) -> float | None:
    return step.told if step.told is not None else step.loss


def _places(number: str) -> int:
    """Return the digits after the point; many where it is written with an exponent."""
    return 9 if "e" in number.lower() else len(number.partition(".")[2])


def _is_explained(line: _Told, scale: float) -> bool:
    """Whether a printed number is one of the measured ones times a factor, which its rounding may hide a little."""
    return line.value > line.slack and any(
        abs(line.value - scale * value) <= _NEAR * scale * value + line.slack for value in line.measured
    )
