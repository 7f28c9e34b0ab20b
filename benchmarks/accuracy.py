"""Test accuracy on full Fashion-MNIST after ten epochs, beside the median of the book's published builds.

    .venv/bin/python benchmarks/accuracy.py > benchmarks/results/accuracy.md
    .venv/bin/python benchmarks/accuracy.py --cifar FOLDER > benchmarks/results/cifar10.md

Each run is `conviction fit` with its defaults but for what the table says; images smaller than the book's where the CPU
needs it, layers in bfloat16 where that is faster. Seeds fix the validation split (10 % of the training images) too. The
test split is read once a run, for the weights that did best on validation. `--cifar` takes a folder with the images of
CIFAR-10 as JPEG files (`train/CLASS/*.jpg`, `test/CLASS/*.jpg`), a little below the original; budgets as told. `--nets`
and `--seeds` choose some of the runs; `--workers 1 --threads 2` gives both cores to one run after another, which suits
VGG-11/4: two at once wait for memory.
"""

from __future__ import annotations

import os
import shutil
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch

import ledger
from conviction.fitting import fit_events
from conviction.recipe import Recipe

SEEDS = 3
# Net, image side, the book's side, precision, batch size, the book's median test accuracy, its worst build.
NETS = (
    ("vgg11/4", 64, 224, "bf16", 128, 0.918, 0.912),
    ("lenet", 28, 28, "fp32", 128, 0.802, 0.761),
    ("lenet-bn", 28, 28, "fp32", 128, 0.867, 0.518),
    ("densenet-book", 32, 96, "bf16", 256, 0.890, 0.755),
    ("nin", 67, 224, "bf16", 256, 0.843, 0.100),
    ("googlenet-book", 28, 96, "bf16", 128, 0.889, 0.854),
    ("alexnet-book", 65, 224, "bf16", 256, 0.880, 0.847),
    ("resnet18-book", 28, 96, "bf16", 256, 0.910, 0.669),
)
CIFAR = (("alexnet-small", 6), ("googlenet-small", 2), ("resnet18-cifar", 1), ("vgg11-bn", 2))


def run(job: dict[str, Any], data: str, threads: int) -> dict[str, Any]:
    """Fit once, from where an earlier try was interrupted."""
    torch.set_num_threads(threads)
    folder = Path("runs/accuracy") / "-".join(str(value).replace("/", "-") for value in job.values())
    recipe = Recipe(epochs=job["epochs"], batch_size=job["batch"], image_size=job["side"], precision=job["precision"],
                    seed=job["seed"])  # fmt: skip
    events = fit_events(job["net"], data, recipe, folder, resume=True)
    try:
        while True:
            next(events)
    except StopIteration as stop:
        run = stop.value
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    told = ("top1", "valid_top1", "train_top1", "lr", "images_per_second")
    curve = [[round(row.train_top1, 4), round(row.valid_top1, 4)] for row in run.history]
    return {**{key: run.result[key] for key in told}, "findings": len(run.result["findings"]), "curve": curve}


def jobs_for(cifar: bool) -> list[dict[str, Any]]:
    """List the jobs, all nets with one seed first."""
    if cifar:
        return [{"net": net, "side": 32, "precision": "bf16", "batch": 128, "epochs": epochs, "seed": 0}
                for net, epochs in CIFAR]  # fmt: skip
    return [{"net": net, "side": side, "precision": precision, "batch": batch, "epochs": 10, "seed": seed}
            for seed in range(SEEDS) for net, side, _, precision, batch, _, _ in NETS]  # fmt: skip


def show(done: dict[str, Any], jobs: list[dict[str, Any]]) -> None:
    """Print the table of the nets beside the book's."""
    print("| net | side (book's) | layers | batch | seeds | worst | mean | book's median | book's worst | images/s |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for net, side, theirs, precision, batch, median, worst in NETS:
        rows = [done[ledger.name_of(job)] for job in jobs if job["net"] == net and ledger.name_of(job) in done]
        if not rows:
            print(f"| {net} | {side} ({theirs}) | {precision} | {batch} | 0 | - | - | {median:.3f} | {worst:.3f} | - |")
            continue
        tops = [row["top1"] for row in rows]
        print(f"| {net} | {side} ({theirs}) | {precision} | {batch} | {len(tops)} | {min(tops):.4f} "
              f"| {statistics.mean(tops):.4f} | {median:.3f} | {worst:.3f} "
              f"| {statistics.median(row['images_per_second'] for row in rows):.0f} |")  # fmt: skip


def show_cifar(done: dict[str, Any], jobs: list[dict[str, Any]]) -> None:
    """Print the curves on CIFAR-10."""
    print("| net | epochs | seconds in all | test | validation accuracy, epoch by epoch |\n|---|---|---|---|---|")
    for job in jobs:
        if row := done.get(ledger.name_of(job)):
            curve = " ".join(f"{valid:.3f}" for _, valid in row["curve"])
            print(f"| {job['net']} | {job['epochs']} | {row['seconds']:.0f} | {row['top1']:.4f} | {curve} |")


def main() -> None:
    """Run what is missing, then print the table."""
    parser = ledger.parse(__doc__)
    parser.add_argument("--cifar", metavar="FOLDER")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--nets", nargs="+", help="only these")
    parser.add_argument("--seeds", nargs="+", type=int, help="only these")
    arguments = parser.parse_args()
    jobs = jobs_for(bool(arguments.cifar))
    chosen = [job for job in jobs if job["net"] in (arguments.nets or [job["net"]])
              and job["seed"] in (arguments.seeds or [job["seed"]])]  # fmt: skip
    path = ledger.RESULTS / ("cifar10.jsonl" if arguments.cifar else "accuracy.jsonl")
    if not arguments.table:
        data = os.path.abspath(arguments.cifar) if arguments.cifar else "fashion-mnist"  # noqa: PTH100
        ledger.work(path, chosen, partial(run, data=data, threads=arguments.threads), arguments.workers, arguments.most)
    done = ledger.read(path)
    title = "CIFAR-10 (JPEG copies) under a budget" if arguments.cifar else "Full Fashion-MNIST, ten epochs"
    print(f"# {title}\n\n{ledger.told(__doc__)}\n\n{ledger.conditions(done.values(), 'one or two threads')}.\n")
    (show_cifar if arguments.cifar else show)(done, jobs)


if __name__ == "__main__":
    main()
