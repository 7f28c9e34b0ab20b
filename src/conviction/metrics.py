"""What a net's answers are worth: accuracy with its interval, confusion, per-class figures, calibration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from conviction.errors import DataError
from conviction.text import format_percent, format_table, printable


@dataclass(frozen=True)
class Evaluation:
    """Measures over one split. Accuracies are fractions; `interval` is Wilson's 95 % interval of `top1`.

    `confusion[i][j]` counts images of class i answered as j. `calibration` lists, by tenth of confidence, how many
    answers there were, how confident and how right; `calibration_error` is their expected difference (ECE).
    """

    split: str
    classes: tuple[str, ...]
    n: int
    loss: float
    top1: float
    top5: float
    interval: tuple[float, float]
    per_class: tuple[dict[str, Any], ...]
    confusion: tuple[tuple[int, ...], ...]
    calibration: tuple[dict[str, float], ...]
    calibration_error: float

    def __str__(self) -> str:
        low, high = self.interval
        head = (f"{self.split}: top-1 {format_percent(self.top1)} (95 % interval {format_percent(low)} to "
                f"{format_percent(high)}), top-5 {format_percent(self.top5)}, {self.n} images\n"
                f"loss {self.loss:.4f}, calibration error {format_percent(self.calibration_error)}")  # fmt: skip
        worst = sorted(self.per_class, key=lambda row: 2 if row["recall"] is None else row["recall"])[:20]
        rows = [
            (
                printable(row["label"]),
                str(row["n"]),
                *(format_percent(row[name]) for name in ("recall", "precision", "f1")),
            )
            for row in worst
        ]
        return f"{head}\n\n{format_table(('class', 'n', 'recall', 'precision', 'F1'), rows, right=(1, 2, 3, 4))}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of `conviction evaluate --json`."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def measure_answers(logits: Tensor, labels: Tensor, classes: tuple[str, ...], split: str = "test") -> Evaluation:
    """Measure logits [N, C] against labels int64 [N]; shares of nothing are NaN.

    Raises `DataError` where the net's answers and the data's classes do not match.
    """
    logits, labels = logits.detach().cpu().double(), labels.detach().cpu()
    n, num_classes = logits.shape
    _check_labels(labels, num_classes, classes, split)
    answers = logits.argmax(1)
    confusion = torch.bincount(labels * num_classes + answers, minlength=num_classes**2).view(num_classes, num_classes)
    right = int(confusion.diagonal().sum())
    bins, error = _calibration(logits.softmax(1).amax(1), answers == labels)
    return Evaluation(
        split=split,
        classes=classes,
        n=n,
        loss=float(torch.nn.functional.cross_entropy(logits, labels)) if n else math.nan,
        top1=right / n if n else math.nan,
        top5=top_k(logits, labels, 5),
        interval=wilson_interval(right, n),
        per_class=_per_class(confusion, classes),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        calibration=bins,
        calibration_error=error,
    )


def measure_loss_and_top1(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return mean cross-entropy and accuracy: what every epoch asks, without the measures that grow with classes."""
    logits, labels = logits.detach().cpu().double(), labels.detach().cpu()
    loss = float(torch.nn.functional.cross_entropy(logits, labels))
    return loss, int((logits.argmax(1) == labels).sum()) / len(labels)


def top_k(logits: Tensor, labels: Tensor, k: int) -> float:
    """Share of labels among the `k` largest logits (all of them where there are fewer classes)."""
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return float((best == labels[:, None]).any(1).double().mean())


def wilson_interval(right: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval (1927) of a proportion, 95 % by default."""
    if n == 0:
        return (0.0, 1.0)
    share, scale = right / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # Rounding may not push the share itself out, as at 184 of 184.
    return (max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


def _check_labels(labels: Tensor, num_classes: int, classes: tuple[str, ...], split: str) -> None:
    if num_classes != len(classes):
        raise DataError(f"the net tells {num_classes} classes apart and the data has {len(classes)}", split,
                        "use the data that the net was trained on, or build the net for these classes")  # fmt: skip
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise DataError(f"labels go from {int(labels.min())} to {int(labels.max())} where there are {num_classes} "
                        "classes", split, "number the classes from 0")  # fmt: skip


def _per_class(confusion: Tensor, classes: tuple[str, ...]) -> tuple[dict[str, Any], ...]:
    rows = []
    for index, name in enumerate(classes):
        right, real, told = (
            int(x) for x in (confusion[index, index], confusion[index].sum(), confusion[:, index].sum())
        )
        recall, precision = right / real if real else None, right / told if told else None
        f1 = 2 * right / (real + told) if real + told else None
        rows.append({"label": name, "n": real, "recall": recall, "precision": precision, "f1": f1})
    return tuple(rows)


def _calibration(confidence: Tensor, right: Tensor, bins: int = 10) -> tuple[tuple[dict[str, float], ...], float]:
    """Expected calibration error over equal bins (Guo et al. 2017, eq. 3), and the bins."""
    rows, error = [], 0.0
    which = (confidence * bins).long().clamp(max=bins - 1)
    for index in range(bins):
        chosen = which == index
        count = int(chosen.sum())
        if count:
            told, true = float(confidence[chosen].mean()), float(right[chosen].double().mean())
            rows.append({"n": count, "confidence": told, "accuracy": true})
            error += count / len(confidence) * abs(told - true)
    return tuple(rows), error
