"""The preflight: before a run, what a net, its data and its recipe show in a few seconds. Nothing is left changed."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from conviction.findings import Evidence, Finding, Inputs, Labels, Overfit, StepSize, UpdateRatio, question
from conviction.probe import Probe, Signal, probe, rms_of, train_without_dropout
from conviction.randomness import random_state_kept
from conviction.recipe import Recipe
from conviction.training.loop import Training, total_loss
from conviction.training.schedule import lr_at

# Images of one batch that a net has to learn, and the steps it has for that. Healthy nets need 5 to 20.
_OVERFIT_IMAGES, _OVERFIT_STEPS = 16, 25
# The probe reads 64 images of 64 x 64, fewer larger ones.
_PROBE_PIXELS, _PROBE_IMAGES = 64 * 64 * 64, (16, 64)


@dataclass(frozen=True)
class Preflight:
    """What was measured before training, and what is wrong, most likely first.

    `expected_loss` is ln(classes). Measurements are None where an earlier finding made them pointless, and where the
    net could not be looked into for the reason that `unseen` tells.
    """

    expected_loss: float
    first_loss: float | None
    input_dependence: float | None
    layers: tuple[Signal, ...]
    update_ratio: UpdateRatio | None
    overfit: Overfit | None
    findings: tuple[Finding, ...]
    unseen: str | None
    seconds: float

    @property
    def healthy(self) -> bool:
        """Whether everything was looked at and nothing was found."""
        return not self.findings and self.unseen is None

    @property
    def hard(self) -> tuple[Finding, ...]:
        """The findings with which training cannot work."""
        return tuple(finding for finding in self.findings if finding.hard)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain values for JSON, but for layers and findings; those not finite become None."""
        return _plain(
            {
                "healthy": self.healthy,
                "unseen": self.unseen,
                "first_loss": self.first_loss,
                "expected_loss": self.expected_loss,
                "input_dependence": self.input_dependence,
                "update_ratio": None if self.update_ratio is None else asdict(self.update_ratio),
                "overfit": None if self.overfit is None else asdict(self.overfit),
            }
        )


def preflight(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    num_classes: int,
    *,
    split_labels: Tensor | None = None,
    step_size: bool = True,
) -> Preflight:
    """Look whether `net` can be trained with a decided `recipe`, on some training images and copies of the net.

    `images` are float32 [N, C, H, W] as the net reads them, without augmentation, 2 to about 128 of them; `labels` are
    int64 [N]. With the labels of the whole split (`split_labels`), labels of a single class are certain and stop a run.
    Without `step_size` the learning rate is never named as a cause.

    Everything is a function of the arguments but for `seconds`; the net, which may lie on another device than the
    images, and every random state are left as they were. Nothing that the net raises is passed on.
    """
    started = time.perf_counter()
    evidence = _facts(net, images, labels, recipe, num_classes, split_labels)
    unseen: str | None = None
    with random_state_kept(images.device):
        torch.manual_seed(recipe.seed)
        try:
            for richer in _measure(net, images, labels, recipe, evidence):
                evidence = richer
        except Exception as error:  # whatever a user's own net raises: it may train all the same
            unseen = _reason(error)
    seen = evidence.probe
    assert seen is None or isinstance(seen, Probe)
    return Preflight(
        expected_loss=evidence.expected_loss,
        first_loss=seen.cross_entropy if seen else None,
        input_dependence=seen.input_dependence if seen else None,
        layers=seen.signals if seen else (),
        update_ratio=evidence.updates,
        overfit=evidence.overfit,
        findings=question(evidence, step_size=step_size),
        unseen=unseen,
        seconds=time.perf_counter() - started,
    )


def _facts(
    net: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe, num_classes: int, split_labels: Tensor | None
) -> Evidence:
    """Put down what is known before the net has run."""
    assert recipe.optimizer is not None and recipe.lr is not None and recipe.batch_size is not None
    params = sum(parameter.numel() for parameter in net.parameters())
    trainable = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
    told = labels if split_labels is None else split_labels
    return Evidence(
        num_classes,
        trainable_share=trainable / params if params else 0.0,
        inputs=Inputs(
            count=len(images), finite=bool(images.isfinite().all()), largest=float(images.abs().amax()),
            rms=rms_of(images), std=float(images.float().std(correction=0)), same=bool((images == images[:1]).all()),
        ),
        labels=Labels(
            count=len(told), lowest=float(told.min()), highest=float(told.max()), distinct=len(told.unique()),
            whole_numbers=not told.is_floating_point(), complete=split_labels is not None,
        ),
        step=StepSize(recipe.optimizer, recipe.lr, recipe.batch_size),
    )  # fmt: skip


def _measure(net: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe, evidence: Evidence) -> Generator[Evidence]:
    """Measure one thing after another for as long as nothing has been found with which training cannot work."""
    if _hopeless(evidence):
        return
    if recipe.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    few = _some(images.shape, recipe)
    ours = _copied(net, images.device)
    chosen = _spread_over_classes(labels, few)
    # A net that cannot be copied can still be probed, which leaves it as it was.
    seen = probe(net if ours is None else ours, images[chosen], labels[chosen], _loss_of(recipe))
    yield (evidence := replace(evidence, probe=seen))
    if ours is None or _hopeless(evidence):
        return
    chosen = chosen[:_OVERFIT_IMAGES]
    images, labels = images[chosen], labels[chosen]
    yield (evidence := replace(evidence, updates=_one_update(ours, images, labels, recipe)))
    del ours  # makes room
    fresh = _copied(net, images.device)
    assert fresh is not None
    yield replace(evidence, overfit=_overfit(fresh, images, labels, recipe))


def _hopeless(evidence: Evidence) -> bool:
    return any(finding.hard for finding in question(evidence))


def _some(shape: torch.Size, recipe: Recipe) -> int:
    """Return how many images are looked at: the larger they are, the fewer, and no more than training has room for.

    Measured in float32, in which an image takes twice the room: rounding to 16 bits would drown in noise how little the
    logits of a collapsed net differ from image to image.
    """
    least, most = _PROBE_IMAGES
    few = max(least, min(most, _PROBE_PIXELS // max(1, shape[2] * shape[3])))
    room = (recipe.batch_size or few) // (1 if recipe.precision == "fp32" else 2)
    return max(2, min(few, room))


def _copied(net: nn.Module, device: torch.device) -> nn.Module | None:
    """Copy a net to a device; None where it refuses."""
    try:
        ours = copy.deepcopy(net).to(device)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # whatever a user's own attributes raise
        return None
    for parameter in ours.parameters():
        if not parameter.is_leaf:  # PyTorch copies those of scripted nets as something computed
            parameter.detach_().requires_grad_()
    return ours


def _reason(error: Exception) -> str:
    """Say in a line why a net could not be looked into."""
    why = " ".join(str(error).split())[:200] or type(error).__name__
    full = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in why
    return "out of memory" if full else why


def _spread_over_classes(labels: Tensor, most: int) -> Tensor:
    """Return the indices of up to `most` images, the first of every class before the second of any."""
    seen: Counter[int] = Counter()
    ranks = []
    for label in labels.tolist():
        ranks.append(seen[label])
        seen[label] += 1
    order = sorted(range(len(ranks)), key=lambda index: (ranks[index], index))
    return torch.tensor(order[:most], device=labels.device)


def _one_update(ours: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe) -> UpdateRatio | None:
    """Make one update at the recipe's peak rate and compare it with the weights, matrix by matrix.

    Without weight decay, which moves weights that no gradient reaches; in fp32, whose first step is never skipped.
    """
    train_without_dropout(ours)  # on a batch of 16 its noise would hide what the net learns
    training = Training(ours, recipe.replace(weight_decay=0.0, ema=0.0, precision="fp32"), steps_per_epoch=1)
    matrices = [parameter for parameter in ours.parameters() if parameter.ndim > 1 and parameter.requires_grad]
    before = [matrix.detach().clone() for matrix in matrices]
    training.update(images, labels, recipe.lr or 0.0)
    ratios = [rms_of(after.detach() - old) / size
              for after, old in zip(matrices, before, strict=True) if (size := rms_of(old))]  # fmt: skip
    return UpdateRatio(statistics.median(ratios), max(ratios)) if ratios else None


def _overfit(ours: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe) -> Overfit | None:
    """Train on one batch by the recipe in small: its optimizer, its peak rate, its schedule squeezed into few steps.

    Stops as soon as the loss is half of what a blind net reaches; None where a blind net has nothing left to learn.
    """
    counts = labels.cpu().bincount().double()
    shares = counts[counts > 0] / counts.sum()
    blind_loss = float(-(shares * shares.log()).sum())
    if blind_loss <= 0:
        return None
    train_without_dropout(ours)
    small = recipe.replace(epochs=1, ema=0.0, label_smoothing=0.0, aux_weight=0.0)
    training = Training(ours, small, steps_per_epoch=_OVERFIT_STEPS)
    losses: list[float] = []
    for step in range(_OVERFIT_STEPS):
        loss, _ = training.update(images, labels, lr_at(step, _OVERFIT_STEPS, small, _OVERFIT_STEPS))
        losses.append(float(loss))
        if not losses[-1] >= 0.5 * blind_loss:  # or not a number
            break
    found = Overfit(losses[0], losses[-1], len(losses), len(labels), blind_loss)
    if found.learned or found.broke:
        return found
    after = probe(ours, images, labels, _loss_of(recipe))
    spread = (after.input_dependence or 0.0) * after.logits_rms
    return replace(found, input_dependence=after.input_dependence, spread=spread)


def _loss_of(recipe: Recipe) -> Callable[[Any, Tensor], Tensor]:
    return lambda outputs, targets: total_loss(outputs, targets, 0.0, recipe.aux_weight)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
