"""The recipe of each net: what `fit` takes where nothing is given, in one table, each row with its reason.

Rates are peak rates at a batch of 128, one for each optimizer. AdamW's were chosen on the validation split of
fashion-mini (3 epochs, one-cycle schedule, rates about a factor of 2 apart), at or a little below the best; SGD's for
LeNets, VGG-7, NiN and ResNets likewise (rates a factor of 3 apart), the others' by the nearest of these. All rows
share what `training/deciding.py` settles: AdamW, the one-cycle schedule with its own warm-up over the first 30 % of the
run, epochs by the size of the data, and augmentation by what its images allow.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class NetRecipe:
    """One row: peak rates at a batch of 128, the largest norm of the gradient (0 never clips), label smoothing."""

    nets: str
    adamw: float
    sgd: float
    clip_norm: float
    label_smoothing: float
    reason: str


# The first row whose pattern (words between spaces, `*` for any letters) matches a net's name without its width is its.
RECIPES = (
    NetRecipe("lenet", 0.02, 0.5, 1.0, 0.0, "sigmoids shrink gradients: small rates leave it on its first plateau"),
    NetRecipe("lenet-bn", 0.02, 0.5, 0.0, 0.0, "sigmoids again, and batch norm makes large steps safe"),
    NetRecipe("lenet-relu", 0.006, 0.15, 1.0, 0.0, "five layers stand large steps; 0.012 gains only in short runs"),
    NetRecipe("alexnet-small", 0.002, 0.05, 1.0, 0.0, "no norm: clipping stops the one batch that would throw it"),
    NetRecipe("alexnet*", 0.0005, 0.02, 1.0, 0.0, "two linear layers of 4096 overshoot at more"),
    NetRecipe("vgg7-bn", 0.003, 0.05, 0.0, 0.0, "batch norm makes depth easy"),
    NetRecipe("vgg*-bn", 0.0005, 0.05, 0.0, 0.0, "their linear layers of 4096 have no norm and overshoot at more"),
    NetRecipe("vgg7", 0.002, 0.15, 1.0, 0.0, "shallow for a VGG"),
    NetRecipe("vgg11", 0.001, 0.03, 1.0, 0.0, "eleven layers without a norm"),
    NetRecipe("vgg*", 0.0007, 0.02, 1.0, 0.0, "the deeper without a norm, the smaller the step that it stands"),
    NetRecipe("nin*", 0.002, 0.2, 1.0, 0.0, "at 0.004 its first epoch is lost; no norm, and logits that are averages"),
    NetRecipe("googlenet-book", 0.001, 0.03, 1.0, 0.0, "22 layers without a norm: 0.004 is too much"),
    NetRecipe("inception-v* inception-resnet-*", 0.003, 0.05, 0.0, 0.1, "label smoothing as in its paper (section 7)"),
    NetRecipe("googlenet* inception-bn", 0.003, 0.05, 0.0, 0.0, "batch norm; auxiliary losses count 0.3"),
    NetRecipe("resnet9*", 0.0035, 0.1, 0.0, 0.1, "short and wide, its logits tempered: sure answers cost it accuracy"),
    NetRecipe("resnet*", 0.002, 0.05, 0.0, 0.0, "flat from 0.001 to 0.003"),
    NetRecipe("densenet*", 0.005, 0.1, 0.0, 0.0, "flat from 0.001 to 0.03"),
)

# A net of the user's own is known by what decides how large a step it stands.
_OWN = {
    "squashing, normed": NetRecipe("", 0.02, 0.5, 0.0, 0.0, "sigmoids or tanh with norms"),
    "squashing": NetRecipe("", 0.005, 0.1, 1.0, 0.0, "sigmoids or tanh shrink gradients"),
    "wide": NetRecipe("", 0.0005, 0.02, 1.0, 0.0, "large linear layers within overshoot, norms elsewhere or not"),
    "normed": NetRecipe("", 0.003, 0.05, 0.0, 0.0, "norms make large steps safe"),
    "shallow": NetRecipe("", 0.001, 0.02, 1.0, 0.0, "a few layers without a norm"),
    "deep": NetRecipe("", 0.0005, 0.01, 1.0, 0.0, "many layers without a norm"),
}
_SHALLOW = 10  # layers with weights
_WIDE = 2048  # outputs of a linear layer that is not the last
_RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Mish)


def find_recipe(net: nn.Module, name: str | None = None) -> NetRecipe:
    """Return the row of a net that `build` knows by `name`, or of the kind that a net of the user's own is of."""
    stem = (name or "").partition("/")[0]
    for row in RECIPES:
        if any(fnmatch.fnmatchcase(stem, pattern) for pattern in row.nets.split()):
            return row
    return _OWN[kind_of(net)]


def kind_of(net: nn.Module) -> str:
    """Return the kind of a net: `squashing, normed`, `squashing`, `wide`, `normed`, `shallow` or `deep`."""
    modules = list(net.modules())
    normed = any(
        isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)) for module in modules
    )
    squashing = any(isinstance(module, (nn.Sigmoid, nn.Tanh)) for module in modules)
    # Beside rectifiers a sigmoid is a gate, as in squeeze-and-excitation.
    if squashing and not any(isinstance(module, _RECTIFIERS) for module in modules):
        return "squashing, normed" if normed else "squashing"
    if any(width >= _WIDE for width in [each.out_features for each in modules if isinstance(each, nn.Linear)][:-1]):
        return "wide"
    layers = sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in modules)
    return "normed" if normed else "shallow" if layers <= _SHALLOW else "deep"
