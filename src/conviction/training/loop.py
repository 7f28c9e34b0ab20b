"""The loop: a generator that makes one update, yields a Step, and goes on when the next is asked for.

Whoever wants to stop early stops reading; whoever wants to watch reads. Nothing else hangs on the loop.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conviction.errors import DataError, UsageError
from conviction.recipe import Recipe
from conviction.training.averaging import AveragedNet
from conviction.training.optimizer import make_optimizer
from conviction.training.schedule import lr_at

Batches = Callable[[int], Iterable[tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class Step:
    """One update. `loss` and `correct` stay on the device as 0-dimensional tensors until somebody reads them."""

    index: int
    epoch: int
    in_epoch: int
    steps_per_epoch: int
    images: int
    loss: Tensor
    correct: Tensor
    lr: float

    @property
    def ends_epoch(self) -> bool:
        """Whether this is the last update of its epoch."""
        return self.in_epoch == self.steps_per_epoch - 1


class Training:
    """What training moves: the net, its optimizer, the averaged net and the gradient scaler.

    `rate_factor` scales the schedule from the next step on. `guessing_loss` is the loss of a net that gives all classes
    the same probability, known after the first step.
    """

    def __init__(self, net: nn.Module, recipe: Recipe, steps_per_epoch: int) -> None:
        assert recipe.epochs is not None and recipe.device is not None
        self.net, self.recipe, self.steps_per_epoch = net, recipe, steps_per_epoch
        self.steps = recipe.epochs * steps_per_epoch
        self.device = torch.device(recipe.device)
        self.optimizer = make_optimizer(net, recipe)
        self.average = AveragedNet(net, recipe.ema) if recipe.ema else None
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.precision == "fp16")
        self.rate_factor = 1.0
        self.guessing_loss: float | None = None

    @property
    def evaluated(self) -> nn.Module:
        """The net whose accuracy counts: the averaged one where there is one."""
        return self.net if self.average is None else self.average.net

    def run(self, batches: Batches, first_epoch: int = 0) -> Generator[Step]:
        """Train from `first_epoch` to the end; `batches(epoch)` gives (images [N, C, H, W], targets) on the device.

        Targets are labels (int64 [N]) or probabilities (float [N, classes]).
        """
        index = first_epoch * self.steps_per_epoch
        for epoch in range(first_epoch, self.recipe.epochs or 0):
            # Dropout's draws are settled by (seed, epoch), so an epoch repeats itself whatever came before it.
            torch.manual_seed(self.recipe.seed * 1_000_003 + epoch)
            self.net.train()
            in_epoch = -1
            for in_epoch, (images, targets) in enumerate(itertools.islice(batches(epoch), self.steps_per_epoch)):
                lr = self.rate_at(index)
                loss, correct = self.update(images, targets, lr)
                yield Step(index, epoch, in_epoch, self.steps_per_epoch, len(images), loss, correct, lr)
                self.net.train()  # whoever reads may have evaluated
                index += 1
            if in_epoch + 1 < self.steps_per_epoch:
                what = f"epoch {epoch + 1} had {in_epoch + 1} batches where {self.steps_per_epoch} were counted"
                raise DataError(what, "", "give a loader that is equally long at every pass")

    def rate_at(self, index: int) -> float:
        """Return the learning rate of step `index`, as things stand."""
        return self.rate_factor * lr_at(index, self.steps, self.recipe, self.steps_per_epoch)

    def update(self, images: Tensor, targets: Tensor, lr: float) -> tuple[Tensor, Tensor]:
        """Make one update at rate `lr`; returns the loss before it and the number of correct answers."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)  # before the forward, whose activations need the room
        outputs, loss = self.answer(images, targets)
        self.scaler.scale(loss).backward()
        if self.recipe.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.net.parameters(), self.recipe.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update(self.net)
        logits, *heads = outputs if isinstance(outputs, tuple) else (outputs,)
        self.guessing_loss = math.log(logits.shape[1]) * (1 + self.recipe.aux_weight * len(heads))
        labels = targets if targets.ndim == 1 else targets.argmax(1)
        return loss.detach(), (logits.detach().argmax(1) == labels).sum()

    def answer(self, images: Tensor, targets: Tensor) -> tuple[Any, Tensor]:
        """Return the net's outputs and their loss, in the mode the net is in."""
        if self.recipe.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with autocasting(self.device, self.recipe.precision):
            outputs = self._forward(images)
            return outputs, total_loss(outputs, targets, self.recipe.label_smoothing or 0.0, self.recipe.aux_weight)

    def _forward(self, images: Tensor) -> Any:
        try:
            return self.net(images)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            what = f"batch norm cannot train on a batch of {len(images)} whose maps are a single point"
            raise UsageError(what, "batch_size", "use 2 or more, and drop_last=True in your own loader") from error


def total_loss(outputs: Tensor | tuple[Tensor, ...], targets: Tensor, smoothing: float, aux_weight: float) -> Tensor:
    """Cross-entropy of the logits, plus `aux_weight` times that of each auxiliary head (GoogLeNet, section 5).

    Computed in float32 whatever the precision of the layers.
    """
    logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
    loss = F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)
    for head in auxiliary:
        loss = loss + aux_weight * F.cross_entropy(head.float(), targets, label_smoothing=smoothing)
    return loss


def autocasting(device: torch.device, precision: str | None) -> contextlib.AbstractContextManager[object]:
    """Return the context in which layers compute in `precision`."""
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
    if precision not in dtypes:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtypes[precision])
