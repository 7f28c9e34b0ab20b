"""The plan's pictures as SVG: memory over one training step, cost by layer; `roofline` has a file of its own.

Each is drawn from plain values, says the same numbers in words to those who do not see it, and stands any input:
numbers that are not finite or below zero count as nothing, names are escaped and cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

from conviction.figures import (
    MOST_POINTS,
    WIDTH,
    Axis,
    Markup,
    draw_line,
    draw_svg,
    draw_text,
    element,
    px,
    round_ticks,
)
from conviction.roofline_figure import amount, percent, roofline, shortened, width_of
from conviction.text import format_bytes, format_count

__all__ = ["KINDS", "cost_by_layer", "memory_timeline", "roofline"]

# The kinds of memory, from the bottom of the picture to its top. Bytes of any kind not named here go to the last.
KINDS = ("weights", "gradients", "optimizer", "saved", "inputs", "temporary", "workspace", "other")
# Layers shown by name; of longer nets the rest is one row.
MOST_LAYERS = 12

_LEFT, _RIGHT, _TOP, _BOTTOM = 54, WIDTH - 10, 46, 210
_ROW = 19
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_SHORT_PHASES = {"forward": "fwd", "backward": "bwd", "optimizer": "opt"}
# A limit is drawn where the peak fills at least so much of it; a farther one would flatten the picture.
_NEAR = 0.6
# Phases beyond so many (accumulated gradients) are neither marked nor kept apart by the thinning.
_MOST_PHASES = 20


@dataclass(frozen=True)
class _Run:
    """Events of one phase in a row: the first, one past the last, and where they lie on the page."""

    phase: str
    first: int
    end: int
    left: float
    right: float


def memory_timeline(
    points: Sequence[tuple[str, Mapping[str, float]]], peak_bytes: float, limit_bytes: float | None = None
) -> Markup:
    """Draw the memory held after each event of one training step, stacked by kind.

    `points` are (phase, bytes by kind) in the order of the events; long steps are thinned, the highest point kept.
    `peak_bytes` is the number that the mark says. `limit_bytes` is what the device has: said in words, and a line if
    it is near.
    """
    stacks = [_by_kind(held) for _, held in points] or [_by_kind({})]
    levels = [list(accumulate(sizes)) for sizes in stacks]
    totals = [level[-1] for level in levels]
    runs, top = _runs([phase for phase, _ in points]), totals.index(max(totals))
    peak, limit = amount(peak_bytes), amount(limit_bytes)
    highest = max(peak, totals[top])
    near = 0 < limit <= highest / _NEAR
    up = Axis(0, 1.15 * max(highest, limit if near else 0) or 1024, _BOTTOM, _TOP)
    places = _places(runs)
    shown = [number for number in range(len(KINDS)) if any(sizes[number] for sizes in stacks)]
    parts = [element("text", "memory over one training step", x=0, y=14, class_="title"), *_bytes_grid(up)]
    kept = _kept(runs, totals)
    for number in reversed(shown):  # each down to the ground: the kind below covers it
        outline = _outline([(places[event], up.place(levels[event][number])) for event in kept])
        parts.append(element("path", element("title", KINDS[number]), d=outline, class_=KINDS[number]))
    parts += _phase_marks(runs)
    words = _limit_words(peak, limit)
    parts += [draw_text(0, 30, words, "start")] if words else []
    at = places[top] if points else (_LEFT + _RIGHT) / 2
    parts += _limit_line(up.place(limit), limit, at) if near else []
    y = up.place(peak)
    blocked = near and y - 20 < up.place(limit) <= y + 2  # by the line of the limit
    parts += _peak_mark(at, y, up.place(limit) - 5 if blocked else y - 8, peak)
    sizes = {KINDS[number]: stacks[top][number] for number in shown}
    phase = shortened(points[top][0], 150) if points else "no event"
    parts += _legend(sizes, f"held at the peak, in {phase}:" if sizes else "nothing is held")
    spoken = ", ".join(f"{kind} {format_bytes(size)}" for kind, size in sizes.items()) or "nothing"
    told = [f"peak {format_bytes(peak)} in {phase}, holding {spoken}", *_phase_words(runs, totals)]
    label = f"memory over one training step, {len(points):,} events: {'; '.join([*told, words] if words else told)}"
    return draw_svg(label, parts, _BOTTOM + 60 + 17 * math.ceil(len(sizes) / 2))


def cost_by_layer(rows: Sequence[tuple[str, float, float, float, float | None]]) -> Markup:
    """Draw what part of the params, MACs and saved bytes (and of the time, where known) each layer has.

    `rows` are (name, params, macs, saved_bytes, seconds or None) in the net's order, which is kept; of more than
    `MOST_LAYERS` + 1 layers the smallest are one row. All bars share one scale.
    """
    amounts = [[amount(cell) for cell in row[1:]] for row in rows]
    totals = [sum(column) for column in zip(*amounts, strict=True)] or [0.0] * 4
    shares = [[part / whole if whole else 0.0 for part, whole in zip(row, totals, strict=True)] for row in amounts]
    columns = [
        ("params", format_count(totals[0])),
        ("MACs", format_count(totals[1])),
        ("saved", format_bytes(totals[2])),
    ]
    columns += [("time", _duration(totals[3]))] if totals[3] else []
    table = [(name, row[: len(columns)]) for name, row in _largest([str(row[0]) for row in rows], shares)]
    widest = max((width_of(shortened(name, 126)) for name, _ in table), default=0.0)
    left = min(max(widest, 40.0), 130.0 if len(columns) == 3 else 104.0)
    scale = max((share for _, row in table for share in row), default=0.0) or 1.0
    parts = [element("text", "cost by layer", x=0, y=14, class_="title"), *_heads(columns, left)]
    for line, (name, row) in enumerate(table):
        parts += _row(55 + line * _ROW, name, row, columns, left, scale)
    if not table:
        parts.append(draw_text(WIDTH / 2, 69, "no layers", "middle"))
    heads = ", ".join(f"{total} {head}" for head, total in columns)
    words = "; ".join(f"{shortened(name, 300)} {_shares_in_words(row, columns)}" for name, row in table) or "no layers"
    return draw_svg(f"cost by layer, {heads} in all: {words}", parts, 60 + _ROW * max(1, len(table)))


def _by_kind(held: Mapping[str, float]) -> list[float]:
    sizes = dict.fromkeys(KINDS, 0.0)
    for kind, size in held.items():
        sizes[kind if kind in sizes else KINDS[-1]] += amount(size)
    return list(sizes.values())


def _runs(phases: Sequence[str]) -> list[_Run]:
    """Give each phase in a row its part of the width: by its events, but room for its name where there is any."""
    counts = [(phase, len(list(group))) for phase, group in groupby(phases)]
    least = min(56.0, (_RIGHT - _LEFT) / (len(counts) + 1))
    spare = (_RIGHT - _LEFT - least * len(counts)) / max(1, len(phases))
    runs, first, left = [], 0, float(_LEFT)
    for phase, count in counts:
        runs.append(_Run(phase, first, first + count, left, left + least + spare * count))
        first, left = first + count, runs[-1].right
    return runs


def _places(runs: Sequence[_Run]) -> list[float]:
    """Return where each event begins on the page."""
    return [
        run.left + number / (run.end - run.first) * (run.right - run.left)
        for run in runs
        for number in range(run.end - run.first)
    ]


def _kept(runs: Sequence[_Run], totals: Sequence[float]) -> list[int]:
    """Choose the events to draw: all, or the highest and the lowest of every few and the first of each phase."""
    count = len(totals) if runs else 0
    if count <= MOST_POINTS:
        return list(range(count))
    step = math.ceil(count / (MOST_POINTS // 2 - _MOST_PHASES))
    kept = {run.first for run in runs} if len(runs) <= _MOST_PHASES else set()
    for first in range(0, count, step):
        some = range(first, min(first + step, count))
        kept |= {max(some, key=totals.__getitem__), min(some, key=totals.__getitem__)}
    return sorted(kept)


def _outline(corners: Sequence[tuple[float, float]]) -> str:
    """Return the path of an area under steps: from each corner on, the height holds until the next."""
    path, last = f"M{px(corners[0][0])} {px(_BOTTOM)}", ""
    for x, y in corners:
        if px(y) != last:
            last = px(y)
            path += f"H{px(x)}V{last}"
    return f"{path}H{px(_RIGHT)}V{px(_BOTTOM)}Z"


def _bytes_grid(up: Axis) -> Iterator[Markup]:
    step = next((step for step in range(len(_UNITS)) if up.high / 1024**step < 1000), len(_UNITS) - 1)
    for tick in round_ticks(0, up.high / 1024**step, 5):
        y = up.place(tick * 1024**step)
        yield draw_line(_LEFT, y, _RIGHT, y, "grid")
        yield draw_text(_LEFT - 6, y + 4, f"{tick:g} {_UNITS[step]}" if tick else "0", "end")


def _phase_marks(runs: Sequence[_Run]) -> Iterator[Markup]:
    for run in runs if len(runs) <= _MOST_PHASES else ():
        if run.first:
            yield draw_line(run.left, _TOP, run.left, _BOTTOM + 4, "best")
        names = (shortened(run.phase, 100), _SHORT_PHASES.get(run.phase, ""))
        name = next((name for name in names if width_of(name) <= run.right - run.left), "")
        yield draw_text((run.left + run.right) / 2, _BOTTOM + 15, name, "middle")
    yield draw_text((_LEFT + _RIGHT) / 2, _BOTTOM + 30, "events in their order, not in time", "middle")


def _limit_words(peak: float, limit: float) -> str:
    if not limit:
        return ""
    if peak > limit:
        return f"the device has {format_bytes(limit)}: {format_bytes(peak - limit)} too little"
    return f"the device has {format_bytes(limit)}: the peak takes {percent(peak / limit)}"


def _limit_line(y: float, limit: float, peak_at: float) -> Iterator[Markup]:
    yield draw_line(_LEFT, y, _RIGHT, y, "limit")
    x, anchor = (_LEFT + 4, "start") if peak_at > (_LEFT + _RIGHT) / 2 else (_RIGHT - 2, "end")
    yield draw_text(x, y - 5, f"limit {format_bytes(limit)}", anchor, "label")


def _peak_mark(x: float, y: float, words_y: float, peak: float) -> Iterator[Markup]:
    yield element("circle", cx=px(x), cy=px(y), r=3.4, class_="peak")
    words = f"peak {format_bytes(peak)}"
    half = width_of(words) / 2
    yield draw_text(min(max(x, _LEFT + half), _RIGHT - half), words_y, words, "middle", "label")


def _legend(sizes: Mapping[str, float], caption: str) -> Iterator[Markup]:
    yield draw_text(0, _BOTTOM + 51, caption, "start")
    column, rows = WIDTH / 2, math.ceil(len(sizes) / 2)
    for number, (kind, size) in enumerate(sizes.items()):
        x, y = number // rows * (column + 8), _BOTTOM + 68 + 17 * (number % rows)
        yield element("rect", x=px(x), y=px(y - 9), width=10, height=10, class_=kind)
        yield draw_text(x + 16, y, kind, "start")
        yield draw_text(x + column - 12, y, format_bytes(size), "end", "ink")


def _phase_words(runs: Sequence[_Run], totals: Sequence[float]) -> list[str]:
    highest: dict[str, float] = {}
    for run in runs:
        highest[run.phase] = max(highest.get(run.phase, 0.0), *totals[run.first : run.end])
    return [f"{shortened(phase, 150)} up to {format_bytes(size)}" for phase, size in list(highest.items())[:6]]


def _largest(names: Sequence[str], shares: Sequence[Sequence[float]]) -> list[tuple[str, Sequence[float]]]:
    """Return the layers with the largest shares, in the net's order, and all others as one row."""
    if len(names) <= MOST_LAYERS + 1:
        return list(zip(names, shares, strict=True))
    ranked = sorted(range(len(names)), key=lambda index: -sum(shares[index]))
    rest = [math.fsum(column) for column in zip(*(shares[index] for index in ranked[MOST_LAYERS:]), strict=True)]
    chosen = [(names[index], shares[index]) for index in sorted(ranked[:MOST_LAYERS])]
    return [*chosen, (f"other {len(names) - MOST_LAYERS:,} layers", rest)]


def _heads(columns: Sequence[tuple[str, str]], left: float) -> Iterator[Markup]:
    cell = (WIDTH - left) / len(columns)
    for number, (head, total) in enumerate(columns, 1):
        yield draw_text(left + number * cell - 3, 32, head, "end")
        yield draw_text(left + number * cell - 3, 47, total, "end", "ink")


def _row(
    y: float, name: str, row: Sequence[float], columns: Sequence[tuple[str, str]], left: float, scale: float
) -> Iterator[Markup]:
    cell = (WIDTH - left) / len(columns)
    yield draw_line(0, y, WIDTH, y, "grid")
    yield draw_text(0, y + 13.5, shortened(name, left), "start", "ink")
    for number, ((head, _), share) in enumerate(zip(columns, row, strict=True)):
        x = left + number * cell + 8
        told = element("title", f"{shortened(name, 300)}: {percent(share)} of {head}")
        if share:
            width = max(1.0, (cell - 8) * share / scale)
            yield element("rect", told, x=px(x), y=px(y + 2), width=px(width), height=_ROW - 4, class_="bar")
        yield draw_text(x + cell - 11, y + 13.5, percent(share), "end", "ink" if share else None)


def _shares_in_words(row: Sequence[float], columns: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{percent(share)} of {head}" for (head, _), share in zip(columns, row, strict=True))


def _duration(seconds: float) -> str:
    scales = ((3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"))
    size, unit = next(((size, unit) for size, unit in scales if seconds >= 0.9995 * size), (1e-6, "us"))
    return f"{seconds / size:.3g} {unit}"
