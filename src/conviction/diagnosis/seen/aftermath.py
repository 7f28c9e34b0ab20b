"""What is measured once a program is over, on clones of its net: the preflight's evidence, modes, mixed batches."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from conviction.diagnosis.seen.forwards import tensors_in
from conviction.diagnosis.seen.nets import averages_of
from conviction.diagnosis.trials.captured import Captured, Loss, copied
from conviction.findings.evidence import Evidence, Inputs, Labels, Overfit, StepSize, UpdateRatio
from conviction.findings.observation import ModeGap, OptimizerSeen, StepSeen
from conviction.probe import probe, rms_of, train_without_dropout
from conviction.randomness import random_state_kept
from conviction.training.statistics import recompute

# As in the preflight: a healthy net needs 5 to 20 steps for one batch.
_OVERFIT_IMAGES, _OVERFIT_STEPS = 16, 25
_PROBE_PIXELS, _PROBE_IMAGES = 64 * 64 * 64, (16, 64)
_MIXING_IMAGES, _GAP_IMAGES = 8, 256


@dataclass(frozen=True)
class Aftermath:
    """What was measured; None where it could not be. `troubles` says why."""

    evidence: Evidence | None = None
    mode_gap: ModeGap | None = None
    mixing: float | None = None
    troubles: tuple[str, ...] = ()


def measure_afterwards(
    captured: Captured | None, steps: tuple[StepSeen, ...], optimizers: tuple[OptimizerSeen, ...]
) -> Aftermath:
    """Measure on clones of the captured net; nothing of the program's is changed, its random states are kept."""
    if captured is None or not captured.batches:
        return Aftermath()
    device = captured.batches[0][0].device
    troubles: list[str] = []
    first = next((step for step in steps if step.optimizer >= 0), None)
    with random_state_kept(device), _default_modes(device), torch.enable_grad():
        torch.manual_seed(0)
        evidence = _tried(lambda: _evidence(captured, first, optimizers, troubles), troubles)
        gap = _tried(lambda: _mode_gap(captured), troubles)
        mixing = _tried(lambda: _mixing(captured), troubles)
    return Aftermath(evidence, gap, mixing, tuple(troubles))


@contextlib.contextmanager
def _default_modes(device: torch.device) -> Generator[None]:
    """Leave whatever mode the program was in when it was stopped."""
    with torch.inference_mode(False), torch.autocast(device.type, enabled=False):
        yield


def _tried(measure: Callable[[], Any], troubles: list[str]) -> Any:
    try:
        return measure()
    except Exception as error:  # whatever a user's own net raises
        troubles.append(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
        return None


def classes_of(captured: Captured, targets: Tensor) -> Tensor | None:
    """Return targets as class numbers [N]: as they are, or of rows with a single one; None where they are neither."""
    if targets.ndim == 1 and not targets.is_floating_point() and targets.dtype != torch.bool:
        return targets.long()
    if targets.ndim == 2 and targets.shape[1] > 1:
        rows = targets.float()
        if bool(((rows == 0) | (rows == 1)).all() and (rows.sum(1) == 1).all()):
            return rows.argmax(1)
    return None


def logits_of(output: Any) -> Tensor:
    """Return the first tensor of an output."""
    return tensors_in(output)[0][0]


def _evidence(
    captured: Captured, first: StepSeen | None, optimizers: tuple[OptimizerSeen, ...], troubles: list[str]
) -> Evidence | None:
    """Take the preflight's view of the net at its first step."""
    images, targets = _joined(captured.batches, _PROBE_IMAGES[1])
    labels = classes_of(captured, targets)
    net = None if captured.start is None else copied(captured.start)
    if labels is None or net is None or not images.is_floating_point():
        return None
    with torch.no_grad():
        train_without_dropout(net)
        logits = logits_of(net(images[:2]))
    if logits.ndim != 2 or logits.shape[1] < 2:
        return None
    classes = logits.shape[1]
    step = _step_size(first, optimizers, captured)
    updates = None
    if first is not None and first.update_ratio is not None and first.largest_update_ratio is not None:
        updates = UpdateRatio(first.update_ratio, first.largest_update_ratio)
    params = sum(p.numel() for p in net.parameters())
    fits = bool(labels.min() >= 0 and labels.max() < classes)
    few = _few(images)
    seen = overfit = None
    if fits:
        clone = copied(captured.start) if captured.start is not None else None
        seen = _tried(
            lambda: probe(clone or net, images[:few], labels[:few], _loss_on(captured, targets, few)), troubles
        )
        overfit = _tried(lambda: _overfit(captured), troubles)
    return Evidence(
        classes, trainable_share=sum(p.numel() for p in net.parameters() if p.requires_grad) / max(1, params),
        inputs=Inputs(
            count=len(images), finite=bool(images.isfinite().all()), largest=float(images.abs().amax()),
            rms=rms_of(images), std=float(images.float().std(correction=0)), same=bool((images == images[:1]).all()),
        ),
        labels=Labels(len(labels), float(labels.min()), float(labels.max()), len(labels.unique())),
        probe=seen, step=step, updates=updates, overfit=overfit,
    )  # fmt: skip


def _loss_on(captured: Captured, targets: Tensor, few: int) -> Loss:
    """Return the program's loss of a net's output; the targets are the program's, whatever labels were read in them."""
    return lambda output, labels: captured.loss(output, targets[:few])


def _few(images: Tensor) -> int:
    least, most = _PROBE_IMAGES
    pixels = images[0].numel() // max(1, images.shape[1] if images.ndim > 2 else 1)
    return max(least, min(most, _PROBE_PIXELS // max(1, pixels)))


def _step_size(first: StepSeen | None, optimizers: tuple[OptimizerSeen, ...], captured: Captured) -> StepSize | None:
    if first is None or not math.isfinite(first.lr):
        return None
    made = next((optimizer for optimizer in optimizers if optimizer.number == first.optimizer), None)
    kind = "sgd" if made is None or made.kind == "by hand" else made.kind.lower()
    return StepSize(kind, first.lr, first.samples or len(captured.batches[0][0]))


def _overfit(captured: Captured) -> Overfit | None:
    """Train a clone on one batch by the program's own optimizer; until the loss is half of a blind net's."""
    images, targets = _joined(captured.batches, _OVERFIT_IMAGES)
    labels = classes_of(captured, targets)
    net = None if captured.start is None else copied(captured.start)
    if labels is None or net is None or captured.optimizer is None:
        return None
    blind = _entropy(labels)
    if blind <= 0:
        return None
    train_without_dropout(net)
    optimizer = captured.optimizer([p for p in net.parameters() if p.requires_grad], {})
    losses: list[float] = []

    def compute() -> float:
        optimizer.zero_grad()
        loss = captured.loss(net(images), targets)
        loss.backward()
        if captured.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(net.parameters(), captured.clip_norm)
        return float(loss.detach())

    for _ in range(_OVERFIT_STEPS):
        if isinstance(optimizer, torch.optim.LBFGS):
            losses.append(float(optimizer.step(compute)))
        else:
            losses.append(compute())
            optimizer.step()
        if not losses[-1] >= 0.5 * blind:
            break
    found = Overfit(losses[0], losses[-1], len(losses), len(labels), blind)
    if found.learned or found.broke:
        return found
    with torch.no_grad():
        logits = logits_of(net(images)).double()
        spread, rms = rms_of(logits - logits.mean(0, keepdim=True)), rms_of(logits)
    return dataclasses.replace(found, input_dependence=spread / rms if rms else None, spread=spread)


def _entropy(labels: Tensor) -> float:
    shares = labels.unique(return_counts=True)[1].double() / max(1, len(labels))
    return float(-(shares * shares.log()).sum())


def _joined(batches: list[tuple[Tensor, Tensor]], most: int) -> tuple[Tensor, Tensor]:
    """Join batches of one shape until there are `most` samples."""
    inputs, targets = [], []
    for x, y in batches:
        same = not inputs or (x.shape[1:] == inputs[0].shape[1:] and y.shape[1:] == targets[0].shape[1:])
        if same and len(x) == len(y) and sum(map(len, inputs)) < most:
            inputs.append(x)
            targets.append(y)
    return torch.cat(inputs)[:most], torch.cat(targets)[:most]


def _mode_gap(captured: Captured) -> ModeGap | None:
    """Compare train and eval mode on training images, by a clone of the net as it ended."""
    net = copied(captured.net)
    images, targets = _joined(captured.batches, _GAP_IMAGES)
    if net is None:
        return None
    with torch.no_grad():
        trained = _answer(net, images, train_without_dropout)
        moved = _statistics_moved(captured)  # the pass above moved those of the clone, not of the net
        net = copied(captured.net)
        assert net is not None
        tested = _answer(net, images, lambda one: one.eval())
        by_gradients = False
        if torch.equal(trained[1], tested[1]) and (net := copied(captured.net)) is not None:
            with torch.enable_grad():
                graded = _answer(net, images, train_without_dropout)
            by_gradients = not torch.equal(graded[1].detach(), trained[1])
            trained = (graded[0], graded[1].detach()) if by_gradients else trained
        repaired = None
        if (
            moved is not None
            and net is not None
            and recompute(net, [(x, None) for x, _ in captured.batches]) is not None
        ):
            repaired = float(captured.loss(_run(net.eval(), images), targets))
        labels = classes_of(captured, targets)
        gap = _accuracy(trained[1], labels), _accuracy(tested[1], labels)
        both = torch.stack([trained[1].flatten(), tested[1].flatten()]).double()
        correlation = float(torch.corrcoef(both)[0, 1]) if both.shape[1] > 1 else math.nan
        return ModeGap(
            float(captured.loss(trained[0], targets)), float(captured.loss(tested[0], targets)), *gap,
            correlation=correlation, repaired_loss=repaired, statistics_moved=moved,
            layer=_first_averages(captured.net), by_gradients=by_gradients,
        )  # fmt: skip


def _run(net: nn.Module, images: Tensor) -> Any:
    return net(images)


def _answer(net: nn.Module, images: Tensor, mode: Callable[[nn.Module], Any]) -> tuple[Any, Tensor]:
    mode(net)
    output = _run(net, images)
    return output, logits_of(output)


def _accuracy(logits: Tensor, labels: Tensor | None) -> float:
    if labels is None or logits.ndim != 2 or len(labels) != len(logits):
        return math.nan
    return float((logits.argmax(1) == labels).double().mean())


def _averages(net: nn.Module) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": value for name, module in net.named_modules() for key, value in averages_of(module).items()
    }


def _first_averages(net: nn.Module) -> str:
    return next((name for name, module in net.named_modules() if averages_of(module)), "")


def _statistics_moved(captured: Captured) -> bool | None:
    """Whether the running statistics are others than at the start; None where there are none."""
    now = _averages(captured.net)
    if not now or captured.start is None:
        return None
    before = _averages(captured.start)
    return any(name not in before or not torch.equal(before[name].cpu(), value.cpu()) for name, value in now.items())


def _mixing(captured: Captured) -> float | None:
    """Measure how far other images change the logits of the first half of a batch, relative to those logits' spread."""
    net = copied(captured.net)
    images = torch.cat([x for x, _ in captured.batches if x.shape[1:] == captured.batches[0][0].shape[1:]])
    n = _MIXING_IMAGES
    if net is None or len(images) < 3 * n:
        return None
    net.eval()
    with torch.no_grad():
        one, other, again = (logits_of(net(torch.cat([images[:n], images[k : k + n]]))) for k in (n, 2 * n, n))
    if not torch.allclose(one, again, rtol=1e-3, atol=1e-5):
        return None  # answers that are drawn anew each time say nothing of the other images
    if one.ndim < 2 or len(one) != 2 * n:
        return None
    change, own = rms_of(one[:n].double() - other[:n].double()), one[:n].double()
    spread = rms_of(own - own.mean(0, keepdim=True))
    if math.isnan(change) or math.isnan(spread):
        return None
    return change / spread if spread else (0.0 if change == 0 else math.inf)
