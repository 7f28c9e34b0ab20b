"""Changes: each makes one factor of a setup what it would be in a healthy program, or says that there is none to make.

The setup's net is a clone that belongs to the change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conviction.diagnosis.trials.answers import class_numbers, logits_of
from conviction.diagnosis.trials.detours import ACTIVATIONS, DROPOUTS, SQUASHES, Detour, count_weighted
from conviction.diagnosis.trials.plain_images import learn_from_tests
from conviction.diagnosis.trials.setups import Setup, mixed
from conviction.findings import trials
from conviction.findings.observation import OptimizerSeen

Change = Callable[[Setup, OptimizerSeen], Setup | None]

# What small nets are trained with where nothing is known of them.
_USUAL_LR = {"sgd": 0.1, "rmsprop": 1e-3, "adagrad": 1e-2, "adadelta": 1.0, "lbfgs": 1.0, "rprop": 1e-2, "lion": 1e-4}
_MOMENTUM_SHARE = 0.1  # momentum 0.9 makes ten steps of one
# Small logits: the first loss is then ln(classes), whatever reaches the head (as nets/init does).
_LOGITS_GAIN = 0.05
_SIGMOID_GAIN = 4.0  # a sigmoid's slope at 0 is 1/4


def usual_lr(seen: OptimizerSeen) -> float:
    """Return the rate at which an optimizer of this kind usually learns."""
    kind = seen.kind.lower()
    lr = 1e-3 if "adam" in kind else _USUAL_LR.get(kind, _USUAL_LR["sgd"])
    return lr * _MOMENTUM_SHARE if kind == "sgd" and (seen.setting("momentum") or 0.0) > 0.5 else lr


def _lr_times(factor: float) -> Change:
    def change(setup: Setup, seen: OptimizerSeen) -> Setup | None:
        lr = setup.settings.get("lr")
        return _with_lr(setup, lr * factor) if lr else None

    return change


def _lr_usual(setup: Setup, seen: OptimizerSeen) -> Setup | None:
    lr, usual = setup.settings.get("lr"), usual_lr(seen)
    return None if lr is not None and 0.5 <= lr / usual <= 2 else _with_lr(setup, usual)


def _with_lr(setup: Setup, lr: float) -> Setup:
    words = f"with lr {lr:.3g} instead of {setup.settings['lr']:.3g}" if "lr" in setup.settings else f"with lr {lr:.3g}"
    return replace(setup, settings={**setup.settings, "lr": lr}, words=words)


def _start_again(setup: Setup, seen: OptimizerSeen) -> Setup | None:
    """Weights that suit the activations (as nets/init has them), zero biases, a small head; norms as they begin."""
    sigmoids = Detour(frozenset({"sigmoid", "sigmoid_"}), before=_bare_end(setup).after)
    with torch.no_grad(), sigmoids:
        setup.net(setup.batches[0][0])
    return _fill(setup, sigmoids=sigmoids.taken > 0)


def _start_again_gently(setup: Setup, seen: OptimizerSeen) -> Setup | None:
    slower, started = _lr_usual(setup, seen), _start_again(setup, seen)
    if slower is None or started is None:
        return None
    return replace(started, settings=slower.settings, words=f"{started.words}, and {slower.words}")


@torch.no_grad()
def _fill(setup: Setup, *, sigmoids: bool) -> Setup | None:
    matrices = [
        (name, weight) for name, weight in setup.net.named_parameters() if weight.ndim > 1 and weight.requires_grad
    ]
    if not matrices:
        return None
    for module in setup.net.modules():
        norm = isinstance(module, (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm))
        if norm and any(parameter.requires_grad for parameter in module.parameters()):
            module.reset_parameters()
    for _, weight in matrices:
        if sigmoids:
            nn.init.xavier_uniform_(weight, gain=_SIGMOID_GAIN)
        else:
            nn.init.kaiming_normal_(weight, nonlinearity="relu")
    for name, bias in setup.net.named_parameters():
        if bias.ndim == 1 and bias.requires_grad and name.rsplit(".")[-1].startswith("b") and not name.endswith("beta"):
            bias.zero_()
    head = matrices[-1][1]
    nn.init.normal_(head, std=_LOGITS_GAIN / head[0].numel() ** 0.5)
    name = "Xavier's weights with gain 4" if sigmoids else "Kaiming's weights"
    return replace(setup, words=f"started from {name}, zero biases and a small head")


def _standardise(setup: Setup, seen: OptimizerSeen) -> Setup | None:
    """Mean 0 and deviation 1, channel by channel, over all that was captured."""
    first = setup.batches[0][0]
    if not first.is_floating_point() or first.ndim < 2:
        return None
    dims = [0, *range(2, first.ndim)] if first.ndim > 2 else [0, 1]
    values = torch.cat([inputs.float().transpose(0, 1).flatten(1) if first.ndim > 2 else inputs.float().reshape(1, -1)
                        for inputs, _ in setup.batches], 1)  # fmt: skip
    mean, deviation = values.mean(1), values.std(1, correction=0)
    if not bool((mean.isfinite() & deviation.isfinite()).all()) or not bool((deviation > 0).any()):
        return None
    shape = [len(mean) if dim not in dims else 1 for dim in range(first.ndim)]
    deviation = torch.where(deviation > 0, deviation, 1.0)
    mean, deviation = mean.reshape(shape), deviation.reshape(shape)
    ready = [[((inputs - mean) / deviation, targets) for inputs, targets in part]
             for part in (setup.batches, setup.judged)]  # fmt: skip
    return replace(setup, batches=ready[0], judged=ready[1], words="with inputs of mean 0 and deviation 1")


def _cross_entropy(setup: Setup, seen: OptimizerSeen) -> Setup | None:
    """Cross-entropy, mean over the batch, of what comes out of the last layer with weights."""
    numbers = [class_numbers(targets) for _, targets in (*setup.batches, *setup.judged)]
    detour = _bare_end(setup)
    with torch.no_grad(), detour.restart():
        logits = logits_of(setup.net(setup.batches[0][0]))
    if logits is None or logits.ndim != 2 or logits.shape[1] < 2:
        return None
    if any(number is None or int(number.max()) >= logits.shape[1] for number in numbers):
        return None
    words = "with cross-entropy on the last layer's outputs"
    if detour.taken:
        words += ", nothing after it"
    return replace(setup, loss=_mean_cross_entropy, detour=detour, words=words)


def _mean_cross_entropy(outputs: Any, targets: Tensor) -> Tensor:
    logits, numbers = logits_of(outputs), class_numbers(targets)
    assert logits is not None and numbers is not None
    return F.cross_entropy(logits.float(), numbers)


def _bare_end(setup: Setup) -> Detour:
    """Leave out what follows the last operation with weights."""
    modes = [(module, module.training) for module in setup.net.modules()]
    count = count_weighted(setup.net, setup.batches[0][0])
    for module, training in modes:
        module.training = training
    return Detour(ACTIVATIONS, after=count)


def _relu_inside(setup: Setup, seen: OptimizerSeen) -> Setup | None:
    """ReLUs for the sigmoids and tanhs between layers, with the weights that go with ReLUs."""
    count = _bare_end(setup).after
    detour = Detour(SQUASHES, relu=True, before=count)
    with torch.no_grad(), detour:
        setup.net(setup.batches[0][0])
    started = _fill(setup, sigmoids=False)
    if not detour.taken or started is None:
        return None
    return replace(started, detour=detour, words="with ReLUs for sigmoids or tanhs, and Kaiming's weights")


def _no_dropout(setup: Setup, seen: OptimizerSeen) -> Setup | None:
    detour = Detour(DROPOUTS)
    with torch.no_grad(), detour:
        setup.net(setup.batches[0][0])
    return replace(setup, detour=detour, words="without dropout") if detour.taken else None


def _no_decay(setup: Setup, seen: OptimizerSeen) -> Setup | None:
    decay = seen.setting("weight_decay")
    if not decay:
        return None
    return replace(setup, settings={**setup.settings, "weight_decay": 0.0}, words=f"without weight decay ({decay:.3g})")


def _usual_settings(setup: Setup, seen: OptimizerSeen) -> Setup | None:
    """Momentum, betas and eps as torch has them (for SGD momentum 0.9), the rate as it is."""
    usual: dict[str, Any] = {}
    if (seen.setting("momentum") or 0.0) > 0:
        usual["momentum"] = 0.9 if seen.kind.lower() == "sgd" else 0.0
    if seen.setting("beta1") is not None:
        usual["betas"] = (0.9, 0.999)
    if seen.setting("eps") is not None:
        usual["eps"] = 1e-6 if seen.kind.lower() == "adadelta" else 1e-10 if seen.kind.lower() == "adagrad" else 1e-8
    if not usual:
        return None
    said = ", ".join(f"{name} {value}" for name, value in usual.items())
    return replace(setup, settings={**setup.settings, **usual}, words=f"with {said}")


def _no_clipping(setup: Setup, seen: OptimizerSeen) -> Setup | None:
    if setup.clip_norm is None:
        return None
    return replace(setup, clip_norm=None, words=f"without clipping to {setup.clip_norm:.3g}")


def _turn_sign(setup: Setup, seen: OptimizerSeen) -> Setup | None:
    """Minimise what is maximised, by the optimizer's setting or by a minus; else the loss itself has the wrong sign."""
    if seen.setting("maximize"):
        return replace(setup, settings={**setup.settings, "maximize": False}, words="minimised instead of maximised")
    return replace(setup, factor=-setup.factor, words="with the loss's sign turned")


def _shuffle(setup: Setup, seen: OptimizerSeen) -> Setup | None:
    dealt = mixed(setup.batches)
    return None if dealt is None or len(dealt) < 2 else replace(setup, batches=dealt, words="with shuffled batches")


def _full_precision(setup: Setup, seen: OptimizerSeen) -> Setup | None:
    small = any(weight.dtype in (torch.float16, torch.bfloat16) for weight in setup.net.parameters())
    if setup.autocast is None and not small:
        return None
    ready = [[(inputs.float() if inputs.is_floating_point() else inputs, targets) for inputs, targets in part]
             for part in (setup.batches, setup.judged)]  # fmt: skip
    return replace(setup, net=setup.net.float(), batches=ready[0], judged=ready[1], autocast=None, scaled=False,
                   words="in float32")  # fmt: skip


def _unfreeze(setup: Setup, seen: OptimizerSeen) -> Setup | None:
    if all(parameter.requires_grad for parameter in setup.net.parameters()):
        return None
    setup.net.requires_grad_(True)
    return replace(setup, words="with all parameters trainable")


def _train_mode(setup: Setup, seen: OptimizerSeen) -> Setup | None:
    return replace(setup, training=True, words="in training mode") if setup.training is False else None


# Those that are compared with the control; the order says nothing.
CHANGES: dict[str, Change] = {
    trials.LOWER_LR: _lr_times(0.1),
    trials.HIGHER_LR: _lr_times(10.0),
    trials.USUAL_LR: _lr_usual,
    trials.NEW_INIT: _start_again,
    trials.NEW_INIT_AND_LR: _start_again_gently,
    trials.STANDARDISED: _standardise,
    trials.CROSS_ENTROPY: _cross_entropy,
    trials.NO_DROPOUT: _no_dropout,
    trials.NO_DECAY: _no_decay,
    trials.USUAL_SETTINGS: _usual_settings,
    trials.NO_CLIPPING: _no_clipping,
    trials.SIGN_TURNED: _turn_sign,
    trials.SHUFFLED: _shuffle,
    trials.FULL_PRECISION: _full_precision,
    trials.RELU: _relu_inside,
    trials.UNFROZEN: _unfreeze,
    trials.TRAIN_MODE: _train_mode,
    trials.NO_AUGMENTATION: lambda setup, seen: learn_from_tests(setup),
}
