"""Precise batch norm: running statistics recomputed for the weights as they are, where they trail behind them.

While weights move fast, a running average over the last dozens of steps describes nets that are gone: accuracy in eval
mode then jumps from epoch to epoch though the net itself gets better (Wu & Johnson 2021, "Rethinking Batch in
BatchNorm", section 3).
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from conviction.randomness import random_state_kept
from conviction.training.loop import Batches, Training, autocasting

# Images that suffice for statistics, or all where there are fewer: those of 40 images are worse than any that lag
# (LeNet-BN, 400 images in batches of 4, 18 epochs: validation changes by -0.8 points with 40, by +0.1 with all).
_IMAGES = 2048
# A lag that shifts what the next layer sees by a quarter of its spread, or widens it by a quarter, is worth a word.
_NOTABLE_SD, _NOTABLE_LOG_VARIANCE = 0.25, 2 * math.log(1.25)
_FAR = 1e6  # said of statistics that were not finite


@dataclass(frozen=True)
class Lag:
    """How far running statistics were from those of the weights as they are, in the layer where that was most.

    `mean_sd` is the distance of the means in standard deviations, `log_variance` is |ln(old variance / new variance)|;
    both are means over the layer's channels.
    """

    mean_sd: float = 0.0
    log_variance: float = 0.0

    def worst(self, other: Lag) -> Lag:
        """Return the larger of both, number by number."""
        return Lag(max(self.mean_sd, other.mean_sd), max(self.log_variance, other.log_variance))

    @property
    def notable(self) -> bool:
        """Whether the net would have answered otherwise than it should."""
        return self.mean_sd >= _NOTABLE_SD or self.log_variance >= _NOTABLE_LOG_VARIANCE

    def __str__(self) -> str:
        factor = math.exp(min(700.0, self.log_variance / 2))
        return f"their means lagged by up to {self.mean_sd:.2g} sd, their spread by a factor of up to {factor:.2g}"


def keeps_statistics(module: nn.Module) -> bool:
    """Whether a module is a batch norm with running statistics, each [C].

    That is torch's, or one that keeps them under the same names and moves them by `momentum`, as those written from
    scratch do.
    """
    if isinstance(module, nn.modules.instancenorm._InstanceNorm):
        return False
    mean, var = (getattr(module, name, None) for name in ("running_mean", "running_var"))
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return mean is not None
    if not (isinstance(mean, Tensor) and isinstance(var, Tensor) and hasattr(module, "momentum")):
        return False
    return mean.ndim == 1 and mean.shape == var.shape


def refresh(training: Training, batches: Batches, epoch: int) -> Lag | None:
    """Recompute the statistics of the net that is evaluated, from the first 2,048 images of `batches(epoch)`.

    All where there are fewer. Returns how far they lagged, None for a net that has none.
    """
    net, recipe = training.evaluated, training.recipe
    count = count_refreshed(net, recipe.batch_size or 1, training.steps_per_epoch)
    if not count:
        return None
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    some = itertools.islice(batches(epoch), count)
    with autocasting(training.device, recipe.precision):
        return recompute(net, ((images.contiguous(memory_format=layout), None) for images, _ in some))


def count_refreshed(net: nn.Module, batch_size: int, steps_per_epoch: int) -> int:
    """Return how many training batches `refresh` looks at in an epoch: none for a net without statistics."""
    if not any(keeps_statistics(module) for module in net.modules()):
        return 0
    return min(steps_per_epoch, math.ceil(_IMAGES / batch_size))


def recompute(net: nn.Module, batches: Iterable[tuple[Tensor, Any]]) -> Lag | None:
    """Set the running statistics of all batch norms of `net` to plain averages over `batches`; returns how they lagged.

    `batches` yields (images [N, C, H, W], anything) on the net's device; 2,048 images suffice. Each batch is normalised
    by itself, as in training, while all other layers are as in evaluation. A batch whose statistics are not finite does
    not count. Left alone are layers that the user froze (in eval mode in a net that trains), layers that no batch
    reaches, layers from scratch whose statistics are not those of the batch at a momentum of 1, weights, modes,
    momenta, `num_batches_tracked` and the random number generators.

    Returns None where no layer had anything to recompute.
    """
    modes = [(module, module.training) for module in net.modules()]
    if not net.training:
        net.train()  # a net whose own `train` keeps layers frozen does so now
    layers: list[Any] = [module for module in net.modules() if keeps_statistics(module) and module.training]
    try:
        net.eval()
        for layer in layers:
            layer.training = True
        return _recompute(net, layers, batches) if layers else None
    finally:
        for module, mode in modes:
            module.training = mode


def _recompute(net: nn.Module, layers: list[Any], batches: Iterable[tuple[Tensor, Any]]) -> Lag | None:
    old = [(layer.running_mean.clone(), layer.running_var.clone()) for layer in layers]
    try:
        with torch.no_grad(), random_state_kept(layers[0].running_mean.device), _listening(layers) as heard:
            for images, _ in batches:
                net(images)
    finally:  # whatever went wrong, the net is whole
        for layer, (mean, var) in zip(layers, old, strict=True):
            layer.running_mean.copy_(mean)
            layer.running_var.copy_(var)
    lags = [_settle(layer, told) for layer, told in zip(layers, heard, strict=True)]
    known = [lag for lag in lags if lag is not None]
    worst = Lag()
    for lag in known:
        worst = worst.worst(lag)
    return worst if known else None


@contextlib.contextmanager
def _listening(layers: list[Any]) -> Generator[list[list[tuple[Tensor, Tensor]]]]:
    """Gather mean and unbiased variance ([C] each) of every batch that passes through `layers`.

    With a momentum of 1 the running statistics become those of the batch alone: by torch's convention, and where it is
    the other way round they do not move at all and NaN is gathered.
    """
    heard: list[list[tuple[Tensor, Tensor]]] = [[] for _ in layers]
    before = [(layer.momentum, _counter(layer)) for layer in layers]

    def listen(to: list[tuple[Tensor, Tensor]]) -> Any:
        def hook(layer: Any, inputs: Any, output: Any) -> None:
            told = layer.running_mean.clone(), layer.running_var.clone()
            to.append(told if _moved_to(layer, inputs, *told) else (told[0] * math.nan, told[1] * math.nan))
            _clear(layer)

        return hook

    hooks = [layer.register_forward_hook(listen(to)) for layer, to in zip(layers, heard, strict=True)]
    try:
        for layer in layers:
            layer.momentum = 1.0
            _clear(layer)
        yield heard
    finally:
        for hook in hooks:
            hook.remove()
        for layer, (momentum, count) in zip(layers, before, strict=True):
            layer.momentum = momentum
            if count is not None:
                layer.num_batches_tracked.copy_(count)


def _settle(layer: Any, heard: list[tuple[Tensor, Tensor]]) -> Lag | None:
    """Write the averages of what was heard into a layer; returns how far its own were from them."""
    if not heard:
        return None
    means, variances = (torch.stack(told).cpu().double() for told in zip(*heard, strict=True))  # [batches, C]
    whole = (means.isfinite() & variances.isfinite()).all(1)
    if not whole.any():
        return None
    mean, var = means[whole].mean(0), variances[whole].mean(0)
    tiny = float(getattr(layer, "eps", 1e-5))
    old_mean, old_var = layer.running_mean.cpu().double(), layer.running_var.cpu().double()
    distance = ((old_mean - mean).abs() / (var + tiny).sqrt()).mean()
    ratio = ((old_var + tiny) / (var + tiny)).log().abs().mean()
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(var)
    return Lag(*(float(lag.nan_to_num(_FAR, _FAR).clamp(max=_FAR)) for lag in (distance, ratio)))


def _moved_to(layer: nn.Module, inputs: Any, mean: Tensor, var: Tensor) -> bool:
    """Whether a layer moved its statistics to those of its input, [N, C, ...], which torch's own always does."""
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        return True
    if not inputs or inputs[0].ndim < 2 or inputs[0].shape[1] != len(mean):
        return False
    x = inputs[0].float()
    dims = [0, *range(2, x.ndim)]
    unbiased, biased = x.var(dims), x.var(dims, correction=0)
    tiny = 1e-6 * (1 + biased)
    near = (mean - x.mean(dims)).abs() <= 0.1 * (biased + tiny).sqrt() + 1e-3 * mean.abs()
    return bool((near & (var >= 0.9 * biased - tiny) & (var <= 1.1 * unbiased + tiny)).all())


def _clear(layer: Any) -> None:
    """Forget the statistics; NaN times 0 would stay NaN."""
    layer.running_mean.zero_()
    layer.running_var.zero_()


def _counter(layer: Any) -> Tensor | None:
    count = getattr(layer, "num_batches_tracked", None)
    return count.clone() if isinstance(count, Tensor) else None
