"""Why a net will not learn from some data: checked as before a fit, then trained for a moment under observation."""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import time

from torch import nn

from conviction.assembly import Assembly, assemble
from conviction.data.downloading import Progress
from conviction.data.records import Data
from conviction.diagnosis.judgement import Named, judge
from conviction.diagnosis.observer import Observer
from conviction.diagnosis.records import FINISHED, Diagnosis, LayerSeen
from conviction.errors import UsageError
from conviction.feeding import Feed
from conviction.findings.observation import Ending
from conviction.preflight import Preflight, preflight
from conviction.randomness import random_state_kept
from conviction.recipe import Recipe
from conviction.text import printable
from conviction.training.loop import Training

# Updates under observation where nobody says how many: enough for a healthy net to leave guessing.
STEPS = 60
_WARMUP_STEPS = 10
# Training images that the preflight may look at, fewer where they hold more values than these.
_IMAGES, _VALUES = 128, 2**25
# Of the time, experiments may take this share.
_EXPERIMENTS = 0.4


def diagnose_net(
    net: str | nn.Module,
    data: Data | str | os.PathLike[str],
    recipe: Recipe,
    *,
    steps: int | None = None,
    seconds: float,
    data_root: str | None = None,
    progress: Progress | None = None,
) -> Diagnosis:
    """Build or take a net, look at it as before a fit, and train a copy of it for `steps` updates or `seconds`.

    The recipe's schedule is not run through in so few steps: the rate is its peak's from the end of a short warm-up
    on. Raises the errors of assembling.
    """
    started = time.monotonic()
    made = assemble(net, data, recipe, data_root, progress)
    if isinstance(net, nn.Module):
        made = dataclasses.replace(made, net=_copied(net))
    feed = Feed(made.data, made.recipe)
    images, labels = feed.plain(max(2, min(_IMAGES, _VALUES // math.prod(made.data.image))))
    told = preflight(made.net, images, labels, made.recipe, made.data.num_classes,
                     split_labels=made.data.train.labels)  # fmt: skip
    subject = f"{printable(made.name)} on {printable(made.data.name)}"
    if told.hard:
        seen = Diagnosis(subject, told.findings, 0, 0.0)
    else:
        left = seconds - (time.monotonic() - started)
        seen = _watch_training(made, feed, subject, steps or STEPS, left)
        seen = dataclasses.replace(seen, findings=seen.findings or told.findings)
    curves = dataclasses.replace(seen.curves, layers=_layers(told))
    return dataclasses.replace(seen, curves=curves, notes=made.notes, seconds=time.monotonic() - started)


def _copied(net: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(net)
    except Exception as error:  # whatever a user's own attributes raise
        why = printable(" ".join(str(error).split())[:200])
        raise UsageError(f"the net cannot be copied: {why}", type(net).__name__,
                         "watch your own loop instead: with conviction.watch(net)") from error  # fmt: skip


def _watch_training(made: Assembly, feed: Feed, subject: str, steps: int, seconds: float) -> Diagnosis:
    """Train for a moment under observation, then ask."""
    warmup = min(made.recipe.warmup_epochs or 0.0, _WARMUP_STEPS / feed.steps_per_epoch)
    recipe = made.recipe.replace(warmup_epochs=warmup, ema=0.0)
    net = made.net.to(recipe.device)
    # Lines of whatever started this are not where the fault is.
    observer = Observer(seconds=seconds, stop=False, is_users=lambda _: False)
    until = time.monotonic() + (1 - _EXPERIMENTS) * seconds
    with random_state_kept(next(net.parameters()).device), observer:
        training = Training(net, recipe, feed.steps_per_epoch)
        for step in training.run(feed):
            if step.index + 1 >= steps or time.monotonic() > until:
                break
    named = Named("", subject, "")
    seen = judge(observer, named, Ending("budget"), max(1.0, _EXPERIMENTS * seconds))
    return dataclasses.replace(seen, ending=FINISHED)  # it was not to go on


def _layers(told: Preflight) -> tuple[LayerSeen, ...]:
    return tuple(LayerSeen(each.layer, each.rms, each.std, each.weight_rms, each.gradient_rms, each.dead_share)
                 for each in told.layers)  # fmt: skip
