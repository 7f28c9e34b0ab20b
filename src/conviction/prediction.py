"""What is in these images: files, folders and patterns in, classes with probabilities out."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from conviction.data.decoding import read_picture
from conviction.data.listing import EXTENSIONS
from conviction.data.records import Preprocessing
from conviction.errors import DataError
from conviction.evaluation import answer, batch_size_for, rank_answers
from conviction.runs import Run, read_run
from conviction.text import printable
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

    `images` are files, folders (searched whole) or patterns. Raises `DataError` for one that is missing or unreadable.
    """
    files = find_files([images] if isinstance(images, (str, Path)) else list(images))
    net, rows = net.to(device), []
    size = batch_size_for(preprocessing)
    for start in range(0, len(files), size):
        chosen = files[start : start + size]
        pictures = [read_picture(path, preprocessing.image[0], preprocessing.stored) for path in chosen]
        logits = answer(net, preprocessing.apply(torch.stack(pictures).to(device))).cpu()
        for path, ranked in zip(chosen, rank_answers(logits, classes, top), strict=True):
            rows.append({"file": str(path), **ranked[0], "top": ranked})
    return rows


def predict_run(
    run: Run | str | Path, images: str | Path | Iterable[str | Path], *, top: int = 5, device: str | None = None
) -> list[dict[str, Any]]:
    """Predict with a run's best weights and its own preprocessing; see `predict_files`."""
    run = run if isinstance(run, Run) else read_run(run)
    return predict_files(run.net, run.preprocessing, run.classes, images, top=top, device=find_device(device))


def find_files(images: Sequence[str | Path]) -> list[Path]:
    """Return the files that are meant by paths, folders and patterns, each once, folders and patterns sorted."""
    found: dict[Path, None] = {}
    for image in images:
        path = Path(image)
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in EXTENSIONS)
        else:
            inside = [path] if path.exists() else sorted(map(Path, glob.glob(str(image), recursive=True)))  # noqa: PTH207 (absolute patterns too)
        if not inside:
            raise DataError(
                "no image there", printable(image), "give files, folders or patterns such as 'photos/*.jpg'"
            )
        found |= dict.fromkeys(inside)
    return list(found)
