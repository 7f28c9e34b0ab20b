"""Figures: markup that cannot be broken out of, round ticks, charts that say what the numbers say."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from conviction.figures import (
    HEIGHT,
    MOST_POINTS,
    WIDTH,
    Axis,
    Markup,
    Series,
    element,
    joined,
    line_chart,
    power_ticks,
    reliability_diagram,
    round_ticks,
    safe,
)

NAN, INF = math.nan, math.inf


def parse(chart: str) -> ET.Element:
    return ET.fromstring(chart)


def classed(chart: str, kind: str) -> list[ET.Element]:
    return [node for node in parse(chart).iter() if node.get("class") == kind]


def words(chart: str) -> list[str]:
    return [node.text or "" for node in parse(chart).iter("text")]


def places(path: ET.Element) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.-]+) ([\d.-]+)", path.get("d", ""))]


def test_element_escapes_children_and_attributes() -> None:
    built = element("p", '<b>&"', title='"><script>', class_="a", aria_label="x", lang=None)
    assert built == (
        '<p title="&quot;&gt;&lt;script&gt;" class="a" aria-label="x">&lt;b&gt;&amp;&quot;</p>'
    )  # fmt: skip
    assert element("meta", charset="utf-8") == '<meta charset="utf-8">'


def test_markup_is_kept_and_control_characters_are_shown() -> None:
    assert joined([element("i", "a"), "<"]) == "<i>a</i>&lt;"
    assert safe("a\nb\u202ec\x00") == "a\\nb\\u202ec\\x00"
    assert isinstance(safe("a"), Markup)


@given(st.text())
def test_no_text_breaks_out_of_an_element(text: str) -> None:
    text = text.replace("\ufffe", "").replace("\uffff", "")  # XML itself forbids these two
    node = ET.fromstring(element("a", text, title=text))
    assert list(node) == [] and list(node.attrib) == ["title"]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (1, 12, [2, 4, 6, 8, 10, 12]),
        (0.912, 0.93, [0.915, 0.92, 0.925, 0.93]),
        (3, 3, [3]),
        (0, 3e-7, [0, 1e-7, 2e-7, 3e-7]),
        (-2, 2, [-2, -1, 0, 1, 2]),
    ],
)
def test_round_ticks(low: float, high: float, expected: list[float]) -> None:
    assert round_ticks(low, high) == pytest.approx(expected)


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9), st.integers(2, 10))
def test_ticks_lie_within_and_are_few(low: float, width: float, most: int) -> None:
    high = low + width
    ticks = round_ticks(low, high, most)
    slack = max(abs(low), abs(high)) * 1e-6
    assert len(ticks) <= most and ticks == sorted(ticks)
    assert all(low - slack <= tick <= high + slack for tick in ticks)


def test_power_ticks_are_few_even_over_hundreds_of_powers() -> None:
    assert power_ticks(0.01, 100) == pytest.approx([0.01, 0.1, 1, 10, 100])
    assert 2 <= len(power_ticks(1e-300, 1e300)) <= 6


def test_axis_places_ends_and_middles() -> None:
    assert [Axis(0, 10, 100, 200).place(v) for v in (0, 5, 10)] == [100, 150, 200]
    assert Axis(1, 100, 0, 200, logarithmic=True).place(10) == pytest.approx(100)
    assert Axis(3, 3, 0, 200).place(3) == 100


def test_curve_goes_through_its_numbers() -> None:
    chart = line_chart("loss", [1, 2, 3], [Series("train", [2.0, 1.0, 0.0])], from_zero=True)
    (curve,) = classed(chart, "curve-1")
    x, y = zip(*places(curve)[1:], strict=True)  # the first place is told twice
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.2)
    assert y[1] - y[0] == pytest.approx(y[2] - y[1], abs=0.2) and y[0] < y[1] < y[2]  # down the page is less
    zero = next(node for node in parse(chart).iter("text") if node.text == "0")
    assert float(zero.get("y", "nan")) - 4 == pytest.approx(y[2], abs=0.2)  # on the line of the tick 0


def test_chart_says_its_numbers_in_words_and_on_each_dot() -> None:
    chart = line_chart("top-1", [1, 2], [Series("train", [0.5, 0.75]), Series("valid", [0.4, 0.8])], percent=True)
    assert parse(chart).get("role") == "img"
    assert parse(chart).get("aria-label") == "top-1 by epoch: train from 50 % to 75 %; valid from 40 % to 80 %"
    told = [node.text for node in parse(chart).iter("title")]
    assert told == ["train, epoch 1: 50 %", "train, epoch 2: 75 %", "valid, epoch 1: 40 %", "valid, epoch 2: 80 %"]
    assert {"top-1", "train", "valid", "epoch", "1", "2"} <= set(words(chart))


def test_numbers_that_are_not_finite_leave_gaps_and_crosses() -> None:
    chart = line_chart("loss", [1, 2, 3, 4], [Series("valid", [1.0, NAN, INF, 0.5])])
    (curve,) = classed(chart, "curve-1")
    assert curve.get("d", "").count("M") == 2  # two pieces
    assert len(classed(chart, "cross")) == 2 and len(classed(chart, "dot-1")) == 2
    assert "nan" not in curve.get("d", "") and "inf" not in curve.get("d", "")


def test_chart_without_any_finite_number_says_so() -> None:
    chart = line_chart("loss", [1, 2], [Series("valid", [NAN, -INF])], from_zero=True, may_be_logarithmic=True)
    assert "no finite numbers" in words(chart)


@pytest.mark.parametrize("epochs", [[], [1], [7]])
def test_none_or_one_epoch_can_be_drawn(epochs: list[int]) -> None:
    chart = line_chart("lr", epochs, [Series("lr", [0.1] * len(epochs))], best=epochs[0] if epochs else None)
    assert len(classed(chart, "dot-1")) == len(epochs) == len(classed(chart, "best"))
    assert words(chart).count("epoch") == 1


def test_best_epoch_is_marked_where_it_is() -> None:
    chart = line_chart("loss", [1, 2, 3], [Series("valid", [3.0, 1.0, 2.0])], best=2)
    (line,) = classed(chart, "best")
    lowest = max(classed(chart, "dot-1"), key=lambda dot: float(dot.get("cy", "nan")))
    assert line.get("x1") == lowest.get("cx")


def test_wide_ranges_get_powers_of_ten_and_narrow_ones_do_not() -> None:
    wide = line_chart("loss", [1, 2, 3], [Series("train", [1e6, 10.0, 1.0])], may_be_logarithmic=True)
    assert {"1", "10", "1000", "100000"} & set(words(wide)) and "logarithmic" in parse(wide).get("aria-label", "")
    narrow = line_chart("loss", [1, 2], [Series("train", [2.0, 1.0])], may_be_logarithmic=True)
    assert "logarithmic" not in parse(narrow).get("aria-label", "")


def test_accuracy_has_no_tick_above_one_hundred_percent() -> None:
    chart = line_chart("top-1", [1, 2], [Series("train", [0.99, 1.0])], percent=True)
    ticks = [float(word.removesuffix(" %")) for word in words(chart) if word.endswith(" %")]
    assert ticks and max(ticks) == 100


def test_long_runs_are_thinned_but_keep_the_last_and_the_best_epoch() -> None:
    count = 100_000
    chart = line_chart("loss", range(1, count + 1), [Series("train", [1 / n for n in range(1, count + 1)])], best=777)
    (curve,) = classed(chart, "curve-1")
    assert MOST_POINTS / 2 < len(places(curve)) <= MOST_POINTS + 4
    assert len(classed(chart, "best")) == 1 and places(curve)[-1][0] > 0.9 * WIDTH
    assert len(chart) < 20_000 and not classed(chart, "dot-1")


@example([1.7e308, -1.7e308])
@example([5e-324, 0.0])
@example([6e-323, 0.0])
@example([1e300, 1e-300])
@given(st.lists(st.floats(), min_size=1, max_size=30))
def test_any_numbers_make_a_chart_inside_its_frame(values: list[float]) -> None:
    epochs = list(range(1, len(values) + 1))
    chart = line_chart("loss", epochs, [Series("train", values)], from_zero=True, may_be_logarithmic=True)
    for path in classed(chart, "curve-1"):
        assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places(path))


def test_reliability_diagram_puts_circles_where_the_bins_are() -> None:
    bins = ({"n": 100, "confidence": 0.5, "accuracy": 0.25}, {"n": 400, "confidence": 1.0, "accuracy": 1.0})
    chart = reliability_diagram(bins)
    small, large = classed(chart, "bubble")
    (diagonal,) = classed(chart, "diagonal")
    left, right = (float(diagonal.get(key, "nan")) for key in ("x1", "x2"))
    bottom, top = (float(diagonal.get(key, "nan")) for key in ("y1", "y2"))
    assert float(small.get("cx", "nan")) == pytest.approx((left + right) / 2, abs=0.2)
    assert float(small.get("cy", "nan")) == pytest.approx(bottom + (top - bottom) / 4, abs=0.2)
    assert (float(large.get("cx", "nan")), float(large.get("cy", "nan"))) == (right, top)
    assert float(large.get("r", "nan")) == pytest.approx(2 * float(small.get("r", "nan")), abs=0.1)  # area 4 : 1
    assert next(t.text for t in parse(chart).iter("title")) == "100 answers: 50.00 % sure, 25.00 % right"


def test_reliability_diagram_without_bins_is_empty_and_whole() -> None:
    assert not classed(reliability_diagram(()), "bubble")
