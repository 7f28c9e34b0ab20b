"""PNG without a browser: every figure of the house can be drawn, and what is drawn is what the SVG says."""

from __future__ import annotations

import io
import math

import pytest
from PIL import Image

from conviction.errors import ConvictionError, UsageError
from conviction.figures import (
    Markup,
    Series,
    draw_line,
    draw_svg,
    draw_text,
    element,
    joined,
    line_chart,
    reliability_diagram,
)
from conviction.plan_figures import cost_by_layer, memory_timeline, roofline
from conviction.raster import to_png
from conviction.sweep_figure import draw_sweep

# White space around a figure, in its units.
MARGIN = 12
WHITE, BLUE, INK = (255, 255, 255), (29, 95, 196), (22, 25, 28)

STEP = [("forward", {"weights": 4e8, "saved": 1e8}), ("backward", {"weights": 4e8, "gradients": 3e8, "odd": 5})]
LAYERS = [("conv", 10.0, 500.0, 30.0, 0.1), ("<fc>", 90.0, 5.0, 1.0, 0.2)]
FIGURES = {
    "line": line_chart("loss", [1, 2, 3], [Series("train", [2, math.nan, 1]), Series("valid", [3, 2, 1])], best=2),
    "line of one": line_chart("lr", [1], [Series("lr", [0.1])]),
    "reliability": reliability_diagram([{"n": 10, "confidence": 0.5, "accuracy": 0.4}]),
    "sweep": draw_sweep("lr", [(1e-4, 2.3, 2.3), (1e-2, 2.0, math.inf), (1.0, 9.0, 9.0)], [(0.1, 1.5)], 0.05),
    "memory": memory_timeline(STEP, 7e8, 8e8),
    "cost": cost_by_layer(LAYERS),
    "roofline": roofline([("conv", 40.0, 5.0), ("fc", 0.5, 1.0)], 1e13, 1e12),
    "no roof": roofline([], None, None),
}


def draw(*parts: str, scale: int = 2, dark: bool = False, style: str | None = None) -> Image.Image:
    """Draw parts on a figure of 40 by 20 units."""
    look = element("style", Markup(style)) if style else ""
    svg = element("svg", look, joined(parts), viewBox="0 0 40 20", class_="chart")
    return Image.open(io.BytesIO(to_png(svg, scale=scale, dark=dark)))


def at(picture: Image.Image, x: float, y: float, scale: int = 2) -> tuple[int, ...]:
    """Return the colour at a place of the figure."""
    found = picture.getpixel((int((MARGIN + x) * scale), int((MARGIN + y) * scale)))
    assert isinstance(found, tuple)
    return found


def inked(picture: Image.Image) -> tuple[int, int, int, int]:
    """Return the box of all that is not white, in pixels."""
    box = Image.eval(picture.convert("L"), lambda value: 255 - value).getbbox()
    assert box is not None
    return box


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_of_the_house_can_be_drawn_light_and_dark(name: str) -> None:
    shown = [Image.open(io.BytesIO(to_png(FIGURES[name], dark=dark, scale=1))).convert("RGB") for dark in (False, True)]
    width, height = (float(n) for n in FIGURES[name].split('viewBox="0 0 ')[1].split('"')[0].split())
    assert shown[0].size == shown[1].size == (width + 2 * MARGIN, height + 2 * MARGIN)
    assert [picture.getpixel((1, 1)) for picture in shown] == [WHITE, (23, 27, 30)]
    for picture in shown:
        colours = picture.getcolors(10**6)
        assert colours is not None and len(colours) > 20  # words, with their smooth edges


def test_same_figure_gives_the_same_bytes_and_carries_its_words() -> None:
    first, second = to_png(FIGURES["memory"]), to_png(FIGURES["memory"], scale=3)
    assert first == second
    told = Image.open(io.BytesIO(first)).info["Description"]
    assert told.startswith("memory over one training step, 2 events: peak 667.6 MiB in backward")


def test_shapes_lie_where_the_numbers_say() -> None:
    rect = draw(element("rect", x=4, y=2, width=10, height=6, class_="weights"))
    assert inked(rect) == (2 * (MARGIN + 4), 2 * (MARGIN + 2), 2 * (MARGIN + 14) + 1, 2 * (MARGIN + 8) + 1)
    assert at(rect, 9, 5) == BLUE
    circle = draw(element("circle", cx=20, cy=10, r=6, class_="dot-1"))
    assert at(circle, 20, 10) == at(circle, 25, 10) == at(circle, 20, 5) == BLUE
    assert at(circle, 15, 5) == at(circle, 27, 10) == WHITE  # its square's corner, and beyond it
    area = draw(element("path", d="M2 18H10V4h10v14z", class_="weights"))
    assert at(area, 15, 10) == at(area, 15, 17) == BLUE and at(area, 5, 10) == at(area, 25, 10) == WHITE
    moved = draw(element("path", d="M2 10l10 0m10 0l10 0", class_="curve-1"))
    assert at(moved, 7, 10) == at(moved, 27, 10) == BLUE and at(moved, 17, 10) == WHITE


def test_line_has_its_width_and_its_gaps() -> None:
    whole = inked(draw(draw_line(5, 10, 35, 10, "curve-1"), scale=5))
    assert whole[3] - whole[1] == pytest.approx(2 * 5, abs=1)
    dashed = draw(draw_line(0, 10, 40, 10, "limit"), scale=5)  # 5 of ink, 4 of gap
    row = [at(dashed, x, 10, 5) for x in (2, 7.5, 11, 16.5, 20)]
    assert [colour == (179, 38, 30) for colour in row] == [True, False, True, False, True]


def test_point_between_two_gaps_is_a_dot() -> None:
    assert at(draw(element("path", d="M20.0 10.0L20.0 10.0", class_="curve-1")), 20, 10) == BLUE


def test_opacity_mixes_with_what_lies_below() -> None:
    box = {"x": 0, "y": 0, "width": 40, "height": 20}
    mixed = at(draw(element("rect", **box, class_="bar")), 20, 10)
    assert mixed == pytest.approx([0.7 * 255 + 0.3 * part for part in BLUE], abs=1)
    faint = draw(element("rect", **box), style="svg {--sheet: #000000} rect {fill: #ffffff; opacity: .5}")
    assert at(faint, 20, 10) == pytest.approx([127.5] * 3, abs=1)


@pytest.mark.parametrize(("anchor", "left", "right"), [("start", 20, 48), ("middle", 6, 34), ("end", -8, 20)])
def test_words_stand_on_their_baseline_by_their_anchor(anchor: str, left: float, right: float) -> None:
    box = inked(draw(draw_text(20, 12, "HHH", anchor), scale=10))
    ends = [edge / 10 - MARGIN for edge in box]
    assert left <= ends[0] + 1 and ends[2] - 1 <= right
    near = {"start": ends[0], "middle": (ends[0] + ends[2]) / 2, "end": ends[2]}[anchor]
    assert near == pytest.approx(20, abs=1.5)
    assert ends[3] == pytest.approx(12, abs=0.2) and 3 < ends[1] < 6  # capitals of 11 px are 7 to 8 px high


def test_title_is_bolder_than_words_of_its_size() -> None:
    style = "svg {--sheet: #ffffff} text {font: 13px x; fill: #000000} .title {font-weight: 600}"
    thin, bold = (draw(draw_text(1, 15, "lll", "start", kind), style=style) for kind in (None, "title"))
    assert sum(bold.convert("L").tobytes()) < sum(thin.convert("L").tobytes())


def test_label_keeps_a_rim_of_the_ground_around_its_letters() -> None:
    dark = element("rect", x=0, y=0, width=40, height=20, class_="optimizer")
    bare, rimmed = (draw(dark, draw_text(5, 15, "lo", "start", kind)) for kind in ("ink", "label"))
    assert WHITE not in {colour for _, colour in bare.crop((24, 24, 100, 60)).getcolors(10**5) or ()}
    inside = {colour for _, colour in rimmed.crop((24, 24, 100, 60)).getcolors(10**5) or ()}
    assert WHITE in inside and INK in inside


def test_heavier_rules_win_then_later_ones_and_children_inherit() -> None:
    style = """svg { --sheet: #ffffff; } .chart .b { fill: #000001; } rect { fill: #000002; } .b { fill: #000003; }
               g { fill: #000004; } .c { fill: #000005; } .c { fill: #000006; } /* rect { fill: #000007; } */
               @media print { .c { fill: #000008; } } line, circle { stroke: #000009; } .gone .c { fill: #00000a; }"""
    parts = (element("rect", x=0, y=0, width=10, height=20, class_="b"),
             element("rect", x=10, y=0, width=10, height=20, class_="c"),
             element("g", element("path", d="M20 0H30V20H20Z")),
             element("rect", x=30, y=0, width=10, height=20))  # fmt: skip
    picture = draw(*parts, style=style)
    assert [at(picture, x, 10) for x in (5, 15, 25, 35)] == [(0, 0, 1), (0, 0, 6), (0, 0, 4), (0, 0, 2)]


def test_own_style_has_its_dark_side() -> None:
    style = "svg { background: #ffffff; --x: #111111; } @media (prefers-color-scheme: dark) { svg { --x: #eeeeee; " \
            "background: #222222; } } rect { fill: var(--x); }"  # fmt: skip
    parts = element("rect", x=0, y=0, width=10, height=20)
    for dark, expected in ((False, [(17,) * 3, (255,) * 3]), (True, [(238,) * 3, (34,) * 3])):
        picture = draw(parts, dark=dark, style=style)
        assert [at(picture, 5, 10), at(picture, 25, 10)] == expected


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ("<ellipse/>", "no way to draw <ellipse>, to_png - use circle, g, line, path, rect, style, svg, text, title"),
        ('<g><image href="x"/></g>', "no way to draw <image>"),
        ('<rect rx="3"/>', "no way to draw the attribute rx of <rect>, to_png - leave it out"),
        ('<g transform="scale(2)"/>', "attribute transform of <g>"),
        ('<path d="M0 0C1 1 2 2 3 3"/>', "no way to draw C1 1 2 2 3 3 of a path, to_png - use M, L, H, V and Z"),
        ('<path d="Z"/>', "no way to draw Z of a path"),
        ('<path d="M1 2 3 4"/>', "no way to draw M1 2 3 4 of a path"),
        ("<style>rect { filter: blur(2px); }</style>", "no way to draw the style filter"),
        ("<style>a:hover { fill: #fff; }</style>", "no way to follow the selector a:hover"),
    ],
)
def test_what_no_figure_uses_is_refused_in_one_line(part: str, told: str) -> None:
    with pytest.raises(ConvictionError) as caught:
        to_png(f'<svg viewBox="0 0 9 9"><style>svg {{ --sheet: #ffffff }}</style>{part}</svg>')
    assert told in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("scale", [0, -1, 11, math.nan])
def test_scale_out_of_bounds_is_refused(scale: int) -> None:
    with pytest.raises(UsageError, match=r"scale .* is out of bounds, to_png - give 1 to 10"):
        to_png(FIGURES["line"], scale=scale)


def test_accents_are_taken_off_and_any_letter_is_drawn() -> None:
    plain, accented = (draw(draw_text(2, 12, words, "start")) for words in ("cafe", "caf\u00e9"))
    assert plain.tobytes() == accented.tobytes()
    for words in ("\u540d\u524d", "\ufffe\uffff", "\U0001f600", "", " ", "a" * 500):
        assert to_png(draw_svg(words, [draw_text(0, 20, words, "middle", "label")]), scale=1).startswith(b"\x89PNG")
