"""Clearance: what the preflight's findings mean for a fit that is about to begin."""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor

from conviction.assembly import Assembly, start_by_lsuv
from conviction.errors import DivergedError
from conviction.feeding import Feed
from conviction.preflight import Preflight, preflight
from conviction.text import format_seconds, printable

# Training images that the preflight may look at, fewer where they hold more values than these.
_IMAGES, _VALUES = 128, 2**25
# What another start can mend.
_STARTS = ("init-collapse", "init-tiny", "init-huge")


def clear(made: Assembly) -> Assembly:
    """Check a net with its data before it trains; returns them with what was found, or raises `DivergedError`.

    Where the start of a net that was built here by `init = auto` fails, LSUV takes its place, in the recipe too. What
    fails all the same stops the fit with its cause, unless the recipe says to warn only. A net that cannot be looked
    into may train all the same.
    """
    if made.recipe.preflight == "off":
        return made
    count = max(2, min(_IMAGES, _VALUES // math.prod(made.data.image)))
    images, labels = Feed(made.data, made.recipe).plain(count)
    told = _look(made, images, labels)
    notes: list[str] = []
    if made.fresh and made.recipe.init == "auto" and told.hard and told.hard[0].cause in _STARTS:
        notes.append(f"preflight: {told.hard[0]}; the weights start by LSUV instead")
        made = replace(made, recipe=made.recipe.replace(init="lsuv"))
        start_by_lsuv(made.net, made.data, made.recipe)
        told = _look(made, images, labels)
    if told.hard and made.recipe.preflight == "stop":
        finding = told.hard[0]
        where = f"layer {finding.layer}" if finding.layer else made.name
        what = f"preflight: {finding.cause}: {finding.seen}, expected {finding.expected}"
        raise DivergedError(what, where, f"{finding.remedy}; or go on all the same with --set preflight=warn")
    notes += [f"preflight: {finding}" for finding in told.findings]
    if told.unseen is not None:
        notes.append(f"preflight: cannot look into this net: {printable(told.unseen)}")
    if told.healthy:
        notes.append(_all_well(told))
    findings = tuple(finding.to_dict() for finding in told.findings)
    return replace(made, notes=(*made.notes, *notes), findings=findings, preflight=told.to_dict())


def _look(made: Assembly, images: Tensor, labels: Tensor) -> Preflight:
    return preflight(made.net, images, labels, made.recipe, made.data.num_classes, split_labels=made.data.train.labels)


def _all_well(told: Preflight) -> str:
    assert told.first_loss is not None
    learnt = f", one batch learnt to {told.overfit.loss_end:.2f} in {told.overfit.steps} steps" if told.overfit else ""
    return (f"preflight: healthy; first loss {told.first_loss:.3f} (guessing: {told.expected_loss:.3f}){learnt} "
            f"({format_seconds(told.seconds)})")  # fmt: skip
