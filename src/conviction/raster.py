"""The house's own figures as PNG, by Pillow alone: no browser, no plotting library, no font of the system.

It knows the part of SVG and of CSS that the figures use, and refuses the rest: a picture is whole or not there. The
look comes from the same style sheet as on the page, or from the figure's own.
"""

from __future__ import annotations

import io
import math
import re
import unicodedata
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from PIL import Image, ImageColor, ImageDraw, ImageFont, PngImagePlugin

from conviction.errors import ConvictionError, UsageError
from conviction.figures import chart_style

# Every pixel is the mean of so many by so many: edges as smooth as a browser's.
_SAMPLES = 3
# White space around the figure, in its units.
_MARGIN = 12
_INHERITED = {"fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linecap", "stroke-linejoin", "fill-opacity",
              "opacity", "font-size", "font-weight", "paint-order"}  # fmt: skip
_COMMON = {"class", "role", "aria-label"}
_ATTRIBUTES = {
    "svg": {"viewBox", "width", "height"}, "g": set(), "title": set(), "style": set(),
    "line": {"x1", "y1", "x2", "y2"}, "path": {"d"}, "circle": {"cx", "cy", "r"},
    "rect": {"x", "y", "width", "height"}, "text": {"x", "y", "text-anchor"},
}  # fmt: skip
_ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}

Point = tuple[float, float]


@dataclass(frozen=True)
class _Rule:
    """One selector of a style sheet: a (tag, class) for each ancestor that it names and the element itself."""

    steps: tuple[tuple[str, str], ...]
    properties: Mapping[str, str]

    @property
    def weight(self) -> tuple[int, int]:
        """Classes, then tags: of two rules the heavier one wins."""
        return sum(bool(kind) for _, kind in self.steps), sum(bool(tag) for tag, _ in self.steps)

    def fits(self, trail: Sequence[tuple[str, str]]) -> bool:
        """Whether it speaks of the last element of `trail`, the (tag, class) from the root down to it."""
        *outer, own = self.steps
        above = iter(trail[:-1])
        return _agrees(own, trail[-1]) and all(any(_agrees(step, each) for each in above) for step in outer)


@dataclass(frozen=True)
class _Paper:
    """The picture being drawn, `factor` samples to a unit of the figure."""

    image: Image.Image
    factor: float


def to_png(svg: str, *, dark: bool = False, scale: int = 3) -> bytes:
    """Draw one of the house's figures as PNG, `scale` pixels to a unit of the figure; its words go along as text.

    Raises `UsageError` for a scale that is not within 1 to 10, and `ConvictionError` for an element, an attribute or a
    style that no figure of the house uses.
    """
    if not 1 <= scale <= 10:
        raise UsageError(f"scale {scale!r} is out of bounds", "to_png", "give 1 to 10 pixels to a unit")
    # A name may hold the two characters that XML forbids; a page of HTML takes them.
    root = ET.fromstring(svg.replace("\ufffe", "\ufffd").replace("\uffff", "\ufffd"))  # noqa: S314 - our own figures
    own = "".join(node.text or "" for node in root.iter() if _tag(node) == "style")
    variables, rules = _read_style(own or chart_style(), dark)
    ground = _styled(rules, [(_tag(root), root.get("class", ""))], {}).get("background") or variables["--sheet"]
    size = [round((length + 2 * _MARGIN) * scale) * _SAMPLES for length in _numbers(root.get("viewBox", ""))[2:]]
    paper = _Paper(Image.new("RGB", (size[0], size[1]), ground), scale * _SAMPLES)
    _draw(paper, root, rules, [], {"fill": "#000", "font-size": "12px"})
    told = PngImagePlugin.PngInfo()
    told.add_itxt("Description", root.get("aria-label", ""))
    written = io.BytesIO()
    paper.image.reduce(_SAMPLES).save(written, format="PNG", pnginfo=told)
    return written.getvalue()


def _draw(
    paper: _Paper, node: ET.Element, rules: Sequence[_Rule], trail: list[tuple[str, str]], outer: Mapping[str, str]
) -> None:
    """Draw an element and its children in their order; `trail` and `outer` are its parents' names and style."""
    tag = _tag(node)
    if tag not in _ATTRIBUTES:
        raise ConvictionError(f"no way to draw <{tag}>", "to_png", f"use {', '.join(sorted(_ATTRIBUTES))}")
    if strange := set(node.attrib) - _ATTRIBUTES[tag] - _COMMON:
        raise ConvictionError(f"no way to draw the attribute {min(strange)} of <{tag}>", "to_png", "leave it out")
    if tag in {"title", "style"}:
        return
    trail = [*trail, (tag, node.get("class", ""))]
    style = _styled(rules, trail, outer)
    if tag == "text":
        _write(paper, node, style)
    elif tag not in {"svg", "g"}:
        _paint(paper, list(_outlines(node)), style)
    for child in node:
        _draw(paper, child, rules, trail, style)


def _outlines(node: ET.Element) -> Iterator[list[Point]]:
    """Yield an element's lines as points, in units of the figure; a closed one ends where it begins."""

    def at(*names: str) -> list[float]:
        return [float(node.get(name, "0")) for name in names]

    match _tag(node):
        case "line":
            x1, y1, x2, y2 = at("x1", "y1", "x2", "y2")
            yield [(x1, y1), (x2, y2)]
        case "rect":
            x, y, width, height = at("x", "y", "width", "height")
            yield [(x, y), (x + width, y), (x + width, y + height), (x, y + height), (x, y)]
        case "circle":
            x, y, radius = at("cx", "cy", "r")
            turns = [math.tau * step / 96 for step in range(96)]
            yield [(x + radius * math.cos(turn), y + radius * math.sin(turn)) for turn in (*turns, 0.0)]
        case "path":
            yield from _follow(node.get("d", ""))


def _follow(path: str) -> Iterator[list[Point]]:
    """Yield the pieces of a path made of straight lines."""
    piece: list[Point] = []
    x = y = 0.0
    for command, rest in re.findall(r"([A-Za-z])([^A-Za-z]*)", path):
        numbers, near = _numbers(rest), command.islower()
        match command.upper():
            case "H":
                ends = [(number + near * x, y) for number in numbers]
            case "V":
                ends = [(x, number + near * y) for number in numbers]
            case "M" | "L" if len(numbers) == 2:
                ends = [(numbers[0] + near * x, numbers[1] + near * y)]
            case "Z" if piece:
                ends = piece[:1]
            case _:
                raise ConvictionError(f"no way to draw {command}{rest} of a path", "to_png", "use M, L, H, V and Z")
        if command.upper() == "M" and piece:
            yield piece
            piece = []
        piece += ends
        x, y = piece[-1]
    if piece:
        yield piece


def _paint(paper: _Paper, outlines: Iterable[list[Point]], style: Mapping[str, str]) -> None:
    """Fill outlines, then draw their lines over it."""
    factor, opacity = paper.factor, float(style.get("opacity", 1))
    width = float(style.get("stroke-width", "1").removesuffix("px")) * factor
    dashes = [number * factor for number in _numbers(style.get("stroke-dasharray", ""))]
    for outline in outlines:
        points = [(x * factor, y * factor) for x, y in outline]
        if style["fill"] != "none" and len(points) > 2:
            mask, box = _mask(points, 1)
            ImageDraw.Draw(mask).polygon(_moved(points, box), fill=255)
            _blend(paper, mask, box, style["fill"], opacity * float(style.get("fill-opacity", 1)))
        if style.get("stroke", "none") != "none":
            mask, box = _mask(points, width)
            for piece in _dashed(points, dashes) if dashes else [points]:
                _stroke(ImageDraw.Draw(mask), _moved(piece, box), width, style.get("stroke-linecap") == "round")
            _blend(paper, mask, box, style["stroke"], opacity)


def _stroke(draw: ImageDraw.ImageDraw, points: list[Point], width: float, is_round: bool) -> None:
    draw.line(points, fill=255, width=max(1, round(width)), joint="curve")
    for x, y in (points[0], points[-1]) if is_round else ():
        draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=255)


def _dashed(points: Sequence[Point], dashes: Sequence[float]) -> Iterator[list[Point]]:
    """Yield the dashes of a line, each straight; `dashes` are the lengths of ink and gap in turn."""
    number, left = 0, dashes[0]
    for (x1, y1), (x2, y2) in pairwise(points):
        length, done = math.hypot(x2 - x1, y2 - y1), 0.0
        while done < length:
            step = min(left, length - done)
            ends = [done / length, (done + step) / length]
            if number % 2 == 0:
                yield [(x1 + share * (x2 - x1), y1 + share * (y2 - y1)) for share in ends]
            done, left = done + step, left - step
            if left <= 0:
                number += 1
                left = max(dashes[number % len(dashes)], 1e-3)


def _write(paper: _Paper, node: ET.Element, style: Mapping[str, str]) -> None:
    """Write one line of words with its baseline at y; a stroke goes behind the letters."""
    size = float(style["font-size"].removesuffix("px")) * paper.factor
    x, y = (float(node.get(name, "0")) * paper.factor for name in ("x", "y"))
    words, font = _letters(node.text or ""), _font(size)
    anchor = _ANCHORS[node.get("text-anchor", "start")]
    # The built-in font has one weight: a thin edge makes the bold one.
    bold = size / 40 if style.get("font-weight", "400") not in {"400", "normal"} else 0.0
    halo = float(style.get("stroke-width", "1")) * paper.factor / 2 if style.get("stroke", "none") != "none" else 0.0
    behind = ((bold + halo, style["stroke"]),) if halo else ()
    for edge, colour in (*behind, (bold, style["fill"])):
        left, top, right, bottom = font.getbbox(words, anchor=anchor, stroke_width=edge)
        mask, box = _mask([(x + left, y + top), (x + right, y + bottom)], 2)
        at = (x - box[0], y - box[1])
        ImageDraw.Draw(mask).text(at, words, fill=255, font=font, anchor=anchor, stroke_width=edge)
        _blend(paper, mask, box, colour, float(style.get("opacity", 1)))


def _letters(words: str) -> str:
    """Take the accents off letters, which the built-in font has none of."""
    return "".join(letter for letter in unicodedata.normalize("NFKD", words) if not unicodedata.combining(letter))


@lru_cache(maxsize=16)
def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _mask(points: Sequence[Point], margin: float) -> tuple[Image.Image, tuple[int, int]]:
    """Return an empty mask around points, and where its corner lies on the paper."""
    across, up = zip(*points, strict=True)
    left, top = math.floor(min(across) - margin), math.floor(min(up) - margin)
    size = (math.ceil(max(across) + margin) - left + 1, math.ceil(max(up) + margin) - top + 1)
    return Image.new("L", size), (left, top)


def _moved(points: Iterable[Point], corner: tuple[int, int]) -> list[Point]:
    return [(x - corner[0], y - corner[1]) for x, y in points]


def _blend(paper: _Paper, mask: Image.Image, corner: tuple[int, int], colour: str, opacity: float) -> None:
    mask = mask if opacity >= 1 else mask.point([round(value * opacity) for value in range(256)])
    margin = round(_MARGIN * paper.factor)
    paper.image.paste(ImageColor.getrgb(colour), (corner[0] + margin, corner[1] + margin), mask)


def _read_style(sheet: str, dark: bool) -> tuple[dict[str, str], list[_Rule]]:
    """Return a style sheet's variables and its rules, the heaviest last, as they hold in the light or in the dark."""

    def chosen(block: re.Match[str]) -> str:
        return block[2] if dark and block[1].strip() == "(prefers-color-scheme: dark)" else ""

    sheet = re.sub(r"/\*.*?\*/", "", sheet, flags=re.DOTALL)
    sheet = re.sub(r"@media([^{]*)\{((?:[^{}]*\{[^{}]*\})*)\s*\}", chosen, sheet)
    told = [
        (selectors, [[part.strip() for part in line.split(":", 1)] for line in body.split(";") if line.strip()])
        for selectors, body in re.findall(r"([^{}]+)\{([^{}]*)\}", sheet)
    ]
    variables = {name: value for _, body in told for name, value in body if name.startswith("--")}
    rules = []
    for selectors, body in told:
        properties = {name: re.sub(r"var\((--[\w-]+)\)", lambda use: variables[use[1]], value)
                      for name, value in body if not name.startswith("--")}  # fmt: skip
        if strange := set(properties) - _INHERITED - {"font", "background"}:
            raise ConvictionError(f"no way to draw the style {min(strange)}", "to_png", "leave it out of the figure")
        if "font" in properties:
            properties["font-size"] = properties.pop("font").split()[0]
        rules += [_Rule(_steps(selector), properties) for selector in selectors.split(",") if properties]
    return variables, sorted(rules, key=lambda rule: rule.weight)


def _steps(selector: str) -> tuple[tuple[str, str], ...]:
    steps = [re.fullmatch(r"([a-z]*)(?:\.([\w-]+))?", step) for step in selector.split()]
    if None in steps:
        raise ConvictionError(f"no way to follow the selector {selector.strip()}", "to_png", "use tags and classes")
    return tuple((step[1], step[2] or "") for step in steps if step)


def _styled(rules: Sequence[_Rule], trail: Sequence[tuple[str, str]], outer: Mapping[str, str]) -> dict[str, str]:
    style = {name: value for name, value in outer.items() if name in _INHERITED}
    for rule in rules:
        if rule.fits(trail):
            style.update(rule.properties)
    return style


def _agrees(step: tuple[str, str], name: tuple[str, str]) -> bool:
    return step[0] in {"", name[0]} and (not step[1] or step[1] in name[1].split())


def _tag(node: ET.Element) -> str:
    return node.tag.rpartition("}")[2]


def _numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?[\d.]+(?:e-?\d+)?", text)]
