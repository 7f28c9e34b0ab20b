"""The page of a diagnosis: its numbers, nothing that acts, nothing from outside."""

from __future__ import annotations

import math
from html.parser import HTMLParser
from pathlib import Path

import pytest

from conviction.diagnosis.causes import CAUSES, title_of
from conviction.diagnosis.records import Curves, Diagnosis, LayerSeen
from conviction.diagnosis.words import format_diagnosis
from conviction.diagnosis_page import format_page, write_page
from conviction.findings.observation import Ending, Place
from conviction.findings.records import Finding

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style><b>",
    "\u202egnp",
    "a\x1b[31m\x00",
    "",
)


def make(name: str = "train.py", text: str = "a = 1\nlr = 10\nc = 3\n", **fields: object) -> Diagnosis:
    finding = Finding("lr-absurd", f"rate {name}", "0.001", "set it", file=name, line=2, layer=name, experiment="tried")
    layers = tuple(LayerSeen(f"{name}{row}", 0.5**row, 0.1, 0.2, None if row == 2 else 0.0, None) for row in range(90))
    curves = Curves((0, 1, 5), (2.3, math.nan, 0.5), (None, 0.1, 0.9), (0.1, 0.1, 0.0), (None, None, None), layers)
    return Diagnosis(
        name, (finding,), 6, 3.0, Ending("error", f"E: {name}", Place(name, 3)), curves, text=text, **fields
    )


class Tags(HTMLParser):
    """The tags and the attributes that a browser would see."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_in_a_page_acts(name: str) -> None:
    page = format_page(make(name, text=f"{name}\n{name}\n{name}", fix=f"-{name}\n+{name}", notes=(name,)))
    seen = Tags(page)
    assert not seen.tags & {"script", "img", "iframe", "link", "a", "object"} and page.count("<style>") == 1
    assert not [name for name in seen.attributes if name in ("src", "href") or name.startswith("on")]
    assert "\x1b" not in page and "\u202e" not in page and "Content-Security-Policy" in page
    assert "\x1b" not in format_diagnosis(make(name)) and "\u202e" not in format_diagnosis(make(name))


def test_a_page_says_what_the_diagnosis_says(tmp_path: Path) -> None:
    told = make(fix="-lr = 10\n+lr = 1", fixed="train.fixed.py")
    page = write_page(told, tmp_path / "new" / "folder").read_text()
    for words in ("The learning rate cannot be meant", "rate train.py", "set it", "tried", "E: train.py", "lr = 10",
                  "train.fixed.py", "by step", "6 training steps"):  # fmt: skip
        assert words in page, words
        assert words in str(told) or words in ("by step", "new")
    assert page.count("by step") == 3, "the curve of what was never measured is left out"
    assert "train.py89" in page and page.count("<rect") < 50, "deep nets are thinned out, with their last layer"


def test_a_healthy_page_has_no_findings() -> None:
    page = format_page(Diagnosis("train.py", (), 3, 1.0))
    assert "Nothing wrong was found" in page and "finding-1" not in page and "<svg" not in page


def test_lines_of_a_notebook_are_told_by_cell() -> None:
    told = make(text="# %% code cell 1\nlr = 10\nc = 3\n", cells=(2,))
    assert "code cell 1, line 1" in str(told) and ">    1 | lr = 10" in str(told)
    assert "code cell 1, line 1" in format_page(told) and "# %%" not in format_page(told)


@pytest.mark.parametrize("width", [1, 40, 60, 100, 1000])
def test_words_keep_to_their_width(width: int) -> None:
    finding = Finding("lr-absurd", "word " * 200, "x", "y", file="train.py", line=1)
    told = format_diagnosis(Diagnosis("train.py", (finding,), 1, 1.0, text="a" * 900), width)
    assert max(map(len, told.splitlines()[2:])) <= max(40, min(width, 120))


def test_every_cause_has_its_title() -> None:
    assert all(title and title != code for code, title in CAUSES.items())
    assert title_of("some-thing") == "some thing"
