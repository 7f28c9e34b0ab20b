"""Detours: a net runs with some of its operations left out or replaced, wherever its author has put them.

A dropout or softmax may be a module, a function called in `forward`, or imported under another name: torch itself says
which operation is called (`TorchFunctionMode`), so that none of them needs the net's text.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# By the names of torch's functions, methods and operators.
_WEIGHTED = {"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear",
             "bilinear", "addmm", "mm", "matmul", "__matmul__", "__rmatmul__", "bmm", "einsum", "batch_norm",
             "layer_norm", "group_norm", "instance_norm"}  # fmt: skip
DROPOUTS = frozenset({"dropout", "dropout_", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout",
                      "feature_alpha_dropout", "feature_dropout"})  # fmt: skip
SQUASHES = frozenset({"sigmoid", "sigmoid_", "tanh", "tanh_", "hardsigmoid", "softsign", "logsigmoid"})
ACTIVATIONS = SQUASHES | DROPOUTS | {"relu", "relu_", "relu6", "hardtanh", "hardtanh_", "softmax", "log_softmax",
                                     "softplus", "elu", "gelu", "silu", "leaky_relu", "threshold"}  # fmt: skip


class Detour(TorchFunctionMode):
    """Within it, operations of the given `names` hand their input on, or its ReLU.

    Only those among them count that come when at least `after` operations with weights have run, and fewer than
    `before`. `weighted` is how many ran so far, `taken` how often the detour was taken; `restart` begins a new pass.
    """

    def __init__(self, names: frozenset[str], *, relu: bool = False, after: int = 0, before: int | None = None) -> None:
        super().__init__()
        self.names, self.relu, self.after, self.before = names, relu, after, before
        self.weighted = self.taken = 0

    def restart(self) -> Detour:
        """Begin a new pass through the net."""
        self.weighted = 0
        return self

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _WEIGHTED:
            self.weighted += 1
        elif name in self.names and self._here():
            given = args[0] if args else kwargs.get("input")
            if isinstance(given, Tensor):
                self.taken += 1
                return given.relu() if self.relu else given
        return func(*args, **kwargs)

    def _here(self) -> bool:
        return self.weighted >= self.after and (self.before is None or self.weighted < self.before)


def count_weighted(net: nn.Module, inputs: Tensor) -> int:
    """Return how many operations with weights one pass of `inputs` runs; `net` is put into eval mode."""
    net.eval()
    with torch.no_grad(), Detour(frozenset()) as seen:
        net(inputs)
    return seen.weighted
