"""Evidence: everything that a check may look at, as plain numbers; what was not measured is None."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Signal(Protocol):
    """What a check reads of one layer (see `conviction.probe.Signal`)."""

    @property
    def layer(self) -> str:
        """Its name."""
        ...

    @property
    def rms(self) -> float:
        """Root mean square of its outputs."""
        ...

    @property
    def std(self) -> float:
        """Deviation of its outputs from sample to sample."""
        ...

    @property
    def weight_rms(self) -> float:
        """Root mean square of its weight."""
        ...

    @property
    def gradient_rms(self) -> float | None:
        """Root mean square of its weight's gradient."""
        ...

    @property
    def dead_share(self) -> float | None:
        """Share of the units after its ReLU that are zero on every sample."""
        ...

    @property
    def slope(self) -> float | None:
        """Mean derivative of the sigmoid or tanh that follows."""
        ...

    @property
    def alike(self) -> bool:
        """Whether all its units are the same and stay so."""
        ...


class Probe(Protocol):
    """What a check reads of one pass over a batch (see `conviction.probe.Probe`)."""

    @property
    def classes(self) -> int:
        """Number of logits."""
        ...

    @property
    def loss(self) -> float:
        """The loss that was differentiated."""
        ...

    @property
    def cross_entropy(self) -> float:
        """Cross-entropy of the logits."""
        ...

    @property
    def input_dependence(self) -> float | None:
        """Deviation of the logits from sample to sample over their rms."""
        ...

    @property
    def logits_rms(self) -> float:
        """Root mean square of the logits."""
        ...

    @property
    def max_softmax(self) -> float:
        """Mean probability of the likeliest class."""
        ...

    @property
    def made_by(self) -> str:
        """Last operation on the logits."""
        ...

    @property
    def sums_to_one(self) -> bool:
        """Whether the rows of logits are probabilities."""
        ...

    @property
    def not_finite(self) -> str:
        """First module whose output is not finite."""
        ...

    @property
    def signals(self) -> Sequence[Signal]:
        """The layers in the order in which they ran."""
        ...


@dataclass(frozen=True)
class Inputs:
    """The images as the net reads them. `same` says that all of them are one and the same image."""

    count: int
    finite: bool
    largest: float
    rms: float
    std: float
    same: bool


@dataclass(frozen=True)
class Labels:
    """The labels. `complete` says that they are those of the whole training split, not of a sample."""

    count: int
    lowest: float
    highest: float
    distinct: int
    whole_numbers: bool = True
    complete: bool = False


@dataclass(frozen=True)
class StepSize:
    """The recipe's step: optimizer, peak rate and batch size."""

    optimizer: str
    lr: float
    batch_size: int


@dataclass(frozen=True)
class UpdateRatio:
    """Norm of one update over the norm of the weights that it changed, over the weight matrices of a net."""

    median: float
    largest: float


@dataclass(frozen=True)
class Overfit:
    """A few steps on one and the same batch. `blind_loss` is what a net reaches that never looks at the images.

    That net answers with how often each label occurs: its loss is the entropy of the labels. Where the batch was not
    learned, `input_dependence` and `spread` tell whether the logits have begun to differ from image to image (their
    deviation over their rms, and as it is).
    """

    loss_start: float
    loss_end: float
    steps: int
    images: int
    blind_loss: float
    input_dependence: float | None = None
    spread: float | None = None

    @property
    def learned(self) -> bool:
        """Whether the images told the net something: the loss is clearly below that of a blind net."""
        return self.loss_end < 0.9 * self.blind_loss

    @property
    def broke(self) -> bool:
        """Whether the loss left the finite numbers."""
        return not math.isfinite(self.loss_end)

    def __str__(self) -> str:
        return f"{self.steps} steps on one batch of {self.images}: loss {self.loss_start:.3f} -> {self.loss_end:.3f}"


@dataclass(frozen=True)
class Evidence:
    """All that is known when the questions are asked. `trainable_share` is of the parameters."""

    num_classes: int
    trainable_share: float | None = None
    inputs: Inputs | None = None
    labels: Labels | None = None
    probe: Probe | None = None
    step: StepSize | None = None
    updates: UpdateRatio | None = None
    overfit: Overfit | None = None

    @property
    def learned(self) -> bool | None:
        """Whether the one-batch overfit succeeded; None where it was not tried."""
        return None if self.overfit is None else self.overfit.learned

    @property
    def tried(self) -> str | None:
        """The experiment in words; None where it was not made."""
        return None if self.overfit is None else str(self.overfit)

    @property
    def expected_loss(self) -> float:
        """First loss of a net that prefers no class, ln(classes)."""
        return math.log(max(1, self.num_classes))
