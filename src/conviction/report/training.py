"""The sections of a report on the run itself: what was decided and found, curves, recipe, hardware, how to go on."""

from __future__ import annotations

import dataclasses
import math

from conviction.figures import Markup, Series, element, joined, line_chart
from conviction.report.pieces import clipped, folded, name, plural, section, soft, table
from conviction.runs import Run
from conviction.text import format_percent, format_seconds, printable, quoted

# Epochs listed as numbers; of longer runs history.csv holds them.
_EPOCHS_LISTED = 500
_SENTENCE_LENGTH = 400


def decided_section(run: Run) -> Markup:
    """List what was decided for the user before and while training."""
    notes = [element("li", clipped(note, _SENTENCE_LENGTH)) for note in run.notes]
    told = element("ul", *notes) if notes else soft("Nothing was left open.")
    return section("decided", "What was decided", told)


def findings_section(run: Run) -> Markup:
    """List what the checks of the run found; nothing at all where they found nothing."""
    fields = ("seen", "expected", "try", "experiment")
    rows = [
        (name(finding.get("cause", "")), *(clipped(finding.get(field) or "", _SENTENCE_LENGTH) for field in fields))
        for finding in run.result.get("findings", ())
    ]
    if not rows:
        return Markup()
    header = ("cause", "seen", "expected", "try", "confirmed by")
    return section("findings", "Findings", table("findings", header, rows, words=range(1, 5)))


def curves_section(run: Run) -> Markup:
    """Draw loss, accuracy and learning rate over the epochs."""
    epochs, best = [row.epoch for row in run.history], run.result.get("best_epoch")

    def series(label: str, field: str) -> Series:
        return Series(label, [float(getattr(row, field)) for row in run.history])

    loss = (series("train", "train_loss"), series("valid", "valid_loss"))
    right = (series("train", "train_top1"), series("valid", "valid_top1"))
    rate = (series("learning rate", "lr"),)
    charts = (
        line_chart("loss", epochs, loss, best=best, from_zero=True, may_be_logarithmic=True),
        line_chart("top-1 accuracy", epochs, right, best=best, percent=True),
        line_chart("learning rate", epochs, rate, best=best, from_zero=True),
    )
    says = "Training figures are running ones, taken while the weights change and with augmentation on."
    broken = sum(not math.isfinite(value) for curve in (*loss, *right, *rate) for value in curve.values)
    if broken:
        says += f" {plural(broken, 'number')} {'is' if broken == 1 else 'are'} not finite (crosses)."
    back = sorted({each["epoch"] for each in run.result.get("recoveries", ()) if each["back_to"] is not None})
    if back:
        says += f" Training blew up and went back in epoch {', '.join(map(str, back))} (see the findings)."
    return section("curves", "Curves", soft(says), element("div", *charts, class_="charts"), _epochs(run))


def _epochs(run: Run) -> Markup:
    """List the numbers behind the curves, folded away."""
    if len(run.history) > _EPOCHS_LISTED:
        return soft(f"The numbers of all {plural(len(run.history), 'epoch')} are in history.csv.")
    rows = [
        (str(row.epoch), f"{row.lr:.3g}", f"{row.train_loss:.4f}", format_percent(row.train_top1),
         f"{row.valid_loss:.4f}", format_percent(row.valid_top1), format_seconds(row.seconds))
        for row in run.history
    ]  # fmt: skip
    header = ("epoch", "lr", "train loss", "train top-1", "valid loss", "valid top-1", "time")
    return folded("The numbers", table("the numbers by epoch", header, rows, numbers=range(7)))


def recipe_section(run: Run) -> Markup:
    """List every knob with its value and the reason why it is there."""
    rows = []
    for knob in dataclasses.fields(run.recipe):
        value = getattr(run.recipe, knob.name)
        told = "-" if value is None else str(value).lower() if isinstance(value, bool) else f"{value}"
        rows.append((element("code", knob.name), element("code", clipped(told)), knob.metadata["reason"]))
    says = "Every knob of the run, as used. recipe.toml holds the same and repeats the run."
    return section("recipe", "Recipe", soft(says), table("recipe", ("knob", "value", "what it is"), rows, words=(2,)))


def environment_section(run: Run) -> Markup:
    """List versions and hardware."""
    rows = [(name(key), name(value, 120)) for key, value in run.environment.items()]
    return section(
        "environment", "Hardware and versions", table("hardware and versions", ("what", "value"), rows, words=(1,))
    )


def next_section(run: Run) -> Markup:
    """Show the commands that use the run, ready to copy."""
    folder = quoted(run.folder)
    steps = (
        ("measure it again, or on other data", f"conviction evaluate {folder}"),
        ("classify pictures", f"conviction predict {folder} picture.jpg"),
        ("in Python", f"run = conviction.load({printable(run.folder)!r})"),
    )
    blocks = [joined([element("span", f"# {why}"), Markup("\n"), command]) for why, command in steps]
    return section("next", "What to do with it", element("pre", Markup("\n\n".join(blocks))))
