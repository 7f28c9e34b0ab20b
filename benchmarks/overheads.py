"""What the preflight and the learning-rate finder cost before a run, in seconds and as a share of it.

    .venv/bin/python benchmarks/overheads.py > benchmarks/results/overheads.md

All threads of the machine, fashion-mini's images at the size in the table, batch 128, medians of `--rounds` rounds that
go through all rows in turn. The run that they are a share of is ten epochs of full Fashion-MNIST (540,000 images) at
the speed of 20 training steps in the same round. `preflight` is all that `fit` does between the decided recipe and the
first step of training; `finder` is `find_lr`, from the data to the rate.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import torch

import conviction
from conviction.assembly import assemble
from conviction.clearance import clear
from conviction.environment import describe_environment
from conviction.feeding import Feed
from conviction.recipe import Recipe
from conviction.training.loop import Training

NETS = (("lenet", 28, "fp32"), ("vgg7", 28, "bf16"), ("vgg11/4", 64, "bf16"), ("nin", 67, "bf16"),
        ("googlenet-book", 28, "bf16"), ("resnet18-book", 28, "fp32"))  # fmt: skip
RUN_IMAGES, BATCH, STEPS = 540_000, 128, 20


def measure(name: str, side: int, precision: str) -> tuple[float, float, float]:
    """Return the seconds of the preflight, of the finder, and of a run of ten epochs."""
    recipe = Recipe(epochs=10, batch_size=BATCH, image_size=side, precision=precision, seed=0)
    made = assemble(name, "fashion-mini", recipe)
    began = time.perf_counter()
    clear(made)
    preflight = time.perf_counter() - began
    feed = Feed(made.data, made.recipe)
    made.net.to(memory_format=torch.channels_last)
    began = time.perf_counter()
    for taken, _step in enumerate(Training(made.net, made.recipe, feed.steps_per_epoch).run(feed)):
        if taken == 2:  # the first steps prepare their kernels
            began = time.perf_counter()
        if taken == STEPS + 2:
            break
    run = (time.perf_counter() - began) / STEPS * RUN_IMAGES / BATCH
    began = time.perf_counter()
    conviction.find_lr(name, "fashion-mini", recipe)
    return preflight, time.perf_counter() - began, run


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    found: dict[str, list[tuple[float, float, float]]] = {row[0]: [] for row in NETS}
    for _ in range(rounds):
        for row in NETS:
            found[row[0]].append(measure(*row))
            print(row[0], found[row[0]][-1], file=sys.stderr)
    print(f"# Seconds before a run\n\n{(__doc__ or '').split(chr(10) * 2, 2)[2].strip()}\n")
    print(f"{describe_environment(Recipe(device='cpu'))['processor']}, {torch.get_num_threads()} threads, torch "
          f"{torch.__version__.split('+')[0]}, {rounds} rounds.\n")  # fmt: skip
    print(
        "| net | side | layers | preflight s (all rounds) | finder s (all rounds) | ten epochs s | preflight | finder |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, side, precision in NETS:
        columns = list(zip(*found[name], strict=True))
        preflight, finder, run = (statistics.median(column) for column in columns)
        looked, found_lr = (" ".join(f"{value:.1f}" for value in sorted(column)) for column in columns[:2])
        print(f"| {name} | {side} | {precision} | {preflight:.1f} ({looked}) | {finder:.1f} ({found_lr}) | {run:.0f} "
              f"| {preflight / run:.1%} | {finder / run:.1%} |")  # fmt: skip


if __name__ == "__main__":
    main()
