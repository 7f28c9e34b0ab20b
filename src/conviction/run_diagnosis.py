"""Why a run did not learn: what it wrote down, and, where it never learnt, its net and data tried anew."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import time
from pathlib import Path
from typing import Any

from conviction.diagnosis.records import Diagnosis, curves_of
from conviction.errors import ConvictionError, WeightsError
from conviction.findings.doctoring import ask
from conviction.findings.observation import Ending, Observation, StepSeen
from conviction.findings.records import Finding
from conviction.net_diagnosis import diagnose_net
from conviction.runs import Run, read_run
from conviction.text import format_percent, printable
from conviction.training.verdicts import is_guessing

# Between train and validation accuracy: more says that the net learnt its images by heart.
_GAP = 0.15
# Images on which accuracy is told, where a run does not say how many there were.
_FEW_IMAGES = 1_000


def diagnose_run(
    run: Run | str | os.PathLike[str], *, steps: int | None = None, seconds: float, data_root: str | None = None
) -> Diagnosis:
    """Say why a run did not learn, from its history and findings.

    A run that never left guessing, and says no cause, has its net and data tried anew for `seconds` at most where both
    can be made again. Raises `WeightsError` where there is no run, or nothing was trained in it yet.
    """
    started = time.monotonic()
    run = run if isinstance(run, Run) else read_run(Path(run))
    if not run.history:
        raise WeightsError("nothing was trained in this run yet", printable(run.folder), "go on with --resume")
    observation = observe_history(run)
    written = tuple(map(read_finding, run.result.get("findings", ())))
    findings = _told_once((*written, *ask(observation)))
    notes, curves = _notes(run), curves_of(observation)
    if not findings and _never_learnt(run):
        found, note = _try_anew(run, steps, seconds, data_root)
        findings = found.findings if found is not None else ()
        curves = dataclasses.replace(curves, layers=found.curves.layers) if found is not None else curves
        notes = (*notes, note)
    return Diagnosis(printable(run.folder), findings, observation.steps, time.monotonic() - started,
                     curves=curves, notes=notes)  # fmt: skip


def read_finding(fields: dict[str, Any]) -> Finding:
    """Read a finding from its public fields."""
    where = fields.get("where") or {}
    confidence = fields.get("confidence")
    return Finding(
        cause=str(fields.get("cause", "")), seen=str(fields.get("seen", "")), expected=str(fields.get("expected", "")),
        remedy=str(fields.get("try", "")), layer=where.get("layer"), file=where.get("file"), line=where.get("line"),
        confidence=1.0 if confidence is None else float(confidence), experiment=fields.get("experiment"),
    )  # fmt: skip


def observe_history(run: Run) -> Observation:
    """Return what a run's history tells, one measured step an epoch."""
    per_epoch = _steps_per_epoch(run)
    ends = itertools.count(per_epoch, per_epoch)
    rows = tuple(
        StepSeen(index=end - 1, optimizer=0, loss=row.train_loss, told=None, lr=row.lr, accuracy=row.train_top1)
        for end, row in zip(ends, run.history, strict=False)
    )
    steps = rows[-1].index + 1 if rows else 0
    ending = Ending("finished" if run.finished else "budget")
    seconds = sum(row.seconds for row in run.history)
    return Observation(steps, seconds, backwards=steps, measured=rows, ending=ending)


def _steps_per_epoch(run: Run) -> int:
    """Return the steps of an epoch as images, speed and batch size tell them."""
    row, batch_size = run.history[0], run.result.get("batch_size") or run.recipe.batch_size or 1
    images = row.images_per_second * row.seconds
    return max(1, round(images / batch_size)) if math.isfinite(images) else 1


def _told_once(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    causes: dict[str, Finding] = {}
    for finding in findings:
        causes.setdefault(finding.cause, finding)
    return tuple(causes.values())


def _never_learnt(run: Run) -> bool:
    images = round(run.history[-1].images_per_second * run.history[-1].seconds) or _FEW_IMAGES
    guessing = 1 / max(1, len(run.classes))
    return is_guessing(max(row.train_top1 for row in run.history), images, guessing)


def _notes(run: Run) -> tuple[str, ...]:
    """Say what is no cause of failing but worth knowing."""
    best = max(run.history, key=lambda row: row.valid_top1)
    told = [f"Best validation accuracy {format_percent(best.valid_top1)} in epoch {best.epoch} of {len(run.history)}."]
    last = run.history[-1]
    if last.train_top1 - last.valid_top1 > _GAP:
        told.append(f"The net learnt its training images by heart: {format_percent(last.train_top1)} of them are right "
                    f"against {format_percent(last.valid_top1)} of validation. Augmentation (flip, crop, mixup), "
                    "weight decay, dropout or more images narrow that gap.")  # fmt: skip
    if not run.finished:
        told.append("The run is not finished: `conviction fit ... --resume` goes on with it.")
    return tuple(told)


def _try_anew(run: Run, steps: int | None, seconds: float, data_root: str | None) -> tuple[Diagnosis | None, str]:
    """Train the run's net on its data again for a moment; returns what was found and a note on it."""
    if run.sources.net is None or run.sources.data is None:
        return None, "It never left guessing. Its net and data came from Python: diagnose(net, data) looks closer."
    try:
        found = diagnose_net(run.sources.net, run.sources.data, run.recipe, steps=steps, seconds=seconds,
                             data_root=data_root)  # fmt: skip
    except ConvictionError as error:
        return None, f"It never left guessing, and its net and data cannot be made again: {error}"
    return found, "It never left guessing: its net and data were tried anew for a moment."
