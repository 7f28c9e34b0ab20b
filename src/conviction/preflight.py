"""The preflight: before a run, what a net, its data and its recipe show in a few seconds. Nothing is left changed."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from conviction.findings import Evidence, Finding, Inputs, Labels, Overfit, StepSize, UpdateRatio, question
from conviction.probe import Probe, Signal, probe, random_state_kept, rms_of
from conviction.recipe import Recipe
from conviction.text import format_seconds, format_table
from conviction.training.loop import Training, total_loss
from conviction.training.schedule import lr_at

# Images of one batch that a net has to learn, and the steps it has for that. Healthy nets need 5 to 20.
_OVERFIT_IMAGES, _OVERFIT_STEPS = 16, 25
# The probe reads 64 images of 64 x 64, fewer larger ones.
_PROBE_PIXELS, _PROBE_IMAGES = 64 * 64 * 64, (16, 64)


@dataclass(frozen=True)
class Preflight:
    """What was measured before training, and what is wrong, most likely first.

    `expected_loss` is ln(classes). Measurements are None where an earlier finding made them pointless.
    """

    expected_loss: float
    first_loss: float | None
    input_dependence: float | None
    layers: tuple[Signal, ...]
    update_ratio: UpdateRatio | None
    overfit: Overfit | None
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def healthy(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    @property
    def hard(self) -> tuple[Finding, ...]:
        """The findings with which training cannot work."""
        return tuple(finding for finding in self.findings if finding.hard)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; numbers that are not finite become None."""
        return _plain(
            {
                "healthy": self.healthy,
                "first_loss": self.first_loss,
                "expected_loss": self.expected_loss,
                "input_dependence": self.input_dependence,
                "update_ratio": None if self.update_ratio is None else asdict(self.update_ratio),
                "overfit": None if self.overfit is None else asdict(self.overfit),
                "layers": [asdict(layer) for layer in self.layers],
                "findings": [finding.to_dict() for finding in self.findings],
                "seconds": self.seconds,
            }
        )

    def __str__(self) -> str:
        rows = [["first loss", _number(self.first_loss), f"{self.expected_loss:.3f}"],
                ["logits differ by image", _number(self.input_dependence), "above 0.01"]]  # fmt: skip
        if self.update_ratio is not None:
            rows.append(["one update / weights", _number(self.update_ratio.median), "0.0001 to 0.3"])
        if self.overfit is not None:
            start, end = self.overfit.loss_start, self.overfit.loss_end
            rows.append([f"one batch, {self.overfit.steps} steps", f"{start:.3f} -> {end:.3f}",
                         f"below {self.overfit.blind_loss:.3f}"])  # fmt: skip
        verdict = "healthy" if self.healthy else "\n".join(map(str, self.findings))
        return f"{format_table(['preflight', 'seen', 'expected'], rows)}\n{verdict} ({format_seconds(self.seconds)})"


def preflight(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    num_classes: int,
    *,
    split_labels: Tensor | None = None,
) -> Preflight:
    """Look whether `net` can be trained with a decided `recipe`, on some training images and copies of the net.

    `images` are float32 [N, C, H, W] as the net reads them, without augmentation, 2 to about 128 of them; `labels` are
    int64 [N]. With the labels of the whole split (`split_labels`), labels of a single class are certain and stop a run.

    Everything is a function of the arguments but for `seconds`; the net and every random state are left as they were.
    """
    started = time.perf_counter()
    with random_state_kept(images.device):
        torch.manual_seed(recipe.seed)
        seen, evidence = _measure(
            net, images, labels, recipe, _facts(net, images, labels, recipe, num_classes, split_labels)
        )
    return Preflight(
        expected_loss=evidence.expected_loss,
        first_loss=seen.cross_entropy if seen else None,
        input_dependence=seen.input_dependence if seen else None,
        layers=seen.signals if seen else (),
        update_ratio=evidence.updates,
        overfit=evidence.overfit,
        findings=question(evidence),
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


def _measure(
    net: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe, evidence: Evidence
) -> tuple[Probe | None, Evidence]:
    """Measure one thing after another for as long as nothing has been found with which training cannot work."""
    if _hopeless(evidence):
        return None, evidence
    if recipe.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    few = _some(images.shape)
    ours = _copied(net)
    # A net that cannot be copied can still be probed, which leaves it as it was.
    seen = probe(net if ours is None else ours, images[:few], labels[:few], _loss_of(recipe))
    evidence = replace(evidence, probe=seen)
    if ours is None or _hopeless(evidence):
        return seen, evidence
    chosen = _spread_over_classes(labels, _OVERFIT_IMAGES)
    images, labels = images[chosen], labels[chosen]
    evidence = replace(evidence, updates=_one_update(_calmed(ours), images, labels, recipe))
    del ours  # makes room
    fresh = _copied(net)
    assert fresh is not None
    return seen, replace(evidence, overfit=_overfit(_calmed(fresh), images, labels, recipe))


def _hopeless(evidence: Evidence) -> bool:
    return any(finding.hard for finding in question(evidence))


def _some(shape: torch.Size) -> int:
    """Return how many images the probe reads: the larger they are, the fewer."""
    least, most = _PROBE_IMAGES
    return max(least, min(most, _PROBE_PIXELS // max(1, shape[2] * shape[3])))


def _copied(net: nn.Module) -> nn.Module | None:
    """Copy a net; None where it refuses."""
    try:
        return copy.deepcopy(net)
    except Exception:  # whatever a user's own attributes raise
        return None


def _calmed(ours: nn.Module) -> nn.Module:
    """Put a copy into training mode, without dropout: on a batch of 16 its noise would hide what the net learns."""
    for module in ours.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    return ours.train()


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


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
