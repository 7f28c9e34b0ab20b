"""The loop: a generator that makes one update, yields a Step, and goes on when the next is asked for.

Whoever wants to stop early stops reading; whoever wants to watch reads. Nothing else hangs on the loop.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import operator
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conviction.denormals import denormals_flushed, start_threads_flushed
from conviction.errors import DataError, UsageError
from conviction.heap import keep_freed_memory
from conviction.recipe import Recipe
from conviction.training.averaging import AveragedNet
from conviction.training.microbatches import run_in_parts, split_batch
from conviction.training.optimizer import make_optimizer
from conviction.training.recompute import recomputing
from conviction.training.schedule import lr_at
from conviction.training.small_maps import small_maps_multiplied

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
        if self.device.type == "cpu":
            keep_freed_memory()
            start_threads_flushed()
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
        """Make one update at rate `lr`; returns the loss before it and the number of correct answers.

        Both, and the gradient, are those of the whole batch, whether or not it passes through the net in parts.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)  # before the forward, whose activations need the room
        parts = split_batch(images, targets, self.recipe.micro_batch)
        again = recomputing(self.net) if self.recipe.checkpointing else contextlib.nullcontext()
        with denormals_flushed(self.device):
            with small_maps_multiplied(self.net), again:
                told = [self._learn(*part) for part in run_in_parts(self.net, parts)]
            if self.recipe.clip_norm:
                self.scaler.unscale_(self.optimizer)
                nn.utils.clip_grad_norm_(self.net.parameters(), self.recipe.clip_norm)
            self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update(self.net)
        correct = [_count_correct(logits, labels) for (logits, _), (_, labels) in zip(told, parts, strict=True)]
        return _add_up([loss for _, loss in told]), _add_up(correct)

    def _learn(self, images: Tensor, targets: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """Add the gradient of a part of the batch to that of the step; returns its logits and its share of the loss.

        Nothing that is returned holds on to the graph: the next part needs its memory.
        """
        outputs, loss = self._answer(images, targets, share)
        loss = loss if share == 1 else share * loss
        self.scaler.scale(loss).backward()
        logits, *heads = outputs if isinstance(outputs, tuple) else (outputs,)
        self.guessing_loss = math.log(logits.shape[1]) * (1 + self.recipe.aux_weight * len(heads))
        return logits.detach(), loss.detach()

    def answer(self, images: Tensor, targets: Tensor) -> tuple[Any, Tensor]:
        """Return the net's outputs and their loss, in the mode the net is in; in parts as in a step."""
        parts = split_batch(images, targets, self.recipe.micro_batch)
        with small_maps_multiplied(self.net):
            answers = [self._answer(*part) for part in run_in_parts(self.net, parts)]
        if len(parts) == 1:
            return answers[0]
        losses = [len(part) / len(images) * loss for (part, _), (_, loss) in zip(parts, answers, strict=True)]
        return _joined([outputs for outputs, _ in answers]), _add_up(losses)

    def _answer(self, images: Tensor, targets: Tensor, share: float) -> tuple[Any, Tensor]:
        if self.recipe.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with autocasting(self.device, self.recipe.precision):
            outputs = self._forward(images, share)
            return outputs, total_loss(outputs, targets, self.recipe.label_smoothing or 0.0, self.recipe.aux_weight)

    def _forward(self, images: Tensor, share: float) -> Any:
        try:
            return self.net(images)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            what = f"batch norm cannot train on a batch of {len(images)} whose maps are a single point"
            if share < 1:
                raise UsageError(what, "micro_batch", "make it so large that no part is a single image") from error
            raise UsageError(what, "batch_size", "use 2 or more, and drop_last=True in your own loader") from error


def total_loss(outputs: Tensor | tuple[Tensor, ...], targets: Tensor, smoothing: float, aux_weight: float) -> Tensor:
    """Cross-entropy of the logits, plus `aux_weight` times that of each auxiliary head (GoogLeNet, section 5).

    Computed in float32 whatever the precision of the layers, for a net in float64 in that.
    """
    logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
    loss = F.cross_entropy(_at_least_float32(logits), targets, label_smoothing=smoothing)
    for head in auxiliary:
        loss = loss + aux_weight * F.cross_entropy(_at_least_float32(head), targets, label_smoothing=smoothing)
    return loss


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _count_correct(logits: Tensor, targets: Tensor) -> Tensor:
    labels = targets if targets.ndim == 1 else targets.argmax(1)
    return (logits.argmax(1) == labels).sum()


def _add_up(numbers: list[Tensor]) -> Tensor:
    """Add tensors; a single one is returned as it is."""
    return functools.reduce(operator.add, numbers)


def _joined(outputs: list[Any]) -> Any:
    """Put the outputs of a batch's parts together again, logits or tuples of logits."""
    if isinstance(outputs[0], tuple):
        return tuple(torch.cat(heads) for heads in zip(*outputs, strict=True))
    return torch.cat(outputs)


def autocasting(device: torch.device, precision: str | None) -> contextlib.AbstractContextManager[object]:
    """Return the context in which layers compute in `precision`."""
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
    if precision not in dtypes:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtypes[precision])
