"""The probe: one forward and backward pass over any net, read off as numbers by layer. The net stays as it was."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from conviction.randomness import random_state_kept

_ATEN = torch.ops.aten
_DROPOUTS = nn.modules.dropout._DropoutNd
_RECTIFIERS = {_ATEN.relu, _ATEN.relu_, _ATEN.clamp_min, _ATEN.clamp_min_, _ATEN.relu6}
# The derivative of a squashing function, from its output.
_SLOPES: dict[Any, Callable[[Tensor], Tensor]] = {
    _ATEN.sigmoid: lambda output: output * (1 - output),
    _ATEN.sigmoid_: lambda output: output * (1 - output),
    _ATEN.tanh: lambda output: 1 - output * output,
    _ATEN.tanh_: lambda output: 1 - output * output,
}
# What autograd calls the operations that move numbers and change none.
_MOVES = {"view", "unsafeview", "reshapealias", "squeeze", "unsqueeze", "transpose", "permute", "t", "clone", "tocopy",
          "alias", "slice"}  # fmt: skip


@dataclass(frozen=True)
class Signal:
    """What one layer with a weight puts out and gets back.

    `rms` is of its outputs, `std` of the same outputs from sample to sample (rms over the units), `weight_rms` and
    `gradient_rms` of its weight; NaN where a number is not finite. `gradient_rms` is None where no gradient arrives.
    `dead_share` is the share of the units after the ReLUs that follow (channels, or features of a linear layer) that
    are zero on every sample, `slope` the mean derivative of the sigmoid or tanh that follows; None where none does.
    `alike` says that all units have the same weights and the same gradients, and so will stay the same.
    """

    layer: str
    kind: str
    rms: float
    std: float
    weight_rms: float
    gradient_rms: float | None = None
    dead_share: float | None = None
    slope: float | None = None
    alike: bool = False


@dataclass(frozen=True)
class Probe:
    """What one pass over a batch shows, in training mode (batch norm by the batch) with dropout asleep.

    `loss` is the caller's, `cross_entropy` that of the logits alone. `input_dependence` is the deviation of the logits
    from sample to sample over their rms; None for a single sample and for logits that are all zero. `max_softmax` is
    the mean probability of the likeliest class. `made_by` is the last operation on the logits in autograd's words
    (`addmm`, `relu`, `softmax`; `dropout` for such a module). `sums_to_one` says that the rows of logits are
    probabilities. `not_finite` is the first module whose output is not finite, "" where it is none of them.
    """

    samples: int
    classes: int
    loss: float
    cross_entropy: float
    logits_rms: float
    input_dependence: float | None
    max_softmax: float
    made_by: str
    sums_to_one: bool
    not_finite: str
    signals: tuple[Signal, ...]


def probe(net: nn.Module, images: Tensor, labels: Tensor, loss: Callable[[Any, Tensor], Tensor]) -> Probe:
    """Run `net` once on images [N, C, H, W] with labels (int64 [N]) and report what its layers put out and get back.

    `loss(outputs, labels)` gives the scalar that is differentiated; outputs are logits [N, classes], or a tuple that
    begins with them (auxiliary heads). The net is run as it is, not copied: some nets cannot be, and large ones should
    not. Weights, gradients, buffers, modes, hooks and the random state are afterwards as they were.
    """
    with left_as_it_was(net, images.device), torch.inference_mode(False), torch.enable_grad():
        train_without_dropout(net)  # whose noise would pass for dependence on the input
        with _Watcher(net) as watcher:
            outputs = net(images)
        logits = outputs[0] if isinstance(outputs, tuple) else outputs
        scalar = loss(outputs, labels)
        if scalar.requires_grad:
            scalar.backward()
        with torch.no_grad():
            return _read(watcher, logits, labels, float(scalar))


def train_without_dropout(net: nn.Module) -> None:
    """Put a net into training mode and its dropouts to sleep, those of scripted parts too."""
    net.train()
    for module in net.modules():
        if isinstance(module, _DROPOUTS) or "Dropout" in getattr(module, "original_name", ""):
            module.eval()


def _read(watcher: _Watcher, logits: Tensor, labels: Tensor, loss: float) -> Probe:
    """Put down what was seen as numbers."""
    exact = logits.detach().double().cpu()
    rms = rms_of(exact)
    spread = std_across(exact)
    shares = exact.softmax(1)
    return Probe(
        samples=len(exact),
        classes=exact.shape[1],
        loss=loss,
        cross_entropy=float(F.cross_entropy(exact, labels.cpu())),
        logits_rms=rms,
        input_dependence=spread / rms if rms and len(exact) > 1 else None,
        max_softmax=float(shares.max(1).values.mean()),
        made_by="dropout" if watcher.ends_in_dropout(logits) else _operation(logits),
        sums_to_one=bool((exact >= 0).all() and ((exact.sum(1) - 1).abs() < 1e-3).all()) and exact.shape[1] > 1,
        not_finite=watcher.not_finite,
        signals=tuple(watcher.signal(name) for name in watcher.seen),
    )


@dataclass
class _Seen:
    """A layer while the batch runs: its module and what of its signal is known already."""

    module: nn.Module
    rms: float
    std: float
    dead_share: float | None = None
    slope: float | None = None


class _Watcher(TorchDispatchMode):
    """Follows a forward pass: hooks tell which layer runs, the dispatcher which nonlinearity, functional ones too."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.seen: dict[str, _Seen] = {}
        self.latest: _Seen | None = None
        self.not_finite = ""
        self.last_leaf: tuple[nn.Module, Tensor] | None = None
        self.handles: list[Any] = []

    def __enter__(self) -> _Watcher:
        for name, module in self.net.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue  # takes no hooks
            # The name is bound as a default: a closure would see only the last one.
            self.handles.append(
                module.register_forward_hook(lambda m, i, output, name=name: self.leave(name, m, output))
            )
        return super().__enter__()

    def __exit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None:
        super().__exit__(exc_type, exc_val, exc_tb)
        for handle in self.handles:
            handle.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        operation, layer = func.overloadpacket, self.latest
        if layer is not None and operation in _RECTIFIERS and output.ndim > 1:
            layer.dead_share = float((output.transpose(0, 1).flatten(1).amax(1) == 0).float().mean())
        elif layer is not None and operation in _SLOPES:
            layer.slope = float(_SLOPES[operation](output).mean())
        return output

    @torch.no_grad()
    def leave(self, name: str, module: nn.Module, output: Any) -> None:
        """Note what a module returns; of a layer that runs several times the first."""
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return
        if next(module.children(), None) is None:
            self.last_leaf = (module, output)
            if not self.not_finite and not bool(output.isfinite().all()):
                self.not_finite = name or type(module).__name__
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim > 1 and name not in self.seen:
            self.latest = self.seen[name] = _Seen(module, rms_of(output), std_across(output))

    def ends_in_dropout(self, logits: Tensor) -> bool:
        """Whether the last module to run was dropout and its output is the logits."""
        if self.last_leaf is None:
            return False
        module, output = self.last_leaf
        same = output.data_ptr() == logits.data_ptr() and output.numel() == logits.numel()
        return isinstance(module, _DROPOUTS) and module.p > 0 and same

    def signal(self, name: str) -> Signal:
        """Put the forward pass and the gradients of a layer together."""
        seen = self.seen[name]
        weight = seen.module.weight
        assert isinstance(weight, Tensor)
        gradient = weight.grad if weight.is_leaf else None  # of a computed weight autograd keeps none
        return Signal(
            layer=name or type(seen.module).__name__,
            kind=type(seen.module).__name__,
            rms=seen.rms,
            std=seen.std,
            weight_rms=rms_of(weight),
            gradient_rms=None if gradient is None else rms_of(gradient),
            dead_share=seen.dead_share,
            slope=seen.slope,
            alike=gradient is not None and _units_alike(seen.module, weight, gradient),
        )


def rms_of(values: Tensor) -> float:
    """Return the root mean square, of the smallest numbers too; NaN where one is not finite."""
    values = values.detach() if values.dtype == torch.float64 else values.detach().float()
    norm, root = float(torch.linalg.vector_norm(values)), math.sqrt(max(1, values.numel()))
    if 1e-12 < norm < math.inf:
        return norm / root
    # 1e-30 squared is nothing in float32, and 1e30 infinite: the norm is taken again in units of the largest.
    largest = float(values.abs().amax()) if values.numel() else 0.0
    if not math.isfinite(largest):
        return math.nan
    return largest * float(torch.linalg.vector_norm(values / largest)) / root if largest else 0.0


def std_across(values: Tensor) -> float:
    """Return the deviation from sample to sample (dimension 0), rms over all else; NaN where one is not finite."""
    values = values if values.dtype == torch.float64 else values.float()
    return rms_of(values - values.mean(0, keepdim=True))


def _units_alike(module: nn.Module, weight: Tensor, gradient: Tensor) -> bool:
    """Whether all units of a layer have the same weights, to the bit, and the same gradients, to rounding."""
    units = 1 if isinstance(module, nn.modules.conv._ConvTransposeNd) else 0
    if weight.shape[units] < 2:
        return False
    first, slope = weight.narrow(units, 0, 1), gradient.narrow(units, 0, 1)
    return bool((weight == first).all() and ((gradient - slope).abs() <= 1e-4 * gradient.abs().amax()).all())


def _operation(logits: Tensor) -> str:
    """Name the operation that made the logits, as autograd knows it; views and copies are looked through."""
    node = logits.grad_fn
    while node is not None:
        name = re.sub(r"Backward\d*$", "", node.name()).lower()
        if name not in _MOVES or not node.next_functions:
            return name
        node = node.next_functions[0][0]
    return ""


@contextlib.contextmanager
def left_as_it_was(net: nn.Module, device: torch.device) -> Generator[None]:
    """Put modes, gradients, buffers and the random state back, whatever happens within."""
    modes = [(module, module.training) for module in net.modules()]
    gradients = [(parameter, parameter.grad) for parameter in net.parameters()]
    buffers = [(module, dict(module._buffers)) for module in net.modules()]
    values = [(buffer, buffer.detach().clone()) for buffer in net.buffers()]
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        with random_state_kept(device):
            yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, named in buffers:  # a forward may have put other tensors in their place, or more of them
            for name in set(module._buffers.keys()) - set(named):
                delattr(module, name)
            for name, buffer in named.items():
                module._buffers[name] = buffer
        with torch.no_grad():
            for buffer, value in values:
                buffer.copy_(value)
