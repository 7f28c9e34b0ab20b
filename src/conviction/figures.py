"""Figures without a plotting library: markup that is escaped by construction, and the charts of a report as SVG.

Colours and fonts come by class from the page's style sheet, so that one figure serves light, dark and paper. Every
chart is drawn about as wide as a phone, so that its words stay readable there.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from conviction.text import format_percent, printable

WIDTH, HEIGHT = 340, 240
# Points drawn for a curve at most: more are finer than the pixels and make the page heavy.
MOST_POINTS = 400
# Up to so many points each gets a dot that shows its number when the pointer rests on it.
MOST_DOTS = 60

_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 10, 34, 36
# Elements of HTML that have no end tag.
_VOID = frozenset({"meta", "img"})


class Markup(str):
    """Text that is markup already. `element` escapes every other text."""

    __slots__ = ()


def safe(text: object) -> Markup:
    """Return text as markup: what could act (control and bidirectional characters, `<>&` and quotes) is escaped."""
    return text if isinstance(text, Markup) else Markup(html.escape(printable(text)))


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """Build one element of HTML or SVG; children that are no `Markup`, and all attributes, are escaped.

    `class_` becomes `class` and `aria_label` becomes `aria-label`; an attribute that is None is left out.
    """
    told = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(printable(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{tag}{told}>" if tag in _VOID else f"<{tag}{told}>{joined(children)}</{tag}>")


def joined(parts: Iterable[object]) -> Markup:
    """Join parts into one piece of markup, escaping those that are none."""
    return Markup("".join(safe(part) for part in parts))


@dataclass(frozen=True)
class Series:
    """One curve: its name in the legend and its values, which need not be finite."""

    name: str
    values: Sequence[float]


@dataclass(frozen=True)
class Axis:
    """The way from numbers to places on the page, in pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Return the pixel of a value."""
        low, high = self.low, self.high
        if self.logarithmic:
            value, low, high = math.log10(value), math.log10(low), math.log10(high)
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)


def round_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return at most `most` round numbers (steps of 1, 2 or 5 times a power of ten) within [low, high]."""
    if not high - low > 1e-300:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for step in (power, 2 * power, 5 * power, 10 * power, 20 * power):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            break
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def power_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return at most `most` powers of ten within [low, high], both above zero."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    step = max(1, math.ceil((last - first + 1) / most))
    return [10.0**power for power in range(first, last + 1, step)]


def chart_style() -> str:
    """Return the style sheet of the charts and its palette, for the page that shows them."""
    return resources.files("conviction").joinpath("figures.css").read_text(encoding="utf-8")


def line_chart(
    title: str,
    epochs: Sequence[int],
    series: Sequence[Series],
    *,
    best: int | None = None,
    percent: bool = False,
    from_zero: bool = False,
    may_be_logarithmic: bool = False,
    unit: str = "epoch",
) -> Markup:
    """Draw up to two curves over the epochs (or another `unit`) as SVG; the one `best` is marked by an upright line.

    Values that are not finite leave a gap and a cross at the top. With `may_be_logarithmic` a curve that spans more
    than two powers of ten gets a logarithmic scale.
    """
    kept = _kept(epochs, best)
    epochs = [epochs[index] for index in kept]
    series = [Series(curve.name, [curve.values[index] for index in kept]) for curve in series]
    across = Axis(min(epochs, default=1), max(epochs, default=1), _LEFT + 8, WIDTH - _RIGHT - 8)
    up = _vertical_axis(series, from_zero, may_be_logarithmic)
    parts = [_title(title, series), *_horizontal_grid(up, percent), *_epoch_ticks(across, unit)]
    if best is not None and best in epochs:
        parts.append(_upright(across.place(best)))
    for number, curve in enumerate(series, 1):
        parts += _curve(number, curve, epochs, (across, up), percent, unit)
    if not any(_drawable(value) for curve in series for value in curve.values):
        parts.append(draw_text((_LEFT + WIDTH) / 2, HEIGHT / 2, "no finite numbers", "middle"))
    scale = ", logarithmic scale" if up.logarithmic else ""
    return draw_svg(f"{title} by {unit}{scale}: {'; '.join(_in_words(curve, percent) for curve in series)}", parts)


def reliability_diagram(bins: Sequence[Mapping[str, float]]) -> Markup:
    """Draw how right the answers were against how sure they were, as SVG.

    `bins` are those of `Evaluation.calibration`: `n`, `confidence` and `accuracy`, fractions. A circle's area goes by
    its answers; its stem reaches to the diagonal, where confidence would equal accuracy.
    """
    across, up = Axis(0, 1, _LEFT, WIDTH - _RIGHT - 8), Axis(0, 1, HEIGHT - _BOTTOM, _TOP)
    parts = [_title("accuracy"), *_horizontal_grid(up, percent=True)]
    parts += [draw_text(across.place(tick), HEIGHT - _BOTTOM + 15, f"{100 * tick:.0f} %", "middle")
              for tick in (0, 0.2, 0.4, 0.6, 0.8, 1)]  # fmt: skip
    parts.append(draw_text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 6, "confidence", "middle"))
    parts.append(draw_line(across.place(0), up.place(0), across.place(1), up.place(1), "diagonal"))
    most = max((each["n"] for each in bins), default=1)
    for each in bins:
        x, y = across.place(each["confidence"]), up.place(each["accuracy"])
        radius = max(2.0, 9 * math.sqrt(each["n"] / most))
        told = (f"{each['n']:,.0f} answers: {format_percent(each['confidence'])} sure, "
                f"{format_percent(each['accuracy'])} right")  # fmt: skip
        parts.append(draw_line(x, up.place(each["confidence"]), x, y, "stem"))
        parts.append(element("circle", element("title", told), cx=px(x), cy=px(y), r=px(radius), class_="bubble"))
    words = "; ".join(f"{format_percent(b['confidence'])} sure, {format_percent(b['accuracy'])} right" for b in bins)
    return draw_svg(f"accuracy against confidence: {words}", parts)


def _kept(epochs: Sequence[int], best: int | None) -> list[int]:
    """Choose which epochs to draw: all, or evenly some with the last and the best."""
    count = len(epochs)
    chosen = set(range(0, count, max(1, math.ceil(count / MOST_POINTS)))) | ({count - 1} if count else set())
    return sorted(chosen | {index for index, epoch in enumerate(epochs) if epoch == best})


def _vertical_axis(series: Sequence[Series], from_zero: bool, may_be_logarithmic: bool) -> Axis:
    finite = [value for curve in series for value in curve.values if _drawable(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    logarithmic = may_be_logarithmic and low > 0 and high / low > 100
    if not logarithmic:
        low = min(0.0, low) if from_zero else low
        margin = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
        low, high = low if from_zero else low - margin, high + margin
    return Axis(low, high, HEIGHT - _BOTTOM, _TOP, logarithmic)


def _horizontal_grid(up: Axis, percent: bool) -> list[Markup]:
    parts = []
    for tick in power_ticks(up.low, up.high) if up.logarithmic else round_ticks(up.low, up.high):
        if percent and tick > 1:
            continue
        y = up.place(tick)
        parts.append(draw_line(_LEFT, y, WIDTH - _RIGHT, y, "grid"))
        parts.append(draw_text(_LEFT - 8, y + 4, _number(tick, percent), "end"))
    return parts


def _epoch_ticks(across: Axis, unit: str) -> list[Markup]:
    whole = [tick for tick in round_ticks(across.low, across.high, 8) if tick == int(tick)]
    ticks = [draw_text(across.place(tick), HEIGHT - _BOTTOM + 15, f"{tick:.0f}", "middle") for tick in whole]
    return [*ticks, draw_text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 6, unit, "middle")]


def _curve(
    number: int, curve: Series, epochs: Sequence[int], axes: tuple[Axis, Axis], percent: bool, unit: str
) -> Iterable[Markup]:
    """Yield one curve: its line with gaps, its dots where they are few, a cross for each number that is not finite."""
    (across, up), line, dots, drawing = axes, "", [], False
    for epoch, value in zip(epochs, curve.values, strict=True):
        x = across.place(epoch)
        told = element("title", f"{curve.name}, {unit} {epoch}: {_number(value, percent, digits=4)}")
        if not _drawable(value):
            drawing = False
            cross = f"M{x - 3:.1f} {_TOP - 1}l6 6m0 -6l-6 6"
            dots.append(element("path", told, d=cross, class_="cross"))
            continue
        place = f"{px(x)} {px(up.place(value))}"
        line += f"L{place}" if drawing else f"M{place}L{place}"  # a line to itself shows a point between two gaps
        drawing = True
        if len(epochs) <= MOST_DOTS:
            y = px(up.place(value))
            dots.append(element("circle", told, cx=px(x), cy=y, r=2.4, class_=f"dot-{number}"))
    yield element("path", d=line, class_=f"curve-{number}") if line else Markup()
    yield from dots


def _title(title: str, series: Sequence[Series] = ()) -> Markup:
    """Build the chart's title at the left and its legend, in the form of the lines, at the right."""
    parts, x = [element("text", title, x=0, y=14, class_="title")], WIDTH - _RIGHT
    for number, curve in reversed(list(enumerate(series, 1))) if len(series) > 1 else ():
        x -= 6 * len(curve.name) + 4
        parts.append(draw_text(x, 14, curve.name, "start"))
        x -= 26
        parts.append(element("path", d=f"M{x} 10h20", class_=f"curve-{number}"))
        x -= 12
    return joined(parts)


def _upright(x: float) -> Markup:
    return joined([draw_line(x, _TOP, x, HEIGHT - _BOTTOM, "best"), draw_text(x, _TOP - 5, "best", "middle")])


def _in_words(curve: Series, percent: bool) -> str:
    if not curve.values:
        return f"{curve.name} without numbers"
    first, last = (_number(value, percent, digits=4) for value in (curve.values[0], curve.values[-1]))
    return f"{curve.name} from {first} to {last}"


def draw_svg(label: str, parts: Iterable[object], height: float = HEIGHT) -> Markup:
    """Build a whole chart, `WIDTH` wide; `label` says in words what it shows."""
    return element("svg", *parts, viewBox=f"0 0 {WIDTH} {height}", role="img", aria_label=label, class_="chart")


def draw_line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """Draw a line, styled by the class `kind`."""
    return element("line", x1=px(x1), y1=px(y1), x2=px(x2), y2=px(y2), class_=kind)


def draw_text(x: float, y: float, words: str, anchor: str, kind: str | None = None) -> Markup:
    """Draw words on one line: `anchor` (start, middle, end) is what lies at x, and y their baseline."""
    return element("text", words, x=px(x), y=px(y), text_anchor=anchor, class_=kind)


def _drawable(value: float) -> bool:
    """Whether a value has a place on paper: finite, and so far from the largest float that differences are too."""
    return math.isfinite(value) and abs(value) < 1e300


def px(value: float) -> str:
    """Return a place on the page as text, to a tenth of a pixel."""
    return f"{value:.1f}"


def _number(value: float, percent: bool, digits: int = 5) -> str:
    mantissa, e, exponent = f"{100 * value if percent else value:.{digits}g}".partition("e")
    return f"{mantissa}{e}{int(exponent) if e else ''}{' %' if percent else ''}"  # 1e5, not 1e+05
