"""Weights before and after a step, compared: how far they moved, and which did not."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

import torch
from torch import Tensor

from conviction.diagnosis.seen.nets import Parameters

# Of each tensor at most so many numbers are compared, and of all together 64 MiB.
_MOST_OF_ONE, _MOST_OF_ALL = 2**18, 2**24


@dataclass(frozen=True)
class Change:
    """What a step did. Ratios are update over weight, over the matrices; `changed` is of any tensor at all."""

    changed: bool
    update_ratio: float | None
    largest_update_ratio: float | None


@dataclass(frozen=True)
class Gradients:
    """Norm of all gradients (None where there are none), and the share of exact zeros among their numbers."""

    norm: float | None
    zero_share: float | None


class Snapshot:
    """Some numbers of each of `tensors`, as they are now."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors: list[Tensor] = []
        self.before: list[Tensor] = []
        room = _MOST_OF_ALL
        for tensor in tensors:
            part = _some_of(tensor)
            if part.numel() > room:
                continue
            room -= part.numel()
            self.tensors.append(tensor)
            self.before.append(part.clone())

    def compare(self, parameters: Parameters) -> Change:
        """Compare with the tensors as they are now; those that moved are noted."""
        ratios, changed = [], False
        for tensor, before in zip(self.tensors, self.before, strict=True):
            after = _some_of(tensor)
            if after.shape != before.shape:
                continue
            moved = not torch.equal(after, before)
            changed |= moved
            if moved:
                parameters.of(tensor).moved = True
            if tensor.ndim > 1 and (tensor.grad is not None or moved):
                size = float(torch.linalg.vector_norm(before.float()))
                if size:
                    ratios.append(float(torch.linalg.vector_norm(after.float() - before.float())) / size)
        ratios = [ratio for ratio in ratios if math.isfinite(ratio)]
        return Change(changed, statistics.median(ratios) if ratios else None, max(ratios, default=None))

    def estimate_lr(self, gradients: list[Tensor]) -> float | None:
        """Return the rate with which plain gradient descent would have made this change; None where it did not."""
        moved = along = square = 0.0
        for tensor, before, gradient in zip(self.tensors, self.before, gradients, strict=True):
            step = (_some_of(tensor) - before).double()
            slope = gradient.double()
            along -= float((step * slope).sum())
            square += float((slope * slope).sum())
            moved += float((step * step).sum())
        if not (square and moved and math.isfinite(square) and math.isfinite(moved)):
            return None
        return along / square if abs(along) > 0.99 * math.sqrt(square * moved) else None


def _some_of(tensor: Tensor) -> Tensor:
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, -(-flat.numel() // _MOST_OF_ONE))]


def some_gradients(tensors: list[Tensor]) -> list[Tensor]:
    """Return copies of the gradients of the same numbers that a snapshot of `tensors` keeps; zeros where is none."""
    return [torch.zeros_like(_some_of(t)) if t.grad is None else _some_of(t.grad).clone() for t in tensors]


def norm_of(tensors: list[Tensor]) -> float | None:
    """Return the Euclidean norm of all numbers in some tensors; None where there are none."""
    dense = [tensor.detach() for tensor in tensors if tensor.layout == torch.strided and tensor.numel()]
    if not dense:
        return None
    norms = torch._foreach_norm(dense)
    return float(torch.linalg.vector_norm(torch.stack([norm.float() for norm in norms])))


def read_gradients(tensors: list[Tensor]) -> Gradients:
    """Read the gradients of some tensors."""
    gradients = [tensor.grad for tensor in tensors if tensor.grad is not None]
    norm = norm_of(gradients)
    if norm is None:
        return Gradients(None, None)
    total = sum(gradient.numel() for gradient in gradients)
    parts = [_some_of(gradient) for gradient in gradients]
    zeros = sum(
        g.numel() * (1 - int(torch.count_nonzero(p)) / max(1, p.numel())) for g, p in zip(gradients, parts, strict=True)
    )
    return Gradients(norm, zeros / total)
