"""From what was observed to a diagnosis: notes on the program's text, experiments, questions, names of files."""

from __future__ import annotations

import dataclasses
import os
import sys
from dataclasses import dataclass

from conviction.diagnosis.observer import Observer
from conviction.diagnosis.reading.landmarks import find_places
from conviction.diagnosis.reading.source import read_source
from conviction.diagnosis.records import Diagnosis, curves_of
from conviction.diagnosis.trials.experiments import try_out
from conviction.findings.doctoring import ask
from conviction.findings.observation import Ending, Observation, Place, SourceNote
from conviction.findings.records import Finding

# Largest file of a program's own that is read beside it, and how many of them.
_MOST_CHARACTERS, _MOST_FILES = 1_000_000, 30
# Where a fault is mended that was measured elsewhere, at the call that showed it: the first of these notes on the
# program's text, or landmarks, that there are.
_RATE = ("landmark-rate",)
_LABELS = ("labels-shifted", "landmark-labels")
_START = ("init-constant", "init-scale", "landmark-start", "landmark-net")
_MENDED_AT: dict[str, tuple[str, ...]] = {
    "augmentation-destroys": ("landmark-augment",),
    "labels-shuffled": ("labels-shuffled", "landmark-pairing", "landmark-labels"), "labels-malformed": _LABELS,
    "class-imbalance": ("landmark-subset",), "train-test-leak": ("data-on-test", "test-joined", "landmark-leak"),
    "input-unscaled": ("landmark-scale",), "non-finite": ("landmark-unsafe",), "channel-order": ("landmark-channel",),
    "classes-mismatch": ("labels-shifted", "landmark-classes"), "not-shuffled": ("shuffle-false", "landmark-loader"),
    "lr-absurd": _RATE, "lr-too-high": _RATE, "lr-too-low": _RATE,
    "optimizer-settings": ("landmark-optimizer",), "weight-decay-dominates": ("landmark-decay", "landmark-optimizer"),
    "init-collapse": _START, "init-tiny": _START, "init-huge": _START, "init-symmetric": _START,
    "dead-relu": ("bias-negative", "landmark-start"), "saturating-activations": ("landmark-activation",),
    "too-few-steps": ("epochs", "landmark-budget"), "amp-underflow": ("half-without-scaler", "landmark-half"),
    "mixed-batch": ("batch-mixed", "softmax-dim", "view-for-permute", "landmark-mixing"),
    "metric-wrong": ("metric-divided", "metric-miscounted", "metric-scaled", "softmax-dim", "landmark-figure"),
    "wrong-loss": ("loss-sum", "mse-on-classes"),
    "no-eval-at-test": ("eval-missing", "bn-momentum", "bn-untracked", "statistics-kept", "dropout-always"),
    "frozen-params": ("parameters-frozen", "landmark-frozen"), "clip-too-low": ("clip-low", "landmark-clip"),
    "schedule-kills-lr": ("scheduler-per-batch", "landmark-schedule"),
    "dropout-too-high": ("dropout-high", "landmark-dropout"),
}  # fmt: skip
_LANDMARK = "landmark-"


@dataclass(frozen=True)
class Named:
    """How a user names files: `file`, the program's own (absolute), is `name`; others go by their way from `folder`."""

    file: str
    name: str
    folder: str

    def file_of(self, file: str) -> str:
        """Return a file's name for the user."""
        if file == self.file:
            return self.name
        return file[len(self.folder) + 1 :] if file.startswith(self.folder + os.sep) else file

    def place(self, place: Place | None) -> Place | None:
        """Return a place under its file's name."""
        return None if place is None else dataclasses.replace(place, file=self.file_of(place.file))

    def finding(self, finding: Finding) -> Finding:
        """Return a finding under its file's name."""
        return finding if finding.file is None else dataclasses.replace(finding, file=self.file_of(finding.file))


def conclude(observation: Observation, named: Named) -> Diagnosis:
    """Ask the questions; returns what was found, with the files as the user names them."""
    findings = tuple(named.finding(_located(finding, observation.notes)) for finding in ask(observation))
    ending = dataclasses.replace(observation.ending, at=named.place(observation.ending.at))
    return Diagnosis(named.name, findings, observation.steps, observation.seconds, ending, curves_of(observation))


def _located(finding: Finding, notes: tuple[SourceNote, ...]) -> Finding:
    """Return a finding at the line where it is mended, unless the reader of the text has pointed at its line."""
    if any(note.at.line == finding.line and not note.kind.startswith(_LANDMARK) for note in notes):
        return finding
    kinds = _MENDED_AT.get(finding.cause, ())
    at = next((note.at for kind in kinds for note in notes if note.kind == kind), None)
    return finding if at is None else dataclasses.replace(finding, file=at.file, line=at.line)


def judge(
    observer: Observer, named: Named, ending: Ending, experiment_seconds: float, notes: tuple[SourceNote, ...] = ()
) -> Diagnosis:
    """Look at what an observer saw, try out what is suspected for some seconds at most, and conclude."""
    observation = dataclasses.replace(observer.observation(), ending=ending, notes=notes)
    if experiment_seconds > 0 and observation.backwards:
        observation = try_out(observation, observer.captured, experiment_seconds)
    return conclude(observation, named)


def read_notes(text: str, file: str) -> tuple[SourceNote, ...]:
    """Return the notes on a program's text and its landmarks (of kind `landmark-head` and so on).

    None where it cannot be read, as it only helps to find the lines.
    """
    try:
        landmarks = find_places(text, file).items()
        return (*read_source(text, file), *(SourceNote(_LANDMARK + name, at) for name, at in landmarks))
    except Exception:  # whatever a text makes of the reader
        return ()


def read_other_notes(folder: str, file: str) -> tuple[SourceNote, ...]:
    """Return the notes on a program's other files: what this process imported from the program's folder."""
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    own = sorted({name for name in files if isinstance(name, str) and name != file and is_own(name, folder)})
    return tuple(note for name in own[:_MOST_FILES] for note in read_file_notes(name))


def read_file_notes(file: str) -> tuple[SourceNote, ...]:
    """Return the notes on a file; none where there is no such file."""
    try:
        with open(file, encoding="utf-8") as opened:  # noqa: PTH123  (a program may have replaced parts of pathlib)
            return read_notes(opened.read(_MOST_CHARACTERS), file)
    except (OSError, ValueError):
        return ()


def is_own(file: str, folder: str) -> bool:
    """Whether a Python file lies in a program's folder as its own, not in an environment inside it."""
    if not (file.startswith(folder + os.sep) and file.endswith(".py")):
        return False
    inside = file[len(folder) :]
    return "site-packages" not in inside and os.sep + "." not in inside
