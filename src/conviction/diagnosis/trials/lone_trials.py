"""Lone trials, which have no control of their own kind: one batch by heart, pixels alone, batch norm's averages."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conviction.diagnosis.trials.answers import Batch, class_numbers, count_correct, label_shares, logits_of
from conviction.diagnosis.trials.detours import DROPOUTS, Detour
from conviction.diagnosis.trials.setups import Setup, copy_net
from conviction.findings import trials
from conviction.findings.observation import Trial
from conviction.probe import train_without_dropout
from conviction.training.statistics import recompute

# One batch that a healthy net learns by heart in 20 steps.
_HEART_SAMPLES = 16
# The linear probe reads pictures of at most 14 x 14, and answers on every third sample.
_PROBE_SIDE, _PROBE_SAMPLES, _PROBE_LEAST = 14, 2000, 60


def by_heart(setup: Setup, *, blank: bool = False) -> Setup | None:
    """Make the setup's only batch one of 16 samples of as many classes as there are; with `blank` inputs of zeros."""
    inputs, targets = _gather(setup.batches, _HEART_SAMPLES)
    if len(inputs) < 2 or len(targets.reshape(len(targets), -1).unique(dim=0)) < 2:
        return None
    batch = (torch.zeros_like(inputs) if blank else inputs, targets)
    words = f"on one batch of {len(inputs)}" + (" with blank inputs" if blank else "")
    return replace(setup, batches=[batch], judged=[batch], detour=Detour(DROPOUTS), words=words)


def _gather(batches: Sequence[Batch], count: int) -> Batch:
    """Take samples, the first of every class before the second of any; without classes the first ones."""
    fitting = [batch for batch in batches if batch[0].shape[1:] == batches[0][0].shape[1:]]
    inputs, targets = (torch.cat(parts) for parts in zip(*fitting, strict=True))
    numbers = class_numbers(targets)
    if numbers is None:
        return inputs[:count], targets[:count]
    seen: Counter[int] = Counter()
    ranks = []
    for number in numbers.tolist():
        ranks.append(seen[number])
        seen[number] += 1
    order = sorted(range(len(ranks)), key=lambda index: (ranks[index], index))[:count]
    return inputs[order], targets[order]


def probe_pixels(batches: Sequence[Batch]) -> Trial | None:
    """Fit a linear model (ridge) from pixels to labels on two thirds of the samples and judge it on the others.

    None where there are no images with class numbers, or too few. Pictures are reduced to 14 x 14; about 80 % on
    Fashion-MNIST, whose labels belong to the images.
    """
    shares = label_shares(batches)
    if shares is None or batches[0][0].ndim not in (2, 4):
        return None
    pixels = torch.cat([_flat(inputs) for inputs, _ in batches])[:_PROBE_SAMPLES]
    labels = torch.cat([number.cpu() for _, targets in batches if (number := class_numbers(targets)) is not None])
    labels = labels[:_PROBE_SAMPLES]
    if len(labels) < _PROBE_LEAST or len(labels) != len(pixels) or not bool(pixels.isfinite().all()):
        return None
    order = _once_each(pixels)
    order = order[torch.randperm(len(order), generator=torch.Generator().manual_seed(0))]
    pixels, labels = pixels[order], labels[order]
    held = torch.arange(len(labels)) % 3 == 2
    weights = _ridge(pixels[~held], F.one_hot(labels, len(shares)).double()[~held])
    right = (pixels[held] @ weights[:-1] + weights[-1]).argmax(1) == labels[held]
    accuracy, chance, count = float(right.double().mean()), float(shares.max()), int(held.sum())
    line = f"a linear model on the pixels answers {accuracy:.0%} of {count} others correctly, guessing {chance:.0%}"
    return Trial(trials.PIXELS, (), math.nan, accuracy, line, count, chance)


def _once_each(rows: Tensor) -> Tensor:
    """Return the indices of rows without those that came before: what is held out must not be known already."""
    marks = rows @ torch.randn(rows.shape[1], generator=torch.Generator().manual_seed(0)).double()
    seen: dict[float, int] = {}
    for index, mark in enumerate(marks.tolist()):
        seen.setdefault(round(mark, 6), index)
    return torch.tensor(sorted(seen.values()))


def _flat(inputs: Tensor) -> Tensor:
    """Return inputs as rows of float64 numbers, images made small."""
    inputs = inputs.detach().cpu().double()
    if inputs.ndim == 4 and max(inputs.shape[2:]) > _PROBE_SIDE:
        inputs = F.adaptive_avg_pool2d(inputs, _PROBE_SIDE)
    return inputs.flatten(1)


def _ridge(rows: Tensor, wanted: Tensor) -> Tensor:
    """Return weights [features + 1, classes] of the linear model, the last row its biases."""
    mean = rows.mean(0)
    centred, level = rows - mean, wanted.mean(0)
    moments = centred.T @ centred
    penalty = 0.05 * moments.diagonal().sum() / len(moments) * min(1.0, 10 * len(moments) / len(rows))
    slopes = torch.linalg.solve(
        moments + (penalty + 1e-12) * torch.eye(len(moments)).double(), centred.T @ (wanted - level)
    )
    return torch.cat([slopes, (level - mean @ slopes)[None]])


def recompute_statistics(
    net: nn.Module, batches: Sequence[Batch], judged: Sequence[Batch], loss: Callable[[Any, Tensor], Tensor]
) -> Trial | None:
    """Compare eval mode before and after batch norm's statistics are computed anew, on a clone of a trained `net`.

    Where they cannot be (batch norm written by hand), the batch's own statistics answer. None without batch norm.
    """
    clone = copy_net(net)
    clone.eval()
    before, _ = _judge(clone, judged, loss)
    how = "batch norm's statistics computed anew"
    if recompute(clone, batches) is None:
        train_without_dropout(clone)
        how = "the batch's own statistics"
    after, accuracy = _judge(clone, judged, loss)
    if before == after:
        return None
    shares = label_shares(judged)
    return Trial(
        trials.STATISTICS, (before, after), math.nan, accuracy, f"with {how}: loss {after:.3g}, before {before:.3g}",
        sum(len(inputs) for inputs, _ in judged), None if shares is None else float(shares.max()),
    )  # fmt: skip


@torch.no_grad()
def _judge(
    net: nn.Module, judged: Sequence[Batch], loss: Callable[[Any, Tensor], Tensor]
) -> tuple[float, float | None]:
    """Return the mean loss over the batches, and the share answered correctly."""
    losses, correct, count = [], 0, 0
    for inputs, targets in judged:
        outputs = net(inputs)
        losses.append(float(loss(outputs, targets).float().mean()))
        logits = logits_of(outputs)
        right = None if logits is None else count_correct(logits, targets)
        correct, count = correct + (right or 0), count + (0 if right is None else len(inputs))
    return sum(losses) / len(losses), correct / count if count else None
