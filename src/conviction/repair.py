"""Repair of a run: what its diagnosis found is mended in the recipe, one change at a time, and the net tried again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from conviction.data.downloading import Progress
from conviction.data.records import Data
from conviction.diagnosis.records import Diagnosis
from conviction.errors import ConvictionError, UsageError
from conviction.findings.records import Finding
from conviction.lr_finding import lr_events
from conviction.net_diagnosis import diagnose_net
from conviction.recipe import Recipe, format_toml
from conviction.storage import write_new
from conviction.text import printable

# Changes that are tried one after the other, each with what was found after the one before it.
_MOST_CHANGES = 4
_LAST = 5  # losses whose mean tells how a trial ended

# What mends a cause, in the order in which it is tried: knobs by name, None for what `fit` decides by itself.
_FIND = "find"  # the rate that the finder proves
_OWN_RATE: Mapping[str, Any] = {"lr": None, "warmup_epochs": None, "schedule": None}
_RATES = (_OWN_RATE, {"lr": _FIND})
_STARTS = ({"init": "auto"}, {"init": "lsuv"}, *_RATES)
MENDS: dict[str, tuple[Mapping[str, Any], ...]] = {
    "lr-absurd": _RATES,
    "lr-too-high": _RATES,
    "lr-too-low": _RATES,
    "schedule-kills-lr": (_OWN_RATE,),
    "optimizer-settings": ({"momentum": 0.9}, {"optimizer": None, "lr": None}),
    "clip-too-low": ({"clip_norm": None},),
    "weight-decay-dominates": ({"weight_decay": None},),
    "init-collapse": _STARTS,
    "init-tiny": _STARTS,
    "init-huge": _STARTS,
    "init-symmetric": _STARTS,
    "saturating-activations": _STARTS,
    "dead-relu": (*_RATES, {"init": "auto"}),
    "non-finite": (*_RATES, {"precision": "fp32"}, {"clip_norm": 1.0}),
    "amp-underflow": ({"precision": "bf16"}, {"precision": "fp32"}),
    "bn-tiny-batch": ({"batch_size": None, "micro_batch": None},),
    "augmentation-destroys": ({"crop": "none", "erase": 0.0, "mixup": 0.0, "cutmix": 0.0},),
    "too-few-steps": ({"epochs": None},),
}


@dataclass(frozen=True)
class Repair:
    """The mended recipe, what was changed in it and what that gave, in words, and the last diagnosis."""

    recipe: Recipe
    notes: tuple[str, ...]
    diagnosis: Diagnosis

    @property
    def mended(self) -> bool:
        """Whether something was changed, and nothing is found any more."""
        return bool(self.notes) and not self.diagnosis.findings


def repair(
    net: str | nn.Module,
    data: Data | str | os.PathLike[str],
    recipe: Recipe,
    found: Diagnosis,
    *,
    steps: int | None = None,
    seconds: float,
    data_root: str | None = None,
    progress: Progress | None = None,
) -> Repair:
    """Change the recipe for what was found, and diagnose the net again after each change, for `seconds` each time.

    Nothing is written, and a net of the user's own is not changed: of that only the recipe can be mended.
    """
    notes: list[str] = []
    tried: list[Mapping[str, Any]] = []
    while found.findings and len(tried) < _MOST_CHANGES:
        step = next(_steps(found.findings, recipe, tried, given=isinstance(net, nn.Module)), None)
        if step is None:
            break
        cause, change = step
        tried.append(change)
        try:
            knobs = _settle(change, net, data, recipe, data_root)
            changed = recipe.replace(**knobs)
            after = diagnose_net(net, data, changed, steps=steps, seconds=seconds, data_root=data_root,
                                 progress=progress)  # fmt: skip
        except ConvictionError as error:
            notes.append(f"For {cause}: {printable(error)}")
            continue
        notes.append(f"For {cause}: {_told(recipe, knobs)}. Tried anew: {_outcome(after)}")
        recipe, found = changed, after
    return Repair(recipe, tuple(notes), found)


def write_recipe(recipe: Recipe, beside: Path) -> Path | None:
    """Write a mended recipe as `NAME.fixed.toml` beside a run's folder; a file that is there is never written over."""
    return write_new(beside.with_name(f"{beside.name}.fixed.toml"), format_toml(recipe).encode())


def _steps(
    findings: tuple[Finding, ...], recipe: Recipe, tried: list[Mapping[str, Any]], given: bool
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the changes that are left for the findings, with their causes; `given` nets keep their weights."""
    for finding in findings:
        for change in MENDS.get(finding.cause, ()):
            changes = any(getattr(recipe, name) != value for name, value in change.items())
            if changes and change not in tried and not (given and "init" in change):
                yield finding.cause, change


def _settle(
    change: Mapping[str, Any], net: str | nn.Module, data: Data | str | os.PathLike[str], recipe: Recipe,
    data_root: str | None,
) -> dict[str, Any]:  # fmt: skip
    """Return a change's knobs, with the rate that is to be found."""
    if change.get("lr") != _FIND:
        return dict(change)
    events = lr_events(net, data, recipe.replace(lr=None), data_root=data_root)
    while True:
        try:
            next(events)
        except StopIteration as stop:
            if stop.value.lr is None:
                raise UsageError("no learning rate helps", "", "look for another cause") from None
            return {**change, "lr": stop.value.lr}


def _told(recipe: Recipe, knobs: Mapping[str, Any]) -> str:
    changed = {name: value for name, value in knobs.items() if getattr(recipe, name) != value}
    return ", ".join(f"{name} {getattr(recipe, name)} -> {'decided anew' if value is None else value}"
                     for name, value in changed.items())  # fmt: skip


def _outcome(after: Diagnosis) -> str:
    losses = [loss for loss in after.curves.losses if loss is not None]
    last = sum(losses[-_LAST:]) / max(1, len(losses[-_LAST:]))
    course = f"loss {losses[0]:.3g} -> {last:.3g} in {after.steps} steps, " if losses else ""
    return course + (f"still {after.findings[0].cause}" if after.findings else "nothing wrong is left")
