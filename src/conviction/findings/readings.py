"""Readings: what many of the doctor's checks ask of an observation: the trained net, its optimizer, its loss."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from conviction.findings.observation import (
    LoaderSeen,
    LossSeen,
    NetSeen,
    Observation,
    OptimizerSeen,
    Place,
    SourceNote,
    StepSeen,
)
from conviction.findings.records import Finding

# Losses of one class out of several, whose start and floor are known.
CLASS_LOSSES = frozenset({"cross_entropy", "nll_loss"})
BY_HAND = "by hand"  # the kind of updates that a program makes without an optimizer
# Optimizers whose step hardly depends on how large the gradient is.
ADAPTIVE = ("adam", "rms", "adagrad", "lion", "adafactor")
# Nets that follow another one's weights, or are followed: they are run and no step moves them.
COPIES = ("ema", "average", "avg", "swa", "teacher", "target", "momentum", "shadow", "best")
# First steps, before whatever went wrong had its effects; the observer measures the first twelve all.
_EARLY = 12


def blame(
    cause: str,
    seen: str,
    expected: str,
    remedy: str,
    at: Place | None = None,
    *,
    layer: str = "",
    confidence: float = 0.9,
    experiment: str | None = None,
    hard: bool = False,
) -> Finding:
    """Return a finding at a line of the user's program."""
    return Finding(
        cause, seen, expected, remedy, layer=layer or None, file=at.file if at else None, line=at.line if at else None,
        confidence=round(confidence, 2), experiment=experiment or None, hard=hard,
    )  # fmt: skip


def notes_of(observation: Observation, *kinds: str) -> tuple[SourceNote, ...]:
    """Return the notes of some kinds, in the order of the kinds."""
    return tuple(note for kind in kinds for note in observation.notes if note.kind == kind)


def line_of(observation: Observation, *kinds: str, otherwise: Place | None = None) -> Place | None:
    """Return the line that the source's reader names for one of the kinds, else the one given."""
    return next((note.at for note in notes_of(observation, *kinds)), otherwise)


def trained_net(observation: Observation) -> NetSeen | None:
    """Return the net with most training forwards; None where no forward was followed by a backward."""
    trained = [net for net in observation.nets if net.training_forwards]
    return max(trained, key=lambda net: (net.training_forwards, net.params), default=None)


def main_optimizer(observation: Observation) -> OptimizerSeen | None:
    """Return the optimizer that steps most, of the trained net's if it has one."""
    net = trained_net(observation)
    return max(
        observation.optimizers,
        key=lambda optimizer: (net is not None and net.number in optimizer.nets, optimizer.steps),
        default=None,
    )


def main_loss(observation: Observation) -> LossSeen | None:
    """Return the loss function that was called most, one of classes before any other."""
    return max(observation.losses, key=lambda loss: (loss.kind in CLASS_LOSSES, loss.calls), default=None)


def training_loader(observation: Observation) -> LoaderSeen | None:
    """Return the loader whose batches were stepped on."""
    loaders = [loader for loader in observation.loaders if loader.trains]
    return max(loaders, key=lambda loader: loader.batches, default=None)


def class_count(observation: Observation) -> int | None:
    """Return the number of logits, of which there is one for each class; None where the loss is not of classes."""
    loss = main_loss(observation)
    if loss is not None and loss.kind in CLASS_LOSSES and len(loss.input_shape) >= 2:
        return loss.input_shape[1]
    if loss is None and observation.evidence is not None and observation.evidence.num_classes > 1:
        return observation.evidence.num_classes
    return None


def batch_size(observation: Observation) -> int | None:
    """Return the number of images in a step."""
    samples = [step.samples for step in observation.measured if step.samples]
    if samples:
        return round(statistics.median(samples))
    loader = training_loader(observation)
    return None if loader is None else loader.batch_size


def measured_steps(observation: Observation) -> tuple[StepSeen, ...]:
    """Return the measured steps of the main optimizer; all of them where it is not known."""
    optimizer = main_optimizer(observation)
    if optimizer is None or not any(step.optimizer == optimizer.number for step in observation.measured):
        return observation.measured
    return tuple(step for step in observation.measured if step.optimizer == optimizer.number)


def early_steps(observation: Observation) -> tuple[StepSeen, ...]:
    """Return the first measured steps."""
    return measured_steps(observation)[:_EARLY]


def middle(values: Iterable[float | None]) -> float | None:
    """Return the median of those that are known and finite; None where none is."""
    known = [value for value in values if value is not None and abs(value) < float("inf")]
    return statistics.median(known) if known else None


def is_adaptive(optimizer: OptimizerSeen) -> bool:
    """Whether its step hardly depends on how large the gradient is."""
    return any(word in optimizer.kind.lower() for word in ADAPTIVE)


def rule_of(optimizer: OptimizerSeen) -> str:
    """Return what makes the steps."""
    return "a step by hand" if optimizer.kind == BY_HAND else optimizer.kind


def has_moods(net: NetSeen) -> bool:
    """Whether train and eval mode differ."""
    return net.has_batch_norm or net.has_dropout


def called(net: NetSeen) -> str:
    """Return what a net is called: its variable, else its class."""
    return f"{net.names[0]} ({net.kind})" if net.names else net.kind


def variable_of(net: NetSeen) -> str:
    """Return the variable that holds a net."""
    return net.names[0] if net.names else "net"
