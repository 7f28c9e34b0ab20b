"""Checks of nets that are plain tensors stepped by hand: only their losses and the program's text tell of them."""

from __future__ import annotations

from conviction.findings.learning import read_learning
from conviction.findings.observation import Observation
from conviction.findings.readings import BY_HAND, blame, line_of, main_optimizer, notes_of, trained_net
from conviction.findings.records import Finding

_LONG, _FAR = 200, 0.8  # steps in which a loss that falls at all has fallen to such a share of its start


def start_by_hand(observation: Observation, cause: str) -> Finding | None:
    """Weights drawn at a scale that the text tells, and a loss that stays: `init-tiny` or `init-huge`, if asked for."""
    learning, note = read_learning(observation), next(iter(notes_of(observation, "init-scale")), None)
    if note is None or not _is_by_hand(observation) or learning.state not in {"stuck", "slow", "rose", "broke"}:
        return None
    scale = float(note.names[0])
    if cause != ("init-tiny" if scale < 1 else "init-huge"):
        return None
    return blame(
        cause, f"weights drawn {scale:g} wide; {learning}",
        "weights about 1 / sqrt(inputs) wide: each layer hands on a signal of the size of its inputs",
        "draw them with standard deviation sqrt(2 / inputs)", note.at, confidence=0.8,
    )  # fmt: skip


def pace_by_hand(observation: Observation) -> Finding | None:
    """A loss that falls all the time and gets nowhere: each step is too small."""
    learning = read_learning(observation)
    falls = learning.state in {"slow", "partly"} and learning.still_falling
    if not _is_by_hand(observation) or not falls or learning.steps < _LONG or not learning.first or not learning.last:
        return None
    if learning.last < _FAR * learning.first:
        return None
    divided = notes_of(observation, "update-divided")
    twice = ", and the gradient of a mean is divided by the batch size once more" if divided else ""
    return blame(
        "lr-too-low", f"{learning}{twice}", "a loss that has fallen clearly after some hundred steps",
        "divide by the batch size once, in the loss or in the step" if divided else "raise the rate tenfold",
        line_of(observation, "update-divided"), confidence=0.85 if divided else 0.6,
    )  # fmt: skip


def _is_by_hand(observation: Observation) -> bool:
    """Whether what steps is no optimizer, and what is trained no module."""
    optimizer = main_optimizer(observation)
    return trained_net(observation) is None and optimizer is not None and optimizer.kind == BY_HAND
