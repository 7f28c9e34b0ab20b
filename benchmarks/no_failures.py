"""Does every net leave chance, whatever the seed? Our recipes beside the book's, same budget, same seeds.

    .venv/bin/python benchmarks/no_failures.py > benchmarks/results/no_failures.md

One epoch on 4,500 or 9,000 images of fashion-mini (real Fashion-MNIST) a run, batch 64: 70 or 140 steps; 20 seeds in
all. This asks whether a net starts to learn at all, not where it ends. Ours is `conviction fit` with its defaults but
for batch, epochs and the number format in the table. The book's is its own training loop, with the same batch, number
format and images: plain SGD at its rate for the net, Xavier weights, no augmentation, no schedule; of the nets that
it has not, the rate of the nearest of its own (LeNet with ReLU and dropout: AlexNet's). NiN without its second 1x1 is
the same architecture as without its first. A run is at chance when its test accuracy is below .15 (2,000 images, ten
classes: guessing gives .10 with a deviation of .007) or its loss ends in numbers that are not finite.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import replace
from typing import Any

import torch
from torch import nn

import ledger
from conviction.assembly import assemble
from conviction.data.records import Data
from conviction.errors import DivergedError
from conviction.evaluation import answer_split
from conviction.feeding import Feed
from conviction.fitting import fit_events
from conviction.metrics import measure_loss_and_top1
from conviction.recipe import Recipe
from conviction.training.loop import Training

CHANCE, SEEDS, BATCH = 0.15, 20, 64
# Net, image side, precision, training images, the book's rate.
NETS = (
    ("lenet", 28, "fp32", 9_000, 0.9),
    ("lenet-bn", 28, "fp32", 9_000, 1.0),
    ("lenet-relu", 28, "fp32", 9_000, 0.01),
    ("alexnet-small", 28, "bf16", 9_000, 0.01),
    ("alexnet-book", 65, "bf16", 4_500, 0.01),
    ("vgg7", 28, "bf16", 4_500, 0.05),
    ("vgg11/4", 32, "bf16", 4_500, 0.05),
    ("vgg16/4", 32, "bf16", 4_500, 0.05),
    ("nin", 67, "bf16", 4_500, 0.1),
    ("nin-no-first-1x1", 67, "bf16", 4_500, 0.1),
    ("nin-small", 28, "bf16", 4_500, 0.1),
    ("googlenet-book", 28, "bf16", 4_500, 0.1),
    ("resnet18-book", 28, "fp32", 4_500, 0.05),
    ("densenet-book", 32, "bf16", 4_500, 0.1),
)


class First:
    """The first images of a source."""

    def __init__(self, source: Any, count: int) -> None:
        self.source, self.count = source, count

    def __len__(self) -> int:
        return self.count

    def fetch(self, indices: torch.Tensor) -> torch.Tensor:
        """Return the images at `indices`."""
        return self.source.fetch(indices)


def first(data: Data, count: int) -> Data:
    """Return the data with its training split cut to `count` images, the same for every seed."""
    assert data.train.labels is not None
    return replace(
        data, train=replace(data.train, source=First(data.train.source, count), labels=data.train.labels[:count])
    )


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Train once and return the test accuracy; None where the run ended in numbers that are not finite."""
    torch.set_num_threads(1)
    _, side, precision, count, rate = next(row for row in NETS if row[0] == job["net"])
    import conviction

    # The split's seed stays 0: only the training differs.
    data = first(conviction.dataset("fashion-mini", image_size=side), count)
    recipe = Recipe(epochs=1, batch_size=BATCH, image_size=side, precision=precision, seed=job["seed"])
    return ours(job["net"], data, recipe) if job["recipe"] == "ours" else books(job["net"], data, recipe, rate)


def ours(net: str, data: Data, recipe: Recipe) -> dict[str, Any]:
    """Train as `conviction fit` does."""
    with tempfile.TemporaryDirectory() as folder:
        events = fit_events(net, data, recipe, f"{folder}/run")
        try:
            while True:
                next(events)
        except StopIteration as stop:
            result = stop.value.result
        except DivergedError as error:
            return {"top1": None, "findings": [str(error)]}
    return {"top1": result["top1"], "findings": [finding["cause"] for finding in result["findings"]]}


def books(name: str, data: Data, recipe: Recipe, rate: float) -> dict[str, Any]:
    """Train as the book does."""
    plain = recipe.replace(
        optimizer="sgd", momentum=0.0, lr=rate, weight_decay=0.0, schedule="constant", warmup_epochs=0.0, clip_norm=0.0,
        label_smoothing=0.0, flip=False, crop="none", erase=0.0, ema=0.0, init="xavier", recoveries=0,
    )  # fmt: skip
    made = assemble(name, data, plain)
    feed = Feed(made.data, made.recipe)
    net: nn.Module = made.net.to(memory_format=torch.channels_last)
    for step in Training(net, made.recipe, feed.steps_per_epoch).run(feed):
        if not torch.isfinite(step.loss):
            return {"top1": None}
    assert data.test is not None
    return {"top1": measure_loss_and_top1(*answer_split(net, data.test, channels_last=True))[1]}


def main() -> None:
    """Run what is missing, then print the table."""
    arguments = ledger.parse(__doc__).parse_args()
    path = ledger.RESULTS / "no_failures.jsonl"
    jobs = [{"net": row[0], "recipe": recipe, "seed": seed}
            for seed in range(SEEDS) for row in NETS for recipe in ("ours", "book")]  # fmt: skip
    if not arguments.table:
        ledger.work(path, jobs, run, arguments.workers, arguments.most)
    done = ledger.read(path)
    print(f"# Does every net leave chance?\n\n{ledger.told(__doc__)}\n\n{ledger.conditions(done.values())}.\n")
    print("| net | side | layers | images | ours: at chance | worst | median | book: at chance | worst | median |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for net, side, precision, count, _ in NETS:
        cells = []
        for recipe in ("ours", "book"):
            tops = [done[ledger.name_of(job)]["top1"] or 0.0 for job in jobs
                    if job["net"] == net and job["recipe"] == recipe and ledger.name_of(job) in done]  # fmt: skip
            failed = sum(top < CHANCE for top in tops)
            told = [f"{min(tops):.3f}", f"{statistics.median(tops):.3f}"] if tops else ["-", "-"]
            cells += [f"{failed}/{len(tops)}", *told]
        print(f"| {net} | {side} | {precision} | {count:,} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
