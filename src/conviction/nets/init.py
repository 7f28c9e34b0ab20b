"""Where the weights start: initialisations by name, applied to the convolutions and linear layers of any net."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

_SQUASHING = (nn.Sigmoid, nn.Tanh)


def _kaiming(weight: Tensor) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity="relu")


def _truncated(std: float) -> Callable[[Tensor], None]:
    return lambda weight: (nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std), None)[1]


def _normal(weight: Tensor) -> None:
    nn.init.normal_(weight, std=0.01)


def _xavier(weight: Tensor) -> None:
    nn.init.xavier_uniform_(weight)


STARTS: dict[str, Callable[[Tensor], None]] = {
    "kaiming": _kaiming,  # He et al. 2015, eq. 10: keeps the signal's variance through ReLUs
    "xavier": _xavier,  # Glorot & Bengio 2010, eq. 16
    "normal": _normal,  # AlexNet section 5 and VGG section 3.1: N(0, 0.01)
    "truncated-0.01": _truncated(0.01),
    "truncated-0.1": _truncated(0.1),
}


@torch.no_grad()
def initialise(net: nn.Module, start: str) -> None:
    """Give every layer of `net` its starting weights, in place.

    `start` is `pytorch` (the framework's default), a key of `STARTS`, or `auto`: Xavier where the net squashes with
    sigmoids, else Kaiming with a small last layer, so that the first loss is ln(classes) and no class is favoured.
    """
    for module in net.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    if start == "pytorch":
        return
    squashing = any(isinstance(module, _SQUASHING) for module in net.modules())
    fill = STARTS["xavier" if squashing else "kaiming"] if start == "auto" else STARTS[start]
    layers = [module for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    for layer in layers:
        fill(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    if start == "auto" and layers:
        nn.init.normal_(layers[-1].weight, std=0.01)
