"""Setups: all that one trial on a clone needs, and the trial itself. Nothing of the user's is touched."""

from __future__ import annotations

import contextlib
import copy
import random
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from conviction.diagnosis.trials.answers import Batch, blind_loss, count_correct, label_shares, logits_of
from conviction.diagnosis.trials.detours import DROPOUTS, Detour
from conviction.findings.observation import Trial

# Of the program's own scaler only the size matters: gradients of float16 are small numbers no more.
_SCALE = 1024.0


class OutOfTime(Exception):  # noqa: N818 - nothing is wrong: the time for experiments is over
    """A trial met its deadline; what it has measured is dropped, so that no number depends on the machine's speed."""


@dataclass(frozen=True)
class Setup:
    """A net that may be trained, and how.

    `factor` multiplies the loss that goes backward, -1 where the program maximises. `training` forces a mode (None
    keeps that of every module), `tests` are batches of testing, `settings` override the optimizer's (as its
    constructor knows them).
    """

    net: nn.Module
    batches: Sequence[Batch]
    judged: Sequence[Batch]
    loss: Callable[[Any, Tensor], Tensor]
    optimizer: Callable[[Iterable[nn.Parameter], dict[str, Any]], Optimizer]
    settings: dict[str, Any] = field(default_factory=dict)
    clip_norm: float | None = None
    autocast: torch.dtype | None = None
    scaled: bool = False
    factor: float = 1.0
    training: bool | None = None
    tests: Sequence[Batch] = ()
    detour: Detour | None = None
    words: str = "as it is"

    @property
    def device(self) -> torch.device:
        """Where the batches are."""
        return self.batches[0][0].device


def make_trial(setup: Setup, change: str, steps: int, deadline: float, seed: int = 0) -> Trial:
    """Train the setup's net for `steps` on its batches, again and again, and put down what came of it.

    `deadline` is of `time.monotonic`. Raises `OutOfTime` there, and whatever the net, the loss or the optimizer raise.
    Draws come from `seed`; whoever calls keeps the random state.
    """
    seed_all(seed)
    logits = logits_of(_look(setup, setup.judged[0][0], deadline))
    blind = blind_loss(setup.judged, logits, setup.loss) if logits is not None else float("nan")
    seed_all(seed)
    losses = _train(setup, steps, deadline)
    held_loss, accuracy = _judge(setup, deadline)
    shares = label_shares(setup.judged) if accuracy is not None else None
    judged = sum(len(inputs) for inputs, _ in setup.judged)
    return Trial(change, tuple(losses), blind, accuracy, setup.words, judged,
                 None if shares is None else float(shares.max()), held_loss)  # fmt: skip


def mixed(batches: Sequence[Batch]) -> list[Batch] | None:
    """Deal the samples of all batches anew into batches of the same sizes; None where they do not go together."""
    if len({(inputs.shape[1:], inputs.dtype) for inputs, _ in batches}) > 1:
        return None
    if len({(targets.shape[1:], targets.dtype) for _, targets in batches}) > 1:
        return None
    inputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    if len(inputs) != len(targets):
        return None
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0)).to(inputs.device)
    sizes = [len(part) for part, _ in batches]
    return list(zip(inputs[order].split(sizes), targets[order].split(sizes), strict=True))


def cut(batches: Sequence[Batch], most: int) -> list[Batch]:
    """Keep the first `most` samples of every batch, evenly spread."""
    kept = []
    for inputs, targets in batches:
        stride = -(-len(inputs) // most)
        whole = targets.ndim == 0 or len(targets) != len(inputs) or stride <= 1
        kept.append((inputs, targets) if whole else (inputs[::stride], targets[::stride]))
    return kept


def seed_all(seed: int) -> None:
    """Begin every stream of draws that a forward may use anew; whoever calls keeps the random state."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def copy_net(net: nn.Module | None) -> nn.Module:
    """Return a clone without gradients; raises whatever a user's own attributes raise."""
    if net is None:
        raise ValueError("there is no net to copy")
    clone = copy.deepcopy(getattr(net, "_orig_mod", net))
    for parameter in clone.parameters():
        if not parameter.is_leaf:  # torch copies those of scripted nets as something computed
            parameter.detach_().requires_grad_()
        parameter.grad = None
    return clone


def _train(setup: Setup, steps: int, deadline: float) -> list[float]:
    """Make the updates; returns the loss before each, in the program's own measure."""
    _set_mode(setup)
    optimizer = setup.optimizer(setup.net.parameters(), dict(setup.settings))
    losses = []
    for step in range(steps):
        inputs, targets = setup.batches[step % len(setup.batches)]
        told: list[float] = []

        def closure() -> Tensor:
            optimizer.zero_grad(set_to_none=True)
            _check(deadline)
            loss = _loss(setup, inputs, targets)  # noqa: B023 - called within this step only
            told.append(float(loss.detach()))  # noqa: B023
            _go_backward(setup, loss)
            return loss.detach()

        if isinstance(optimizer, torch.optim.LBFGS):
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
        losses.append(told[0])
        if len(losses) > 2 and not all(abs(loss) < float("inf") for loss in losses[-2:]):
            break  # it does not come back
    return losses


def _loss(setup: Setup, inputs: Tensor, targets: Tensor) -> Tensor:
    with _running(setup):
        loss = setup.loss(setup.net(inputs), targets)
    return loss if loss.ndim == 0 else loss.mean()


def _go_backward(setup: Setup, loss: Tensor) -> None:
    scale = setup.factor * (_SCALE if setup.scaled else 1.0)
    (loss * scale).backward()
    parameters = [parameter for parameter in setup.net.parameters() if parameter.grad is not None]
    if setup.scaled:
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.grad.div_(_SCALE)
    if setup.clip_norm is not None:
        nn.utils.clip_grad_norm_(parameters, setup.clip_norm)


def _set_mode(setup: Setup) -> None:
    if setup.training is not None:
        setup.net.train(setup.training)


@contextlib.contextmanager
def _running(setup: Setup) -> Generator[None]:
    """Run forwards as the setup wants them: reduced precision, operations replaced."""
    with contextlib.ExitStack() as stack:
        if setup.autocast is not None:
            stack.enter_context(torch.autocast(setup.device.type, dtype=setup.autocast))
        if setup.detour is not None:
            stack.enter_context(setup.detour.restart())
        yield


def _judge(setup: Setup, deadline: float) -> tuple[float, float | None]:
    """Return the mean loss and the share answered correctly of the judged samples: as in training, but for dropout."""
    losses, correct, count = [], 0, 0
    for inputs, targets in setup.judged:
        outputs = _look(setup, inputs, deadline)
        losses.append(float(setup.loss(outputs, targets).float().mean()))
        logits = logits_of(outputs)
        right = None if logits is None else count_correct(logits, targets)
        correct, count = correct + (right or 0), count + (0 if right is None else len(inputs))
    return sum(losses) / len(losses), correct / count if count else None


@torch.no_grad()
def _look(setup: Setup, inputs: Tensor, deadline: float) -> Any:
    """Return the net's outputs without dropout; batch norm's running statistics stay as they are."""
    _set_mode(setup)
    _check(deadline)
    buffers = [(buffer, buffer.clone()) for buffer in setup.net.buffers()]
    with Detour(DROPOUTS), _running(setup):
        outputs = setup.net(inputs)
    for buffer, value in buffers:
        buffer.copy_(value)
    return outputs


def _check(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise OutOfTime
