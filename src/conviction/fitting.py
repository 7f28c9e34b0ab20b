"""The corridor: the only file that knows the order of the rooms that a fit passes through."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from conviction import runs
from conviction.assembly import Assembly, assemble, count_params
from conviction.clearance import clear
from conviction.data.downloading import Progress
from conviction.data.records import Data
from conviction.evaluation import answer_split, worst_mistakes
from conviction.feeding import Feed
from conviction.fit_cost import Costs, FitPlan, settle_cost
from conviction.metrics import measure_answers, measure_loss_and_top1
from conviction.recipe import Recipe
from conviction.report import write_report
from conviction.runs import Epoch, Run
from conviction.text import printable
from conviction.tracking import EventFile
from conviction.training.checkpoint import load_training, save_tensors, save_training
from conviction.training.loop import Step, Training
from conviction.training.recovery import Guard
from conviction.training.statistics import Lag, refresh
from conviction.training.verdicts import is_guessing

# Images whose answers tell how well the training split is known, without augmentation.
_TRAIN_SAMPLE = 10_000
# Steps after which a net that still guesses is worth a word.
_PATIENCE = 200


@dataclasses.dataclass(frozen=True)
class Note:
    """Something that was decided or noticed, for people."""

    text: str


@dataclasses.dataclass(frozen=True)
class Started:
    """The fit is about to train: what, on what, for how long, and into which folder."""

    net: str
    data: str
    epochs: int
    steps_per_epoch: int
    params: int
    folder: Path
    first_epoch: int = 0


Event = Note | Started | Step | Epoch


def fit_events(
    net: str | nn.Module,
    data: Data | str | os.PathLike[str],
    recipe: Recipe | None = None,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    data_root: str | None = None,
    progress: Progress | None = None,
) -> Generator[Event, None, Run]:
    """Train `net` on `data`, evaluate and report; yields events as they happen and returns the finished `Run`.

    `progress(file, done_bytes, total_bytes)` is told of a download.

    Raises the errors of every room passed, each one line: usage, data, weights, resources, divergence.
    """
    recipe = recipe or Recipe()
    going_on = resume and out is not None and runs.holds_run(Path(out))
    if out is not None and not going_on:
        runs.refuse_taken(Path(out))  # before the data is read
    if going_on:
        run = runs.read_run(Path(out or ""))
        if run.finished:
            if isinstance(net, nn.Module):
                run.__dict__["net"] = run.load_weights(net)
            yield Note("the run is finished: nothing is left to do")
            return run
        given, recipe = recipe, run.recipe
        yield Note("going on with the run's own recipe" + runs.left_aside(given, recipe))
        made, planned = settle_cost(_the_same(assemble(net, data, recipe, data_root, progress), run), begins=False)
        if not (run.folder / runs.LAST).exists():  # interrupted in its first epoch: it begins as it began
            made = clear(made)
            run = dataclasses.replace(run, recipe=made.recipe)
    else:
        made = assemble(net, data, recipe, data_root, progress)
        runs.refuse_inside(Path(out or "runs"), made.sources.data)
        made, planned = settle_cost(made)
        made = clear(made)
        run = made.begin(runs.new_folder(out, made.name))
    for text in run.notes:
        yield Note(text)
    return (yield from _Fit(run, made, planned, resume).events())


def _the_same(made: Assembly, run: Run) -> Assembly:
    """Return what was assembled again for a run, with the preprocessing that it began with; another is refused."""
    runs.refuse_another(run, made.sources, made.data.name, made.data.classes, made.data.preprocessing.image)
    return dataclasses.replace(made, data=dataclasses.replace(made.data, preprocessing=run.preprocessing))


class _Fit:
    """One fit on its way from the built net to the finished run."""

    def __init__(self, run: Run, made: Assembly, planned: FitPlan | None, resume: bool) -> None:
        self.run, self.data, self.net_name, self.recipe = run, made.data, made.name, made.recipe
        recipe = made.recipe
        self.feed = Feed(made.data, recipe)
        self.costs = Costs(planned, self.feed, made.net)
        self.net = made.net.to(recipe.device)
        if recipe.channels_last:
            self.net = self.net.to(memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]  # torch has it
        self.training = Training(self.net, recipe, self.feed.steps_per_epoch)
        self.guard = Guard(self.training, printable(run.folder))
        self.lag = Lag()
        self.findings, self.preflight = list(made.findings), made.preflight
        self.history: list[Epoch] = []
        self.seconds = 0.0
        self.resume = resume

    def events(self) -> Generator[Event, None, Run]:
        """Go the whole way."""
        params = count_params(self.net)
        assert self.recipe.epochs is not None
        self._go_on()
        runs.write_run(self.run)
        yield Started(self.net_name, self.data.name, self.recipe.epochs, self.feed.steps_per_epoch, params,
                      self.run.folder, len(self.history))  # fmt: skip
        with EventFile(self.run.folder) as track:
            for event in self._train():
                if isinstance(event, Epoch):
                    track.write(event)
                yield event
        yield Note(
            "evaluating on the test split"
            if self.data.test is not None
            else "no test split: evaluating on validation, which also chose the weights"
        )
        return self._finish(params)

    def _go_on(self) -> None:
        """Take up an interrupted run at its last whole epoch."""
        path = self.run.folder / runs.LAST
        if not (self.resume and path.exists()):
            return
        facts = load_training(path, self.training)
        self.guard.go_on(facts.get("guard"), path)
        self.lag = Lag(**facts.get("lag", {}))
        self.findings, self.preflight = facts.get("findings", []), facts.get("preflight")
        self.seconds, self.costs.peaks = facts["seconds"], facts.get("peaks", {})
        self.history = [Epoch(**row) for row in facts["history"]]
        self.run = dataclasses.replace(self.run, history=tuple(self.history))

    def _train(self) -> Iterator[Step | Epoch | Note]:
        started = begun = time.perf_counter()
        before = self.seconds
        rows: list[Step] = []
        self.costs.start()
        for step in self.training.run(self.guard.feeding(self.feed), first_epoch=len(self.history)):
            recovery = self.guard.check(step)
            rows.append(step)
            yield step
            if recovery is not None:
                yield self._note(str(recovery))
            if left := self.costs.see(step):
                yield Note(left)
            if step.ends_epoch:
                seconds = time.perf_counter() - begun
                yield from self._recompute_statistics(step)
                epoch = self._end_epoch(rows, seconds)
                self.seconds = before + time.perf_counter() - started
                self._save(epoch)
                rows = []
                yield epoch
                yield from self._tell_guessing(step, epoch)
                begun = time.perf_counter()

    def _note(self, text: str) -> Note:
        """Write down what happened on the way; a resumed run that comes by again says it, and writes it once."""
        if text not in self.run.notes:
            self.run = dataclasses.replace(self.run, notes=(*self.run.notes, text))
            runs.write_run(self.run)
        return Note(text)

    def _recompute_statistics(self, step: Step) -> Iterator[Note]:
        lag = refresh(self.training, self.feed, step.epoch) if self.recipe.precise_bn else None
        if lag is None:
            return
        first, self.lag = lag.notable and not self.lag.notable, self.lag.worst(lag)
        if first:
            yield Note(f"batch norm statistics are recomputed before each evaluation: {lag}")

    def _tell_guessing(self, step: Step, epoch: Epoch) -> Iterator[Note]:
        """Say once that a net has learnt nothing yet, which alone is no reason to stop it."""
        steps, last = step.index + 1, epoch.epoch == self.recipe.epochs
        due = last or steps - _PATIENCE in range(step.steps_per_epoch)
        images = step.steps_per_epoch * step.images
        if due and is_guessing(epoch.train_top1, images, _guessing_top1(self.data)):
            yield self._note(f"train accuracy is indistinguishable from guessing after {steps:,} steps")

    def _end_epoch(self, steps: list[Step], seconds: float) -> Epoch:
        """Measure the epoch; `seconds` is all its training took, waiting for data included."""
        counting = self.guard.counting(steps)
        images = sum(step.images for step in counting)
        loss, top1 = measure_loss_and_top1(*self._answers("valid"))
        return Epoch(
            epoch=len(self.history) + 1,
            lr=steps[-1].lr,
            train_loss=sum(float(step.loss) * step.images for step in counting) / images,
            train_top1=sum(int(step.correct) for step in counting) / images,
            valid_loss=loss,
            valid_top1=top1,
            seconds=round(seconds, 3),
            images_per_second=round(sum(step.images for step in steps) / seconds, 1),
        )

    def _save(self, epoch: Epoch) -> None:
        best = max((row.valid_top1 for row in self.history), default=-1.0)
        self.history.append(epoch)
        self.run = dataclasses.replace(self.run, history=tuple(self.history))
        if epoch.valid_top1 >= best:
            facts = {"net": self.net_name, "classes": self.data.classes, "epoch": epoch.epoch,
                     "preprocessing": self.data.preprocessing.to_dict()}  # fmt: skip
            save_tensors(self.run.folder / runs.BEST, self.training.evaluated.state_dict(), facts)
        rows = [dataclasses.asdict(row) for row in self.history]
        facts = {"history": rows, "seconds": self.seconds, "guard": self.guard.to_dict(),
                 "lag": dataclasses.asdict(self.lag), "findings": self.findings,
                 "preflight": self.preflight, "peaks": self.costs.note_peaks()}  # fmt: skip
        save_training(self.run.folder / runs.LAST, self.training, facts, self.guard.kept)
        runs.write_history(self.run)

    def _answers(self, split: str, most: int | None = None) -> tuple[Tensor, Tensor]:
        recipe = self.recipe
        return answer_split(
            self.training.evaluated,
            self.data.splits[split],
            device=recipe.device,
            precision=recipe.precision or "fp32",
            channels_last=bool(recipe.channels_last),
            workers=recipe.workers or 0,
            most=most,
        )

    def _finish(self, params: int) -> Run:
        """Evaluate the weights that did best on validation, once, on the test split; write the results and report."""
        costs = self.costs.tell(self.net, self.data.image, self.history, self.seconds)  # evaluation is no part of it
        self.run.load_weights(self.net)
        self.training.average = None  # from here on the best weights are evaluated
        split = "valid" if self.data.test is None else "test"
        logits, labels = self._answers(split)
        if self.lag.notable:
            self._note(f"batch norm statistics were recomputed before each evaluation: {self.lag}")
        test = measure_answers(logits, labels, self.data.classes, split)
        best = max(self.history, key=lambda row: (row.valid_top1, row.epoch))
        recipe = self.recipe
        result = {
            "run": str(self.run.folder), "net": self.net_name, "data": self.data.name, "epochs": len(self.history),
            "top1": test.top1, "top5": test.top5, "interval": list(test.interval), "split": split,
            "train_top1": measure_loss_and_top1(*self._answers("train", _TRAIN_SAMPLE))[1],
            "valid_top1": best.valid_top1, "best_epoch": best.epoch, "seconds": round(self.seconds, 2),
            "images_per_second": sorted(row.images_per_second for row in self.history)[len(self.history) // 2],
            "lr": recipe.lr, "optimizer": recipe.optimizer, "batch_size": self.feed.batch_size, "params": params,
            "image": list(self.data.image), "findings": [*self.findings, *self.guard.findings()],
            "recoveries": [dataclasses.asdict(recovery) for recovery in self.guard.recoveries],
            "batch_norm_lag": dataclasses.asdict(self.lag), "preflight": self.preflight,
            **costs,
        }  # fmt: skip
        self.run = dataclasses.replace(self.run, result=result)
        mistakes = worst_mistakes(logits, labels, self.data.splits[split])
        runs.write_run(self.run)  # before the report: what was reached is not lost where that cannot be written
        write_report(self.run, test, mistakes, self.data.splits[split], self.costs.draw())
        self.run.__dict__.update(net=self.net, data=self.data)  # as they are, rather than made again when asked for
        return self.run


def _guessing_top1(data: Data) -> float:
    """Return how often always answering the commonest class is right on the training split."""
    labels = data.train.labels
    return 1 / data.num_classes if labels is None else float(labels.bincount().max() / len(labels))
