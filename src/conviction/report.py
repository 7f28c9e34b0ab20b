"""The report of a run: one page of HTML that opens offline, without scripts, with all that people ask about a run."""

from __future__ import annotations

import base64
import dataclasses
import io
import math
import shlex
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from conviction.data.records import Split
from conviction.errors import ConvictionError
from conviction.evaluation import Mistake
from conviction.figures import Markup, Series, element, joined, line_chart, reliability_diagram
from conviction.metrics import Evaluation
from conviction.runs import Run
from conviction.storage import write_text
from conviction.text import format_count, format_percent, format_seconds, printable

# No script, no frame, no network: pictures come inside the page, and styles.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
# More classes than this make a matrix that nobody can read; the confused pairs say more.
MOST_IN_MATRIX = 30
_PAIRS, _PAIRS_WITHOUT_MATRIX = 8, 20
_CLASSES_SHOWN, _EPOCHS_LISTED = 30, 500
# Longest side of a picture in the page: keeps 24 pictures of noise below 2 MB.
_PICTURE_SIDE = 128
_NAME_LENGTH = 60

Row = Sequence[object]


def write_report(run: Run, evaluation: Evaluation, mistakes: tuple[Mistake, ...], split: Split) -> Path:
    """Write `report.html` into the run's folder and return its path.

    `evaluation` is of `split`, from whose source the pictures of `mistakes` are fetched.
    Raises `ResourceError` where the folder cannot be written.
    """
    return write_text(run.folder / "report.html", format_report(run, evaluation, mistakes, split))


def format_report(run: Run, evaluation: Evaluation, mistakes: tuple[Mistake, ...], split: Split) -> str:
    """Return the report as HTML. A picture that can no longer be read is named and left out."""
    net, data = run.result.get("net") or run.origin.net or "a net", run.result.get("data") or run.origin.data or "data"
    version = run.environment.get("conviction", "")
    page = element(
        "html",
        element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", http_equiv="Content-Security-Policy", content=POLICY),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name="color-scheme", content="light dark"),
            element("title", f"{_clipped(net)} on {_clipped(data)}: {format_percent(evaluation.top1)}"),
            element("style", Markup(_style())),
        ),
        element(
            "body",
            element(
                "main",
                element("header", element("h1", _name(net), " on ", _name(data)), _lead(run, evaluation)),
                _tiles(run, evaluation),
                _decided(run),
                _findings(run),
                _curves(run),
                _confusion(evaluation),
                _mistakes(mistakes, evaluation, split),
                _classes(evaluation),
                _calibration(evaluation),
                _recipe(run),
                _environment(run),
                _next(run),
                element("footer", f"Written by Conviction {version}. The numbers are in run.json and history.csv."),
            ),
        ),
        lang="en",
    )
    return f"<!doctype html>\n{page}\n"


def _style() -> str:
    return resources.files("conviction").joinpath("report.css").read_text(encoding="utf-8")


def _lead(run: Run, evaluation: Evaluation) -> Markup:
    """Say in one sentence what was measured and what answering without looking would reach."""
    largest = max((sum(row) for row in evaluation.confusion), default=0) / evaluation.n
    channels, height, width = run.preprocessing.image
    return element(
        "p",
        f"Measured on the {evaluation.n:,} images of the {evaluation.split} split, {len(evaluation.classes):,} classes, "
        f"{width} x {height} pixels in {channels} {'channel' if channels == 1 else 'channels'}. "
        f"Always answering the commonest class would be right for {format_percent(largest)}.",
        class_="soft",
    )


def _tiles(run: Run, evaluation: Evaluation) -> Markup:
    result, (low, high) = run.result, evaluation.interval
    epochs = len(run.history)
    tiles = [
        _tile(f"Top-1 on {evaluation.split}", format_percent(evaluation.top1),
              f"95 % interval {format_percent(low)} to {format_percent(high)}, n = {evaluation.n:,}", "main"),
    ]  # fmt: skip
    if len(evaluation.classes) > 5:
        tiles.append(_tile("Top-5", format_percent(evaluation.top5), "the right class among five"))
    if "valid_top1" in result:
        tiles.append(_tile("Validation", format_percent(result["valid_top1"]), "top-1, chose the weights"))
    if "train_top1" in result:
        tiles.append(_tile("Train", format_percent(result["train_top1"]), "top-1, no augmentation"))
    if "best_epoch" in result:
        tiles.append(_tile("Best epoch", f"{result['best_epoch']} of {epochs}", "by validation top-1"))
    if "seconds" in result:
        tiles.append(
            _tile("Time", format_seconds(result["seconds"]), f"{epochs} {'epoch' if epochs == 1 else 'epochs'}")
        )
    if "images_per_second" in result:
        tiles.append(_tile("Speed", f"{result['images_per_second']:,.0f}", "images a second, training"))
    if "params" in result:
        tiles.append(_tile("Parameters", format_count(result["params"]), f"{result['params']:,}"))
    return element("dl", *tiles, class_="tiles")


def _tile(name: str, number: str, more: str, kind: str | None = None) -> Markup:
    return element("div", element("dt", name), element("dd", number, element("small", more)), class_=kind)


def _decided(run: Run) -> Markup:
    if not run.notes:
        return _section("decided", "What was decided", element("p", "Nothing was left open.", class_="soft"))
    notes = [element("li", _clipped(note, 400)) for note in run.notes]
    return _section("decided", "What was decided", element("ul", *notes))


def _findings(run: Run) -> Markup:
    """List what the run's checks found; nothing where they found nothing."""
    rows = [
        (element("b", _name(finding.get("cause", ""))), _clipped(finding.get("seen", ""), 400),
         _clipped(finding.get("expected", ""), 400), _clipped(finding.get("try", ""), 400))
        for finding in run.result.get("findings", ())
    ]  # fmt: skip
    if not rows:
        return Markup()
    return _section("findings", "Findings", _table(("cause", "seen", "expected", "try"), rows))


def _curves(run: Run) -> Markup:
    history, best = run.history, run.result.get("best_epoch")
    epochs = [row.epoch for row in history]

    def series(name: str, field: str) -> Series:
        return Series(name, [float(getattr(row, field)) for row in history])

    loss = (series("train", "train_loss"), series("valid", "valid_loss"))
    right = (series("train", "train_top1"), series("valid", "valid_top1"))
    charts = [
        line_chart("loss", epochs, loss, best=best, from_zero=True, may_be_logarithmic=True),
        line_chart("top-1 accuracy", epochs, right, best=best, percent=True),
        line_chart("learning rate", epochs, (series("learning rate", "lr"),), from_zero=True),
    ]
    says = "Training figures are running ones, taken while the weights change and with augmentation on."
    broken = sum(not math.isfinite(value) for curve in (*loss, *right) for value in curve.values)
    if broken:
        says += f" {broken} {'number is' if broken == 1 else 'numbers are'} not finite (crosses)."
    return _section("curves", "Curves", element("p", says, class_="soft"),
                    element("div", *charts, class_="charts"), _epochs(run))  # fmt: skip


def _epochs(run: Run) -> Markup:
    """List the numbers behind the curves, folded away."""
    if len(run.history) > _EPOCHS_LISTED:
        return element("p", f"The numbers of all {len(run.history):,} epochs are in history.csv.", class_="soft")
    rows = [
        (str(row.epoch), f"{row.lr:.3g}", f"{row.train_loss:.4f}", format_percent(row.train_top1),
         f"{row.valid_loss:.4f}", format_percent(row.valid_top1), format_seconds(row.seconds))
        for row in run.history
    ]  # fmt: skip
    header = ("epoch", "lr", "train loss", "train top-1", "valid loss", "valid top-1", "time")
    return _folded("The numbers", _table(header, rows, numbers=range(7)))


def _confusion(evaluation: Evaluation) -> Markup:
    many = len(evaluation.classes) > MOST_IN_MATRIX
    pairs = list(_confused_pairs(evaluation, _PAIRS_WITHOUT_MATRIX if many else _PAIRS))
    told = element("ul", *pairs) if pairs else element("p", "No image was answered wrongly.", class_="soft")
    if many:
        says = (
            f"{len(evaluation.classes):,} classes are too many for a matrix; these are the pairs most often confused."
        )
        return _section("confusion", "Confusion", element("p", says, class_="soft"), told)
    says = "Rows are what the images are, columns what was answered; an empty cell is zero."
    return _section("confusion", "Confusion", element("p", says, class_="soft"),
                    _matrix(evaluation), element("h3", "Most confused"), told)  # fmt: skip


def _confused_pairs(evaluation: Evaluation, most: int) -> Iterator[Markup]:
    """Yield in words which class was most often taken for which other."""
    confusion, classes = evaluation.confusion, evaluation.classes
    wrong = [(count, i, j) for i, row in enumerate(confusion) for j, count in enumerate(row) if count and i != j]
    for count, i, j in sorted(wrong, key=lambda pair: (-pair[0], pair[1:]))[:most]:
        times = f"{count:,} {'time' if count == 1 else 'times'}"
        share = f"{format_percent(count / sum(confusion[i]))} of "
        yield element("li", element("b", _name(classes[i])), " answered as ", element("b", _name(classes[j])),
                      f": {times}, {share}", _name(classes[i]))  # fmt: skip


def _matrix(evaluation: Evaluation) -> Markup:
    names = [_name(name, 24) for name in evaluation.classes]
    head = element(
        "tr", element("td", "is \u2193 answered \u2192"), *(element("th", name, scope="col") for name in names)
    )
    rows = []
    for index, (name, counts) in enumerate(zip(names, evaluation.confusion, strict=True)):
        cells = [_cell(count, sum(counts), index == column) for column, count in enumerate(counts)]
        rows.append(element("tr", element("th", name, scope="row"), *cells))
    table = element("table", element("thead", head), element("tbody", *rows), class_="matrix")
    return _scrolled(table, "confusion matrix")


def _cell(count: int, total: int, diagonal: bool) -> Markup:
    """Build one cell; a few mistakes are drawn stronger than their share, or nobody would see them."""
    if not count:
        return element("td")
    share = count / total
    part = share if diagonal else math.sqrt(share)
    told = f"{format_percent(share)} of the row"
    return element("td", f"{count:,}", class_="right" if diagonal else "wrong", style=f"--part:{part:.3f}", title=told)
