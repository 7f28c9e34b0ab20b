"""Batch normalisation from scratch, as a function and a layer, in plain tensor arithmetic (Ioffe & Szegedy 2015)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from conviction.errors import UsageError
from conviction.text import format_shape


def batch_norm(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise every channel of `x`, [N, C] or [N, C, H, W], then scale by `gamma` and shift by `beta`, each [C].

    In training the mean and variance are those of the batch (over N, or N, H and W: a convolution treats all pixels
    alike), and the running ones move towards them by `momentum`, in place; else the running ones are used. The batch is
    divided by its biased variance (algorithm 1), but the running variance is unbiased, as it stands for the population
    (algorithm 2). Without `gamma` or `beta` that step is left out.

    Raises `UsageError` for another shape, and in training for a single value in a channel: its variance says nothing.
    """
    if x.dim() not in (2, 4):
        raise UsageError(f"batch norm got {format_shape(x.shape)}", "", "give it [N, C] or [N, C, H, W]")
    values = x.to(torch.promote_types(x.dtype, torch.float32))  # half precision cannot hold sums of squares
    if training:
        mean, var = _batch_moments(values)
        _move_running(running_mean, running_var, mean, var, values.numel() // values.shape[1], momentum)
    else:
        mean, var = running_mean, running_var
    normal = (values - _by_channel(mean, x)) / torch.sqrt(_by_channel(var, x) + eps)
    if gamma is not None:
        normal = _by_channel(gamma, x) * normal
    if beta is not None:
        normal = normal + _by_channel(beta, x)
    return normal.to(x.dtype)


class BatchNorm(nn.Module):
    """Batch norm of [N, C] (`dims=2`, after a linear layer) or [N, C, H, W] (`dims=4`, after a convolution).

    `gamma` and `beta` are learned, starting at 1 and 0. A number given for either fixes it there, and `affine=False`
    fixes both. The running statistics start at mean 0, variance 1.
    """

    gamma: Tensor
    beta: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        num_features: int,
        dims: int = 4,
        affine: bool = True,
        *,
        gamma: float | None = None,
        beta: float | None = None,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        if dims not in (2, 4):
            raise UsageError(
                f"dims = {dims} is no shape that batch norm takes", "", "use 2 for [N, C], 4 for [N, C, H, W]"
            )
        self.num_features, self.dims, self.momentum, self.eps = num_features, dims, momentum, eps
        self._starts = {"gamma": 1.0 if gamma is None else gamma, "beta": 0.0 if beta is None else beta}
        for name, fixed in (("gamma", gamma), ("beta", beta)):
            if affine and fixed is None:
                self.register_parameter(name, nn.Parameter(torch.empty(num_features)))
            else:
                self.register_buffer(name, torch.empty(num_features))
        self.register_buffer("running_mean", torch.empty(num_features))
        self.register_buffer("running_var", torch.empty(num_features))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Go back to the start: scale, shift and running statistics."""
        for name, start in {**self._starts, "running_mean": 0.0, "running_var": 1.0}.items():
            getattr(self, name).fill_(start)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C] or [N, C, H, W], as `dims` says, to the same shape."""
        if x.dim() != self.dims or x.shape[1] != self.num_features:
            wanted = f"[N, {self.num_features}{', H, W' if self.dims == 4 else ''}]"
            raise UsageError(
                f"batch norm of {wanted} got {format_shape(x.shape)}", "", "set num_features and dims to match"
            )
        return batch_norm(
            x, self.gamma, self.beta, self.running_mean, self.running_var, self.training, self.momentum, self.eps
        )

    def extra_repr(self) -> str:
        """Say the size, and what is fixed."""
        learned = {name for name, _ in self.named_parameters()}
        fixed = [f"{name}={start:g}" for name, start in self._starts.items() if name not in learned]
        return ", ".join([str(self.num_features), f"dims={self.dims}", *fixed])


def _by_channel(vector: Tensor, x: Tensor) -> Tensor:
    """Shape [C] as [1, C] or [1, C, 1, 1], to meet every position of `x`."""
    return vector.view(1, -1, *[1] * (x.dim() - 2))


def _batch_moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of every channel, each [C]."""
    if values.numel() // values.shape[1] < 2:
        raise UsageError(
            f"batch norm in training got one value a channel, {format_shape(values.shape)}", "", "use a larger batch"
        )
    positions = [dim for dim in range(values.dim()) if dim != 1]
    mean = values.mean(positions)
    return mean, (values - _by_channel(mean, values)).square().mean(positions)


@torch.no_grad()
def _move_running(
    running_mean: Tensor, running_var: Tensor, mean: Tensor, var: Tensor, count: int, momentum: float
) -> None:
    running_mean += momentum * (mean - running_mean)
    running_var += momentum * (var * count / (count - 1) - running_var)
