"""The sections of a report on the answers of the net: confusion, worst mistakes, classes, calibration."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from conviction.data.batches import BatchedSource
from conviction.data.records import Split
from conviction.errors import ConvictionError
from conviction.evaluation import Mistake
from conviction.figures import Markup, element, joined, reliability_diagram
from conviction.metrics import Evaluation
from conviction.report.pieces import clipped_start, folded, name, plural, scrolled, section, soft, table
from conviction.text import format_percent, printable

# More classes than this make a matrix that nobody can read; the confused pairs say more.
MOST_IN_MATRIX = 30
# A larger matrix leaves no room for the pairs at its side.
_MOST_BESIDE = 12
_PAIRS, _PAIRS_WITHOUT_MATRIX = 8, 20
_CLASSES_SHOWN = 30
# Longest side of a picture in the page: 24 pictures of pure noise stay below 2 MB.
_PICTURE_SIDE = 128
# Pictures up to this side are shown with their pixels as squares; blurring would invent what is not there.
_TINY_SIDE = 64


def confusion_section(evaluation: Evaluation) -> Markup:
    """Show which class was answered as which: a matrix, or only the worst pairs where there are many classes."""
    count = len(evaluation.classes)
    if count > MOST_IN_MATRIX:
        says = f"{count:,} classes are too many for a matrix: the pairs most often confused."
        return section("confusion", "Confusion", soft(says), _confused_pairs(evaluation, _PAIRS_WITHOUT_MATRIX))
    says = "Rows are what the images are, columns what was answered. An empty cell is zero."
    worst = element("div", element("h3", "Most confused"), _confused_pairs(evaluation, _PAIRS))
    if count > _MOST_BESIDE:
        return section("confusion", "Confusion", soft(says), _matrix(evaluation, "matrix dense"), worst)
    beside = element("div", _matrix(evaluation, "matrix"), worst, class_="matrix-beside")
    return section("confusion", "Confusion", soft(says), beside)


def _confused_pairs(evaluation: Evaluation, most: int) -> Markup:
    """Tell in words which class was most often taken for which other."""
    confusion, classes = evaluation.confusion, evaluation.classes
    wrong = [(count, i, j) for i, row in enumerate(confusion) for j, count in enumerate(row) if count and i != j]
    items = []
    for count, i, j in sorted(wrong, key=lambda pair: (-pair[0], *pair[1:]))[:most]:
        label, answer = name(classes[i]), name(classes[j])
        share = element("span", format_percent(count / sum(confusion[i])), class_="whole")
        times = f": {plural(count, 'time')}, "
        items.append(
            element("li", element("b", label), " answered as ", element("b", answer), times, share, " of ", label)
        )
    return element("ul", *items) if items else soft("No image was answered wrongly.")


def _matrix(evaluation: Evaluation, kind: str) -> Markup:
    names = [name(label, 24) for label in evaluation.classes]
    corner = element("td", "is \u2193  answered \u2192")
    head = element("tr", corner, *(element("th", label, scope="col") for label in names))
    rows = []
    for index, (label, counts) in enumerate(zip(names, evaluation.confusion, strict=True)):
        cells = [_cell(count, sum(counts), index == column) for column, count in enumerate(counts)]
        rows.append(element("tr", element("th", label, scope="row"), *cells))
    matrix = element("table", element("thead", head), element("tbody", *rows), class_=kind)
    return scrolled(matrix, "confusion matrix")


def _cell(count: int, total: int, diagonal: bool) -> Markup:
    """Build one cell. Mistakes are tinted by the root of their share, or nobody would see the rare ones."""
    if not count:
        return element("td")
    share = count / total
    part = share if diagonal else math.sqrt(share)
    told = f"{format_percent(share)} of the row"
    return element("td", f"{count:,}", class_="right" if diagonal else "wrong", style=f"--part:{part:.3f}", title=told)


def mistakes_section(mistakes: tuple[Mistake, ...], evaluation: Evaluation, split: Split) -> Markup:
    """Show the wrong answers that were given most surely, as pictures."""
    if not mistakes:
        right = evaluation.top1 == 1
        none = f"Every image of the {evaluation.split} split was answered rightly." if right else "None were kept."
        return section("mistakes", "Worst mistakes", soft(none))
    says = "The wrong answers that were given most surely. Some of these labels may themselves be wrong."
    if not getattr(split.source, "ordered", True):
        says += " No pictures are shown: the loader may give its images in another order each time."
        figures = [_figure(mistake, None) for mistake in mistakes]
    else:
        pictures = _fetch_pictures(mistakes, split)
        figures = [_figure(*pair) for pair in zip(mistakes, map(_picture, mistakes, pictures), strict=True)]
    return section("mistakes", "Worst mistakes", soft(says), element("div", *figures, class_="pictures"))


def _figure(mistake: Mistake, picture: Markup | None) -> Markup:
    file = element("bdi", clipped_start(mistake.name, 40), title=mistake.name[-300:])
    caption = element(
        "figcaption",
        element("b", name(mistake.label)),
        element("span", "answered ", name(mistake.answer)),
        element("small", f"{format_percent(mistake.probability)} sure"),
        element("small", file),
    )
    return element("figure", caption) if picture is None else element("figure", picture, caption)


def _fetch_pictures(mistakes: Sequence[Mistake], split: Split) -> list[Tensor | None]:
    """Fetch the pictures [C, h, w] at once, as each fetch from a loader is a pass over it; None for unreadable ones.

    A file that is gone since it was evaluated must cost neither the report nor the other pictures.
    """
    try:
        return list(split.source.fetch(torch.tensor([mistake.index for mistake in mistakes])))
    except (ConvictionError, OSError):
        if len(mistakes) == 1 or isinstance(split.source, BatchedSource):
            return [None] * len(mistakes)
        return [_fetch_pictures([mistake], split)[0] for mistake in mistakes]


def _picture(mistake: Mistake, pixels: Tensor | None) -> Markup:
    if pixels is None:
        return element("div", "no longer readable", class_="absent")
    tiny = "tiny" if max(pixels.shape[-2:]) <= _TINY_SIDE else None
    said = f"a picture of {name_in_words(mistake.label)} answered as {name_in_words(mistake.answer)}"
    return element("img", src=encode_picture(pixels), alt=said, width=112, height=112, class_=tiny)


def name_in_words(label: str) -> str:
    """Return a class name short enough for a spoken text."""
    return printable(label[:60])


def encode_picture(pixels: Tensor) -> str:
    """Encode one picture [C, h, w] as a `data:` address of a PNG at most 128 pixels wide and high.

    uint8 is taken as it is; floats, whose scale is the user's own, are stretched from their least to their largest
    finite value. One channel is grey, three are red, green and blue; of any other number the mean is shown.
    """
    shown = pixels if pixels.dtype == torch.uint8 else _stretched(pixels.float())
    if len(shown) not in (1, 3):
        shown = shown.float().mean(0, keepdim=True).byte()
    array = shown.cpu().permute(1, 2, 0).contiguous().numpy()
    image = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
    image.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE))
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _stretched(pixels: Tensor) -> Tensor:
    finite = pixels[pixels.isfinite()]
    if not len(finite):
        return torch.zeros_like(pixels, dtype=torch.uint8)
    low, high = float(finite.min()), float(finite.max())
    clean = pixels.nan_to_num(nan=low, posinf=high, neginf=low)
    return ((clean - low) * (255 / (high - low) if high > low else 0)).round().byte()


def classes_section(evaluation: Evaluation) -> Markup:
    """Show how well each class is answered, the worst first; classes without images come last."""
    ranked = sorted(evaluation.per_class, key=lambda row: (not row["n"], row["f1"] or 0, row["recall"] or 0))
    says = ("Worst first. Recall: the share of a class that was found. Precision: the share of its answers that were "
            "right. F1: their harmonic mean.")  # fmt: skip
    parts = [_class_table("classes", ranked[:_CLASSES_SHOWN])]
    if ranked[_CLASSES_SHOWN:]:
        parts.append(folded("The other classes", _class_table("the other classes", ranked[_CLASSES_SHOWN:])))
    return section("classes", "Classes", soft(says), *parts)


def _class_table(label: str, ranked: list[dict[str, Any]]) -> Markup:
    rows = [
        (name(row["label"]), f"{row['n']:,}", format_percent(row["recall"]), format_percent(row["precision"]),
         joined([element("span", class_="share", style=f"--part:{row['f1'] or 0:.3f}"), format_percent(row["f1"])]))
        for row in ranked
    ]  # fmt: skip
    return table(label, ("class", "images", "recall", "precision", "F1"), rows, numbers=range(1, 5))


def calibration_section(evaluation: Evaluation) -> Markup:
    """Show whether the net is as right as it is sure."""
    bins = evaluation.calibration
    total = sum(row["n"] for row in bins)
    sure = sum(row["n"] * row["confidence"] for row in bins) / total if total else 0.0
    gap = sure - evaluation.top1
    leaning = "too sure of itself" if gap > 0 else "less sure than it could be"
    says = element(
        "p", "Confidence and accuracy differ by ",
        element("b", f"{100 * evaluation.calibration_error:.2f} percentage points"),
        " on average (expected calibration error over ten bins, Guo et al. 2017). ",
        f"The net is {leaning}: {format_percent(sure)} sure, {format_percent(evaluation.top1)} right.",
    )  # fmt: skip
    how = soft(
        "On the dashed line a net is right as often as it is sure; below it, it is too sure. "
        "A circle's area goes by its number of answers."
    )
    diagram = element("div", reliability_diagram(bins))
    return section("calibration", "Calibration", element("div", diagram, element("div", says, how), class_="beside"))
