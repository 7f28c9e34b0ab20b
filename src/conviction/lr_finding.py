"""From a net and its data to a learning rate that was proved, or to the cause why no rate helps."""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from conviction.assembly import Assembly, assemble
from conviction.data.batches import batches
from conviction.data.downloading import Progress
from conviction.data.records import Data
from conviction.errors import UsageError
from conviction.feeding import Feed, gather
from conviction.figures import Markup
from conviction.lr_range import Budget, Found, Point, Trial, sweep
from conviction.lr_refusal import explain
from conviction.planning.layers import layer_table, total
from conviction.randomness import random_state_kept
from conviction.recipe import Recipe
from conviction.storage import write_text
from conviction.sweep_figure import draw_sweep
from conviction.text import format_seconds, format_table, printable
from conviction.training.deciding import find_device
from conviction.training.loop import Batches

# Images on which every rate is judged: validation's, on which nothing trains; of large ones fewer, for the memory.
_PROBE_IMAGES, _PROBE_VALUES = 1024, 2**25
# With fewer validation images than this nothing can be told: training images make up for it.
_FEWEST_IMAGES = 64
# A sweep may take about so many seconds on two slow cores (80 GFLOP/s, 10 GB/s) and so many updates. It is planned by
# the net's costs rather than by a clock, so that a sweep is the same wherever it is run.
_SECONDS, _FLOP_PER_SECOND, _BYTES_PER_SECOND = 35, 80e9, 10e9
_FEWEST, _MOST = 140, 700
# From so many updates on there is room for seven candidates in three rounds; else five in two.
_ROOM = 300
# Bytes that a step moves for each parameter: weight, gradient and optimizer state, read and written, more than once.
_UPDATE_BYTES = 60


@dataclass(frozen=True)
class LRSweep:
    """A learning rate, for one net, data set, optimizer, batch size and schedule; or None, with the cause in `refused`.

    `low` and `high` are the rates at which the range test's loss had first fallen and after which it exploded (its
    last rate, where `exploded` is false). `proved` holds `lr`, `loss_start` and `loss_end` of the short run that won:
    the cross-entropy of `probe_images` images, validation's where it has enough.
    """

    net: str
    data: str
    lr: float | None
    low: float
    high: float
    exploded: bool
    proved: dict[str, float] | None
    refused: dict[str, str] | None
    optimizer: str
    batch_size: int
    schedule: str
    precision: str
    probe_images: int
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
            steps = max(trial.steps for trial in self.trials if trial.lr == self.lr)
            end = "exploded after" if self.exploded else "did not explode up to"
            lines.append(
                f"proved: loss {self.proved['loss_start']:.3f} -> {self.proved['loss_end']:.3f} in {steps} steps, on "
                f"{self.probe_images} images of validation; the range test's loss had fallen at {self.low:.2g} and "
                f"{end} {self.high:.2g}"
            )
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
        ours = _copied(made)
        feed = Feed(made.data, made.recipe)
        with _replayed(feed) as batches:
            probe = _probe(made.data, made.recipe, feed)
            budget = plan_budget(ours, made, feed)
            looking = sweep(ours, made.recipe, batches, probe, budget)
            done = 0
            try:
                while True:
                    last = next(looking)
                    done += last.steps if isinstance(last, Trial) else 1
                    yield Looked(min(1.0, done / budget.total_steps), last)
            except StopIteration as stop:
                found: Found = stop.value
            refused = None if found.lr else explain(ours, made, feed, probe, found)
    recipe = made.recipe
    return LRSweep(
        made.name, made.data.name, found.lr, found.low, found.high, found.exploded,
        {"lr": found.lr, "loss_start": found.loss_start, "loss_end": found.loss_end} if found.lr else None,
        refused, recipe.optimizer or "", feed.batch_size, recipe.schedule or "", recipe.precision or "", len(probe[1]),
        done, found.curve, found.trials, round(time.perf_counter() - started, 3),
    )  # fmt: skip


def plan_budget(net: nn.Module, made: Assembly, feed: Feed) -> Budget:
    """Share out the updates that a sweep may make: fewer for a heavy net, never so few that nothing can be told."""
    params = sum(parameter.numel() for parameter in net.parameters())
    try:
        macs = total(layer_table(net, made.data.image)).macs
    except UsageError:  # a net that does not run without numbers, or that is scripted
        macs = 100 * params
    seconds = 6 * macs * feed.batch_size / _FLOP_PER_SECOND + params * _UPDATE_BYTES / _BYTES_PER_SECOND
    updates = round(min(_MOST, max(_FEWEST, _SECONDS / seconds)))
    range_steps = max(30, min(60, updates // 7))
    kept = (7, 4, 2) if updates >= _ROOM else (5, 2)
    return Budget(range_steps, (updates - range_steps) // Budget(0, 1, kept).total_steps, kept)


def _copied(made: Assembly) -> nn.Module:
    """Copy the net onto the device, so that the user's own stays where it is."""
    if any(isinstance(module, torch.jit.ScriptModule) for module in made.net.modules()):
        raise UsageError("copies of a scripted net cannot be trained", made.name, "give the module it was made from")
    try:
        ours = copy.deepcopy(made.net).to(made.recipe.device)
    except Exception as error:  # whatever a user's own attributes raise
        raise UsageError(f"the net cannot be copied: {printable(error)[:200]}", made.name,
                         "keep files, locks and generators out of the net's attributes") from error  # fmt: skip
    if made.recipe.channels_last:
        ours = ours.to(memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]  # torch has it
    return ours


@contextmanager
def _replayed(feed: Feed) -> Generator[Batches]:
    """Give the same batches from epoch 0 on, also where a loader of the user's own draws them by its own generator."""
    loader = getattr(feed.data.train.source, "loader", None)
    drawing = (getattr(loader, "generator", None), getattr(getattr(loader, "sampler", None), "generator", None))
    drawn = [generator for generator in drawing if isinstance(generator, torch.Generator)]
    states = [generator.get_state() for generator in drawn]

    def put_back() -> None:
        for generator, state in zip(drawn, states, strict=True):
            generator.set_state(state)

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        if epoch == 0:
            put_back()
        return feed(epoch)

    try:
        yield batches
    finally:
        put_back()


def _probe(data: Data, recipe: Recipe, feed: Feed) -> tuple[Tensor, Tensor]:
    """Return images and labels that judge every rate: validation's, in no order, with training's where they are few."""
    count = min(_PROBE_IMAGES, max(_FEWEST_IMAGES, _PROBE_VALUES // math.prod(data.image)))
    device = recipe.device or "cpu"
    chosen = batches(data.valid, 128, seed=recipe.seed, epoch=0, shuffled=True, device=device)
    images, labels = gather(chosen, data, count)
    if len(labels) < _FEWEST_IMAGES:
        more = feed.plain(_FEWEST_IMAGES, epoch=1)
        images, labels = torch.cat([images, more[0]]), torch.cat([labels, more[1]])
    return images[:count], labels[:count]


def _loss(value: float) -> str:
    return f"{value:.3f}" if value < 1000 else "diverged"
