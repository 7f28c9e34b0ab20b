"""The picture of a learning-rate sweep: an SVG file of its own that any browser opens, light or dark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from conviction.figures import Axis, Markup, element, power_ticks, round_ticks

_WIDTH, _HEIGHT = 640, 384
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 20, 76, 48
_STYLE = Markup("""
svg { background: #fff; --ink: #16191c; --soft: #565f68; --line: #dfe3e7; --first: #1d5fc4; --second: #b4500b; }
@media (prefers-color-scheme: dark) {
  svg { background: #171b1e; --ink: #e8eaec; --soft: #a0a9b1; --line: #2c3338; --first: #7db2ff; --second: #f5a05c; }
}
text { font: 12px system-ui, "Segoe UI", Roboto, Arial, sans-serif; fill: var(--soft); }
.title { font-size: 14px; font-weight: 600; fill: var(--ink); }
.grid { stroke: var(--line); } .chosen { stroke: var(--ink); stroke-dasharray: 4 3; }
path { fill: none; stroke-width: 2; stroke-linejoin: round; }
.probe { stroke: var(--first); } .train { stroke: var(--soft); stroke-width: 1; opacity: .7; }
circle { fill: var(--second); }
""")


def draw_sweep(
    title: str, curve: Sequence[tuple[float, float, float]], trials: Sequence[tuple[float, float]], lr: float | None
) -> Markup:
    """Draw a sweep: `curve` holds (rate, training loss, probe's loss), `trials` (rate, loss after a short run)."""
    across, up = _axes(curve, trials)
    base = _HEIGHT - _BOTTOM
    parts: list[object] = [element("style", _STYLE), element("text", title, x=16, y=22, class_="title")]
    for tick in round_ticks(up.low, up.high):
        y = _px(up.place(tick))
        parts.append(element("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(_text(_LEFT - 8, up.place(tick) + 4, f"{tick:g}", "end"))
    parts += [
        _text(across.place(tick), base + 18, f"{tick:g}", "middle") for tick in power_ticks(across.low, across.high)
    ]
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 10, "learning rate", "middle"))
    parts += _legend()
    for kind, column in (("train", 1), ("probe", 2)):
        points = [
            (across.place(row[0]), up.place(min(row[column], up.high))) for row in curve if math.isfinite(row[column])
        ]
        parts.append(element("path", d=_path(points), class_=kind))
    for rate, loss in trials:
        told = element("title", f"lr {rate:.3g}: loss {loss:.4g}")
        y = up.place(min(loss, up.high))
        parts.append(element("circle", told, cx=_px(across.place(rate)), cy=_px(y), r=4.5))
    if lr is not None:
        x = across.place(lr)
        parts.append(element("line", x1=_px(x), x2=_px(x), y1=_TOP, y2=base, class_="chosen"))
        parts.append(_text(x, _TOP - 6, f"lr {lr:.3g}", "middle"))
    return element("svg", *parts, xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img",
                   aria_label=title, width=_WIDTH, height=_HEIGHT)  # fmt: skip


def _axes(curve: Sequence[tuple[float, float, float]], trials: Sequence[tuple[float, float]]) -> tuple[Axis, Axis]:
    """Return both axes; losses far above the first are cut off, or an explosion would flatten all the rest."""
    rates = [row[0] for row in curve] + [rate for rate, _ in trials]
    losses = [loss for row in curve for loss in row[1:]] + [loss for _, loss in trials]
    top = 1.5 * curve[0][2]
    low = min((loss for loss in losses if math.isfinite(loss)), default=0.0)
    across = Axis(min(rates), max(rates), _LEFT + 8, _WIDTH - _RIGHT - 8, logarithmic=True)
    return across, Axis(min(low, top) * 0.9, top, _HEIGHT - _BOTTOM, _TOP)


def _legend() -> Iterable[Markup]:
    x = 16
    for words, kind, width in (("batch of the range test", "train", 160), ("probe", "probe", 60)):
        yield element("path", d=f"M{x} 42h22", class_=kind)
        yield _text(x + 28, 46, words, "start")
        x += width + 14
    yield element("circle", cx=x + 6, cy=42, r=4.5)
    yield _text(x + 16, 46, "probe after a short run", "start")


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "".join(f"{'L' if index else 'M'}{x:.1f} {y:.1f}" for index, (x, y) in enumerate(points))


def _text(x: float, y: float, words: str, anchor: str) -> Markup:
    return element("text", words, x=_px(x), y=_px(y), text_anchor=anchor)


def _px(value: float) -> str:
    return f"{value:.1f}"
