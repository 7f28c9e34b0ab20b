"""The validation grid behind the table of recipes: what each rate reaches in three short epochs.

    .venv/bin/python benchmarks/recipe_grid.py > benchmarks/results/recipe_grid.md

Each run is `conviction fit` on fashion-mini (9,000 real Fashion-MNIST images to train on, 1,000 to validate), three
epochs at a batch of 128 under the one-cycle schedule, one seed; only the optimizer and the rate change. The figure is
the validation accuracy after the last epoch; the test split decides nothing. The rate in bold is the row's of
`training/recipes.py`: at or a little below the best, as one seed of a short run cannot tell neighbours apart (the
validation split's own deviation is about .012) and long runs punish a rate that is too large more than a small one.
A second table has ten epochs of full Fashion-MNIST (54,000 images, validated on 6,000) with and without small shifts of
the images: short runs are not given them.
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch

import conviction
import ledger
from conviction.recipe import Recipe
from conviction.training.recipes import find_recipe

# Net, image side, precision, optimizer, rates.
GRID = (
    ("lenet", 28, "fp32", "adamw", (0.002, 0.005, 0.01, 0.02)),
    ("lenet", 28, "fp32", "sgd", (0.1, 0.3, 1.0)),
    ("lenet-bn", 28, "fp32", "adamw", (0.003, 0.01, 0.02, 0.05)),
    ("lenet-relu", 28, "fp32", "adamw", (0.001, 0.003, 0.006, 0.012)),
    ("lenet-relu", 28, "fp32", "sgd", (0.05, 0.15, 0.5)),
    ("alexnet-small", 28, "bf16", "adamw", (0.0003, 0.001, 0.002, 0.004)),
    ("alexnet-book", 65, "bf16", "adamw", (0.0002, 0.0005, 0.001, 0.002)),
    ("vgg7", 28, "bf16", "adamw", (0.0003, 0.001, 0.002, 0.004)),
    ("vgg7", 28, "bf16", "sgd", (0.05, 0.15, 0.5)),
    ("vgg11/4", 32, "bf16", "adamw", (0.0003, 0.0007, 0.0015, 0.003)),
    ("vgg16/4", 32, "bf16", "adamw", (0.0003, 0.0007, 0.0015)),
    ("vgg11", 32, "bf16", "adamw", (0.0003, 0.001)),
    ("vgg11-bn", 32, "bf16", "adamw", (0.0003, 0.0005, 0.001, 0.003)),
    ("vgg11-bn/4", 32, "bf16", "adamw", (0.0005, 0.002)),
    ("nin", 67, "bf16", "adamw", (0.0003, 0.001, 0.002, 0.004)),
    ("nin-small", 28, "bf16", "adamw", (0.0003, 0.001, 0.002, 0.004)),
    ("nin-small", 28, "bf16", "sgd", (0.07, 0.2, 0.6)),
    ("googlenet-book", 28, "bf16", "adamw", (0.0005, 0.001, 0.002, 0.004)),
    ("resnet18-book", 28, "fp32", "adamw", (0.001, 0.003, 0.008)),
    ("resnet18-book", 28, "fp32", "sgd", (0.03, 0.1, 0.3)),
    ("densenet-book", 32, "bf16", "adamw", (0.001, 0.003, 0.01, 0.03)),
)

# Net, image side, precision, batch size.
SHIFTS = (("lenet", 28, "fp32", 128), ("lenet-bn", 28, "fp32", 128), ("resnet18-book", 28, "bf16", 256))


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Fit once and return the validation accuracy, epoch by epoch."""
    torch.set_num_threads(1)
    knobs = {"epochs": job["epochs"], "precision": job["precision"], "image_size": job["side"], "seed": 0}
    if "crop" in job:
        recipe, data = Recipe(crop=job["crop"], batch_size=job["batch"], **knobs), "fashion-mnist"
    else:
        recipe, data = Recipe(lr=job["lr"], optimizer=job["optimizer"], batch_size=128, **knobs), "fashion-mini"
    with tempfile.TemporaryDirectory() as folder:
        run = conviction.fit(job["net"], data, recipe, out=f"{folder}/run")
    return {"valid": [round(epoch.valid_top1, 4) for epoch in run.history]}


def job_of(net: str, side: int, precision: str, optimizer: str, rate: float) -> dict[str, Any]:
    """Return the job of one cell."""
    return {"net": net, "side": side, "precision": precision, "optimizer": optimizer, "lr": rate, "epochs": 3}


def shift_job(net: str, side: int, precision: str, batch: int, crop: str) -> dict[str, Any]:
    """Return the job of one cell of the second table."""
    return {"net": net, "side": side, "precision": precision, "batch": batch, "crop": crop, "epochs": 10}


def main() -> None:
    """Run what is missing, then print the table."""
    parser = ledger.parse(__doc__)
    parser.add_argument("--nets", nargs="+", help="only these")
    arguments = parser.parse_args()
    path = ledger.RESULTS / "recipe_grid.jsonl"
    if not arguments.table:
        jobs = [job_of(*row[:4], rate) for row in GRID for rate in row[4]]
        jobs += [shift_job(*row, crop) for row in SHIFTS for crop in ("shift", "none")]
        jobs = [job for job in jobs if job["net"] in (arguments.nets or [job["net"]])]
        ledger.work(path, jobs, run, arguments.workers, arguments.most)
    done = ledger.read(path)
    print(f"# The grid behind the recipes\n\n{ledger.told(__doc__)}\n\n{ledger.conditions(done.values())}.\n")
    print("| net | side | layers | optimizer | the recipe's rate | validation accuracy by rate |")
    print("|---|---|---|---|---|---|")
    for net, side, precision, optimizer, rates in GRID:
        taken = getattr(find_recipe(torch.nn.Identity(), net), optimizer)
        cells = []
        for rate in rates:
            row = done.get(ledger.name_of(job_of(net, side, precision, optimizer, rate)))
            cells.append(
                f"{f'**{rate:g}**' if rate == taken else f'{rate:g}'}: {row['valid'][-1]:.3f}"
                if row
                else f"{rate:g}: -"
            )
        print(f"| {net} | {side} | {precision} | {optimizer} | {taken:g} | {', '.join(cells)} |")
    print("\n| net | side | layers | batch | shifted, after 10 epochs | not shifted |\n|---|---|---|---|---|---|")
    for row in SHIFTS:
        told = [done.get(ledger.name_of(shift_job(*row, crop))) for crop in ("shift", "none")]
        cells = [f"{each['valid'][-1]:.4f}" if each else "-" for each in told]
        print(f"| {' | '.join(map(str, row))} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
