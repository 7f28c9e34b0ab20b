"""Answers: what a net's outputs are worth against any kind of targets, and what one that never looks could reach."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor]


def logits_of(outputs: Any) -> Tensor | None:
    """Return the tensor that holds a net's answers: its output, or the first of a tuple (auxiliary heads)."""
    if isinstance(outputs, (tuple, list)) and outputs:
        outputs = outputs[0]
    return outputs if isinstance(outputs, Tensor) else None


def class_numbers(targets: Tensor) -> Tensor | None:
    """Return targets as class numbers, int64 [N]; None where they are none.

    Whole numbers [N] or [N, 1] are class numbers whatever their type; rows that sum to 1 (one-hot, mixed or smoothed)
    stand for their largest.
    """
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if targets.ndim == 1:
        whole = not targets.is_floating_point() or bool((targets == targets.round()).all())
        return targets.long() if whole and len(targets) and bool((targets >= 0).all()) else None
    if targets.ndim != 2 or not bool((targets >= 0).all()):
        return None
    return targets.argmax(1) if bool(((targets.double().sum(1) - 1).abs() < 1e-3).all()) else None


def count_correct(logits: Tensor, targets: Tensor) -> int | None:
    """Return how many rows are answered correctly; None where that means nothing.

    `logits` are [N, C], or [N] and [N, 1] for two classes: probabilities where all lie between 0 and 1.
    """
    numbers = class_numbers(targets)
    if numbers is None or logits.shape[:1] != numbers.shape or logits.ndim > 2:
        return None
    if logits.ndim == 2 and logits.shape[1] > 1:
        return int((logits.argmax(1) == numbers).sum())
    if not bool((numbers <= 1).all()):
        return None
    shares = bool(((logits >= 0) & (logits <= 1)).all())
    return int(((logits.flatten() > (0.5 if shares else 0.0)).long() == numbers).sum())


def label_shares(batches: Sequence[Batch]) -> Tensor | None:
    """Return the share of every class among the labels of all batches, float64 [classes]; None without classes."""
    numbers = [class_numbers(targets) for _, targets in batches]
    known = [number.cpu() for number in numbers if number is not None]
    if not known or len(known) < len(numbers):
        return None
    counts = torch.cat(known)
    # A regression's whole numbers are no classes.
    return None if int(counts.max()) >= 100_000 else counts.bincount().double() / len(counts)


def entropy(shares: Tensor) -> float:
    """Return the entropy (nats) of shares: the cross-entropy of a net that never looks."""
    known = shares[shares > 0]
    return float(-(known * known.log()).sum())


def blind_loss(batches: Sequence[Batch], logits: Tensor, loss: Callable[[Any, Tensor], Tensor]) -> float:
    """Return the least mean loss over `batches` of one and the same answer to every input; NaN where there is none.

    `logits` [N, ...] are some answers of the net, which tell what form answers have: log-probabilities, probabilities,
    values between 0 and 1, or any. The answer is fitted, so that it holds for every loss.
    """
    form = _form(logits)
    free = torch.zeros_like(logits[:1], dtype=torch.float32).requires_grad_()
    fitting = torch.optim.LBFGS([free], max_iter=60, tolerance_grad=1e-12, tolerance_change=1e-12,
                                 line_search_fn="strong_wolfe")  # fmt: skip

    def total() -> Tensor:
        answer = form(free)
        losses = [loss(answer.expand(len(targets), *logits.shape[1:]), targets) for _, targets in batches]
        return torch.stack([part.float().mean() for part in losses]).mean()

    def closure() -> Tensor:
        fitting.zero_grad()
        mean = total()
        mean.backward()
        return mean

    try:
        fitting.step(closure)
        return float(total().detach())
    except Exception:  # whatever a user's own loss asks of its input
        return math.nan


def _form(logits: Tensor) -> Callable[[Tensor], Tensor]:
    """Return what turns any numbers into answers such as these."""
    exact = logits.detach().double()
    rows = exact.ndim == 2 and exact.shape[1] > 1
    if rows and bool((exact.logsumexp(1).abs() < 1e-3).all()):
        return lambda free: free.log_softmax(1)
    if bool(((exact >= 0) & (exact <= 1)).all()):
        sums = rows and bool(((exact.sum(1) - 1).abs() < 1e-3).all())
        return (lambda free: free.softmax(1)) if sums else torch.sigmoid
    return lambda free: free
