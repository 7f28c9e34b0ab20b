"""CUDA's autocast and dropout as a mode for any tensors, so that a run without a GPU keeps what a GPU would keep.

torch casts by the device of the tensors, with other lists of operations for the CPU, and keeps a float mask of
dropout there. Inside `casting` the operations of a net are cast as CUDA's lists say (torch's "CUDA Ops that can
autocast" page), and dropout keeps a mask of one byte a number.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_LOWER = frozenset({
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear", "matmul", "mm",
    "mv", "bmm", "addmm", "addmv", "addbmm", "baddbmm", "chain_matmul", "einsum", "prelu", "__matmul__", "__rmatmul__",
    "scaled_dot_product_attention",
})  # fmt: skip
_FULL = frozenset({
    "layer_norm", "group_norm", "norm", "exp", "expm1", "log", "log10", "log2", "log1p", "pow", "__pow__", "__rpow__",
    "reciprocal", "rsqrt", "sinh", "cosh", "tan", "acos", "asin", "erfinv", "cosine_similarity", "softplus", "nll_loss",
    "binary_cross_entropy_with_logits", "mse_loss", "l1_loss", "smooth_l1_loss", "kl_div", "cdist", "renorm",
    "logsumexp", "soft_margin_loss", "margin_ranking_loss", "hinge_embedding_loss", "cosine_embedding_loss", "dist",
})  # fmt: skip
# These are computed and given out in full, from what they are given.
_FULL_RESULT = frozenset({"softmax", "log_softmax", "sum", "prod", "cumsum", "cumprod"})


class Casting(TorchFunctionMode):
    """Casts what runs while it is active to `dtype` or float32; None casts nothing and only settles dropout.

    A parameter is cast once and its copy kept, as autocast keeps it, until the mode is left.
    """

    def __init__(self, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.dtype = dtype
        self._copies: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "dropout" and isinstance(args[0], Tensor):
            return _dropout(*args, **kwargs)
        if self.dtype is not None:
            if name in _LOWER:
                args, kwargs = self._cast(args, self.dtype), self._cast(kwargs, self.dtype)
            elif name in _FULL:
                args, kwargs = self._cast(args, torch.float32), self._cast(kwargs, torch.float32)
            elif name in _FULL_RESULT and kwargs.get("dtype") is None and _is_low(args):
                kwargs = {**kwargs, "dtype": torch.float32}
        return func(*args, **kwargs)

    def __exit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None:
        self._copies.clear()
        super().__exit__(exc_type, exc_val, exc_tb)

    def _cast(self, parts: Any, dtype: torch.dtype) -> Any:
        if isinstance(parts, Tensor):
            return self._cast_one(parts, dtype)
        if isinstance(parts, (tuple, list)):
            return type(parts)(self._cast(part, dtype) for part in parts)
        if isinstance(parts, dict):
            return {name: self._cast(part, dtype) for name, part in parts.items()}
        return parts

    def _cast_one(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        if not tensor.is_floating_point() or tensor.dtype in (dtype, torch.float64):
            return tensor
        if not (isinstance(tensor, nn.Parameter) and tensor.requires_grad):
            return tensor.to(dtype)
        if id(tensor) not in self._copies:
            self._copies[id(tensor)] = tensor.to(dtype)
        return self._copies[id(tensor)]


def _is_low(args: tuple[Any, ...]) -> bool:
    return bool(args) and isinstance(args[0], Tensor) and args[0].dtype in (torch.float16, torch.bfloat16)


def _dropout(images: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Drop as CUDA does, with a mask of booleans."""
    return torch.native_dropout(images, p, True)[0] if training and p > 0 else images
