"""One fit with several seeds: accuracy with its spread, and the same command twice to show that it repeats itself.

    .venv/bin/python benchmarks/seeds.py lenet-bn fashion-mnist --epochs 10 > benchmarks/results/lenet-bn.md

Runs go to runs/seeds/ and finished ones are not repeated, so the benchmark can be stopped and gone on with. Options
that it does not know are handed to `conviction fit`. The test split is evaluated once a run; nothing is chosen by it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import conviction


def fit(words: list[str], seed: int, out: Path) -> dict[str, Any]:
    """Run `conviction fit` in a process of its own, or take what it left."""
    command = [sys.executable, "-m", "conviction", "fit", *words, "--seed", str(seed), "--out", str(out), "--resume"]
    done = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    return json.loads(done.stdout)


def main() -> None:
    """Fit, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("net")
    parser.add_argument("data")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--twice", action="store_true", help="run the first seed a second time and compare every digit")
    parser.add_argument("--runs", type=Path, default=Path("runs/seeds"))
    arguments, more = parser.parse_known_args()
    words = [arguments.net, arguments.data, *more]
    stem = "-".join(words).replace("/", "-").replace("--", "")
    rows = [fit(words, seed, arguments.runs / f"{stem}-{seed}") for seed in range(arguments.seeds)]
    environment = conviction.load(arguments.runs / f"{stem}-0").environment
    print(f"# {arguments.net} on {arguments.data}, {arguments.seeds} seeds\n")
    print(f"Command: `conviction fit {' '.join(words)} --seed N`. {environment['processor']}, {environment['threads']} "
          f"threads, torch {environment['torch']}, conviction {environment['conviction']}.\n")  # fmt: skip
    print("| seed | test top-1 | validation | train | epochs | seconds of training |\n|---|---|---|---|---|---|")
    for seed, row in enumerate(rows):
        print(f"| {seed} | {row['top1']:.4f} | {row['valid_top1']:.4f} | {row['train_top1']:.4f} | {row['epochs']} "
              f"| {row['seconds']:.0f} |")  # fmt: skip
    tops = [row["top1"] for row in rows]
    spread = statistics.stdev(tops) if len(tops) > 1 else 0.0
    print(f"\nTest top-1: mean {statistics.mean(tops):.4f}, standard deviation {spread:.4f}, "
          f"worst {min(tops):.4f}, best {max(tops):.4f}.")  # fmt: skip
    if arguments.twice:
        fit(words, 0, arguments.runs / f"{stem}-again")
        first, again = (conviction.load(arguments.runs / f"{stem}-{name}") for name in ("0", "again"))
        timing = {"seconds", "images_per_second", "planned", "measured"}  # the last two tell seconds and memory, too
        same = all(
            all(getattr(a, field) == getattr(b, field) for field in a.__dataclass_fields__ if field not in timing)
            for a, b in zip(first.history, again.history, strict=True)
        ) and all(first.result[key] == again.result[key] for key in first.result if key not in {*timing, "run"})
        print(f"\nThe same command twice (seed 0): {'every digit the same' if same else 'DIFFERENT'}.")
        sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
