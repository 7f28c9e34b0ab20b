"""Why no learning rate helps: what the preflight finds, else whether the labels belong to the images at all."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conviction.assembly import Assembly
from conviction.feeding import Feed
from conviction.lr_range import Found
from conviction.preflight import preflight

# Training images of the linear classifier, and the side to which their maps are averaged for it.
_IMAGES, _SIDE = 2000, 16


def explain(net: nn.Module, made: Assembly, feed: Feed, probe: tuple[Tensor, Tensor], found: Found) -> dict[str, str]:
    """Return the `cause` (a code of the findings) of a sweep that found no rate, and `why`, with what was seen."""
    images, labels = feed.plain(128)
    best = min(found.trials, key=lambda trial: trial.probe_loss)
    recipe = made.recipe.replace(lr=best.lr)
    # No rate helped, so the rate is not the cause.
    told = preflight(
        net, images, labels, recipe, made.data.num_classes, split_labels=made.data.train.labels, step_size=False
    )
    rates = [trial.lr for trial in found.trials]
    end = f"{best.probe_loss:.3f}" if best.probe_loss < 1000 else "infinity"
    tried = (
        f"{len(found.trials)} short runs at rates from {min(rates):.2g} to {max(rates):.2g} moved the loss from "
        f"{found.loss_start:.3f} to {end} at best, where a fall of {found.least_fall:.3f} would count"
    )
    if told.findings:
        first = told.findings[0]
        return {"cause": first.cause, "why": f"{first.seen}, expected {first.expected}; {tried} - {first.remedy}"}
    right, guessing = linear_top1(feed.plain(_IMAGES, epoch=1), probe, made.data.num_classes)
    told_by = (
        f"a linear classifier of the pixels is right for {right:.0%} of new images, and guessing for {guessing:.0%}"
    )
    if right <= guessing:
        why = f"{told_by}; {tried} - check that the labels belong to the images"
        return {"cause": "labels-shuffled", "why": why}
    why = f"images and labels belong together ({told_by}); {tried} - the net may need more steps than a sweep has"
    return {"cause": "too-few-steps", "why": why}


def linear_top1(train: tuple[Tensor, Tensor], probe: tuple[Tensor, Tensor], num_classes: int) -> tuple[float, float]:
    """Return the accuracy on `probe` of a ridge regression of labels on pixels, and what guessing hardly exceeds.

    Both are images [N, C, H, W] and labels [N]. Guessing is the commonest class of `probe`, and 3 standard errors.
    """

    def pixels(images: Tensor) -> Tensor:
        small = F.adaptive_avg_pool2d(images.float().cpu(), (min(_SIDE, images.shape[2]), min(_SIDE, images.shape[3])))
        return torch.cat([small.flatten(1), torch.ones(len(small), 1)], 1).double()

    known, new = pixels(train[0]), pixels(probe[0])
    targets = F.one_hot(train[1].cpu(), num_classes).double()
    gram = known.T @ known + 0.1 * len(known) * torch.eye(known.shape[1], dtype=torch.float64)
    answers = (new @ torch.linalg.solve(gram, known.T @ targets)).argmax(1)
    labels = probe[1].cpu()
    share = float(labels.bincount().max()) / len(labels)
    right = float((answers == labels).double().mean())
    return right, min(1.0, share + 3 * math.sqrt(share * (1 - share) / len(labels)))
