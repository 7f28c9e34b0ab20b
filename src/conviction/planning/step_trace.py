"""One training step and one prediction of any net, followed on the meta device: what is alive when, and what it costs.

Two steps are followed, as the optimizer's state appears after the first. Nothing is computed and the net itself is not
touched: a copy without numbers runs forward, takes the loss, runs backward and is updated, as `fit` does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conviction.errors import UsageError
from conviction.planning.casting import Casting
from conviction.planning.ghosts import check_sizes, meta_copy, number_type, refusal, trainable_parameters
from conviction.planning.layers import Layer, table_of
from conviction.planning.operations import size_of
from conviction.planning.watching import Slot, Watcher, Work, watching

LOW = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Setting:
    """How a net is trained, as far as its cost depends on it.

    `optimizer` is `sgd` (without momentum where `momentum` is 0) or `adamw`; `kernel` how its step runs: `fused` as in
    `fit`, `foreach` as is torch's default on CUDA, or `loop`. `parts` are the micro-batches of a step. `averaged`
    says that a second, averaged net is kept.
    """

    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    kernel: str = "fused"
    precision: str = "fp32"
    channels_last: bool = False
    checkpointing: bool = False
    averaged: bool = False
    parts: int = 1


@dataclass(frozen=True)
class StepTrace:
    """What one run at one batch size showed.

    `events` has births (slot numbers) and deaths (their complements) of `slots`, in the order of `sections`, which
    tells where each ends: `setup`, `first` (the first training step), `steady` (the second), `predict`. `work` is that
    of the steady step by (phase, layer), with phase `predict` for a prediction; `layers` are those of the forward.
    """

    batch_size: int
    slots: tuple[Slot, ...]
    events: tuple[int, ...]
    sections: dict[str, int]
    work: dict[tuple[str, str], Work]
    layers: tuple[Layer, ...]
    num_classes: int = 0


def trace_step(
    net: nn.Module,
    image: tuple[int, int, int],
    batch_size: int,
    setting: Setting = Setting(),
    *,
    copied: Callable[[nn.Module], nn.Module] = meta_copy,
    recomputing: Callable[[nn.Module], contextlib.AbstractContextManager[object]] | None = None,
    device: str = "meta",
) -> StepTrace:
    """Follow two training steps and one prediction on `batch_size` images of shape `image` (C, H, W).

    `copied` makes the copy that runs on `device`; tests run a real one on the CPU. Raises `UsageError`, which names
    the layer that fails, for an image that the net cannot take and for a net that cannot run without numbers.
    """
    check_sizes(image, batch_size)
    ghost = copied(net).train()
    if setting.channels_last:
        ghost = ghost.to(memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]  # torch has it
    around = recomputing if setting.checkpointing and recomputing is not None else _as_it_is
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.device(device), watching(ghost) as seen:
        run = _Run(ghost, image, batch_size, setting, seen)
        try:
            with around(ghost):
                run.train(2)
            run.predict()
        except UsageError:
            raise
        except Exception as error:  # whatever a user's own forward raises
            raise refusal(error, seen.innermost, image) from error
    return StepTrace(batch_size, tuple(seen.slots), tuple(seen.events), run.sections, run.work, run.layers,
                     run.num_classes)  # fmt: skip


class _Run:
    """A copy of a net on its way through two steps and a prediction."""

    def __init__(
        self, net: nn.Module, image: tuple[int, int, int], batch_size: int, setting: Setting, seen: Watcher
    ) -> None:
        self.net, self.seen, self.setting = net, seen, setting
        self.image, self.batch_size = image, batch_size
        if setting.averaged:
            seen.name_kind(self._second_net(), "averaged")
        self.optimizer = _optimizer(net, setting, seen)
        self.sections = {"setup": len(seen.events)}
        self.work: dict[tuple[str, str], Work] = {}
        self.layers: tuple[Layer, ...] = ()
        self.num_classes = 0
        self.batch: tuple[Tensor, Tensor] | None = None

    def _second_net(self) -> list[Tensor]:
        self.second = [torch.empty_like(t) for t in (*self.net.parameters(), *self.net.buffers())]
        return self.second

    def train(self, steps: int) -> None:
        """Make the steps; the work of the last is kept."""
        for name in ("first", "steady")[:steps]:
            self.seen.work.clear()
            self._step()
            self.sections[name] = len(self.seen.events)
        self.work = dict(self.seen.work)

    def _step(self) -> None:
        seen, parameters = self.seen, list(self.net.parameters())
        seen.phase = "forward"
        self.batch = self._images(), torch.zeros(self.batch_size, dtype=torch.int64)  # the last one lives until now
        seen.name_kind(self.batch, "inputs")
        self.optimizer.zero_grad(set_to_none=True)
        images, labels = (part.chunk(self.setting.parts) for part in self.batch)
        for part, targets in zip(images, labels, strict=True):
            self._pass(part, targets)
        seen.name_kind((p.grad for p in parameters if p.grad is not None), "gradients")
        seen.phase = "optimizer"
        self.optimizer.step()
        seen.name_kind(_state_of(self.optimizer), "optimizer")

    def _pass(self, images: Tensor, targets: Tensor) -> None:
        self.seen.phase = "forward"
        with Casting(LOW.get(self.setting.precision)):
            outputs = self.net(images)
            if not self.layers:
                self.layers = table_of(self.seen, len(images))
            logits = heads_of(outputs)
            self.num_classes = logits[0].shape[1]
            loss = torch.stack([F.cross_entropy(head.float(), targets) for head in logits]).sum()
        self.seen.phase = "backward"
        loss.backward()

    def predict(self) -> None:
        """Answer one batch, as an evaluation does, with nothing left of training but what stays for the next step."""
        seen = self.seen
        self.net.eval()
        seen.work.clear()
        seen.phase = "predict"
        with torch.inference_mode():
            images = self._images()
            seen.name_kind((images,), "inputs")
            with Casting(LOW.get(self.setting.precision)):
                answer = self.net(images)
            del answer, images
        self.sections["predict"] = len(seen.events)
        self.work |= seen.work

    def _images(self) -> Tensor:
        layout = torch.channels_last if self.setting.channels_last else torch.contiguous_format
        shape = (self.batch_size, *self.image)
        return torch.empty(shape, dtype=number_type(self.net), memory_format=layout)


def heads_of(outputs: Any) -> list[Tensor]:
    """Return the logits [N, classes] of a net in training: its own, then those of auxiliary heads.

    Raises `UsageError` for anything else.
    """
    heads = list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]
    for head in heads or [outputs]:
        if not (isinstance(head, Tensor) and head.ndim == 2 and head.is_floating_point()):
            shape = list(head.shape) if isinstance(head, Tensor) else type(head).__name__
            raise UsageError(f"the net makes {shape} of its images, not logits [N, classes]", "",
                             "give a net that classifies")  # fmt: skip
    return heads


@contextlib.contextmanager
def _as_it_is(net: nn.Module) -> Generator[None]:
    yield


class _Fused:
    """The memory of a fused step: no scratch, and the state that it makes when it first runs.

    torch refuses its own fused optimizers on the meta device.
    """

    def __init__(self, parameters: list[nn.Parameter], setting: Setting, seen: Watcher) -> None:
        self.parameters, self.seen, self.state = parameters, seen, {}
        self.kept = 2 if setting.optimizer == "adamw" else int(setting.momentum > 0)
        self.counts = setting.optimizer == "adamw"

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def step(self) -> None:
        """Make the state of the parameters that have a gradient for the first time, and count what is moved."""
        updated = sum(size_of(parameter) for parameter in self.parameters if parameter.grad is not None)
        work = self.seen.work["optimizer", ""]
        work.moved_bytes += (3 + 2 * self.kept) * updated  # reads the gradient; the weight and its state both ways
        work.operations += 1
        for parameter in self.parameters:
            if parameter.grad is not None and parameter not in self.state:
                counter = {"step": torch.zeros((), dtype=torch.float32)} if self.counts else {}
                moments = {str(number): torch.zeros_like(parameter) for number in range(self.kept)}
                self.state[parameter] = counter | moments


def _optimizer(net: nn.Module, setting: Setting, seen: Watcher) -> Any:
    parameters = trainable_parameters(net)
    on_meta = parameters[0].device.type == "meta"
    if setting.kernel == "fused" and on_meta:
        return _Fused(parameters, setting, seen)
    fused, foreach = setting.kernel == "fused", setting.kernel == "foreach"
    if setting.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=1e-3, momentum=setting.momentum, weight_decay=setting.weight_decay,
                               fused=fused, foreach=foreach)  # fmt: skip
    return torch.optim.AdamW(parameters, lr=1e-3, weight_decay=setting.weight_decay, fused=fused,
                             foreach=foreach)  # fmt: skip


def _state_of(optimizer: Any) -> list[Tensor]:
    return [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
