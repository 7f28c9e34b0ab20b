"""The best single result of the house on full Fashion-MNIST within ten minutes on two cores of a CPU.

    .venv/bin/python benchmarks/best_cpu.py > benchmarks/results/best_cpu.md

Each run is the command below, start to report, timed as a whole in a process of its own with two threads, one after
another; nothing else should run beside it. Net, epochs, erasing and smoothing were chosen on the validation split (10 %
of the training images, by the seed); the test split is read once a run, for the weights that did best on validation.

    conviction fit resnet9-small fashion-mnist --epochs 11 --batch-size 256 --precision bf16 \\
        --set erase=0.3 --set crop=shift --seed SEED
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import ledger

SEEDS = 3
PATH = ledger.RESULTS / "best_cpu.jsonl"
COMMAND = ("fit", "resnet9-small", "fashion-mnist", "--epochs", "11", "--batch-size", "256", "--precision", "bf16",
           "--set", "erase=0.3", "--set", "crop=shift")  # fmt: skip


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Run the command for one seed and read its run folder."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        words = [*COMMAND, "--seed", str(job["seed"]), "--out", str(out)]
        surroundings = {**os.environ, "OMP_NUM_THREADS": str(job["threads"])}
        subprocess.run([sys.executable, "-m", "conviction", *words], env=surroundings, check=True)
        result = json.loads((out / "run.json").read_text())["result"]
    told = ("top1", "valid_top1", "train_top1", "lr", "images_per_second", "params")
    return {key: result[key] for key in told}


def main() -> None:
    """Run what is missing, then print the table."""
    arguments = ledger.parse(__doc__).parse_args()
    jobs = [{"command": " ".join(COMMAND), "threads": 2, "seed": seed} for seed in range(SEEDS)]
    if not arguments.table:
        ledger.work(PATH, jobs, run, 1, arguments.most)
    done = ledger.read(PATH)
    rows = [(job["seed"], done[ledger.name_of(job)]) for job in jobs if ledger.name_of(job) in done]
    conditions = ledger.conditions(done.values(), "two threads")
    print(f"# The best single result on a CPU\n\n{ledger.told(__doc__)}\n\n{conditions}.\n")
    print("| seed | test | validation | minutes in all | images/s in training |\n|---|---|---|---|---|")
    for seed, row in rows:
        print(f"| {seed} | {row['top1']:.4f} | {row['valid_top1']:.4f} | {row['seconds'] / 60:.1f} "
              f"| {row['images_per_second']:.0f} |")  # fmt: skip
    if rows:
        tops = [row["top1"] for _, row in rows]
        print(f"\nMean {statistics.mean(tops):.4f}, worst {min(tops):.4f}, "
              f"slowest {max(row['seconds'] for _, row in rows) / 60:.1f} minutes.")  # fmt: skip


if __name__ == "__main__":
    main()
