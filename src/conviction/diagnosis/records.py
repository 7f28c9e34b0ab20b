"""Diagnosis: what was found of a program, a run or a net, and the numbers behind it, as plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from conviction.diagnosis.notebook import locate_cell
from conviction.findings.observation import Ending, Observation, Place
from conviction.findings.records import Finding

if TYPE_CHECKING:
    from conviction.findings.evidence import Signal


FINISHED = Ending("finished")


@dataclass(frozen=True)
class LayerSeen:
    """One layer at the first step: root mean squares of its outputs, its weight and the weight's gradient."""

    layer: str
    rms: float
    std: float
    weight_rms: float
    gradient_rms: float | None
    dead_share: float | None


@dataclass(frozen=True)
class Curves:
    """What was measured by step (one entry a measured step; None where it was not), and by layer at the first step."""

    steps: tuple[int, ...] = ()
    losses: tuple[float | None, ...] = ()
    accuracies: tuple[float | None, ...] = ()
    lrs: tuple[float, ...] = ()
    update_ratios: tuple[float | None, ...] = ()
    layers: tuple[LayerSeen, ...] = ()


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong with a subject (a file, a run, a net), most likely first; healthy where nothing is.

    `steps` counts the optimizer steps that were observed, `ending` tells how the observation ended, `notes` what else
    a reader should know. `cells` are the lines at which a notebook's code cells begin in its script, `text` is the
    program, `fix` a diff that mends it, `fixed` the file that was written with it.
    """

    subject: str
    findings: tuple[Finding, ...]
    steps: int
    seconds: float
    ending: Ending = FINISHED
    curves: Curves = Curves()
    notes: tuple[str, ...] = ()
    cells: tuple[int, ...] = ()
    text: str = ""
    fix: str = ""
    fixed: str = ""

    @property
    def verdict(self) -> str:
        """`healthy` or `sick`."""
        return "sick" if self.findings else "healthy"

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def cell_of(self, finding: Finding) -> tuple[int, int] | None:
        """Return the code cell of a notebook and the line in it where a finding sits; None for other programs."""
        return locate_cell(self.cells, finding.line) if self.cells and finding.line and finding.file else None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of the public JSON."""
        fields = {"verdict": self.verdict, "findings": [self._told(finding) for finding in self.findings]}
        rest = {"steps": self.steps, "seconds": round(self.seconds, 2), "ending": dataclasses.asdict(self.ending)}
        return fields | rest | {"notes": list(self.notes), "fixed": self.fixed or None}

    def _told(self, finding: Finding) -> dict[str, Any]:
        told, cell = finding.to_dict(), self.cell_of(finding)
        if cell is not None:
            told["where"] |= {"cell": cell[0], "cell_line": cell[1]}
        return told

    def __str__(self) -> str:
        from conviction.diagnosis.words import format_diagnosis

        return format_diagnosis(self)


def curves_of(observation: Observation) -> Curves:
    """Return what the figures show of an observation."""
    rows = observation.measured
    seen = observation.evidence.probe if observation.evidence is not None else None
    return Curves(
        steps=tuple(row.index for row in rows),
        losses=tuple(row.loss for row in rows),
        accuracies=tuple(row.accuracy for row in rows),
        lrs=tuple(row.lr for row in rows),
        update_ratios=tuple(row.update_ratio for row in rows),
        layers=tuple(map(_layer_of, seen.signals)) if seen is not None else (),
    )


def _layer_of(signal: Signal) -> LayerSeen:
    names = [field.name for field in dataclasses.fields(LayerSeen)]
    return LayerSeen(*(getattr(signal, name) for name in names))


def write_fields(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return a diagnosis as plain values that `read_fields` reads again."""
    return dataclasses.asdict(diagnosis)


def read_fields(fields: dict[str, Any]) -> Diagnosis:
    """Read a diagnosis from plain values; raises TypeError, KeyError or ValueError where they are of none."""
    ending, curves = dict(fields["ending"]), dict(fields["curves"])
    ending["at"] = Place(**ending["at"]) if ending["at"] is not None else None
    layers = tuple(LayerSeen(**layer) for layer in curves.pop("layers"))
    return Diagnosis(
        **_tuples(fields, ("findings", "ending", "curves")),
        findings=tuple(Finding(**finding) for finding in fields["findings"]),
        ending=Ending(**ending),
        curves=Curves(**_tuples(curves, ()), layers=layers),
    )


def _tuples(fields: dict[str, Any], without: Iterable[str]) -> dict[str, Any]:
    """Return fields with their lists as tuples, which JSON does not know."""
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in fields.items()
        if name not in without
    }
