"""What is in these images: files, folders and patterns in, classes with probabilities out."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from conviction.data.decoding import read_picture
from conviction.data.listing import pictures_below
from conviction.data.records import Preprocessing
from conviction.errors import DataError, UsageError
from conviction.evaluation import answer, batch_size_for, rank_answers
from conviction.runs import Run, read_run
from conviction.text import list_some, printable, system_reason
from conviction.training.deciding import find_device


def predict_files(
    net: nn.Module,
    preprocessing: Preprocessing,
    classes: tuple[str, ...],
    images: str | Path | Iterable[str | Path],
    *,
    top: int = 5,
    device: torch.device | str = "cpu",
) -> list[dict[str, Any]]:
    """Return a row for each image: `file`, `label`, `probability` and `top`, the likeliest classes.

    `images` are files, folders (searched whole) or patterns. A file that cannot be read has a row whose `label` and
    `probability` are None, with the reason as `error`. Raises `DataError` where none can be read or one is missing.
    """
    if top < 1:
        raise UsageError(f"top = {top} is no number of classes", "--top", "use 1 or more")
    files = find_files([images] if isinstance(images, (str, Path)) else list(images))
    net, rows = net.to(device), []
    size = batch_size_for(preprocessing)
    for start in range(0, len(files), size):
        chosen = [(path, _read(path, preprocessing)) for path in files[start : start + size]]
        pictures = [picture for _, picture in chosen if isinstance(picture, Tensor)]
        ranked: Iterator[list[dict[str, Any]]] = iter(())
        if pictures:
            logits = answer(net, preprocessing.apply(torch.stack(pictures).to(device))).cpu()
            ranked = iter(rank_answers(logits, classes, top))
        rows += [_row(path, next(ranked) if isinstance(picture, Tensor) else picture) for path, picture in chosen]
    broken = [row for row in rows if "error" in row]
    if len(broken) == len(rows):
        raise DataError(f"no image can be read: {broken[0]['error']}", list_some([row["file"] for row in broken]),
                        "give JPEG, PNG, WebP, BMP, TIFF or PPM files")  # fmt: skip
    return rows


def _read(path: Path, preprocessing: Preprocessing) -> Tensor | DataError:
    try:
        return read_picture(path, preprocessing.image[0], preprocessing.stored)
    except DataError as error:
        return error


def _row(path: Path, found: list[dict[str, Any]] | DataError | Tensor) -> dict[str, Any]:
    if isinstance(found, DataError):
        return {"file": str(path), "label": None, "probability": None, "top": [], "error": found.what}
    assert isinstance(found, list)
    return {"file": str(path), **found[0], "top": found}


def predict_run(
    run: Run | str | Path, images: str | Path | Iterable[str | Path], *, top: int = 5, device: str | None = None
) -> list[dict[str, Any]]:
    """Predict with a run's best weights and its own preprocessing; see `predict_files`."""
    run = run if isinstance(run, Run) else read_run(run)
    return predict_files(run.net, run.preprocessing, run.classes, images, top=top, device=find_device(device))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:  # a name that is too long, a folder that may not be entered
        what = f"the image cannot be opened: {system_reason(error)}"
        raise DataError(what, printable(path), "check the path") from error


def find_files(images: Sequence[str | Path]) -> list[Path]:
    """Return the files that are meant by paths, folders and patterns, each once, folders and patterns sorted."""
    found: dict[Path, None] = {}
    for image in images:
        path = Path(image)
        if _is_folder(path):
            inside = pictures_below(path)
        else:
            inside = [path] if path.exists() else sorted(map(Path, glob.glob(str(image), recursive=True)))  # noqa: PTH207 (absolute patterns too)
        if not inside:
            raise DataError(
                "no image there", printable(image), "give files, folders or patterns such as 'photos/*.jpg'"
            )
        found |= dict.fromkeys(inside)
    return list(found)
