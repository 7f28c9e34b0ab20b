"""A diagnosis in words for a terminal, for readers who have never heard of a vanishing gradient."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from conviction.diagnosis.causes import title_of
from conviction.diagnosis.records import Curves, Diagnosis
from conviction.findings.records import Finding
from conviction.text import format_percent, format_seconds, printable

WIDTH = 100
# Lines shown before and after the line of a finding.
_AROUND = 1
_SURE, _LIKELY = 0.9, 0.6


def format_diagnosis(diagnosis: Diagnosis, width: int = WIDTH) -> str:
    """Return what was found, why, and what to do about it; `width` is that of the terminal, in characters."""
    width = max(40, min(width, 120))
    parts = [_headline(diagnosis), *(_wrapped(note, width, "  ") for note in told_notes(diagnosis))]
    parts += [_paragraph(number, finding, diagnosis, width) for number, finding in enumerate(diagnosis.findings, 1)]
    if diagnosis.fix:
        parts.append("A fix:\n" + "\n".join(f"  {printable(line)}" for line in diagnosis.fix.splitlines()))
    if diagnosis.fixed:
        kind = "recipe" if diagnosis.fixed.endswith(".toml") else "program"
        parts.append(f"The mended {kind} is {printable(diagnosis.fixed)}; the original is as it was.")
    return "\n\n".join(parts)


def _headline(diagnosis: Diagnosis) -> str:
    found = len(diagnosis.findings)
    verdict = "nothing wrong was found" if not found else "1 thing is wrong" if found == 1 else f"{found} things found"
    steps = f"{diagnosis.steps:,} training step{'' if diagnosis.steps == 1 else 's'} seen"
    return (f"{printable(diagnosis.subject)}: {diagnosis.verdict}, {verdict} "
            f"({steps}, {format_seconds(diagnosis.seconds)})")  # fmt: skip


def told_notes(diagnosis: Diagnosis) -> list[str]:
    """Return what else a reader should know: how learning went, and how the observation ended."""
    learning, ending = _learning(diagnosis.curves), _ending(diagnosis)
    return [text for text in (learning, ending, *map(printable, diagnosis.notes)) if text]


def _learning(curves: Curves) -> str:
    """Say how the loss went, from the middle of the first to the middle of the last measured ones."""
    losses = [loss for loss in curves.losses if loss is not None and math.isfinite(loss)]
    if len(losses) < 2:
        return ""
    few = max(1, min(10, len(losses) // 4))
    told = f"The training loss went from {_middle(losses[:few]):.3g} to {_middle(losses[-few:]):.3g}"
    right = [accuracy for accuracy in curves.accuracies if accuracy is not None]
    if len(right) >= 2:
        few = max(1, min(10, len(right) // 4))
        first, last = sum(right[:few]) / few, sum(right[-few:]) / few
        told += f", the share of right answers from {format_percent(first)} to {format_percent(last)}"
    return told + "."


def _middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def _ending(diagnosis: Diagnosis) -> str:
    """Say how the observation ended; nothing where the program just came to its end."""
    ending = diagnosis.ending
    where = f", {place_of(diagnosis, ending.at.file, ending.at.line)}" if ending.at else ""
    if ending.how == "error":
        return f"The program stopped with {printable(ending.error)}{where}."
    if ending.how == "budget":
        return "Enough was seen: the program was stopped before its end (--seconds gives it more time)."
    if ending.how == "killed":
        return f"The program was stopped from outside{': ' + printable(ending.error) if ending.error else ''}."
    if ending.how == "exit" and ending.code:
        return f"The program left with exit code {ending.code}{where}."
    return ""


def place_of(diagnosis: Diagnosis, file: str | None, line: int | None) -> str:
    """Return a place as `train.py:12`, or `lesson.ipynb, code cell 3, line 2`."""
    if not file or not line:
        return printable(file or "")
    probe = Finding("", "", "", "", file=file, line=line)
    cell = diagnosis.cell_of(probe)
    if cell is not None:
        return f"{printable(file)}, code cell {cell[0]}, line {cell[1]}"
    return f"{printable(file)}:{line}"


def where_of(diagnosis: Diagnosis, finding: Finding) -> str:
    """Return where a finding sits: its line, its layer, or nothing."""
    places = [place_of(diagnosis, finding.file, finding.line)] if finding.file else []
    return ", ".join([*places, *([f"layer {printable(finding.layer)}"] if finding.layer else [])])


def sureness(confidence: float) -> str:
    """Say how sure a finding is."""
    word = "sure" if confidence >= _SURE else "likely" if confidence >= _LIKELY else "possible"
    return f"{word}, {100 * confidence:.0f} %"


def rows_of(finding: Finding) -> list[tuple[str, str]]:
    """Return what a finding says, each under its heading."""
    rows = [("What we saw", finding.seen), ("What a healthy net shows", finding.expected),
            ("What to do", finding.remedy), ("What was tried", finding.experiment or "")]  # fmt: skip
    return [(title, text) for title, text in rows if text]


def lines_around(diagnosis: Diagnosis, finding: Finding) -> list[tuple[int, str]]:
    """Return the lines of the program around a finding in its own file, with their numbers; none for other files."""
    lines = diagnosis.text.splitlines()
    if not finding.line or not finding.file or not diagnosis.text or not 1 <= finding.line <= len(lines):
        return []
    if not same_file(finding.file, diagnosis.subject):
        return []
    first = max(1 + shift_of(diagnosis, finding), finding.line - _AROUND)
    last = min(len(lines), finding.line + _AROUND)
    return [(number, lines[number - 1]) for number in range(first, last + 1)]


def same_file(one: str, other: str) -> bool:
    """Whether two names of a file may be of the same one: one is the end of the other."""
    longer, shorter = sorted((one.replace("\\", "/"), other.replace("\\", "/")), key=len, reverse=True)
    return longer == shorter or longer.endswith("/" + shorter.removeprefix("./"))


def _paragraph(number: int, finding: Finding, diagnosis: Diagnosis, width: int) -> str:
    where = where_of(diagnosis, finding)
    lines = [f"{number}. {title_of(finding.cause)}", f"   {finding.cause} ({sureness(finding.confidence)})"]
    lines += [f"   {where}"] if where else []
    shift = shift_of(diagnosis, finding)
    for line, source in lines_around(diagnosis, finding):
        mark = ">" if line == finding.line else " "
        lines.append(f"   {mark} {line - shift:>4} | {printable(source)}"[:width])
    for title, text in rows_of(finding):
        lines += ["", f"   {title}", _wrapped(printable(text), width, "     ")]
    return "\n".join(lines)


def shift_of(diagnosis: Diagnosis, finding: Finding) -> int:
    """Return by how much the numbers of lines are larger in the script than in the notebook's cell."""
    cell = diagnosis.cell_of(finding)
    return finding.line - cell[1] if cell is not None and finding.line else 0


def _wrapped(text: str, width: int, indent: str) -> str:
    return textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
