"""From a net and its data to a learning rate that was proved, or to the cause why no rate helps."""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from conviction.assembly import Assembly, assemble
from conviction.data.batches import fetch_batch
from conviction.data.downloading import Progress
from conviction.data.records import Data
from conviction.feeding import Feed
from conviction.figures import Markup
from conviction.lr_range import Budget, Found, Point, Trial, sweep
from conviction.planning.layers import layer_table, total
from conviction.preflight import preflight
from conviction.probe import random_state_kept
from conviction.recipe import Recipe
from conviction.storage import write_text
from conviction.sweep_figure import draw_sweep
from conviction.text import format_seconds, format_table
from conviction.training.deciding import find_device

# Images on which every rate is judged: validation's, on which nothing trains; of large ones fewer, for the memory.
_PROBE_IMAGES, _PROBE_VALUES = 1024, 2**25
# A sweep may take about so many seconds on two slow cores (80 GFLOP/s, 10 GB/s) and so many updates. It is planned by
# the net's costs rather than by a clock, so that a sweep is the same wherever it is run.
_SECONDS, _FLOP_PER_SECOND, _BYTES_PER_SECOND = 35, 80e9, 10e9
_FEWEST, _MOST = 160, 700
# Bytes that a step moves for each parameter: weight, gradient and optimizer state, read and written, more than once.
_UPDATE_BYTES = 60


@dataclass(frozen=True)
class LRSweep:
    """A learning rate, for one net, data set, optimizer, batch size and schedule; or None, with the cause in `refused`.

    `low` and `high` are the rates at which the range test's loss began to fall and exploded. `proved` holds `lr`,
    `loss_start` and `loss_end` of the short run that won (validation's cross-entropy).
    """

    net: str
    data: str
    lr: float | None
    low: float
    high: float
    proved: dict[str, float] | None
    refused: dict[str, str] | None
    optimizer: str
    batch_size: int
    schedule: str
    precision: str
    steps: int
    curve: tuple[Point, ...]
    trials: tuple[Trial, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of the public JSON; only `seconds` differs between two runs of the same command."""
        return dataclasses.asdict(self)

    def draw(self) -> Markup:
        """Draw the range test's losses over the rate, with the short runs and the rate that won, as SVG."""
        return draw_sweep(
            f"{self.net} on {self.data}, {self.optimizer}, batch size {self.batch_size}",
            [(point.lr, point.train_loss, point.probe_loss) for point in self.curve],
            [(trial.lr, trial.probe_loss) for trial in self.trials],
            self.lr,
        )

    def save(self, path: str | Path) -> Path:
        """Write the drawing to an SVG file that any browser opens."""
        write_text(Path(path), self.draw())
        return Path(path)

    def __str__(self) -> str:
        told = f"{self.optimizer}, batch size {self.batch_size}, {self.schedule} schedule, {self.precision}"
        rows = [(f"{trial.lr:.3g}", str(trial.steps), _loss(trial.probe_loss)) for trial in self.trials]
        lines = [format_table(("rate", "steps", "loss after"), rows, right=(0, 1, 2)), ""]
        if self.lr is None:
            refused = self.refused or {}
            lines.append(f"no learning rate helps {self.net} on {self.data}: {refused['cause']} - {refused['why']}")
        elif self.proved is not None:
            lines.append(f"lr {self.lr:g} for {self.net} on {self.data} ({told})")
            lines.append(f"proved: validation loss {self.proved['loss_start']:.3f} -> {self.proved['loss_end']:.3f} in "
                         f"{self.trials[-1].steps} steps; the range test's loss fell from {self.low:.2g} on and "
                         f"exploded at {self.high:.2g}")  # fmt: skip
        return "\n".join([*lines, f"{self.steps} steps in {format_seconds(self.seconds)}; the net was left as it was"])


@dataclass(frozen=True)
class Looked:
    """How far a sweep is: the share of its updates that are made, and what was measured last."""

    done: float
    last: Point | Trial


def lr_events(
    net: str | nn.Module,
    data: Data | str | os.PathLike[str],
    recipe: Recipe | None = None,
    *,
    data_root: str | None = None,
    progress: Progress | None = None,
) -> Generator[Looked, None, LRSweep]:
    """Find a learning rate for a net on data; yields how far it is and returns the `LRSweep`.

    Everything but `lr` of the recipe holds for the short runs. The net is left to the bit as it was, and so is every
    random state.
    """
    started = time.perf_counter()
    with random_state_kept(find_device((recipe or Recipe()).device)):
        made = assemble(net, data, recipe or Recipe(), data_root, progress)
        feed = Feed(made.data, made.recipe)
        # The user's own module stays where it is.
        ours = (copy.deepcopy(made.net) if isinstance(net, nn.Module) else made.net).to(made.recipe.device)
        if made.recipe.channels_last:
            ours = ours.to(memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]  # torch has it
        budget = plan_budget(ours, made, feed)
        looking = sweep(ours, made.recipe, feed, _probe(made.data, made.recipe, feed), budget)
        done = 0
        try:
            while True:
                last = next(looking)
                done += last.steps if isinstance(last, Trial) else 1
                yield Looked(min(1.0, done / budget.total_steps), last)
        except StopIteration as stop:
            found: Found = stop.value
        refused = None if found.lr else _explain(ours, made, feed, found)
    recipe = made.recipe
    return LRSweep(
        made.name, made.data.name, found.lr, found.low, found.high,
        {"lr": found.lr, "loss_start": found.loss_start, "loss_end": found.loss_end} if found.lr else None,
        refused, recipe.optimizer or "", feed.batch_size, recipe.schedule or "", recipe.precision or "", done,
        found.curve, found.trials, round(time.perf_counter() - started, 3),
    )  # fmt: skip


def plan_budget(net: nn.Module, made: Assembly, feed: Feed) -> Budget:
    """Share out the updates that a sweep may make: fewer for a heavy net, never so few that nothing can be told."""
    whole = total(layer_table(net, made.data.image))
    seconds = 6 * whole.macs * feed.batch_size / _FLOP_PER_SECOND + whole.params * _UPDATE_BYTES / _BYTES_PER_SECOND
    updates = round(min(_MOST, max(_FEWEST, _SECONDS / seconds)))
    range_steps = max(30, min(60, updates // 7))
    first = (updates - range_steps) // (Budget(0, 1).total_steps)
    return Budget(range_steps, first)


def _probe(data: Data, recipe: Recipe, feed: Feed) -> tuple[Tensor, Tensor]:
    """Return validation images that judge every rate; where a loader keeps their labels, training images."""
    count = min(_PROBE_IMAGES, max(64, _PROBE_VALUES // math.prod(data.image)))
    if data.valid.labels is None:
        return feed.plain(count)
    count = min(count, len(data.valid))
    chosen = torch.linspace(0, len(data.valid) - 1, count).long()
    batch = fetch_batch(data.valid, chosen)
    device = torch.device(recipe.device or "cpu")
    return data.preprocessing.apply(batch.pictures.to(device)), batch.labels.to(device)


def _explain(net: nn.Module, made: Assembly, feed: Feed, found: Found) -> dict[str, str]:
    """Say why no rate helps: what the preflight finds, else what the trials showed."""
    images, labels = feed.plain(128)
    best = min(found.trials, key=lambda trial: trial.probe_loss)
    recipe = made.recipe.replace(lr=best.lr)
    told = preflight(net, images, labels, recipe, made.data.num_classes, split_labels=made.data.train.labels)
    rates = [trial.lr for trial in found.trials]
    tried = (
        f"{len(found.trials)} short runs at rates from {min(rates):.2g} to {max(rates):.2g} moved the loss from "
        f"{found.loss_start:.3f} to {_loss(best.probe_loss)} at best, where {found.least_fall:.3f} would count"
    )
    if told.findings:
        first = told.findings[0]
        return {"cause": first.cause, "why": f"{first.seen}, expected {first.expected}; {tried} - {first.remedy}"}
    if told.overfit is not None and told.overfit.loss_end < told.overfit.blind_loss:
        return {"cause": "labels-shuffled", "why": f"one batch can be learnt by heart, new images not: {tried} - check "
                                                   "that the labels belong to the images"}  # fmt: skip
    return {"cause": "too-few-steps", "why": f"{tried} - the net may need more steps than a sweep has"}


def _loss(value: float) -> str:
    return f"{value:.3f}" if value < 1000 else "diverged"
