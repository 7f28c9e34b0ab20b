"""How long a training step takes: measured in short on the device at hand, reckoned from datasheets for another."""

from __future__ import annotations

import math
import re
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conviction.errors import ResourceError, UsageError
from conviction.planning.devices import Device
from conviction.planning.ghosts import check_sizes, meta_copy, number_type, refusal, trainable_parameters
from conviction.planning.step_trace import LOW, heads_of
from conviction.randomness import random_state_kept
from conviction.text import printable

# What kernels reach of the makers' peaks: at worst, as expected, at best. Set so that what NVIDIA publishes for
# ResNet-50 (DeepLearningExamples, ResNet50 v1.5 for PyTorch: training and prediction in fp32, tf32 and fp16 on V100,
# A100 and T4) lies within; that other nets and cards lie within too is an assumption.
MATH_EFFICIENCY = {"fp32": (0.30, 0.60, 0.90), "bf16": (0.15, 0.45, 0.80), "fp16": (0.15, 0.45, 0.80)}
BANDWIDTH_EFFICIENCY = (0.32, 0.55, 0.90)
# The device starts an operation in about 2 microseconds while it is kept fed (an assumption), and it cannot be fed
# faster than eager PyTorch asks: ResNet-50's 175 operations on a single image take 10 ms in those tables, and a third
# of that on a fast processor of today (an assumption).
START_SECONDS = (4e-6, 2e-6, 1e-6)
ASKING_SECONDS = (60e-6, 25e-6, 8e-6)

# The batch grows while a step at the larger one would take this share of the time left: its first step is a warm-up.
_STEP_SHARE = 0.4
_MOST_STEPS = 20
# A batch beyond those measured may use the cores better or leave the caches: by how much at most is an assumption.
_BEYOND = 1.25


@dataclass(frozen=True)
class Load:
    """What one layer does in one phase (`forward`, `backward`, `optimizer`, `predict`) of one step, whole batch.

    `flops` are twice its multiply-accumulates, `moved_bytes` what its operations read and write, `operations` how many
    kernels it starts. `convolution` says that the products are convolutions, which may run in tf32.
    """

    name: str
    phase: str
    flops: float
    moved_bytes: float
    operations: int = 1
    convolution: bool = True


@dataclass(frozen=True)
class Duration:
    """Seconds of one step at one batch size: at best, as expected, at worst.

    `how` is `calibrated` (measured here, at `measured_batches`) or `extrapolated` (reckoned from datasheets).
    """

    low_seconds: float
    expected_seconds: float
    high_seconds: float
    how: str
    measured_batches: tuple[int, ...] = ()


def estimate_step(loads: Iterable[Load], device: Device, precision: str = "fp32") -> Duration | None:
    """Reckon the seconds that some loads take on a device of the table; None where its rates are not known.

    A roofline (Williams et al. 2009): each load takes the longer of its products at the device's peak and its bytes at
    its bandwidth, each times the share that kernels reach, and a start for each operation; all together no less than
    eager PyTorch takes to ask for them. Hardware without the number format has no rate: torch imitates bf16 on a T4.
    """
    loads = tuple(loads)
    high, expected, low = (_roofline(loads, device, precision, case) for case in range(3))
    if low is None or expected is None or high is None:
        return None
    return Duration(low, expected, high, "extrapolated")


def _roofline(loads: tuple[Load, ...], device: Device, precision: str, case: int) -> float | None:
    seconds, bandwidth = 0.0, device.bandwidth_bytes_per_second
    for load in loads:
        peak = device.peak_flop_per_second(precision, load.convolution)
        if peak is None or bandwidth is None:
            return None
        products = load.flops / (peak * MATH_EFFICIENCY[precision][case])
        traffic = load.moved_bytes / (bandwidth * BANDWIDTH_EFFICIENCY[case])
        seconds += max(products, traffic) + load.operations * START_SECONDS[case]
    return max(seconds, ASKING_SECONDS[case] * sum(load.operations for load in loads))


def calibrate(
    net: nn.Module,
    image: tuple[int, int, int],
    batch_size: int,
    device: str | torch.device = "cpu",
    *,
    optimizer: str = "sgd",
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    precision: str = "fp32",
    channels_last: bool = False,
    predict: bool = False,
    most_images: int | None = None,
    seconds: float = 2.0,
) -> Duration:
    """Measure training steps of a copy of `net` for about `seconds`, and tell how long one of `batch_size` takes.

    Steps are made on random images of shape `image` (C, H, W) at growing batches, of which the largest two count: what
    a step takes is a + b x batch, a and b not negative. One step is always made, however long it takes; no more than
    `most_images` go through at once. `device` is `cpu`, `cuda` or `cuda:1`, `optimizer` `sgd` or `adamw`, `precision`
    `fp32`, `bf16` or `fp16`; with `predict` it is a prediction that is measured. The net, its modes and hooks and
    the random state stay as they are; a net on the meta device gets numbers in the copy. Images are not loaded.

    Raises `UsageError` for a net that cannot be copied, take such images or be trained.
    """
    check_sizes(image, batch_size)
    where = _checked(device, precision, seconds)
    with random_state_kept(where), torch.inference_mode(False), torch.enable_grad():
        copy = _real_copy(net, where).train(not predict)
        if channels_last:
            copy = copy.to(memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]  # torch has it
        stepping = _Stepping(copy, image, where, precision, channels_last)
        if not predict:
            stepping.optimizer = _optimizer(copy, optimizer, momentum, weight_decay)
        measured = _measure(stepping, min(batch_size, most_images or batch_size), seconds)
    del copy, stepping
    torch.cuda.empty_cache()  # whoever trains next finds the memory as it was; nothing happens without CUDA
    return _line_through(measured, batch_size)


@dataclass
class _Stepping:
    """A copy of a net with all that a step needs."""

    net: nn.Module
    image: tuple[int, int, int]
    device: torch.device
    precision: str
    channels_last: bool
    optimizer: torch.optim.Optimizer | None = None

    def __post_init__(self) -> None:
        # A small scale, as a step that overflows is left out and costs less.
        self.scaler = torch.amp.GradScaler(self.device.type, init_scale=1024.0, enabled=self.precision == "fp16")
        self.casting = torch.autocast(self.device.type, LOW.get(self.precision), enabled=self.precision in LOW)

    def seconds_at(self, batch: int) -> float:
        """Make one step on a batch of random images and return what it took; its images are made beforehand."""
        images = torch.randn(batch, *self.image, dtype=number_type(self.net), device=self.device)
        images = images.contiguous(memory_format=torch.channels_last) if self.channels_last else images
        labels = torch.zeros(batch, dtype=torch.int64, device=self.device)
        self._wait()
        start = time.perf_counter()
        try:
            self._step(images, labels)
        except (UsageError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever a user's own forward raises
            raise refusal(error, "", self.image) from error
        self._wait()
        return time.perf_counter() - start

    def _step(self, images: Tensor, labels: Tensor) -> None:
        if self.optimizer is None:
            with torch.inference_mode(), self.casting:
                heads_of(self.net(images))
            return
        self.optimizer.zero_grad(set_to_none=True)
        with self.casting:
            heads = heads_of(self.net(images))
            loss = torch.stack([F.cross_entropy(head.float(), labels) for head in heads]).sum()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _measure(stepping: _Stepping, most: int, seconds: float) -> dict[int, list[float]]:
    """Return the seconds of steps by batch size, of each the first, a warm-up, only if it is alone.

    The batch grows up to fourfold while the time allows it: the larger, the less is left to extrapolate.
    """
    end = time.perf_counter() + seconds
    measured: dict[int, list[float]] = {}
    batch = min(2, most)  # batch norm cannot train on one image whose maps are a point
    while True:
        try:
            first = stepping.seconds_at(batch)
        except torch.OutOfMemoryError as error:
            if measured:
                return measured
            what = f"a step of {batch} images does not fit the memory of {stepping.device}"
            raise ResourceError(what, "", "plan for this device without measuring on it") from error
        now = time.perf_counter()
        until = end if batch == most else now + (end - now) / 4  # the rest is for larger batches
        times: list[float] = []
        while len(times) < _MOST_STEPS and time.perf_counter() + min([first, *times]) < (until if times else end):
            times.append(stepping.seconds_at(batch))
        measured[batch] = times or [first]
        affordable = batch * _STEP_SHARE * (end - time.perf_counter()) / min([first, *times])
        larger = int(min(4 * batch, most, affordable))
        if batch == most or larger < min(2 * batch, most):
            return measured
        batch = larger


def _checked(device: str | torch.device, precision: str, seconds: float) -> torch.device:
    if not (math.isfinite(seconds) and seconds > 0):
        raise UsageError(f"seconds = {printable(repr(seconds))} is no time to measure for", "", "use 2, say")
    if precision not in ("fp32", *LOW):
        raise UsageError(f"precision = {printable(repr(precision))} is unknown", "", "use fp32, bf16 or fp16")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", str(device)):
        raise UsageError(f"no steps can be measured on {printable(repr(str(device)))}", "", "use cpu, cuda or cuda:1")
    return torch.device(device)


def _line_through(measured: dict[int, list[float]], batch_size: int) -> Duration:
    """Extrapolate to `batch_size` from the largest two batches measured, with the spread that was seen."""
    large = max(measured)
    small = max((batch for batch in measured if batch < large), default=0)
    slow, usual, fast = (function(measured[large]) for function in (max, statistics.median, min))
    if batch_size == large:
        return Duration(fast, usual, slow, "calibrated", (large,))
    high = slow * batch_size / large * _BEYOND  # all of the time grows with the batch
    if not small:
        return Duration(fast, usual * batch_size / large, high, "calibrated", (large,))
    low = max(fast, _line(small, max(measured[small]), large, fast, batch_size) / _BEYOND)
    expected = _line(small, statistics.median(measured[small]), large, usual, batch_size)
    return Duration(low, expected, high, "calibrated", (small, large))


def _line(small: int, small_seconds: float, large: int, large_seconds: float, batch: int) -> float:
    """Return a + b x batch through two points, a and b not negative; the larger batch is trusted where one would be."""
    slope = (large_seconds - small_seconds) / (large - small)
    slope = min(max(slope, 0.0), large_seconds / large)
    return large_seconds + slope * (batch - large)


def _optimizer(net: nn.Module, name: str, momentum: float, weight_decay: float) -> torch.optim.Optimizer:
    """Return the optimizer of a copy: its rate is 0, so that no copy diverges; that costs what any rate costs."""
    parameters = trainable_parameters(net)
    shared: dict[str, Any] = {"lr": 0.0, "weight_decay": weight_decay, "fused": True}
    if name == "sgd":
        return torch.optim.SGD(parameters, momentum=momentum, nesterov=momentum > 0, **shared)
    if name == "adamw":
        return torch.optim.AdamW(parameters, betas=(momentum, 0.999), **shared)
    raise UsageError(f"optimizer = {printable(repr(name))} is unknown", "", "use sgd or adamw")


def _real_copy(net: nn.Module, device: torch.device) -> nn.Module:
    """Copy a net with its numbers, without its hooks, onto a device; ties are kept. Meta tensors get small numbers."""
    copy, made = meta_copy(net), dict[int, Tensor]()
    for ghost, module in zip(copy.modules(), net.modules(), strict=True):
        for table in ("_parameters", "_buffers", "__dict__"):
            for name, tensor in getattr(module, table).items():
                if isinstance(tensor, Tensor):
                    getattr(ghost, table)[name] = made.setdefault(id(tensor), _with_numbers(tensor, device))
    return copy


def _with_numbers(tensor: Tensor, device: torch.device) -> Tensor:
    if tensor.device.type != "meta":
        numbers = tensor.detach().to(device, copy=True)
    else:  # ones for scales, shifts and running statistics keep a signal finite everywhere
        numbers = torch.ones_like(tensor, device=device, requires_grad=False)
        if tensor.ndim > 1 and tensor.is_floating_point():
            numbers.normal_(0, tensor[0].numel() ** -0.5)
    return nn.Parameter(numbers, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else numbers
