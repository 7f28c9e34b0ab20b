"""The report: every section, the records' own numbers, nothing that acts, nothing from outside, in every odd case."""

from __future__ import annotations

import base64
import dataclasses
import io
import math
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from conviction.data.records import Preprocessing, Split
from conviction.errors import DataError, ResourceError
from conviction.evaluation import Mistake, worst_mistakes
from conviction.metrics import Evaluation, measure_answers
from conviction.plan_figures import cost_by_layer, memory_timeline
from conviction.recipe import Recipe
from conviction.report import format_report, write_report
from conviction.report.answers import encode_picture
from conviction.runs import Epoch, Run, Sources
from conviction.text import format_percent, quoted

SECTIONS = ["decided", "curves", "confusion", "mistakes", "classes", "calibration", "recipe", "environment", "next"]
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style><script src=https://evil.example/x.js></script>",
    "<svg/onload=alert(1)>",
    "<a href='javascript:alert(1)'>x</a>",
    "&lt;b&gt;",
    "\u202egnp.exe",
    "line\nbreak\r\ttab\x00nul\x1b[31m",
    "\ud800",
    "</bdi></td></table>",
    "]]><!--",
    "x" * 5000,
    "https://evil.example/?<style>@import url(//evil.example)</style>",
    "",
)


HARMLESS = {
    "html", "head", "meta", "title", "style", "body", "main", "header", "footer", "section", "h1", "h2", "h3", "p",
    "div", "dl", "dt", "dd", "small", "ul", "li", "b", "bdi", "span", "code", "pre", "table", "thead", "tbody",
    "tr", "th", "td", "figure", "figcaption", "img", "details", "summary", "svg", "text", "line", "path", "circle",
    "rect",
}  # fmt: skip


class Pictures:
    """A source in memory."""

    def __init__(self, pictures: Tensor) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def fetch(self, indices: Tensor) -> Tensor:
        return self.pictures[indices]


class Vanished(Pictures):
    """A source whose files are gone."""

    def fetch(self, indices: Tensor) -> Tensor:
        raise DataError("no such file", "photos/1.jpg", "put it back")


class Page(HTMLParser):
    """What a browser would build of a page: elements with attributes, and the text by section."""

    VOID = frozenset({"meta", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[tuple[str, str | None]] = []
        self.texts: dict[str, str] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append((tag, dict(attrs).get("id")))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1][0] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        places = [key for tag, key in self.open if tag == "section" and key] or [self.open[-1][0] if self.open else ""]
        self.texts[places[-1]] = self.texts.get(places[-1], "") + data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def make_evaluation(classes: tuple[str, ...], n: int = 200, split: str = "test", seed: int = 0) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(len(classes), (n,), generator=generator)
    logits = torch.randn(n, len(classes), generator=generator) + 2.0 * torch.nn.functional.one_hot(labels, len(classes))
    return logits, labels, measure_answers(logits, labels, classes, split)


def make_split(
    classes: tuple[str, ...],
    labels: Tensor,
    names: tuple[str, ...] | None = None,
    shape: tuple[int, int, int] = (1, 8, 8),
) -> Split:
    """Noise, the same picture everywhere so that many large ones take no memory."""
    noise = torch.randint(256, (1, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Split(Pictures(noise.expand(len(labels), *shape)), labels, names, "test", classes)


def make_history(epochs: int = 3) -> tuple[Epoch, ...]:
    return tuple(
        Epoch(n, 0.1 / n, 2.0 / n, 1 - 0.5 / n, 2.2 / n, 1 - 0.6 / n, 1.5, 1234.0) for n in range(1, epochs + 1)
    )


def make_run(folder: Path, evaluation: Evaluation, **changes: Any) -> Run:
    history = changes.pop("history", make_history())
    result = {
        "run": str(folder), "net": "vgg7/4", "data": "photos", "epochs": len(history), "top1": evaluation.top1,
        "top5": evaluation.top5, "interval": evaluation.interval, "split": evaluation.split, "train_top1": 0.98765,
        "valid_top1": 0.91234, "best_epoch": 1, "seconds": 192.4, "images_per_second": 4321.0, "lr": 0.05,
        "optimizer": "sgd", "batch_size": 64, "params": 9_756_426, "image": [1, 8, 8], "findings": [],
        **changes.pop("result", {}),
    }  # fmt: skip
    run = Run(
        folder, Sources("vgg7/4", {}, "photos", {}), evaluation.classes,
        Preprocessing((1, 8, 8), (8, 8), (8, 8), (0.5,), (0.5,)), Recipe(lr=0.05, batch_size=64, flip=True), history,
        result, {"conviction": "1.2.3", "torch": "2.13.0", "processor": "A processor"}, ("lr 0.05: found by a sweep",),
    )  # fmt: skip
    return dataclasses.replace(run, **changes)


def make_report(folder: Path, classes: tuple[str, ...], n: int = 200, **changes: Any) -> tuple[str, Evaluation]:
    logits, labels, evaluation = make_evaluation(classes, n)
    names, shape = changes.pop("names", None), changes.pop("shape", (1, 8, 8))
    split = make_split(classes, labels, names, shape)
    run = make_run(folder, evaluation, **changes)
    return format_report(run, evaluation, worst_mistakes(logits, labels, split), split), evaluation


TEN = tuple(f"class {letter}" for letter in "abcdefghij")


def squeezed(text: str) -> str:
    return " ".join(text.split())


def assert_harmless(report: str) -> Page:
    """Nothing that runs, nothing that loads, every element closed where it was opened."""
    page = Page(report)
    assert page.open == []
    assert {tag for tag, _ in page.elements} <= HARMLESS
    for tag, attributes in page.elements:
        for key, value in attributes.items():
            assert not key.startswith("on"), (tag, key)
            assert key not in {"href", "action", "srcset", "background", "xlink:href", "formaction"}, (tag, key)
            if key == "src":
                assert tag == "img" and (value or "").startswith("data:image/png;base64,")
            if key == "style":
                assert re.fullmatch(r"--part:[01]\.\d{3}", value or ""), value
    style = report[report.index("<style>") : report.index("</style>")]
    assert "url(" not in style and "@import" not in style and "//" not in style
    assert report.count("<style>") == 1
    return page


def test_written_to_the_run_folder_as_utf8(tmp_path: Path) -> None:
    logits, labels, evaluation = make_evaluation(("Käse", "Brot"))
    split = make_split(evaluation.classes, labels)
    run = make_run(tmp_path, evaluation)
    path = write_report(run, evaluation, worst_mistakes(logits, labels, split), split)
    assert path == tmp_path / "report.html"
    text = path.read_text(encoding="utf-8")
    assert text.startswith('<!doctype html>\n<html lang="en">') and "Käse" in text
    assert [child.name for child in tmp_path.iterdir()] == ["report.html"]


def test_folder_that_cannot_be_written_is_refused_in_one_line(tmp_path: Path) -> None:
    _, labels, evaluation = make_evaluation(TEN)
    run = make_run(tmp_path / "absent", evaluation)
    with pytest.raises(ResourceError, match=r"report\.html"):
        write_report(run, evaluation, (), make_split(TEN, labels))


def test_every_section_is_there_in_order_with_a_heading(tmp_path: Path) -> None:
    report, _ = make_report(tmp_path, TEN)
    page = assert_harmless(report)
    sections = page.all("section")
    assert [section["id"] for section in sections] == SECTIONS
    headings = {heading["id"] for heading in page.all("h2")}
    assert {section["aria-labelledby"] for section in sections} == headings
    assert len(page.all("h1")) == 1


def test_page_forbids_scripts_and_network_by_its_own_policy(tmp_path: Path) -> None:
    page = Page(make_report(tmp_path, TEN)[0])
    (policy,) = [meta for meta in page.all("meta") if meta.get("http-equiv")]
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert policy["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")


def test_tiles_hold_the_numbers_of_the_records(tmp_path: Path) -> None:
    report, evaluation = make_report(tmp_path, TEN)
    page = Page(report)
    tiles = page.texts["dd"] + page.texts["small"]
    for number in (evaluation.top1, evaluation.top5, 0.98765, 0.91234, *evaluation.interval):
        assert format_percent(number) in tiles
    for told in ("n = 200", "1 of 3", "3 min 12 s", "4,321 images a second", "9.76 M", "9,756,426"):
        assert told in tiles, told
    assert page.texts["title"] == f"vgg7/4 on photos: {format_percent(evaluation.top1)}"
    largest = max(sum(row) for row in evaluation.confusion) / 200
    assert f"commonest class would be right for {format_percent(largest)}" in squeezed(page.texts["p"])


def test_few_classes_show_the_loss_instead_of_top5(tmp_path: Path) -> None:
    report, evaluation = make_report(tmp_path, TEN[:5])
    page = Page(report)
    assert "Top-5" not in page.texts["dt"] and "Loss" in page.texts["dt"]
    assert f"{evaluation.loss:.3f}" in page.texts["dd"]


def test_matrix_holds_every_count_in_its_place(tmp_path: Path) -> None:
    report, evaluation = make_report(tmp_path, TEN[:4])
    matrix = report[report.index('class="matrix"') : report.index("Most confused")]
    rows = re.findall(r"<tr><th scope=\"row\">.*?</tr>", matrix)
    cells = [[int(count or 0) for count in re.findall(r"<td[^>]*>(\d*)</td>", row)] for row in rows]
    assert cells == [list(row) for row in evaluation.confusion]
    assert len(re.findall('class="right"', matrix)) == 4


def test_confused_pairs_are_told_in_words_the_most_frequent_first(tmp_path: Path) -> None:
    labels = torch.tensor([0] * 10 + [1] * 20 + [2] * 5)
    answers = torch.tensor([0] * 7 + [1] * 3 + [1] * 19 + [0] + [2] * 5)
    classes = ("shirt", "t-shirt/top", "bag")
    evaluation = measure_answers(torch.nn.functional.one_hot(answers, 3) * 5.0, labels, classes)
    page = Page(format_report(make_run(tmp_path, evaluation), evaluation, (), make_split(classes, labels)))
    told = squeezed(page.texts["confusion"])
    assert told.endswith(
        "shirt answered as t-shirt/top: 3 times, 30.00 % of shirt"
        "t-shirt/top answered as shirt: 1 time, 5.00 % of t-shirt/top"
    )


def test_classes_are_ranked_worst_first_and_those_without_images_last(tmp_path: Path) -> None:
    labels = torch.tensor([0] * 10 + [1] * 10)
    answers = torch.tensor([0] * 10 + [1] * 6 + [2] * 4)
    classes = ("good", "weak", "unseen", "untold")
    evaluation = measure_answers(torch.nn.functional.one_hot(answers, 4) * 5.0, labels, classes)
    assert [row["recall"] for row in evaluation.per_class] == [1.0, 0.6, None, None]
    page = assert_harmless(format_report(make_run(tmp_path, evaluation), evaluation, (), make_split(classes, labels)))
    told = squeezed(page.texts["classes"])
    assert re.search(
        r"F1weak1060\.00 %100\.00 %75\.00 %good10100\.00 %100\.00 %100\.00 %unseen0-0\.00 %0\.00 %untold0---$", told
    )


@pytest.mark.parametrize("count", [30, 31, 32])
def test_no_class_is_lost_between_the_shown_and_the_folded(tmp_path: Path, count: int) -> None:
    classes = tuple(f"<{index}>" for index in range(count))
    page = Page(make_report(tmp_path, classes)[0])
    assert all(page.texts["classes"].count(label) == 1 for label in classes)
    assert ("The other classes" in page.texts["classes"]) == (count > 30)


def test_mistakes_show_the_picture_itself_with_label_answer_and_name(tmp_path: Path) -> None:
    classes = ("cat", "dog")
    pictures = torch.arange(2 * 3 * 8 * 8).view(2, 3, 8, 8).remainder(256).byte()
    split = Split(Pictures(pictures), torch.tensor([0, 1]), ("a/cat 1.png", "a/dog 1.png"), "test", classes)
    evaluation = measure_answers(torch.tensor([[0.0, 3.0], [0.0, 3.0]]), torch.tensor([0, 1]), classes)
    mistake = Mistake(0, "a/cat 1.png", "cat", "dog", 0.9526)
    page = Page(format_report(make_run(tmp_path, evaluation), evaluation, (mistake,), split))
    (image,) = page.all("img")
    decoded = Image.open(io.BytesIO(base64.b64decode((image["src"] or "").partition(",")[2])))
    assert torch.equal(torch.tensor(list(decoded.tobytes())).view(8, 8, 3).permute(2, 0, 1), pictures[0])
    assert image["alt"] == "a picture of cat answered as dog" and image["class"] == "tiny"
    told = squeezed(page.texts["mistakes"])
    assert told.endswith("catanswered dog95.26 % surea/cat 1.png")


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("floats", [False, True])
def test_any_channels_and_scale_become_a_picture(channels: int, floats: bool) -> None:
    pixels = torch.linspace(-3, 5, channels * 6 * 4).view(channels, 6, 4)
    pixels = pixels if floats else ((pixels + 3) * 31).byte()
    picture = Image.open(io.BytesIO(base64.b64decode(encode_picture(pixels).partition(",")[2])))
    assert picture.size == (4, 6) and picture.mode == ("RGB" if channels == 3 else "L")
    low, high = picture.convert("L").getextrema()
    assert 0 <= low < high <= 255
    if floats and channels == 1:
        assert (low, high) == (0, 255)


def test_pictures_with_broken_or_even_floats_and_huge_sides_are_drawn() -> None:
    for pixels in (torch.full((1, 4, 4), math.nan), torch.full((3, 4, 4), 0.5), torch.tensor([[[math.inf, 1.0, 2.0]]])):
        assert encode_picture(pixels).startswith("data:image/png;base64,")
    picture = Image.open(io.BytesIO(base64.b64decode(encode_picture(torch.zeros(3, 900, 300)).partition(",")[2])))
    assert picture.size == (43, 128)


def test_picture_that_vanished_is_named_and_left_out(tmp_path: Path) -> None:
    logits, labels, evaluation = make_evaluation(TEN)
    good = make_split(TEN, labels)
    gone = dataclasses.replace(good, source=Vanished(torch.zeros(200, 1, 8, 8)))
    page = assert_harmless(format_report(
        make_run(tmp_path, evaluation), evaluation, worst_mistakes(logits, labels, good)[:2], gone))  # fmt: skip
    assert not page.all("img") and page.texts["mistakes"].count("no longer readable") == 2
    assert "test #" in page.texts["mistakes"]


class Loader(Pictures):
    """A source over a user's loader, whose every fetch is a pass."""

    def __init__(self, pictures: Tensor, ordered: bool) -> None:
        super().__init__(pictures)
        self.ordered, self.fetched = ordered, []

    def fetch(self, indices: Tensor) -> Tensor:
        self.fetched.append(indices.tolist())
        return super().fetch(indices)


@pytest.mark.parametrize("ordered", [True, False])
def test_loader_is_passed_once_and_only_if_it_keeps_its_order(tmp_path: Path, ordered: bool) -> None:
    logits, labels, evaluation = make_evaluation(TEN)
    mistakes = worst_mistakes(logits, labels, make_split(TEN, labels))[:5]
    source = Loader(torch.randint(256, (200, 1, 8, 8), dtype=torch.uint8), ordered)
    split = dataclasses.replace(make_split(TEN, labels), source=source)
    page = assert_harmless(format_report(make_run(tmp_path, evaluation), evaluation, mistakes, split))
    assert source.fetched == ([[mistake.index for mistake in mistakes]] if ordered else [])
    assert len(page.all("img")) == (5 if ordered else 0)
    assert len(page.all("figure")) == 5
    assert ("No pictures are shown" in page.texts["mistakes"]) == (not ordered)


def test_one_vanished_picture_does_not_cost_the_others(tmp_path: Path) -> None:
    class OneGone(Pictures):
        def fetch(self, indices: Tensor) -> Tensor:
            if gone in indices.tolist():
                raise DataError("no such file", "photos/1.jpg", "put it back")
            return super().fetch(indices)

    logits, labels, evaluation = make_evaluation(TEN)
    good = make_split(TEN, labels)
    mistakes = worst_mistakes(logits, labels, good)[:4]
    gone = mistakes[1].index
    split = dataclasses.replace(good, source=OneGone(torch.zeros(200, 1, 8, 8)))
    page = assert_harmless(format_report(make_run(tmp_path, evaluation), evaluation, mistakes, split))
    assert len(page.all("img")) == 3 and page.texts["mistakes"].count("no longer readable") == 1


def test_perfect_answers_have_no_mistakes_and_no_pairs(tmp_path: Path) -> None:
    labels = torch.arange(10)
    evaluation = measure_answers(torch.eye(10) * 9, labels, TEN)
    page = assert_harmless(format_report(make_run(tmp_path, evaluation), evaluation, (), make_split(TEN, labels)))
    assert "Every image of the test split was answered rightly." in page.texts["mistakes"]
    assert "No image was answered wrongly." in page.texts["confusion"]


def test_calibration_is_told_in_one_sentence(tmp_path: Path) -> None:
    logits = torch.tensor([[2.0, 0.0]] * 4)  # 88.08 % sure of class 0 each time, right in one of four
    evaluation = measure_answers(logits, torch.tensor([0, 1, 1, 1]), ("a", "b"))
    page = Page(format_report(make_run(tmp_path, evaluation), evaluation, (), make_split(("a", "b"), torch.zeros(4))))
    told = squeezed(page.texts["calibration"])
    assert "differ by 63.08 percentage points on average" in told
    assert "The net is too sure of itself: 88.08 % sure, 25.00 % right." in told


@pytest.mark.parametrize(
    ("history", "told"),
    [
        (make_history(1), "1 epoch,"),
        ((Epoch(1, 0.1, 2.0, 0.5, math.nan, 0.5, 1.0, 9.0),), "1 number is not finite"),
        ((Epoch(1, 0.1, math.inf, 0.5, math.nan, 0.5, 1.0, 9.0),), "2 numbers are not finite"),
        (make_history(600), "all 600 epochs are in history.csv"),
    ],
)
def test_odd_histories(tmp_path: Path, history: tuple[Epoch, ...], told: str) -> None:
    report, _ = make_report(tmp_path, TEN, history=history)
    page = assert_harmless(report)
    assert told in squeezed(page.texts["small"] + page.texts["curves"])
    charts = [svg for svg in page.all("svg") if " by epoch" in (svg["aria-label"] or "")]
    assert len(charts) == 3


def test_epochs_are_listed_as_numbers(tmp_path: Path) -> None:
    page = Page(make_report(tmp_path, TEN)[0])
    assert "20.051.000075.00 %1.100070.00 %1.5 s" in squeezed(page.texts["curves"])


def test_every_knob_is_listed_with_its_value_and_reason(tmp_path: Path) -> None:
    told = Page(make_report(tmp_path, TEN)[0]).texts["recipe"]
    for knob in dataclasses.fields(Recipe):
        assert knob.name in told and knob.metadata["reason"] in told
    assert "lr0.05peak" in told and "fliptrue" in told and "epochs-passes" in told


def test_environment_and_notes_are_listed(tmp_path: Path) -> None:
    page = Page(make_report(tmp_path, TEN)[0])
    assert "torch2.13.0" in page.texts["environment"] and "A processor" in page.texts["environment"]
    assert "lr 0.05: found by a sweep" in page.texts["decided"]
    assert "Nothing was left open." in Page(make_report(tmp_path, TEN, notes=())[0]).texts["decided"]


def test_findings_are_shown_where_there_are_some(tmp_path: Path) -> None:
    finding = {"cause": "dead-relu", "seen": "97 % zeros", "expected": "under 90 %", "try": "lower <lr>"}
    page = assert_harmless(make_report(tmp_path, TEN, result={"findings": [finding]})[0])
    assert all(part in page.texts["findings"] for part in finding.values())
    assert "went back" not in page.texts["curves"]


def test_recoveries_are_marked_at_the_curves_and_their_experiment_is_told(tmp_path: Path) -> None:
    finding = {"cause": "lr-too-high", "seen": "2.1", "expected": "falls", "try": "less", "experiment": "held at .3"}
    recoveries = [{"epoch": 3, "back_to": 7}, {"epoch": 2, "back_to": -1}, {"epoch": 3, "back_to": 9},
                  {"epoch": 1, "back_to": None}]  # fmt: skip
    page = assert_harmless(make_report(tmp_path, TEN, result={"findings": [finding], "recoveries": recoveries})[0])
    assert "held at .3" in page.texts["findings"] and "confirmed by" in page.texts["findings"]
    assert "blew up and went back in epoch 2, 3 (see the findings)" in page.texts["curves"]
    untold = {**finding, "experiment": None}
    assert "None" not in Page(make_report(tmp_path, TEN, result={"findings": [untold]})[0]).texts["findings"]


def test_commands_quote_the_run_for_the_shell(tmp_path: Path) -> None:
    folder = tmp_path / "my runs; rm -rf ~" / "it's"
    told = Page(make_report(folder, TEN)[0]).texts["next"]
    for verb in ("evaluate", "predict"):
        (line,) = [line for line in told.splitlines() if line.startswith(f"conviction {verb}")]
        assert shlex.split(line)[:3] == ["conviction", verb, str(folder)]
    (python,) = [line for line in told.splitlines() if "conviction.load(" in line]
    assert eval(python.partition("load")[2]) == str(folder)
    assert quoted(Path("-rf")) == "./-rf"


def test_run_that_is_not_finished_can_be_reported(tmp_path: Path) -> None:
    _, labels, evaluation = make_evaluation(TEN, split="valid")
    run = dataclasses.replace(make_run(tmp_path, evaluation), result={}, history=())
    page = assert_harmless(format_report(run, evaluation, (), make_split(TEN, labels)))
    assert "Top-1 on valid" in page.texts["dt"] and "Validation" not in page.texts["dt"]
    assert page.texts["title"].startswith("vgg7/4 on photos")


@pytest.mark.parametrize("count", [2, 30, 31])
def test_hostile_names_stay_names(tmp_path: Path, count: int) -> None:
    names = tuple(f"{HOSTILE[index % len(HOSTILE)]}{index}" for index in range(200))
    result = {"net": HOSTILE[0], "data": HOSTILE[3],
              "findings": [dict.fromkeys(("cause", "seen", "expected", "try"), HOSTILE[1])]}  # fmt: skip
    report, _ = make_report(
        tmp_path / HOSTILE[4].replace("/", ""), names[:count], names=names, result=result, notes=HOSTILE,
        environment=dict(zip(HOSTILE, reversed(HOSTILE), strict=True)),
    )  # fmt: skip
    page = assert_harmless(report)
    assert [section["id"] for section in page.all("section")] == [SECTIONS[0], "findings", *SECTIONS[1:]]
    assert ("<script>alert(1)</script>0" in page.texts["classes"]) and "<script" not in report
    text = "".join(page.texts.values())
    assert not set(text) & {"\u202e", "\x00", "\x1b", "\r", "\ud800"}
    assert "x" * 500 not in text  # huge names are cut
    report.encode()


def test_a_thousand_classes_stay_below_two_megabytes(tmp_path: Path) -> None:
    classes = tuple(f"n{index:08d} a species of a rather long Latin name" for index in range(1000))
    report, _ = make_report(tmp_path, classes, n=3000, shape=(3, 320, 240))
    page = assert_harmless(report)
    assert 500_000 < len(report.encode()) < 2_000_000
    assert 'class="matrix"' not in report and "too many for a matrix" in page.texts["confusion"]
    assert page.texts["confusion"].count(" answered as ") == 20
    assert sum(label in page.texts["classes"] for label in classes) == 1000
    assert len(page.all("img")) == 24


def test_page_is_the_same_each_time(tmp_path: Path) -> None:
    assert make_report(tmp_path, TEN) == make_report(tmp_path, TEN)


def luminance(colour: tuple[float, ...]) -> float:
    """Relative luminance of sRGB in 0..1 (WCAG 2.2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_words_keep_their_contrast_in_light_dark_and_print(tmp_path: Path) -> None:
    report, _ = make_report(tmp_path, TEN)
    themes = [
        {name: tuple(int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4))
         for name, colour in re.findall(r"--(\w+): #(\w{6});", block)}
        for block in re.findall(r":root \{(.*?)\}", report, re.DOTALL)
    ]  # fmt: skip
    assert len(themes) == 3
    for theme in themes:
        for ground in ("ground", "sheet", "track"):
            assert contrast(theme["ink"], theme[ground]) >= 7
        assert min(contrast(theme["soft"], theme[ground]) for ground in ("ground", "sheet")) >= 4.5
        assert contrast(theme["ink"], theme["right"]) >= 4.5 and contrast(theme["ink"], theme["wrong"]) >= 4.5
        for line in ("first", "second", "bad"):
            assert contrast(theme[line], theme["sheet"]) >= 3


PLANNED = {
    "device": "Tesla <T4>", "available_bytes": 15 << 30, "fits": "yes", "batch_size": 64, "micro_batch": 24,
    "train_peak_bytes": {"low": 400 << 20, "expected": 500 << 20, "high": 700 << 20},
    "train_reserved_bytes": 600 << 20, "params": 1_234_567, "macs": 7_654_321, "seconds_per_step": 0.0321,
    "seconds_per_epoch": 61.0, "seconds": 183.0,
}  # fmt: skip
MEASURED = {
    "peak_bytes": 510 << 20, "reserved_bytes": 640 << 20, "peak_of": "PyTorch's allocator", "seconds_per_step": 0.0333,
    "seconds_per_epoch": 64.0, "seconds": 192.0, "params": 1_234_567, "macs": None,
}  # fmt: skip
PICTURES = {
    "memory": memory_timeline([("forward", {"weights": 5, "saved": 7}), ("backward", {"weights": 5})], 12),
    "layers": cost_by_layer([("<b>conv</b>", 1, 2, 3, None)]),
}


def cost_rows(report: str) -> dict[str, list[str]]:
    section = report[report.index('id="cost"') : report.index("memory over one")]
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</th><td>(.*?)</td><td>(.*?)</td></tr>", section)
    return {title: [planned, measured] for title, planned, measured in rows}


def report_with(folder: Path, result: dict[str, Any]) -> str:
    _, labels, evaluation = make_evaluation(TEN)
    run = make_run(folder, evaluation, result=result)
    return format_report(run, evaluation, (), make_split(TEN, labels), PICTURES)


def test_what_was_planned_stands_beside_what_was_measured(tmp_path: Path) -> None:
    report = report_with(tmp_path, {"planned": PLANNED, "measured": MEASURED})
    page = assert_harmless(report)
    assert [each["id"] for each in page.all("section")] == [*SECTIONS[:6], "cost", *SECTIONS[6:]]
    assert cost_rows(report) == {
        "memory at the peak": ["500.0 MiB (400.0 MiB to 700.0 MiB)", "510.0 MiB"],
        "taken from the device": ["600.0 MiB", "640.0 MiB"],
        "a training step": ["32.1 ms", "33.3 ms"],
        "an epoch": ["1 min 01 s", "1 min 04 s"],
        "the run": ["3 min 03 s", "3 min 12 s"],
        "parameters trained": ["1.23 M (1,234,567)"] * 2,
        "multiply-accumulates an image": ["7.65 M (7,654,321)", "-"],
    }
    told = squeezed(page.texts["cost"])
    assert "Tesla <T4> and batches of 64 in 3 micro-batches of up to 24" in told
    assert "peak of PyTorch's allocator." in told and "There is no roofline" in told
    assert "memory over one training step" in told and "<b>conv</b>" in told


def test_memory_of_a_process_is_called_what_it_is_and_a_missing_plan_too(tmp_path: Path) -> None:
    measured = {**MEASURED, "reserved_bytes": None, "peak_of": "the process's resident memory", "peak_bytes": None}
    report = report_with(tmp_path, {"planned": None, "measured": measured})
    page = assert_harmless(report)
    assert "This run had no plan. Memory is measured as the peak of the process's resident memory: by how much" in \
        squeezed(page.texts["cost"])  # fmt: skip
    assert list(cost_rows(report)) == ["a training step", "an epoch", "the run", "parameters trained"]
    assert {planned for planned, _ in cost_rows(report).values()} == {"-"}
