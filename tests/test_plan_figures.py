"""The plan's pictures: what they draw is what they were given, in words too, for any numbers and any names."""

from __future__ import annotations

import itertools
import math
import random
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conviction.figures import MOST_POINTS, WIDTH, chart_style
from conviction.plan_figures import KINDS, MOST_LAYERS, cost_by_layer, memory_timeline, roofline
from conviction.roofline_figure import MOST_NAMED, percent, shortened, width_of
from conviction.text import format_bytes

NAN, INF = math.nan, math.inf
MIB, GIB = 2**20, 2**30
HOSTILE = ("</svg><script>alert(1)</script>", '"><b a="', "\u202e\x00\n]]>&", "名前é" * 99, "", "x" * 10_000)


def parse(figure: str) -> ET.Element:
    return ET.fromstring(figure)


def classed(figure: str, kind: str, tag: str = "*") -> list[ET.Element]:
    return [node for node in parse(figure).iter() if node.get("class") == kind and tag in {"*", node.tag}]


def number(node: ET.Element, name: str) -> float:
    return float(node.get(name, "nan"))


def words(figure: str) -> list[str]:
    return [node.text or "" for node in parse(figure).iter("text")]


def label(figure: str) -> str:
    return parse(figure).get("aria-label", "")


def steps(figure: str, kind: str) -> list[tuple[float, float]]:
    """Return where an area's edge rises or falls: (x, the height from there on), in pixels."""
    (path,) = classed(figure, kind, "path")
    return [(float(x), float(y)) for x, y in re.findall(r"H([\d.]+)V([\d.]+)", path.get("d", ""))][:-1]


def height_at(edge: list[tuple[float, float]], x: float) -> float:
    return [y for left, y in edge if left <= x + 0.051][-1]


def assert_whole(figure: str, texts: int = 40_000) -> None:
    """A well-formed figure inside its frame, without numbers that are none, and with words for who cannot see it."""
    root = parse(figure)
    height = float(root.get("viewBox", "").split()[3])
    assert root.get("role") == "img" and len(root.get("aria-label", "")) > 10 and len(figure) < texts
    assert {node.tag for node in root.iter()} <= {"svg", "text", "line", "path", "circle", "rect", "title"}
    for node in root.iter():
        for name, value in node.attrib.items():
            if name in {"x", "x1", "x2", "cx"}:
                assert 0 <= float(value) <= WIDTH, (node.tag, name, value)
            if name in {"y", "y1", "y2", "cy"}:
                assert 0 <= float(value) <= height, (node.tag, name, value)
            if name in {"width", "height", "r"}:
                assert 0 <= float(value) <= WIDTH
            assert name in {"aria-label", "class", "role"} or not re.search("nan|inf", value)
        for x, y in re.findall(r"[ML]([-\d.]+) ([-\d.]+)", node.get("d", "")):
            assert 0 <= float(x) <= WIDTH and 0 <= float(y) <= height


def vgg_step(batch: int = 64) -> list[tuple[str, dict[str, float]]]:
    """Return a step as of VGG-11: 507 MiB of weights, saved tensors that pile up and go, gradients that come."""
    held = {"weights": 507.0 * MIB, "optimizer": 507.0 * MIB, "inputs": 36.8 * MIB}
    points = [("forward", {**held, "saved": 46.6 * MIB * batch * k / 29}) for k in range(30)]
    points += [("backward", {**held, "saved": 46.6 * MIB * batch * (29 - k) / 29, "temporary": 98.0 * MIB,
                             "gradients": 507 * MIB * min(1, k / 8)}) for k in range(30)]  # fmt: skip
    return [*points, ("optimizer", {**held, "gradients": 507.0 * MIB, "temporary": 507.0 * MIB})]


def total(held: dict[str, float]) -> float:
    return sum(held.values())


# --- memory over a step ---


def test_areas_are_stacked_to_scale_and_the_mark_is_on_the_peak() -> None:
    points = vgg_step()
    peak = max(total(held) for _, held in points)
    figure = memory_timeline(points, peak)
    ticks = {
        node.text: number(node, "y") - 4 for node in parse(figure).iter("text") if node.get("text-anchor") == "end"
    }
    ground, pixel = ticks["0"], (ticks["0"] - ticks["2 GiB"]) / (2 * GIB)
    (mark,) = classed(figure, "peak")
    assert number(mark, "cy") == pytest.approx(ground - pixel * peak, abs=0.2)
    at = next(held for _, held in points if total(held) == peak)
    below = 0.0
    for kind in [kind for kind in KINDS if any(kind in held for _, held in points)]:
        below += at.get(kind, 0.0)
        assert ground - height_at(steps(figure, kind), number(mark, "cx")) == pytest.approx(pixel * below, abs=0.2)
    drawn = [node.get("class") for node in parse(figure).iter("path")]
    assert drawn == ["temporary", "inputs", "saved", "optimizer", "gradients", "weights"]  # each covered by the next


def test_words_tell_the_peak_by_kind_and_the_phases() -> None:
    points = [("forward", {"weights": 3 * MIB, "saved": MIB}), ("backward", {"weights": 3 * MIB, "mystery": 2 * MIB})]
    figure = memory_timeline(points, 5 * MIB)
    assert label(figure) == (
        "memory over one training step, 2 events: peak 5.0 MiB in backward, holding weights 3.0 MiB, saved 0 B, "
        "other 2.0 MiB; forward up to 4.0 MiB; backward up to 5.0 MiB"
    )
    told = words(figure)
    assert told[-7:] == ["held at the peak, in backward:", "weights", "3.0 MiB", "saved", "0 B", "other", "2.0 MiB"]
    assert "peak 5.0 MiB" in told and {"forward", "backward"} <= set(told)


@pytest.mark.parametrize("seed", range(5))
def test_long_steps_are_thinned_and_keep_the_peak_and_every_high_point(seed: int) -> None:
    rng = random.Random(seed)
    count, spike = 9000, rng.randrange(9000)
    totals = [GIB + rng.random() * GIB for _ in range(count)]
    totals[spike] = 3 * GIB
    phases = ["forward"] * 3000 + ["backward"] * 5990 + ["optimizer"] * 10
    points = [(phase, {"saved": size}) for phase, size in zip(phases, totals, strict=True)]
    figure = memory_timeline(points, 3 * GIB)
    edge = steps(figure, "saved")
    assert MOST_POINTS / 2 < len(edge) <= MOST_POINTS
    (mark,) = classed(figure, "peak")
    top = min(y for _, y in edge)
    assert top == number(mark, "cy") == height_at(edge, number(mark, "cx"))
    scale = (number(classed(figure, "grid")[0], "y1") - top) / (3 * GIB)
    tallest = sorted(totals)[-20:]  # at the lowest of them the picture shows them all but those beside a higher one
    shown = [(210 - y) / scale for _, y in edge]
    assert sum(size > tallest[0] * 0.999 for size in shown) >= 10
    assert label(figure).count("peak 3.0 GiB in " + phases[spike]) == 1


@pytest.mark.parametrize(
    ("limit", "line", "told"),
    [
        (None, False, ""),
        (0, False, ""),
        (NAN, False, ""),
        (16 * GIB, False, "the device has 16.0 GiB: the peak takes 25.0 %"),
        (6.7 * GIB, False, "the device has 6.7 GiB: the peak takes 59.7 %"),
        (6.6 * GIB, True, "the device has 6.6 GiB: the peak takes 60.6 %"),
        (4 * GIB, True, "the device has 4.0 GiB: the peak takes 100 %"),
        (3 * GIB, True, "the device has 3.0 GiB: 1.0 GiB too little"),
    ],
)
def test_limit_is_a_line_where_it_is_near_and_always_words(limit: float | None, line: bool, told: str) -> None:
    points = [("forward", {"weights": GIB}), ("backward", {"weights": 4 * GIB})]
    figure = memory_timeline(points, 4 * GIB, limit)
    assert len(classed(figure, "limit")) == line and any(word.startswith("limit ") for word in words(figure)) == line
    assert label(figure).endswith(told or "backward up to 4.0 GiB") and (told in words(figure) or not told)
    if line and limit is not None:
        mark, rule = classed(figure, "peak")[0], classed(figure, "limit")[0]
        share = (210 - number(rule, "y1")) / (210 - number(mark, "cy"))
        assert share == pytest.approx(limit / (4 * GIB), abs=0.01)


@pytest.mark.parametrize("limit_share", [0.9, 0.99, 1.0, 1.01, 1.05, 1.1, 1.2, 1.5])
@pytest.mark.parametrize("place", [0, 10, 59])
def test_words_of_peak_and_limit_do_not_lie_on_each_other(limit_share: float, place: int) -> None:
    points = [("forward", {"weights": GIB + (index == place) * GIB}) for index in range(60)]
    figure = memory_timeline(points, 2 * GIB, 2 * GIB * limit_share)
    boxes = []
    for node in classed(figure, "label", "text"):
        width = width_of(node.text or "")
        left = number(node, "x") - width * {"start": 0, "middle": 0.5, "end": 1}[node.get("text-anchor", "")]
        boxes.append((left, left + width, number(node, "y")))
    (rule,) = classed(figure, "limit")
    assert all(not y - 8 < number(rule, "y1") < y + 1 for *_, y in boxes)  # its line goes through no words
    (one, other) = boxes
    assert all(left >= 53.9 and right <= WIDTH for left, right, _ in boxes)
    assert one[1] <= other[0] or other[1] <= one[0] or abs(one[2] - other[2]) >= 11


def test_phases_have_room_for_their_names_and_many_get_short_ones() -> None:
    points = (
        [("forward", {"weights": 1})] * 500 + [("backward", {"weights": 1})] * 900 + [("optimizer", {"weights": 1})]
    )
    told = words(memory_timeline(points, 1))
    assert {"forward", "backward", "optimizer"} <= set(told)
    parts = [("forward", {"weights": 1}), ("backward", {"weights": 1})] * 4 + [("optimizer", {"weights": 1})]
    figure = memory_timeline(parts, 1)
    assert words(figure).count("fwd") == 4 == words(figure).count("bwd") and words(figure).count("opt") == 1
    assert len(classed(figure, "best")) == 8  # between the nine
    many = memory_timeline(parts * 300, 1)
    assert not classed(many, "best") and "fwd" not in words(many)


# --- cost by layer ---


def test_bars_are_the_shares_on_one_scale() -> None:
    figure = cost_by_layer([("conv", 25, 90, 2 * MIB, None), ("fc", 75, 10, 0, None)])
    widths = {node[0].text: number(node, "width") for node in classed(figure, "bar")}
    assert set(widths) == {"conv: 25.0 % of params", "conv: 90.0 % of MACs", "conv: 100 % of saved",
                           "fc: 75.0 % of params", "fc: 10.0 % of MACs"}  # fmt: skip
    full = widths["conv: 100 % of saved"]
    for told, width in widths.items():
        assert width / full == pytest.approx(float(told.split()[1]) / 100, abs=0.01)
    assert words(figure)[1:7] == ["params", "100", "MACs", "100", "saved", "2.0 MiB"]
    assert label(figure) == (
        "cost by layer, 100 params, 100 MACs, 2.0 MiB saved in all: conv 25.0 % of params, 90.0 % of MACs, "
        "100 % of saved; fc 75.0 % of params, 10.0 % of MACs, 0 % of saved"
    )


def test_time_is_a_column_where_it_is_known() -> None:
    figure = cost_by_layer([("conv", 1, 1, 1, 0.003), ("fc", 1, 1, 1, None)])
    assert {"time", "3 ms"} <= set(words(figure)) and "conv 50.0 % of params" in label(figure)
    assert "100 % of time" in label(figure) and "time" not in words(cost_by_layer([("conv", 1, 1, 1, None)]))


@pytest.mark.parametrize(("seconds", "told"), [(5e-7, "0.5 us"), (0.0123, "12.3 ms"), (0.9999, "1 s"), (90, "1.5 min"),
                                               (7200, "2 h")])  # fmt: skip
def test_time_has_the_unit_that_fits(seconds: float, told: str) -> None:
    assert told in words(cost_by_layer([("conv", 1, 1, 1, seconds)]))


@pytest.mark.parametrize("count", [1, MOST_LAYERS, MOST_LAYERS + 1, MOST_LAYERS + 2, 1000])
def test_largest_layers_keep_their_order_and_the_rest_is_one_row(count: int) -> None:
    rng = random.Random(count)
    rows = [(f"layer{i}", rng.random(), rng.random() ** 3, rng.random(), None) for i in range(count)]
    figure = cost_by_layer(rows)
    told = label(figure).split(" in all: ")[1].split("; ")
    names = [each.split()[0] for each in told]
    named = [name for name in names if name != "other"]
    assert len(named) == (count if count <= MOST_LAYERS + 1 else MOST_LAYERS)
    assert named == sorted(named, key=lambda name: int(name[5:]))
    whole = [sum(row[k] for row in rows) for k in (1, 2, 3)]
    weight = {row[0]: sum(row[k] / whole[k - 1] for k in (1, 2, 3)) for row in rows}
    assert set(named) == set(sorted(weight, key=lambda name: -weight[name])[: len(named)])
    assert (f"other {count - MOST_LAYERS:,} layers" in words(figure)) == (count > MOST_LAYERS + 1)
    for head in ("params", "MACs", "saved"):
        assert sum(float(s) for s in re.findall(rf"([\d.]+) % of {head}", label(figure))) == pytest.approx(100, abs=0.8)


# --- roofline ---


def test_layers_lie_on_the_roof() -> None:
    """Witness: on paper of logarithms the slope rises as it goes along, and the flat part is the peak's tick."""
    points = [("thin", 1.0, 1.0), ("thick", 1000.0, 4.0), ("ridge", 10.0, 1.0)]
    figure = roofline(points, 1e13, 1e12)
    thick, *others = classed(figure, "bubble")
    ridge, thin = sorted(others, key=lambda node: -number(node, "cx"))
    ticks = {node.text: node for node in reversed(list(parse(figure).iter("text"))) if node.get("class") is None}
    assert number(thin, "cx") == pytest.approx(number(ticks["1"], "x"), abs=0.6)
    assert number(thick, "cx") == pytest.approx(number(ticks["1000"], "x"), abs=0.6)
    tera = "{}\u00a0T".format
    assert number(thick, "cy") == number(ridge, "cy") == pytest.approx(number(ticks[tera(10)], "y") - 4, abs=0.2)
    assert number(thin, "cy") == pytest.approx(number(ticks[tera(1)], "y") - 4, abs=0.2)
    assert number(thick, "r") == 2 * number(thin, "r")  # four times the area
    (roof,) = classed(figure, "roof")
    corners = [tuple(map(float, pair)) for pair in re.findall(r"([\d.]+) ([\d.]+)", roof.get("d", ""))]
    assert corners[1] == pytest.approx((number(ridge, "cx"), number(ridge, "cy")), abs=0.6)
    assert corners[1][1] == corners[2][1]
    assert label(figure) == (
        "roofline of 10 TFLOP/s and 1 TB/s, ridge at 10 FLOP per byte; heaviest first: thick 1000 FLOP per byte, bound "
        "by compute, 66.7 % of the FLOPs; thin 1 FLOP per byte, bound by memory, 16.7 % of the FLOPs; ridge 10 FLOP "
        "per byte, bound by compute, 16.7 % of the FLOPs"
    )


def test_layers_at_one_spot_share_a_circle_and_idle_ones_are_counted() -> None:
    points = [("small", 3.0, 1.0), ("large", 3.0, 2.0), ("other", 90.0, 1.0), ("relu", 0.0, 0.0), ("odd", NAN, 1.0)]
    figure = roofline(points, 1e13, 1e12)
    first, second = classed(figure, "bubble")
    assert first[0].text == "large + 1: 3 FLOP per byte, 75.0 % of the FLOPs"
    assert second[0].text == "other: 90 FLOP per byte, 25.0 % of the FLOPs"
    assert label(figure).endswith("; 2 without arithmetic") and "large + 1" in words(figure)


@pytest.mark.parametrize("seed", range(20))
def test_numbers_of_the_heaviest_lie_apart(seed: int) -> None:
    rng = random.Random(seed)
    points = [(f"layer{i}", rng.lognormvariate(rng.choice((1, 3)), 0.1 + seed / 10), rng.random()) for i in range(60)]
    figure = roofline(points, 1e13, 10 ** rng.uniform(10.5, 13))
    marks = [(number(n, "x"), number(n, "y")) for n in classed(figure, "label") if (n.text or "").isdigit()]
    assert len(marks) == min(MOST_NAMED, len(classed(figure, "bubble")))
    for (x1, y1), (x2, y2) in itertools.combinations(marks, 2):
        assert abs(x1 - x2) >= 7 or abs(y1 - y2) >= 12
    assert_whole(figure)


@pytest.mark.parametrize(("peak", "speed"), [(None, 1e12), (1e13, None), (0, 1), (NAN, 1), (1, INF)])
def test_device_without_known_rates_has_no_roof(peak: float | None, speed: float | None) -> None:
    figure = roofline([("conv", 1.0, 1.0)], peak, speed)
    assert "the device's rates are not known" in words(figure) and not classed(figure, "roof")
    assert_whole(figure)


# --- any input ---


@pytest.mark.parametrize("size", [0, 1, -1, NAN, INF, 1e-9, 1e25])
def test_degenerate_numbers_make_whole_figures(size: float) -> None:
    for count in (0, 1, 1000):
        names = [f"layer{index}" for index in range(count)]
        steps = [(phase, dict.fromkeys(KINDS, size)) for phase in ("forward", "backward") for _ in names]
        for limit in (None, size, 1.0):
            assert_whole(memory_timeline(steps, size, limit))
        assert_whole(cost_by_layer([(name, size, size, size, size) for name in names]))
        assert_whole(roofline([(name, size, size) for name in names], 1e13, 1e12))
        assert_whole(roofline([(name, 3.0, 1.0) for name in names], size, size))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.text(), st.floats(), st.floats(), st.floats(), st.none() | st.floats()), max_size=20))
def test_any_numbers_and_names_make_whole_figures(rows: list[tuple[str, float, float, float, float | None]]) -> None:
    rows = [(row[0].translate({0xFFFE: None, 0xFFFF: None}), *row[1:]) for row in rows]  # XML itself forbids these two
    assert_whole(cost_by_layer(rows))
    assert_whole(roofline([row[:3] for row in rows], 1e13, 1e12))
    points = [(row[0], {"weights": row[1], "saved": row[2], row[0]: row[3]}) for row in rows]
    assert_whole(memory_timeline(points, rows[0][1] if rows else 0.0, rows[-1][4] if rows else None))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_words(name: str) -> None:
    for figure in (
        memory_timeline([(name, {name: 5.0, "weights": 1.0})], 6),
        cost_by_layer([(name, 1, 1, 1, 1)] * 3),
        roofline([(name, 1.0, 1.0), (name, 2.0, 1.0)], 1e13, 1e12),
    ):
        assert_whole(figure, 12_000)
        assert not set("\u202e\x00\n") & set(figure)
        assert all(width_of(text) <= WIDTH for text in words(figure))


@pytest.mark.parametrize(
    ("share", "told"),
    [
        (0, "0 %"),
        (1e-9, "<0.1 %"),
        (0.0005, "0.1 %"),
        (0.1234, "12.3 %"),
        (0.9994, "99.9 %"),
        (0.9996, ">99.9 %"),
        (1, "100 %"),
    ],
)
def test_only_nothing_is_none_and_only_the_whole_is_all(share: float, told: str) -> None:
    assert percent(share) == told


def test_long_names_keep_their_end() -> None:
    assert shortened("conv1", 50) == "conv1"
    cut = shortened("features.denseblock3.denselayer12.conv2", 100)
    assert cut.startswith("\u2026") and cut.endswith("layer12.conv2") and width_of(cut) <= 100
    assert not shortened("aaaaaaaaaaaaaaaaaaaaaaaa.block.conv", 66).startswith("\u2026.")


# --- colours ---

# How eyes that lack one kind of cone see linear RGB (Machado et al. 2009), and how far apart colours look (Oklab).
EYES = {
    "usual": np.eye(3),
    "protan": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deutan": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
    ),
}
TO_CONES = np.array([[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
                     [0.0883024619, 0.2817188376, 0.6299787005]])  # fmt: skip
TO_LAB = np.array([[0.2104542553, 0.793617785, -0.0040720468], [1.9779984951, -2.428592205, 0.4505937099],
                   [0.0259040371, 0.7827717662, -0.808675766]])  # fmt: skip


def themes() -> list[dict[str, np.ndarray]]:
    """Return the palettes of light, dark and paper, as linear RGB."""
    found = []
    for block in re.findall(r":root \{(.*?)\}", chart_style(), re.DOTALL):
        parts = {name: np.array([int(c[i : i + 2], 16) for i in (0, 2, 4)]) / 255
                 for name, c in re.findall(r"--(\w+): #(\w{6});", block)}  # fmt: skip
        found.append(
            {name: np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) for name, c in parts.items()}
        )
    return found


def contrast(one: np.ndarray, other: np.ndarray) -> float:
    low, high = sorted(float(colour @ [0.2126, 0.7152, 0.0722]) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def test_kinds_of_memory_stand_out_and_apart_for_colour_blind_eyes_too() -> None:
    assert len(themes()) == 3
    for theme in themes():
        assert min(contrast(theme[kind], theme["sheet"]) for kind in KINDS) >= 2.95
        for eye in EYES.values():
            seen = [TO_LAB @ np.cbrt(TO_CONES @ np.clip(eye @ theme[kind], 0, 1)) for kind in KINDS]
            # Kinds that lie on each other, with or without a thin one between them; `other` is hardly ever there.
            gaps = [float(np.linalg.norm(seen[k] - seen[k + n])) for n in (1, 2) for k in range(len(KINDS) - 1 - n)]
            assert min(gaps) > 0.12


def test_words_on_a_bar_can_be_read() -> None:
    for theme in themes():
        tint = 0.3 * theme["first"] ** (1 / 2.2) + 0.7 * theme["sheet"] ** (1 / 2.2)  # mixed as screens do
        assert contrast(tint**2.2, theme["ink"]) >= 7


def test_size_in_bytes_reads_as_elsewhere() -> None:
    assert f"peak {format_bytes(1234567)}" in words(memory_timeline([("forward", {"weights": 1234567})], 1234567))
