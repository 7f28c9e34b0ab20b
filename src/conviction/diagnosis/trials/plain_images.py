"""Test images in place of training images: what a program's augmentation does shows by what can be learned without."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from conviction.diagnosis.trials.answers import Batch, class_numbers, label_shares
from conviction.diagnosis.trials.setups import Setup

# Fewer test images say nothing; every fourth of them judges.
_LEAST, _HELD = 128, 4
# How far the mean images may be apart, in deviations of a pixel: by chance, by how often, and at all.
_ERRORS, _APART = 4.0, 0.1
# The same of an image's figures, which vary from image to image anyway.
_OTHER_KIND = 0.8
# Share of the labels that may be of other classes: else the images differ as their classes do.
_OTHER_LABELS = 0.3


def learn_from_tests(setup: Setup) -> Setup | None:
    """Train on three quarters of the test images that were seen, in batches as in training; the others judge."""
    pair = _gather(setup.tests, setup.batches)
    if pair is None:
        return None
    order = torch.randperm(len(pair[0]), generator=torch.Generator().manual_seed(0)).to(pair[0].device)
    inputs, targets = pair[0][order], pair[1][order]
    held, size = len(inputs) // _HELD, max(len(batch) for batch, _ in setup.batches)
    batches = list(zip(inputs[held:].split(size), targets[held:].split(size), strict=True))
    whole = [batch for batch in batches if len(batch[0]) == size]
    words = f"on {len(inputs) - held} of its test images, which are not augmented"
    return replace(setup, batches=whole or batches, judged=[(inputs[:held], targets[:held])], words=words)


def look_different(batches: Sequence[Batch], tests: Sequence[Batch]) -> bool:
    """Whether test images of the same classes are others than those of training, by their mean and its noise."""
    pair = _gather(tests, batches)
    mine, theirs = label_shares(batches), None if pair is None else label_shares([pair])
    if pair is None or mine is None or theirs is None:
        return False
    classes = max(len(mine), len(theirs))
    shares = [torch.nn.functional.pad(each, (0, classes - len(each))) for each in (mine, theirs)]
    if float((shares[0] - shares[1]).abs().sum()) / 2 > _OTHER_LABELS:
        return False
    ours = torch.cat([inputs for inputs, _ in batches if inputs.shape[1:] == batches[0][0].shape[1:]]).double()
    spread = float(ours.std())
    if not spread > 0:
        return False
    apart = float((ours.mean(0) - pair[0].double().mean(0)).square().mean().sqrt()) / spread
    return apart > _APART + _ERRORS * 0.1 * math.sqrt(1 / len(ours) + 1 / len(pair[0]))


def are_of_another_kind(batches: Sequence[Batch], tests: Sequence[Batch]) -> bool:
    """Whether single images are brighter, of more contrast or rougher than those of the test: noise, cuts, zooms.

    Images that were only turned, mirrored or moved are not, nor those whose labels alone are wrong.
    """
    pair = _gather(tests, batches)
    if pair is None:
        return False
    like = [inputs for inputs, _ in batches if inputs.shape[1:] == pair[0].shape[1:]]
    ours, theirs = _figures(torch.cat(like)), _figures(pair[0])
    spread = (ours.var(0) + theirs.var(0)).div(2).sqrt()
    return bool(((ours.mean(0) - theirs.mean(0)).abs() > _OTHER_KIND * spread).any())


def _figures(images: Tensor) -> Tensor:
    """Return each image's mean, its deviation, and how much neighbours differ for that: float64 [N, 3]."""
    rows = images.detach().double().reshape(len(images), -1, images.shape[-1])
    deviation = rows.std((1, 2), correction=0)
    rough = rows.diff(dim=2).abs().mean((1, 2)) / deviation.clamp_min(1e-9)
    return torch.stack([rows.mean((1, 2)), deviation, rough], 1)


def _gather(tests: Sequence[Batch], batches: Sequence[Batch]) -> tuple[Tensor, Tensor] | None:
    """Put the test images together that are of the shape and type of training's; None where there are too few."""
    like, answers = batches[0]
    fitting = [
        (inputs, targets) for inputs, targets in tests
        if inputs.shape[1:] == like.shape[1:] and inputs.dtype == like.dtype and inputs.is_floating_point()
        and len(inputs) == len(targets) and targets.shape[1:] == answers.shape[1:] and targets.dtype == answers.dtype
        and class_numbers(targets) is not None
    ]  # fmt: skip
    if sum(len(inputs) for inputs, _ in fitting) < _LEAST:
        return None
    inputs, targets = (torch.cat(parts) for parts in zip(*fitting, strict=True))
    return inputs, targets
