"""The learning rate as a pure function of the step, so that any step of a run can be known without running it."""

from __future__ import annotations

import math

from conviction.recipe import Recipe


def lr_at(step: int, steps: int, recipe: Recipe, steps_per_epoch: int) -> float:
    """Return the learning rate of step `step` (from 0) of `steps`, for a decided `recipe`.

    All schedules rise linearly over the warm-up; then `cosine` (Loshchilov & Hutter 2016, eq. 5) and `linear` fall
    towards 0, which the step after the last would have, and `constant` stays. `onecycle` rises over the first 30 % of
    the run by a cosine and falls by a cosine (Smith & Topin 2017); it has its own warm-up.
    """
    assert recipe.lr is not None and recipe.warmup_epochs is not None
    if recipe.schedule == "onecycle":
        return recipe.lr * _one_cycle((step + 1) / steps)
    warmup = min(round(recipe.warmup_epochs * steps_per_epoch), steps // 2)
    if step < warmup:
        return recipe.lr * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - warmup)
    shapes = {"cosine": (1 + math.cos(math.pi * done)) / 2, "linear": 1 - done, "constant": 1.0}
    return recipe.lr * shapes[recipe.schedule or "cosine"]


def _one_cycle(done: float, rise: float = 0.3, start: float = 0.04, end: float = 1e-4) -> float:
    """Share of the peak rate when `done` of the run is over."""
    if done < rise:
        return start + (1 - start) * (1 - math.cos(math.pi * done / rise)) / 2
    return end + (1 - end) * (1 + math.cos(math.pi * (done - rise) / (1 - rise))) / 2
