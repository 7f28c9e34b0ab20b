"""The layers of a net under a device's roof, as SVG; and how the plan's pictures take any number and any name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from conviction.figures import WIDTH, Axis, Markup, draw_line, draw_svg, draw_text, element, power_ticks, px
from conviction.text import format_count, printable

# Spots numbered in the picture and named below it.
MOST_NAMED = 5

_LEFT, _RIGHT, _TOP, _BOTTOM, _HEIGHT = 44, WIDTH - 10, 26, 224, 260
# What lies more than so many times below or above the ridge is drawn at the edge.
_FARTHEST = 1e5
# Pixels that letters take; any other Latin letter takes 8, one of another script 12.
_WIDTHS = (("iljI.,:;'|! \u2026", 4.0), ("frt()[]-/", 5.0), ("abcdeghknopqsuvxyz_*", 6.8), ("0123456789", 7.0))

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class _Spot:
    """Layers at one place under the roof: the heaviest one's name and FLOP per byte, how many, their share in all."""

    name: str
    intensity: float
    count: int
    share: float
    x: float
    y: float
    radius: float


def roofline(points: Sequence[tuple[str, float, float]], peak_flops: float | None, bandwidth: float | None) -> Markup:
    """Draw each layer on the device's roof: what it can reach with its FLOP per byte moved.

    `points` are (name, FLOP per byte, weight): a circle's area goes by the weight, the layer's FLOPs or its share of
    them. `peak_flops` is the device's FLOP/s in the precision used, `bandwidth` its memory's bytes a second; without
    both there is no roof. Layers at one spot share a circle; those without arithmetic are counted in words.
    """
    peak, speed = amount(peak_flops), amount(bandwidth)
    title = element("text", "roofline: FLOP/s within reach", x=0, y=14, class_="title")
    if not peak or not speed:
        words = "the device's rates are not known"
        return draw_svg(f"roofline: {words}", [title, draw_text(WIDTH / 2, 60, words, "middle")], 100)
    ridge = peak / speed
    working = [(str(name), min(max(amount(each), ridge / _FARTHEST), ridge * _FARTHEST), amount(weight))
               for name, each, weight in points if amount(each)]  # fmt: skip
    intensities = [ridge, *(each for _, each, _ in working)]
    low, high = min(intensities), max(intensities)
    # The roof begins in the picture's corner, so that its slope is a straight line from there to the ridge.
    across = Axis(min(low / 2, ridge / 50), max(high * 2, ridge * 10), _LEFT, _RIGHT, logarithmic=True)
    up = Axis(across.low * speed, peak * 4, _BOTTOM, _TOP, logarithmic=True)
    spots = _spots(working, across, up, peak, speed)
    corner = across.place(ridge), up.place(peak)
    roof = f"M{px(_LEFT)} {px(_BOTTOM)}L{px(corner[0])} {px(corner[1])}L{px(_RIGHT)} {px(corner[1])}"
    parts = [title, *_power_grid(across, up), element("path", d=roof, class_="roof")]
    parts += [_circle(spot) for spot in spots]
    notes, heaviest = _notes(peak, speed, corner), [spot for spot in spots if spot.share][:MOST_NAMED]
    parts += [draw_line(*corner, corner[0], _BOTTOM, "best"), *(mark for mark, _ in notes)]
    parts += [*_numbers(heaviest, [box for _, box in notes]), *(_legend(heaviest, ridge) if heaviest else ())]
    idle = len(points) - len(working)
    told = [_in_words(spot, ridge) for spot in heaviest] + ([f"{idle:,} without arithmetic"] if idle else [])
    roof = f"{format_count(peak, 'FLOP/s')} and {format_count(speed, 'B/s')}, ridge at {_ratio(ridge)} FLOP per byte"
    height = _HEIGHT + 20 + 17 * len(heaviest) if heaviest else _HEIGHT
    return draw_svg(f"roofline of {roof}; heaviest first: {'; '.join(told) or 'no layers'}", parts, height)


def amount(value: float | None) -> float:
    """Return a number to be drawn: none, not finite or below zero counts as nothing, and more than 1e21 as that."""
    return min(float(value), 1e21) if value is not None and math.isfinite(value) and value > 1e-21 else 0.0


def percent(share: float) -> str:
    """Return a share of the whole as in `12.3 %`; only nothing is `0 %`, only the whole `100 %`."""
    if share in (0, 1):
        return f"{100 * share:.0f} %"
    return "<0.1 %" if share < 0.0005 else ">99.9 %" if share >= 0.9995 else f"{100 * share:.1f} %"


def width_of(words: str) -> float:
    """Return about how wide words of a chart's size are, in the widest font that a page is likely to have."""
    return sum(
        next((width for letters, width in _WIDTHS if letter in letters), 12.0 if ord(letter) > 0x2FF else 8.0)
        for letter in words
    )


def shortened(name: object, width: float) -> str:
    """Return a name cut to a width: its end is kept, where a layer's own name is."""
    words = printable(str(name)[-400:])
    if width_of(words) <= width:
        return words
    kept, left = "", width - width_of("\u2026")
    for letter in reversed(words):
        left -= width_of(letter)
        if left < 0:
            break
        kept = letter + kept
    return "\u2026" + kept.lstrip("._ ")


def _spots(
    working: Sequence[tuple[str, float, float]], across: Axis, up: Axis, peak: float, speed: float
) -> list[_Spot]:
    """Gather the layers that would cover each other, the heaviest spot first."""
    groups: dict[int, list[tuple[str, float, float]]] = {}
    for layer in working:
        groups.setdefault(round(across.place(layer[1])), []).append(layer)
    whole = sum(weight for *_, weight in working) or 1.0
    sums = {place: sum(weight for *_, weight in group) for place, group in groups.items()}
    most = max(sums.values(), default=0.0) or 1.0
    spots = []
    for place in sorted(groups, key=lambda place: -sums[place]):
        name, intensity, _ = max(groups[place], key=lambda layer: layer[2])
        y = up.place(min(peak, intensity * speed))
        radius = max(2.5, 10 * math.sqrt(sums[place] / most))
        spots.append(_Spot(name, intensity, len(groups[place]), sums[place] / whole, place, y, radius))
    return spots


def _circle(spot: _Spot) -> Markup:
    told = f"{_called(spot, 300)}: {_ratio(spot.intensity)} FLOP per byte, {percent(spot.share)} of the FLOPs"
    return element("circle", element("title", told), cx=px(spot.x), cy=px(spot.y), r=px(spot.radius), class_="bubble")


def _power_grid(across: Axis, up: Axis) -> Iterator[Markup]:
    for tick in power_ticks(up.low, up.high):
        yield draw_line(_LEFT, up.place(tick), _RIGHT, up.place(tick), "grid")
        yield draw_text(_LEFT - 6, up.place(tick) + 4, format_count(tick).replace(" ", "\u00a0"), "end")
    for tick in power_ticks(across.low, across.high):
        yield draw_text(across.place(tick), _BOTTOM + 15, f"{tick:g}" if tick < 1e4 else format_count(tick), "middle")
    yield draw_text((_LEFT + _RIGHT) / 2, _HEIGHT - 5, "FLOP per byte moved", "middle")


def _notes(peak: float, speed: float, corner: tuple[float, float]) -> list[tuple[Markup, Box]]:
    """Write the roof's rates along it and the ridge at its foot, each with the room that it takes."""
    top, rate, ridge = format_count(peak, "FLOP/s"), format_count(speed, "B/s"), f"ridge {_ratio(peak / speed)}"
    x, y = (_LEFT + corner[0]) / 2 - 10, (_BOTTOM + corner[1]) / 2 - 4
    on_slope, on_right = x - width_of(rate) > _LEFT, corner[0] + 90 < _RIGHT
    written = (
        (_RIGHT - 2, corner[1] - 14, top, "end"),
        (x, y, rate, "end") if on_slope else (_LEFT + 4, corner[1] - 14, rate, "start"),
        (corner[0] + (4 if on_right else -4), _BOTTOM - 5, ridge, "start" if on_right else "end"),
    )
    return [(draw_text(x, y, words, anchor, "label"), _box(x, y, words, anchor)) for x, y, words, anchor in written]


def _numbers(spots: Sequence[_Spot], taken: list[Box]) -> Iterator[Markup]:
    """Number the heaviest spots, each beside its own circle where no other mark is; low ones from above."""
    taken = [*taken, *(_around(spot) for spot in spots)]
    for number, spot in enumerate(spots, 1):
        down = -1 if spot.y > _BOTTOM - 60 else 1
        edge = spot.y + down * spot.radius
        for step in range(13, 200, 3):
            y = edge + (step if down > 0 else 4 - step)
            box = _box(spot.x, y, f"-{number}-", "middle")  # with some room at its sides
            if not any(_touch(box, other) for other in taken):
                break
        taken.append(box)
        yield draw_line(spot.x, edge, spot.x, y - 10 if down > 0 else y + 2, "leader") if step > 13 else Markup()
        yield draw_text(spot.x, y, str(number), "middle", "label")


def _legend(spots: Sequence[_Spot], ridge: float) -> Iterator[Markup]:
    """List the numbered spots: whose, at how many FLOP per byte, bound by what, with which share of the FLOPs."""
    columns = (_RIGHT - 116, _RIGHT - 56, _RIGHT + 6)
    heads = zip(columns, ("FLOP per byte", "bound by", "FLOPs"), strict=True)
    yield from (draw_text(x, _HEIGHT + 14, words, "end") for x, words in heads)
    for number, spot in enumerate(spots, 1):
        y = _HEIGHT + 14 + 17 * number
        yield draw_text(0, y, str(number), "start")
        yield draw_text(13, y, shortened(_called(spot, 130), 130), "start", "ink")
        cells = (_ratio(spot.intensity), _bound(spot, ridge), percent(spot.share))
        yield from (draw_text(x, y, words, "end", "ink") for x, words in zip(columns, cells, strict=True))


def _box(x: float, y: float, words: str, anchor: str) -> Box:
    width = width_of(words)
    left = x - width * {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor]
    return left, y - 10, left + width, y + 3


def _around(spot: _Spot) -> Box:
    return spot.x - spot.radius, spot.y - spot.radius, spot.x + spot.radius, spot.y + spot.radius


def _touch(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _called(spot: _Spot, width: float) -> str:
    name = shortened(spot.name, width - 45 if spot.count > 1 else width)
    return f"{name} + {spot.count - 1:,}" if spot.count > 1 else name


def _in_words(spot: _Spot, ridge: float) -> str:
    words = f"{_called(spot, 300)} {_ratio(spot.intensity)} FLOP per byte"
    return f"{words}, bound by {_bound(spot, ridge)}, {percent(spot.share)} of the FLOPs"


def _bound(spot: _Spot, ridge: float) -> str:
    return "compute" if spot.intensity >= ridge else "memory"


def _ratio(value: float) -> str:
    return f"{value:.0f}" if value >= 99.5 else f"{value:.2g}"
