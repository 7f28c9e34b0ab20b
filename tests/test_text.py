"""Words and numbers for people: units at their borders, tables, suggestions, names that cannot act on a terminal."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conviction.text import (
    format_bytes,
    format_count,
    format_percent,
    format_seconds,
    format_shape,
    format_table,
    list_some,
    printable,
    suggest,
)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1023.6, "1.0 KiB"),
        (1024, "1.0 KiB"),
        (48_869_376, "46.6 MiB"),
        (1024**2 - 1, "1.0 MiB"),
        (1023.9 * 1024, "1023.9 KiB"),
        (1023.96 * 1024, "1.0 MiB"),
        (15 * 1024**3, "15.0 GiB"),
        (5000 * 1024**4, "5000.0 TiB"),
        (-2048, "-2.0 KiB"),
    ],
)
def test_bytes(count: float, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("count", "unit", "text"),
    [
        (0, "", "0"),
        (999, "", "999"),
        (999.4, "", "999"),
        (999.5, "", "1 k"),
        (1000, "", "1 k"),
        (12, "MACs", "12 MACs"),
        (1.8e9, "MACs", "1.8 GMACs"),
        (7_609_090_048, "MACs", "7.61 GMACs"),
        (416_520, "MACs", "417 kMACs"),
        (999_499, "", "999 k"),
        (999_500, "", "1 M"),
        (132_863_336, "", "133 M"),
        (99_960_000, "", "100 M"),
        (2e18, "", "2000 P"),
    ],
)
def test_counts(count: float, unit: str, text: str) -> None:
    assert format_count(count, unit) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (38.2, "38 s"),
        (59.6, "1 min 00 s"),
        (192, "3 min 12 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (360_000, "100 h 00 min"),
    ],
)
def test_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@settings(deadline=None)
@given(st.floats(0, 1e15))
def test_a_number_before_its_unit_never_reaches_the_next_unit(count: float) -> None:
    assert float(format_bytes(count).split()[0]) < 1024
    assert float(format_count(count).split()[0]) < 1000
    whole = re.match(r"(\d+)(?: min (\d+) s| h (\d+) min)?", format_seconds(count))
    assert whole is not None
    assert all(int(part) < 60 for part in whole.groups()[1:] if part)


def test_percent_and_shape() -> None:
    assert format_percent(0.69020) == "69.02 %"
    assert format_percent(None) == "-"
    assert format_shape((64, 28, 28)) == "64x28x28"
    assert format_shape(()) == ""


def test_table() -> None:
    assert format_table(("net", "params"), [("lenet", "61,706"), ("vgg11/4", "1")], right=[1]) == (
        "net      params\n"
        "-------  ------\n"
        "lenet    61,706\n"
        "vgg11/4       1"
    )  # fmt: skip
    assert format_table(("a", "b"), iter([("long", "")])) == "a     b\n----  -\nlong"
    assert format_table(("a", "b"), []) == "a  b\n-  -"
    with pytest.raises(ValueError, match="zip"):
        format_table(("a", "b"), [("1", "2", "3")])


def test_suggest() -> None:
    assert suggest("vgg12", ["vgg11", "vgg13", "lenet"]) == " (did you mean vgg13 or vgg11?)"
    assert suggest("LeNet", ["lenet", "alexnet"]).startswith(" (did you mean lenet")
    assert suggest("zzz", ["vgg11"]) == ""
    assert suggest("photos", ["photos\x1b[2J"]) == r" (did you mean photos\x1b[2J?)"


def test_list_some() -> None:
    assert list_some(["a", "b"]) == "a, b"
    assert list_some(list("abcde")) == "a, b, c, d, e"
    assert list_some(list("abcdefg")) == "a, b, c, d, e and 2 more"
    assert list_some(["a\nb"]) == "a\\nb"
    assert list_some([]) == ""


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain name.png", "plain name.png"),
        ("käse-猫-🐈", "käse-猫-🐈"),
        ("red\x1b[31m", "red\\x1b[31m"),
        ("two\nlines\r\t", "two\\nlines\\r\\t"),
        ("gpj.\u202eexe", "gpj.\\u202eexe"),
        ("a\u2028b\u2029c", "a\\u2028b\\u2029c"),
        ("bell\x07\x9b", "bell\\x07\\x9b"),
        ("latin-1 \udcff", "latin-1 \\udcff"),
        ("tag \U000e0041", "tag \\U000e0041"),
        (17, "17"),
    ],
)
def test_printable(name: object, shown: str) -> None:
    assert printable(name) == shown


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=())))
def test_printable_is_safe_encodable_and_changes_nothing_twice(name: str) -> None:
    shown = printable(name)
    assert not {unicodedata.category(character) for character in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert len(shown.splitlines()) <= 1
    shown.encode()
    assert printable(shown) == shown
