"""The learning-rate finder: a range test, then a bake-off of a few rates by short runs from the same start.

The range test (Smith 2017, section 3.3) alone shows where a net diverges, not which rate learns best: its losses are
those of one run whose rate changes all the time. So it only places the candidates. These then train for real, each from
the same weights, on the same batches, with the recipe's own optimizer and the shape of its schedule; the worse half
is dropped while the runs double in length (successive halving, Jamieson & Talwalkar 2016).
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conviction.randomness import random_state_kept
from conviction.recipe import Recipe
from conviction.training.loop import Batches, Training, autocasting

# The range test's first and last rate: no convolutional net learns with a rate outside.
_BOUNDS = {"adamw": (1e-6, 1.0), "sgd": (1e-5, 10.0)}
# Candidates are this factor apart, from a little above the rate at which the range test's loss exploded.
_SPACING = 2.5
# Images of the probe that the range test reads after each of its steps, and by how much more than it had fallen the
# loss must rise above its start to have exploded.
_RANGE_IMAGES, _EXPLOSION = 128, 1.0
# A fall of the loss below this share of ln(classes) is none.
_LEAST_FALL = 0.02
# A rate that raised the loss by more than this did harm; so many of the others get a second look.
_HARM, _SECOND_LOOK = 0.05, 4
# A smaller rate is almost as good where the loss fell by this share of what it fell with the larger one.
_ALMOST = 0.9


@dataclass(frozen=True)
class Point:
    """One reading of the range test: the rate, the loss of its batch before the update, the probe's loss after it."""

    lr: float
    train_loss: float
    probe_loss: float


@dataclass(frozen=True)
class Trial:
    """A short run at one peak rate: its updates and the probe's mean loss after them (infinite where it diverged)."""

    lr: float
    steps: int
    probe_loss: float


@dataclass(frozen=True)
class Budget:
    """How many updates a sweep may make.

    `range_steps` in its range test, `first_steps` for each candidate of the first round; `kept` counts the candidates
    of each round, whose runs are twice as long as those of the round before. Where the first round moves nothing, a
    second look is `patience` updates long.
    """

    range_steps: int
    first_steps: int
    kept: tuple[int, ...] = (7, 4, 2)
    patience: int = 100

    @property
    def total_steps(self) -> int:
        """The updates of a sweep whose first round shows which rates help."""
        return self.range_steps + sum(count * self.first_steps * 2**number for number, count in enumerate(self.kept))


@dataclass(frozen=True)
class Found:
    """What a sweep measured. `lr` is None where no rate made the probe's loss fall by more than `least_fall`.

    `low` is the rate at which the range test's loss had first fallen, `high` its last rate before the loss exploded, or
    its last rate of all where `exploded` is false; `loss_start` and `loss_end` are the probe's losses before and after
    the trial that won, which was of `steps` updates.
    """

    lr: float | None
    low: float
    high: float
    exploded: bool
    loss_start: float
    loss_end: float
    least_fall: float
    steps: int
    curve: tuple[Point, ...]
    trials: tuple[Trial, ...]


def sweep(
    net: nn.Module, recipe: Recipe, feed: Batches, probe: tuple[Tensor, Tensor], budget: Budget
) -> Generator[Point | Trial, None, Found]:
    """Look for the largest peak rate with which `net` learns best; yields what is measured and returns the outcome.

    `recipe` is a decided one, of which all but `lr` holds for the trials; `feed(epoch)` gives batches as in training;
    `probe` are images [N, C, H, W] and labels [N] on which every rate is judged, best such as are not trained on. The
    net is not touched: copies of it train. The same arguments give the same outcome.
    """
    with random_state_kept(torch.device(recipe.device or "cpu")):
        return (yield from _Sweep(net, recipe, feed, probe).events(budget))


class _Sweep:
    """One sweep on its way."""

    def __init__(self, net: nn.Module, recipe: Recipe, feed: Batches, probe: tuple[Tensor, Tensor]) -> None:
        self.net, self.recipe, self.feed = net, recipe, feed
        self.images, self.labels = probe
        self.classes = 0
        self.device = torch.device(recipe.device or "cpu")
        self.curve: list[Point] = []
        self.trials: list[Trial] = []
        self.answers: dict[Trial, Tensor] = {}  # the probe's losses, image by image
        self.exploded = False

    def events(self, budget: Budget) -> Generator[Point | Trial, None, Found]:
        """Go the whole way: range test, then bake-off."""
        start = self._losses(copy.deepcopy(self.net))
        for point in self._range_test(budget.range_steps):
            self.curve.append(point)
            yield point
        # The last rate before the explosion, of which the last point tells.
        high = self.curve[-2 if self.exploded and len(self.curve) > 1 else -1].lr
        rates = [high * _SPACING ** (1 - number) for number in range(budget.kept[0])]
        best = yield from self._bake_off(rates, budget, start)
        winner = yield from self._step_back(self._largest_within_noise(best), float(start.mean()))
        loss, least = float(start.mean()), self._least_fall(start, winner)
        at_rest = float(start[:_RANGE_IMAGES].mean())
        low = next((point.lr for point in self.curve if at_rest - point.probe_loss > least), high)
        return Found(winner.lr if self._fell(start, winner) else None, min(low, high), high, self.exploded, loss,
                     winner.probe_loss, least, winner.steps, tuple(self.curve), tuple(self.trials))  # fmt: skip

    def _bake_off(self, rates: list[float], budget: Budget, start: Tensor) -> Generator[Trial, None, Trial]:
        """Try the rates in rounds of ever fewer and longer runs; returns the best trial of the last round.

        Where the first round moved nothing, its order is chance: a net on its first plateau only needs longer. Then
        the rates that did no harm get a round much longer, and the two best of that one half as long again: most of
        what such a search costs is there.
        """
        steps = budget.first_steps
        ranked = yield from self._round(rates, steps)
        if self._fell(start, ranked[0]):
            later = [(count, steps * 2**number) for number, count in enumerate(budget.kept)][1:]
        else:
            harmless = [trial for trial in ranked if trial.probe_loss < float(start.mean()) + _HARM] or ranked
            long = max(4 * steps, budget.patience)
            ranked = yield from self._round([trial.lr for trial in harmless[:_SECOND_LOOK]], long)
            later = [(2, 3 * long // 2)] if self._fell(start, ranked[0]) else []
        for count, length in later:
            ranked = yield from self._round([trial.lr for trial in ranked[:count]], length)
        return ranked[0]

    def _round(self, rates: list[float], steps: int) -> Generator[Trial, None, list[Trial]]:
        """Try each rate for `steps` updates; returns the trials, the best first."""
        tried = []
        for lr in rates:
            tried.append(self._try(lr, steps))
            yield tried[-1]
        return sorted(tried, key=lambda trial: trial.probe_loss)

    def _losses(self, net: nn.Module, most: int | None = None) -> Tensor:
        """Return the probe's loss image by image, without dropout and with batch norm by the probe's own statistics."""
        with (
            _looking(net, by_batch=len(self.images[:most]) > 1),
            torch.no_grad(),
            autocasting(self.device, self.recipe.precision),
        ):
            images = self.images[:most]
            # Without a backward to keep things for, four batches need no more memory than a step.
            size = min(256, max(32, 4 * (self.recipe.batch_size or 32)))
            # Parts of equal size: a last part of one image would be too small for batch norm.
            logits = torch.cat([net(part).float() for part in images.tensor_split(-(-len(images) // size))])
        self.classes = logits.shape[1]
        return F.cross_entropy(logits, self.labels[:most], reduction="none")

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the training batches from the first on, epoch after epoch."""
        return itertools.chain.from_iterable(map(self.feed, itertools.count()))

    def _training(self, lr: float, steps: int) -> Training:
        """Return a training of a copy of the net, the recipe's in small: `steps` updates under the whole schedule."""
        warmup = (self.recipe.warmup_epochs or 0.0) / (self.recipe.epochs or 1)
        short = self.recipe.replace(lr=lr, epochs=1, warmup_epochs=warmup, ema=0.0, recoveries=0)
        return Training(copy.deepcopy(self.net), short, steps)

    def _range_test(self, steps: int) -> Iterator[Point]:
        """Raise the rate geometrically from step to step until the loss explodes."""
        low, high = _BOUNDS[self.recipe.optimizer or "sgd"]
        training = self._training(low, steps)
        torch.manual_seed(self.recipe.seed)
        best = first = float(self._losses(training.net, _RANGE_IMAGES).mean())
        for index, (images, targets) in enumerate(itertools.islice(self._batches(), steps)):
            lr = low * (high / low) ** (index / (steps - 1))
            training.net.train()
            loss = float(training.update(images, targets, lr)[0])
            probe = float(self._losses(training.net, _RANGE_IMAGES).mean())
            yield Point(lr, loss, probe)
            best = min(best, probe)
            self.exploded = not math.isfinite(probe + loss) or probe > 2 * first - best + _EXPLOSION
            if self.exploded:
                return

    def _try(self, lr: float, steps: int) -> Trial:
        """Train a copy at peak rate `lr` and judge it by the probe."""
        training = self._training(lr, steps)
        stream = self._batches()
        finite = all(math.isfinite(float(step.loss)) for step in training.run(lambda epoch: stream))
        losses = self._losses(training.net) if finite else torch.full(self.labels.shape, math.inf)
        mean = float(losses.mean())
        trial = Trial(lr, steps, mean if math.isfinite(mean) else math.inf)
        self.trials.append(trial)
        self.answers[trial] = losses
        return trial

    def _fell(self, start: Tensor, trial: Trial) -> bool:
        return float(start.mean()) - trial.probe_loss > self._least_fall(start, trial)

    def _least_fall(self, start: Tensor, best: Trial) -> float:
        """Return the least fall of the loss that counts: 3 standard errors of it, or 2 % of ln(classes)."""
        error = _error(start - self.answers[best])
        return max(3 * error if math.isfinite(error) else 0.0, _LEAST_FALL * math.log(self.classes))

    def _largest_within_noise(self, best: Trial) -> Trial:
        """Return, of the trials as long as the best, the one of largest rate that is no worse but by chance."""
        rivals = [trial for trial in self.trials if trial.steps == best.steps and trial.lr >= best.lr]
        return max((trial for trial in rivals if self._no_worse(trial, best)), key=lambda trial: trial.lr)

    def _no_worse(self, trial: Trial, best: Trial) -> bool:
        worse = self.answers[trial] - self.answers[best]
        return trial is best or float(worse.mean()) <= _error(worse)

    def _step_back(self, winner: Trial, start: float) -> Generator[Trial, None, Trial]:
        """Return the next smaller rate instead, if it is almost as good, where the next larger one fails.

        A run that is much longer than a trial meets that edge sooner or later.
        """
        if not self._at_the_edge(winner, start):
            return winner
        smaller = next((trial for trial in self.trials if self._next_to(winner, trial, 1 / _SPACING)), None)
        if smaller is None:
            smaller = self._try(winner.lr / _SPACING, winner.steps)
            yield smaller
        almost = start - smaller.probe_loss >= _ALMOST * (start - winner.probe_loss)
        return smaller if almost else winner

    def _at_the_edge(self, winner: Trial, start: float) -> bool:
        """Whether the next larger rate, at equal steps, made the loss fall by less than half as much."""
        for own in sorted((trial for trial in self.trials if trial.lr == winner.lr), key=lambda trial: -trial.steps):
            larger = next((trial for trial in self.trials if self._next_to(own, trial, _SPACING)), None)
            if larger is not None:
                return start - larger.probe_loss < (start - own.probe_loss) / 2
        return False

    @staticmethod
    def _next_to(trial: Trial, other: Trial, factor: float) -> bool:
        return other.steps == trial.steps and math.isclose(other.lr, trial.lr * factor, rel_tol=1e-6)


def _error(values: Tensor) -> float:
    """Return the standard error of a mean."""
    return float(values.std(correction=0)) / math.sqrt(len(values))


@contextmanager
def _looking(net: nn.Module, by_batch: bool = True) -> Generator[None]:
    """Let a net answer without dropout, its batch norm by the batch and without moving its running statistics."""
    modes = {module: module.training for module in net.modules()}
    norms: list[Any] = [
        module for module in net.modules() if hasattr(module, "running_mean") and hasattr(module, "momentum")
    ]
    kept = [(norm, norm.momentum) for norm in norms]
    net.eval()
    for norm in norms if by_batch else ():
        norm.train()
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in kept:
            norm.momentum = momentum
        for module, mode in modes.items():
            module.training = mode
