"""The learning-rate finder against the truth of a grid, beside the finders of fastai, Lightning and torch-lr-finder.

    PYTHONPATH=src peers/bin/python benchmarks/finder.py > benchmarks/results/finder.md

(the environment is that of benchmarks/peer_finders.py). For every net and optimizer the truth is a grid of six rates,
each the mean of three seeds' test accuracy after 300 steps of 64 images of fashion-mini (real Fashion-MNIST, 28 or
32 px, our recipes but for the rate). A finder's rate is trained the same way, with the finder's own seed (ten for ours,
five for the peers'); it is right when it comes within 3 points of the grid's best. Under the framework's default
initialisation some nets leave chance at no rate of the grid: there the right answer is to refuse, with the cause. The
peers search with the optimizer that then trains, without its clipping and augmentation. Nothing was chosen by this
table.
"""

from __future__ import annotations

import itertools
import statistics
import time
from typing import Any

import torch

import ledger
from conviction.assembly import Assembly, assemble
from conviction.evaluation import answer_split
from conviction.feeding import Feed
from conviction.lr_finding import lr_events
from conviction.metrics import measure_loss_and_top1
from conviction.recipe import Recipe
from conviction.training.loop import Training

STEPS, BATCH, SEEDS, PEER_SEEDS, TRUTH_SEEDS, WITHIN, CHANCE = 300, 64, 10, 5, 3, 0.03, 0.15
GRID = {"sgd": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0), "adamw": (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03)}
# Net, image side, start of the weights, optimizers.
CASES = tuple(
    (net, side, init, optimizer)
    for net, side, init, optimizers in (
        ("lenet", 28, "auto", ("sgd", "adamw")),
        ("lenet-relu", 28, "auto", ("sgd", "adamw")),
        ("lenet-bn", 28, "auto", ("sgd", "adamw")),
        ("vgg7/8", 28, "auto", ("sgd", "adamw")),
        ("nin-small/4", 28, "auto", ("sgd", "adamw")),
        ("resnet18/8", 28, "auto", ("sgd", "adamw")),
        ("nin-small/4", 28, "pytorch", ("sgd",)),
        ("vgg11/8", 32, "pytorch", ("sgd",)),
    )
    for optimizer in optimizers
)
FINDERS = ("ours", "fastai", "lightning", "torch-lr-finder")


def made_for(job: dict[str, Any], lr: float | None = None) -> Assembly:
    """Build the net of a job with its data and recipe."""
    recipe = Recipe(optimizer=job["optimizer"], lr=lr, seed=job["seed"], epochs=1, batch_size=BATCH, init=job["init"],
                    image_size=job["side"], preflight="off", recoveries=0)  # fmt: skip
    return assemble(job["net"], "fashion-mini", recipe)


def train(job: dict[str, Any], lr: float) -> float:
    """Return the test accuracy after the budget at peak rate `lr`; chance where the run blew up."""
    made = made_for(job, lr)
    net = made.net.to(memory_format=torch.channels_last)
    stream = itertools.chain.from_iterable(map(Feed(made.data, made.recipe), itertools.count()))
    for step in Training(net, made.recipe, STEPS).run(lambda epoch: stream):
        if not torch.isfinite(step.loss):
            return 1 / made.data.num_classes
    assert made.data.test is not None
    return measure_loss_and_top1(*answer_split(net, made.data.test, channels_last=True))[1]


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Do one job: a rate of the grid, or a finder's answer and what it is worth."""
    torch.set_num_threads(1)
    if job["finder"] == "grid":
        return {"top1": train(job, job["lr"])}
    found = look(job) if job["finder"] == "ours" else ask_peer(job)
    lr = found["lr"]
    return {**found, "top1": None if lr is None else train(job, lr)}


def look(job: dict[str, Any]) -> dict[str, Any]:
    """Ask our finder; of the first seed twice."""
    recipe = made_for(job).recipe.replace(lr=None)
    answers = []
    for _ in range(2 if job["seed"] == 0 else 1):
        events = lr_events(job["net"], "fashion-mini", recipe)
        try:
            while True:
                next(events)
        except StopIteration as stop:
            sweep = stop.value
        answers.append((sweep.lr, sweep.trials, sweep.curve))
    cause = sweep.refused["cause"] if sweep.refused else None
    same = answers[0] == answers[-1]
    return {"lr": sweep.lr, "cause": cause, "same": same, "finding": round(sweep.seconds, 1), "steps": sweep.steps}


def ask_peer(job: dict[str, Any]) -> dict[str, Any]:
    """Ask a peer's finder."""
    import peer_finders

    made = made_for(job)
    images, labels = Feed(made.data, made.recipe).plain(len(made.data.train))
    suggest = peer_finders.suggest
    peer_finders.load_peers()
    began = time.perf_counter()
    lr = suggest(job["finder"], made.net, images, labels, BATCH, job["optimizer"], job["seed"])
    return {"lr": lr, "finding": round(time.perf_counter() - began, 1)}


def jobs() -> list[dict[str, Any]]:
    """List all jobs, the truth first, then what was asked of it."""
    cases = [dict(zip(("net", "side", "init", "optimizer"), case, strict=True)) for case in CASES]
    grid = [{**case, "finder": "grid", "lr": lr, "seed": seed}
            for seed in range(TRUTH_SEEDS) for case in cases for lr in GRID[case["optimizer"]]]  # fmt: skip
    peers = [{**case, "finder": finder, "seed": seed}
             for seed in range(PEER_SEEDS) for case in cases for finder in FINDERS[1:]]  # fmt: skip
    ours = [{**case, "finder": "ours", "seed": seed} for seed in range(SEEDS) for case in cases]
    # Seed by seed, so that what is done at any time is balanced; the slowest last.
    return sorted(
        [*grid, *ours, *peers], key=lambda job: (job["net"] == "vgg11/8", job["finder"] != "grid", job["seed"])
    )


def show(done: dict[str, Any]) -> None:
    """Print the table of the truth, that of the finders, and what they come to."""
    best = show_truth(done)
    print("\nEach cell: how often right, the rates, the worst test accuracy at them.\n")
    print(f"| net | start | optimizer | {' | '.join(FINDERS)} |\n|{'---|' * (3 + len(FINDERS))}")
    right: dict[tuple[str, bool], list[bool]] = {}
    for case, top in best.items():
        cells = []
        for finder in FINDERS:
            rows = [done[name] for name in _names(case, done, finder)]
            hopeless = top < CHANCE
            good = [_is_right(row, top) for row in rows]
            right.setdefault((finder, hopeless), []).extend(good)
            rates = sorted(row["lr"] for row in rows if row["lr"])
            tops = [row["top1"] for row in rows if row["top1"] is not None]
            said = f"{rates[0]:.2g} to {rates[-1]:.2g}, {min(tops):.3f}" if rates else "no rate"
            causes = sorted({row["cause"] for row in rows if row.get("cause")})
            cells.append(f"{sum(good)}/{len(good)}: {', '.join([said, *causes])}")
        print(f"| {case[0]} | {case[2]} | {case[3]} | {' | '.join(cells)} |")
    print("\n| finder | right where a rate helps | at chance there | refused where none does | median seconds |")
    print("|---|---|---|---|---|")
    for finder in FINDERS:
        rows = [done[name] for case, top in best.items() if top >= CHANCE for name in _names(case, done, finder)]
        sunk = sum(row["top1"] is None or row["top1"] < CHANCE for row in rows)
        told = [
            f"{sum(good)}/{len(good)}" for good in (right.get((finder, hopeless), []) for hopeless in (False, True))
        ]
        seconds = statistics.median([row["finding"] for row in rows] or [0])
        print(f"| {finder} | {told[0]} | {sunk} | {told[1]} | {seconds:.1f} |")
    twice = [found for name, found in done.items() if '"finder": "ours"' in name and '"seed": 0' in name]
    if twice:
        same = sum(found["same"] for found in twice)
        steps = statistics.median(found["steps"] for found in twice)
        print(f"\nOurs twice with one seed: {same}/{len(twice)} the same to the bit. A sweep of ours makes "
              f"{steps:.0f} updates (median), a peer's about 100. No peer can refuse; one that fails counts as wrong "
              "and as at chance.")  # fmt: skip


def show_truth(done: dict[str, Any]) -> dict[tuple[str, int, str, str], float]:
    """Print the grid; returns the best accuracy of each case whose grid is complete."""
    print("| net | start | optimizer | test accuracy by rate of the grid | best |\n|---|---|---|---|---|")
    best = {}
    for case in CASES:
        tops = {lr: [done[name]["top1"] for name in _names(case, done, "grid", lr)] for lr in GRID[case[3]]}
        if min(map(len, tops.values())) < TRUTH_SEEDS:
            continue
        means = {lr: statistics.mean(found) for lr, found in tops.items()}
        best[case] = max(means.values())
        told = ", ".join(f"{lr:g}: {top:.3f}" for lr, top in means.items())
        print(f"| {case[0]} | {case[2]} | {case[3]} | {told} | {best[case]:.3f} |")
    return best


def _is_right(row: dict[str, Any], top: float) -> bool:
    """Whether an answer is right: within 3 points of the grid's best; where no rate leaves chance, a refusal."""
    if top < CHANCE:
        return row.get("cause") is not None
    return row["top1"] is not None and row["top1"] >= top - WITHIN


def _names(case: tuple[Any, ...], done: dict[str, Any], finder: str, lr: float | None = None) -> list[str]:
    job = {**dict(zip(("net", "side", "init", "optimizer"), case, strict=True)), "finder": finder}
    job |= {} if lr is None else {"lr": lr}
    names = (ledger.name_of({**job, "seed": seed}) for seed in range(SEEDS))
    return [name for name in names if name in done]


def main() -> None:
    """Run what is missing, then print the tables."""
    arguments = ledger.parse(__doc__).parse_args()
    path = ledger.RESULTS / "finder.jsonl"
    if not arguments.table:
        ledger.work(path, jobs(), run, arguments.workers, arguments.most)
    done = ledger.read(path)
    print(f"# The finder against the truth\n\n{ledger.told(__doc__)}\n\n{ledger.conditions(done.values())}.\n")
    show(done)


if __name__ == "__main__":
    main()
