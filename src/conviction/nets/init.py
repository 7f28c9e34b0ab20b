"""Where the weights start: initialisations by name, applied to the convolutions and linear layers of any net."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from conviction.errors import UsageError
from conviction.nets.blocks import WithAuxiliaryHeads
from conviction.text import printable, suggest

_LAYERS = (nn.Conv2d, nn.Linear)
# Logits start well below 1, so that the first loss is ln(classes) within 0.1 even after pools that raise the signal.
_LOGITS_GAIN = 0.05


def _kaiming(weight: Tensor) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity="relu")


def _truncated(std: float) -> Callable[[Tensor], None]:
    def fill(weight: Tensor) -> None:
        nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)

    return fill


def _normal(weight: Tensor) -> None:
    nn.init.normal_(weight, std=0.01)


def _xavier(weight: Tensor) -> None:
    nn.init.xavier_uniform_(weight)


def _xavier_for_sigmoids(weight: Tensor) -> None:
    nn.init.xavier_uniform_(weight, gain=4.0)


def _orthogonal(weight: Tensor) -> None:
    nn.init.orthogonal_(weight)


STARTS: dict[str, Callable[[Tensor], None]] = {
    "kaiming": _kaiming,  # He et al. 2015, eq. 10: keeps the signal's variance through ReLUs
    "xavier": _xavier,  # Glorot & Bengio 2010, eq. 16
    "normal": _normal,  # AlexNet section 5 and VGG section 3.1: N(0, 0.01)
    "truncated-0.01": _truncated(0.01),
    "truncated-0.1": _truncated(0.1),
    "lsuv": _orthogonal,  # Mishkin & Matas 2015, step 1; `equalise` is step 2, which needs images
}

# What `auto` takes when the net has such a layer. Xavier's rule counts on a slope of 1 at 0: a sigmoid's is 1/4, so
# without the gain of 4 LeNet's signal dies out and its loss stays at ln(10) for hundreds of steps.
_FOR_ACTIVATION: dict[type[nn.Module], Callable[[Tensor], None]] = {
    nn.ReLU: _kaiming,
    nn.Sigmoid: _xavier_for_sigmoids,
    nn.Tanh: _xavier,
}


def check_start(start: str) -> None:
    """Raise `UsageError` for a start that `initialise` does not know."""
    known = ("auto", "paper", "pytorch", *STARTS)
    if start not in known:
        raise UsageError(
            f"init = {printable(start)!r} is unknown{suggest(str(start), known)}", "", f"use one of {', '.join(known)}"
        )


@torch.no_grad()
def initialise(net: nn.Module, start: str, paper: str = "kaiming") -> None:
    """Give every layer of `net` its starting weights, in place.

    `start` is `pytorch` (the framework's default), a key of `STARTS`, `paper` (the key named by `paper`), or `auto`:
    Kaiming for ReLUs, Xavier for sigmoids (with gain 4) and tanh, and small logits, so that the first loss is
    ln(classes) and no class is favoured.

    Raises `UsageError` for any other start.
    """
    check_start(start)
    for module in net.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    if start == "pytorch":
        return
    fill = _fitting(net) if start == "auto" else STARTS[paper if start == "paper" else start]
    for layer in _layers(net):
        fill(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    if start == "auto":
        shrink_logits(net)


@torch.no_grad()
def shrink_logits(net: nn.Module) -> None:
    """Draw the weights that make the logits, of auxiliary heads too, so small that the first loss is ln(classes)."""
    for layer in _logit_layers(net):
        nn.init.normal_(layer.weight, std=_LOGITS_GAIN / math.sqrt(layer.weight[0].numel()))


@torch.no_grad()
def equalise(net: nn.Module, images: Tensor, tolerance: float = 0.1, tries: int = 10) -> None:
    """Scale each layer's weights, first to last, until its outputs on `images` have variance 1 (LSUV, step 2).

    `images` [N, C, H, W] are a batch as the net will read it. The net is left in the mode it was in. Auxiliary heads,
    which are silent outside training, keep their weights. Source: Mishkin & Matas 2015, algorithm 1.
    """
    done: set[nn.Module] = set()

    def scale(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Scale a layer while the net runs; the layers after it read the scaled output, so that one pass is enough."""
        assert isinstance(layer, _LAYERS)
        for _ in range(0 if layer in done else tries):
            deviation = output.float().std().item()
            if not (deviation and math.isfinite(deviation)) or abs(deviation**2 - 1) < tolerance:
                break
            layer.weight /= deviation
            output = layer.forward(*inputs)
        done.add(layer)
        return output

    training = net.training
    handles = [layer.register_forward_hook(scale) for layer in _layers(net)]
    try:
        net.eval()(images)
    finally:
        net.train(training)
        for handle in handles:
            handle.remove()


def _fitting(net: nn.Module) -> Callable[[Tensor], None]:
    present = {type(module) for module in net.modules()}
    return next((fill for activation, fill in _FOR_ACTIVATION.items() if activation in present), _kaiming)


def _layers(net: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    return [module for module in net.modules() if isinstance(module, _LAYERS)]


def _logit_layers(net: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    """Return the layer that gives the logits, and those of the auxiliary heads."""
    heads = [head for module in net.modules() if isinstance(module, WithAuxiliaryHeads) for head in module.taps]
    ends = [net, *(net.get_submodule(head) for head in heads)]
    return [layers[-1] for layers in map(_layers, ends) if layers]
