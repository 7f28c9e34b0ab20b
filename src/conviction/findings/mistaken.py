"""Checks of what was prepared and is not used: nets, arguments, variables."""

from __future__ import annotations

import re

from conviction.findings.learning import read_learning, weigh
from conviction.findings.metrics_told import told_accuracies
from conviction.findings.observation import Observation, SourceNote
from conviction.findings.readings import (
    COPIES,
    blame,
    called,
    class_count,
    main_optimizer,
    notes_of,
    trained_net,
    variable_of,
)
from conviction.findings.records import Finding
from conviction.findings.trials import HIGHER_LR, LOWER_LR, USUAL_LR

_RATES = {"lr", "learning_rate", "learningrate", "lr0"}
_FAIR = 0.5  # share of right answers of a program of which nobody would ask whether it trains the net it means


def wrong_model_passed(observation: Observation) -> Finding | None:
    """A net, a value or an argument that was prepared and is not the one that is used."""
    return _swapped(observation) or _unused_net(observation) or _untrained_tested(observation) or _unread(observation)


def _swapped(observation: Observation) -> Finding | None:
    """Positional arguments in another order than the parameters of the same names."""
    note = next(iter(notes_of(observation, "arguments-swapped")), None)
    learning = read_learning(observation)
    if note is None or learning.state == "well":
        return None
    optimizer = main_optimizer(observation)
    lr = None if optimizer is None else optimizer.setting("lr")
    ran = "" if optimizer is None or lr is None else f"; {optimizer.kind} ran at lr {lr:g}"
    return blame(
        "wrong-model-passed",
        f"arguments in another order than the function takes them: {_told(note)}{ran}; {learning}",
        "each value for the parameter of its name", "pass them by name, as in lr=lr", note.at,
        confidence=0.97 if learning.fails else 0.7,
    )  # fmt: skip


def _unused_net(observation: Observation) -> Finding | None:
    """A net that was built and never run while another was trained, which does not learn."""
    notes, net = notes_of(observation, "net-unused", "class-unused"), trained_net(observation)
    learning = read_learning(observation)
    note = next(iter(notes), None)
    right = learning.accuracy if learning.accuracy is not None else 1.0
    if note is None or net is None or (learning.state == "well" and right > _FAIR and "never trained" not in note.text):
        return None
    if learning.learns and note.kind == "class-unused":
        return None
    if learning.state == "unknown" or (note.kind == "class-unused" and not learning.fails):
        return None
    return blame(
        "wrong-model-passed", f"{_told(note)}, while {called(net)} is trained; {learning}",
        "the net that was prepared is the one that is trained", "pass that net to the training, or leave it out",
        note.at, confidence=0.6 if note.kind == "class-unused" or not learning.fails else 0.9,
    )  # fmt: skip


def _untrained_tested(observation: Observation) -> Finding | None:
    """One net is trained and another, which nobody trained, is tested, as its answers show."""
    trained, classes = trained_net(observation), class_count(observation)
    if trained is None or classes is None or not read_learning(observation).learns:
        return None
    for net in observation.nets:
        told = " ".join((net.kind, *net.names)).lower()
        own = net.testing_forwards >= 1 and not net.training_forwards and net.trainable and not net.pretrained
        if not own or any(word in told for word in COPIES) or not _printed_chance(observation, classes):
            continue
        return blame(
            "wrong-model-passed",
            f"{called(net)} is tested {net.testing_forwards} times and trained 0 times; {called(trained)} is trained",
            "the trained net is the one that is tested", f"test {variable_of(trained)}", net.test_at, confidence=0.8,
        )  # fmt: skip
    return None


def _unread(observation: Observation) -> Finding | None:
    """A learning rate that nothing reads, while the optimizer has another and the program does not learn well."""
    optimizer = main_optimizer(observation)
    lr = None if optimizer is None else optimizer.setting("lr")
    weight = weigh(observation, 0.6, HIGHER_LR, LOWER_LR, USUAL_LR)
    if lr is None or weight is None:
        return None
    for note in notes_of(observation, "variable-unused"):
        meant = _value_in(note.text)
        names = {name.lower() for name in note.names}
        if meant is None or meant == lr or not names & _RATES:
            continue
        return blame(
            "wrong-model-passed", f"{note.text.strip()}; the optimizer has lr {lr:g}",
            f"lr {meant:g}, as the variable says", f"pass it on: lr={note.names[0]}", note.at,
            confidence=min(0.9, weight[0] + 0.1), experiment=weight[1],
        )  # fmt: skip
    return None


def _told(note: SourceNote) -> str:
    """Return what a note is about in the program's words."""
    return " ".join(note.text.split()) or ", ".join(note.names) or "it"


def _value_in(text: str) -> float | None:
    """Return the number that a variable was given, as in `lr = 0.1`."""
    found = re.search(r"=\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?![\w.*/+-])", text)
    return float(found.group(1)) if found else None


def _printed_chance(observation: Observation, classes: int) -> bool:
    """Whether an accuracy that the program printed last is no better than guessing."""
    told = told_accuracies(observation)
    return bool(told) and told[-1] < 1.5 / classes
