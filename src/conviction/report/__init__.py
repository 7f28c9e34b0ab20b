"""The report of a run: one page of HTML that opens offline, without scripts, with all that people ask about a run."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from types import MappingProxyType

from conviction.data.records import Split
from conviction.evaluation import Mistake
from conviction.figures import Markup, chart_style, element
from conviction.metrics import Evaluation
from conviction.report.answers import calibration_section, classes_section, confusion_section, mistakes_section
from conviction.report.costs import cost_section
from conviction.report.pieces import clipped, name, plural, soft
from conviction.report.training import (
    curves_section,
    decided_section,
    environment_section,
    findings_section,
    next_section,
    recipe_section,
)
from conviction.runs import Run
from conviction.storage import write_text
from conviction.text import format_count, format_percent, format_seconds, format_shape

__all__ = ["format_report", "write_report"]

NO_PICTURES: Mapping[str, Markup] = MappingProxyType({})
# No script, no frame, no network; pictures and styles are inside the page.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_report(
    run: Run,
    evaluation: Evaluation,
    mistakes: tuple[Mistake, ...],
    split: Split,
    plan_pictures: Mapping[str, Markup] = NO_PICTURES,
) -> Path:
    """Write `report.html` into the run's folder and return its path.

    `evaluation` is of `split`, from whose source the pictures of `mistakes` are fetched; `plan_pictures` are SVG.
    Raises `ResourceError` where the folder cannot be written.
    """
    return write_text(run.folder / "report.html", format_report(run, evaluation, mistakes, split, plan_pictures))


def format_report(
    run: Run,
    evaluation: Evaluation,
    mistakes: tuple[Mistake, ...],
    split: Split,
    plan_pictures: Mapping[str, Markup] = NO_PICTURES,
) -> str:
    """Return the report as HTML. A picture that can no longer be read is named and left out."""
    net, data = run.result.get("net") or run.sources.net or "net", run.result.get("data") or run.sources.data or "data"
    main = element(
        "main",
        element("header", element("h1", name(net), " on ", name(data)), _lead(run, evaluation)),
        _tiles(run, evaluation),
        decided_section(run),
        findings_section(run),
        curves_section(run),
        confusion_section(evaluation),
        mistakes_section(mistakes, evaluation, split),
        classes_section(evaluation),
        calibration_section(evaluation),
        cost_section(run, plan_pictures),
        recipe_section(run),
        environment_section(run),
        next_section(run),
        element("footer", "Written by Conviction. The numbers are in run.json and history.csv beside this page."),
    )
    title = f"{clipped(net)} on {clipped(data)}: {format_percent(evaluation.top1)}"
    return f"<!doctype html>\n{element('html', _head(title), element('body', main), lang='en')}\n"


def _head(title: str) -> Markup:
    style = chart_style() + resources.files("conviction.report").joinpath("style.css").read_text(encoding="utf-8")
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Markup(style)),
    )


def _lead(run: Run, evaluation: Evaluation) -> Markup:
    """Say what was measured, and what answering without looking would reach."""
    largest = max((sum(row) for row in evaluation.confusion), default=0) / evaluation.n
    return soft(
        f"Measured on the {plural(evaluation.n, 'image')} of the {evaluation.split} split: "
        f"{len(evaluation.classes):,} classes, images of {format_shape(run.preprocessing.image)}. "
        f"Always answering the commonest class would be right for {format_percent(largest)}."
    )


def _tiles(run: Run, evaluation: Evaluation) -> Markup:
    """Show the numbers that people look for first; those that an unfinished run lacks are left out."""
    result, (low, high) = run.result, evaluation.interval
    interval = f"95 % interval {format_percent(low)} to {format_percent(high)}, n = {evaluation.n:,}"
    tiles = [_tile(f"Top-1 on {evaluation.split}", format_percent(evaluation.top1), interval, "main")]
    if len(evaluation.classes) > 5:  # among five classes the right one is always in the first five
        tiles.append(_tile("Top-5", format_percent(evaluation.top5), "right class among five"))
    else:
        tiles.append(_tile("Loss", f"{evaluation.loss:.3f}", "cross-entropy, nats"))
    if run.finished:
        speed = f"{plural(len(run.history), 'epoch')}, {result['images_per_second']:,.0f} images a second"
        tiles += [
            _tile("Validation top-1", format_percent(result["valid_top1"]), "chose the weights"),
            _tile("Train top-1", format_percent(result["train_top1"]), "without augmentation"),
            _tile("Best epoch", f"{result['best_epoch']} of {len(run.history)}", "by validation top-1"),
            _tile("Training time", format_seconds(result["seconds"]), speed),
            _tile("Parameters", format_count(result["params"]), f"{result['params']:,}"),
        ]
    return element("dl", *tiles, class_="tiles")


def _tile(label: str, number: str, more: str, kind: str | None = None) -> Markup:
    return element("div", element("dt", label), element("dd", number, element("small", more)), class_=kind)
