"""The corridor: the only file that knows the order of the rooms that a fit passes through."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from conviction import runs
from conviction.assembly import Assembly, assemble, count_params
from conviction.data.downloading import Progress
from conviction.data.records import Data
from conviction.errors import DivergedError, UsageError
from conviction.evaluation import answer_split, worst_mistakes
from conviction.feeding import Feed
from conviction.metrics import measure_answers, measure_loss_and_top1
from conviction.recipe import Recipe
from conviction.report import write_report
from conviction.runs import Epoch, Run
from conviction.text import printable
from conviction.tracking import EventFile
from conviction.training.checkpoint import load_training, save_tensors, save_training
from conviction.training.loop import Step, Training

# Images whose answers tell how well the training split is known, without augmentation.
_TRAIN_SAMPLE = 10_000


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
        yield Note("going on with the run's own recipe" + _left_aside(given, recipe))
        made = _the_same(assemble(net, data, recipe, data_root, progress), run)
    else:
        made = assemble(net, data, recipe, data_root, progress)
        _refuse_inside(out, made)
        run = made.begin(runs.new_folder(out, made.name))
    for text in run.notes:
        yield Note(text)
    return (yield from _Fit(run, made, resume).events())


def _refuse_inside(out: str | Path | None, made: Assembly) -> None:
    """Refuse to write into the folder of the data: a run in it would be read as a class by the next."""
    source, folder = Path(made.sources.data or ""), Path(out or "runs").absolute()
    if source.is_absolute() and source.is_dir() and folder.resolve().is_relative_to(source.resolve()):
        raise UsageError("the run's folder would lie inside the data", printable(folder), "choose another --out")


def _left_aside(given: Recipe, own: Recipe) -> str:
    """Name the knobs that were given for a run that goes on with others."""
    default = Recipe().to_dict()
    names = [name for name, value in given.to_dict().items() if value not in (default[name], own.to_dict()[name])]
    return f"; left aside: {', '.join(names)}" if names else ""


def _the_same(made: Assembly, run: Run) -> Assembly:
    """Return what was assembled again for a run, with the preprocessing that it began with; another is refused."""
    theirs, ours = made.data.preprocessing, run.preprocessing
    for what, now, then in (
        ("net", made.sources.net, run.sources.net),
        ("data", made.sources.data or made.data.name, run.sources.data or made.data.name),
        ("classes", made.data.classes, run.classes),
        ("image", theirs.image, ours.image),
    ):
        if now != then:
            raise UsageError(f"the run was begun with another {what}: {printable(then)}", printable(run.folder),
                             "resume it with the same net and data, or choose another --out")  # fmt: skip
    return dataclasses.replace(made, data=dataclasses.replace(made.data, preprocessing=ours))


class _Fit:
    """One fit on its way from the built net to the finished run."""

    def __init__(self, run: Run, made: Assembly, resume: bool) -> None:
        self.run, self.data, self.net_name, self.recipe = run, made.data, made.name, made.recipe
        recipe = made.recipe
        self.feed = Feed(made.data, recipe)
        self.net = made.net.to(recipe.device)
        if recipe.channels_last:
            self.net = self.net.to(memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]  # torch has it
        self.training = Training(self.net, recipe, self.feed.steps_per_epoch)
        # To read a loss on an accelerator is to wait for it.
        self.read_every = 1 if self.training.device.type == "cpu" else 16
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
        self.seconds = facts["seconds"]
        self.history = [Epoch(**row) for row in facts["history"]]
        self.run = dataclasses.replace(self.run, history=tuple(self.history))

    def _train(self) -> Iterator[Step | Epoch]:
        started = begun = time.perf_counter()
        before = self.seconds
        rows: list[Step] = []
        for step in self.training.run(self.feed, first_epoch=len(self.history)):
            rows.append(step)
            if step.in_epoch % self.read_every == 0 or step.ends_epoch:
                self._check(step)
            yield step
            if step.ends_epoch:
                epoch = self._end_epoch(rows, time.perf_counter() - begun)
                self.seconds = before + time.perf_counter() - started
                self._save(epoch)
                rows = []
                yield epoch
                begun = time.perf_counter()

    def _check(self, step: Step) -> None:
        if not math.isfinite(float(step.loss)):
            raise DivergedError(f"the loss became {float(step.loss)} at step {step.index}, lr {step.lr:.3g}",
                                printable(self.run.folder), "lower --lr, or set clip_norm")  # fmt: skip

    def _end_epoch(self, steps: list[Step], seconds: float) -> Epoch:
        """Measure the epoch; `seconds` is all its training took, waiting for data included."""
        images = sum(step.images for step in steps)
        loss, top1 = measure_loss_and_top1(*self._answers("valid"))
        return Epoch(
            epoch=len(self.history) + 1,
            lr=steps[-1].lr,
            train_loss=sum(float(step.loss) * step.images for step in steps) / images,
            train_top1=sum(int(step.correct) for step in steps) / images,
            valid_loss=loss,
            valid_top1=top1,
            seconds=round(seconds, 3),
            images_per_second=round(images / seconds, 1),
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
        save_training(self.run.folder / runs.LAST, self.training, {"history": rows, "seconds": self.seconds})
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
        self.run.load_weights(self.net)
        self.training.average = None  # from here on the best weights are evaluated
        split = "valid" if self.data.test is None else "test"
        logits, labels = self._answers(split)
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
            "image": list(self.data.image), "findings": [],
        }  # fmt: skip
        self.run = dataclasses.replace(self.run, result=result)
        mistakes = worst_mistakes(logits, labels, self.data.splits[split])
        runs.write_run(self.run)  # before the report: what was reached is not lost where that cannot be written
        write_report(self.run, test, mistakes, self.data.splits[split])
        self.run.__dict__.update(net=self.net, data=self.data)  # as they are, rather than made again when asked for
        return self.run
