"""A diagnosis as one page of HTML that opens offline: findings for people, curves by step, signals by layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from conviction.diagnosis.causes import title_of
from conviction.diagnosis.records import Curves, Diagnosis, LayerSeen
from conviction.diagnosis.words import lines_around, rows_of, shift_of, sureness, told_notes, where_of
from conviction.figures import (
    WIDTH,
    Axis,
    Markup,
    Series,
    chart_style,
    draw_line,
    draw_svg,
    draw_text,
    element,
    joined,
    line_chart,
    power_ticks,
    px,
)
from conviction.findings.records import Finding
from conviction.report import POLICY
from conviction.report.pieces import clipped, clipped_start, folded, name, plural, scrolled, section, soft, table
from conviction.storage import make_folder, write_text
from conviction.text import format_percent, format_seconds

FILE = "diagnosis.html"
# Layers drawn; of deeper nets evenly some, with the first and the last.
_MOST_LAYERS = 40
_ROW, _TOP, _LABEL = 16, 36, 116
_NAME_LENGTH = 16
# No signal is drawn below this one: the axis would be all of numbers that are zero for training.
_LEAST = 1e-12


def write_page(diagnosis: Diagnosis, folder: Path) -> Path:
    """Write `diagnosis.html` into a folder, which is made where it is missing; raises `ResourceError`."""
    return write_text(make_folder(folder) / FILE, format_page(diagnosis))


def format_page(diagnosis: Diagnosis) -> str:
    """Return the page as HTML: no scripts, nothing from outside, whatever the program's names hold."""
    main = element(
        "main",
        element("header", element("h1", name(diagnosis.subject), ": ", diagnosis.verdict), _lead(diagnosis)),
        *(_finding_section(number, each, diagnosis) for number, each in enumerate(diagnosis.findings, 1)),
        _fix_section(diagnosis),
        _curves_section(diagnosis.curves),
        _layers_section(diagnosis.curves.layers),
        element("footer", "Written by Conviction. No file of the program was changed."),
    )
    style = chart_style() + resources.files("conviction.report").joinpath("style.css").read_text(encoding="utf-8")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"{clipped(diagnosis.subject)}: {diagnosis.verdict}"),
        element("style", Markup(style)),
    )
    return f"<!doctype html>\n{element('html', head, element('body', main), lang='en')}\n"


def _lead(diagnosis: Diagnosis) -> Markup:
    found = plural(len(diagnosis.findings), "finding") if diagnosis.findings else "Nothing wrong was found"
    steps = f"{found}. {plural(diagnosis.steps, 'training step')} seen in {format_seconds(diagnosis.seconds)}."
    return joined([soft(steps), *(soft(clipped(note, 400)) for note in told_notes(diagnosis))])


def _finding_section(number: int, finding: Finding, diagnosis: Diagnosis) -> Markup:
    where = where_of(diagnosis, finding)
    code = joined([element("code", finding.cause), f" ({sureness(finding.confidence)})"])
    parts = [element("p", code, *((", ", name(where, 200)) if where else ()), class_="soft")]
    if lines := lines_around(diagnosis, finding):
        parts.append(_listing(lines, finding.line or 0, shift_of(diagnosis, finding)))
    for title, text in rows_of(finding):
        parts += [element("h3", title), element("p", clipped(text, 1000))]
    return section(f"finding-{number}", f"{number}. {title_of(finding.cause)}", *parts)


def _listing(lines: Sequence[tuple[int, str]], marked: int, shift: int) -> Markup:
    """Show lines of the program, the one that matters standing out from the others."""
    told = []
    for line, source in lines:
        text = f"{line - shift:>4}  {source[:300]}"
        told.append(element("b", text) if line == marked else element("span", text))
    return element("pre", Markup("\n".join(told)))


def _fix_section(diagnosis: Diagnosis) -> Markup:
    if not diagnosis.fix:
        return Markup()
    lines = Markup("\n").join(element("span", line) if line[:1] == " " else element("b", line)
                              for line in diagnosis.fix.splitlines())  # fmt: skip
    says = f"The mended program is {clipped(diagnosis.fixed, 200)}." if diagnosis.fixed else "Lines to change."
    return section("fix", "A fix", soft(says), element("pre", Markup(lines)))


def _curves_section(curves: Curves) -> Markup:
    """Draw loss, accuracy, learning rate and update over weight by step; what was never measured is left out."""
    if len(curves.steps) < 2:
        return Markup()
    steps = [step + 1 for step in curves.steps]
    charts = []
    for title, values, percent in (
        ("training loss", curves.losses, False),
        ("right answers", curves.accuracies, True),
        ("learning rate", curves.lrs, False),
        ("update over weight", curves.update_ratios, False),
    ):
        kept = [(step, float(value)) for step, value in zip(steps, values, strict=True) if value is not None]
        if len(kept) > 1:
            series = Series(title, [value for _, value in kept])
            charts.append(line_chart(title, [step for step, _ in kept], [series], percent=percent, unit="step",
                                     may_be_logarithmic=not percent))  # fmt: skip
    says = ("By optimizer step, of the batch that the step was made on. Update over weight: by how much of its size a "
            "weight matrix changes in a step; about 0.001 to 0.01 is usual.")  # fmt: skip
    return section("curves", "How it went", soft(says), element("div", *charts, class_="charts"))


def _layers_section(layers: tuple[LayerSeen, ...]) -> Markup:
    """Draw how large signals, and the gradients of the weights, are from layer to layer at the first step."""
    if not layers:
        return Markup()
    every = max(1, math.ceil(len(layers) / _MOST_LAYERS))
    shown = [layer for index, layer in enumerate(layers) if index % every == 0 or index == len(layers) - 1]
    signals = _bars("signal", shown, [layer.rms for layer in shown])
    gradients = _bars("gradient of the weight", shown, [layer.gradient_rms for layer in shown])
    says = ("Layer by layer from the images to the answers, before the first step (root mean squares, logarithmic "
            "scale). In a healthy net neighbours differ little; a signal or gradient that shrinks a hundredfold or "
            "more on the way is lost.")  # fmt: skip
    header = ("layer", "signal", "differs by image", "weight", "gradient", "dead units")
    rows = [
        (name(each.layer), f"{each.rms:.3g}", f"{each.std:.3g}", f"{each.weight_rms:.3g}",
         "-" if each.gradient_rms is None else f"{each.gradient_rms:.3g}", format_percent(each.dead_share))
        for each in layers[:500]
    ]  # fmt: skip
    numbers = folded("The numbers", table("the numbers by layer", header, rows, numbers=range(1, 6)))
    drawn = scrolled(element("div", signals, gradients, class_="charts"), "signals by layer")
    return section("layers", "Signals by layer", soft(says), drawn, numbers)


def _bars(title: str, layers: Sequence[LayerSeen], values: Sequence[float | None]) -> Markup:
    """Draw one bar a layer on a logarithmic scale; a zero, or what is not finite, is said in words."""
    sizes = [value for value in values if value is not None and math.isfinite(value) and value > _LEAST]
    low, high = (10.0 ** math.floor(math.log10(min(sizes))), max(sizes)) if sizes else (0.1, 1.0)
    across = Axis(low, max(high, 10 * low), _LABEL, WIDTH - 52, logarithmic=True)
    height = _TOP + _ROW * len(layers) + 24
    parts = [element("text", title, x=0, y=14, class_="title")]
    for tick in power_ticks(across.low, across.high, 4):
        x = across.place(tick)
        parts += [draw_line(x, _TOP - 6, x, height - 20, "grid"), draw_text(x, height - 6, f"{tick:g}", "middle")]
    for row, (layer, value) in enumerate(zip(layers, values, strict=True)):
        y = _TOP + _ROW * row
        parts.append(draw_text(_LABEL - 6, y + 10, clipped_start(layer.layer, _NAME_LENGTH), "end"))
        if value is None or value not in sizes:
            parts.append(draw_text(_LABEL + 4, y + 10, _in_words(value), "start"))
            continue
        told, end = element("title", f"{layer.layer}: {value:.3g}"), max(_LABEL + 1.0, across.place(value))
        parts.append(element("rect", told, x=px(_LABEL), y=px(y + 2), width=px(end - _LABEL), height=10,
                             class_="dot-1"))  # fmt: skip
        parts.append(draw_text(end + 4, y + 10, f"{value:.2g}", "start"))
    label = "; ".join(f"{each.layer} {_in_words(value)}" for each, value in zip(layers, values, strict=True))
    return draw_svg(f"{title} by layer: {label}", parts, height)


def _in_words(value: float | None) -> str:
    if value is None:
        return "not measured"
    return "zero" if value == 0 else f"{value:.3g}"
