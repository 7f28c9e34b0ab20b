"""How long a plan takes: each trace, the search for the largest batch after it, and the whole command.

    .venv/bin/python benchmarks/plan_speed.py > benchmarks/results/plan_speed.md

Seconds of wall clock, medians of `--rounds` rounds (all in brackets) through the rows in turn, for training with
AdamW in float32 at 3x224x224 and 1000 classes on a T4. A trace follows two training steps and a prediction on tensors
without memory; a plan needs two of them. `largest batch` searches with the simulated allocator, `verdict` holds two
such searches and the replays of the batch at hand. The commands are whole processes, with their pictures.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from conviction.environment import describe_environment
from conviction.nets import sketch
from conviction.planning.allocator import largest_batch
from conviction.planning.backend import unseen_memory
from conviction.planning.devices import find_device
from conviction.planning.program import make_program
from conviction.planning.step_trace import Setting, trace_step
from conviction.planning.verdicts import EXPECTED, judge, room_bytes
from conviction.recipe import Recipe

NETS = ("alexnet", "vgg11", "vgg16", "resnet50", "googlenet", "densenet121")
IMAGE = (3, 224, 224)
COMMANDS = (
    "plan vgg11 --image 3x224x224 --batch-size 128 --device t4",
    "plan densenet121 --image 3x224x224 --batch-size 64 --device t4",
    "plan densenet121 --image 3x224x224 --batch-size 256 --device t4",
)


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that something takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def run_command(words: str) -> None:
    """Run the command as a process of its own, with its pictures in a folder that goes away."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "conviction", *words.split(), "--out", f"{folder}/plan"]
        subprocess.run(command, check=True, capture_output=True)


def told(seconds: list[float]) -> str:
    """Return the median and all of some figures."""
    return f"{statistics.median(seconds):.2f} ({' '.join(f'{value:.2f}' for value in sorted(seconds))})"


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    setting, device = Setting(optimizer="adamw", weight_decay=0.05), find_device("t4")
    nets = {name: sketch(name, 1000, IMAGE) for name in NETS}
    programs = {name: make_program(lambda batch, parts, net=net: trace_step(net, IMAGE, batch, setting))
                for name, net in nets.items()}  # fmt: skip
    traces: dict[str, list[float]] = {name: [] for name in NETS}
    searches: dict[str, list[float]] = {name: [] for name in NETS}
    verdicts: dict[str, list[float]] = {name: [] for name in NETS}
    unseen = unseen_memory(device, setting)
    room, scratch = room_bytes(device, unseen, EXPECTED), unseen.scratch[EXPECTED]
    commands: dict[str, list[float]] = {words: [] for words in COMMANDS}
    for number in range(rounds):
        for name, net in nets.items():
            traces[name].append(timed(lambda net=net: trace_step(net, IMAGE, 2, setting)))
            searches[name].append(timed(lambda name=name: largest_batch(
                programs[name], room, scratch=scratch, fixed_bytes=unseen.fixed_bytes)))  # fmt: skip
            verdicts[name].append(timed(lambda name=name: judge(programs[name], 64, setting, device)))
        for words, seconds in commands.items():
            seconds.append(timed(lambda words=words: run_command(words)))
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    print(f"# Seconds of a plan\n\n{(__doc__ or '').split(chr(10) * 2, 2)[2].strip()}\n")
    print(f"{describe_environment(Recipe(device='cpu'))['processor']}, two cores.\n")
    print("| net | a trace | largest batch | verdict |\n|---|---|---|---|")
    for name in NETS:
        print(f"| {name} | {told(traces[name])} | {told(searches[name])} | {told(verdicts[name])} |")
    print("\n| command | seconds in all |\n|---|---|")
    for words, seconds in commands.items():
        print(f"| `conviction {words}` | {told(seconds)} |")


if __name__ == "__main__":
    main()
