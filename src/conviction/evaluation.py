"""Running a net over a split or over files: logits, measures, the worst mistakes, predictions."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from conviction.data import is_folder_of_pictures, open_data
from conviction.data.batches import batches, fetch_batch
from conviction.data.labelled import read_labelled
from conviction.data.records import Batch, Data, Preprocessing, Split
from conviction.errors import DataError, UsageError
from conviction.metrics import Evaluation, measure_answers
from conviction.runs import Run, read_run
from conviction.text import list_some, printable
from conviction.training.deciding import find_device
from conviction.training.loop import autocasting
from conviction.training.small_maps import small_maps_multiplied

BATCH_SIZE = 256
# Pixels in a batch: at 224 px a batch of 256 would hold gigabytes of activations.
_MOST_PIXELS = 256 * 96 * 96


@dataclass(frozen=True)
class Mistake:
    """An image that was answered wrongly: its index and name, what it is, what was said and how surely."""

    index: int
    name: str
    label: str
    answer: str
    probability: float


def evaluate(net: nn.Module, split: Split, **how: Any) -> Evaluation:
    """Measure `net` on a split of a `Data`, such as `data.valid`. The net is left in its mode and with its weights.

    `how` goes to `answer_split`: device, precision, channels_last, workers.
    """
    logits, labels = answer_split(net, split, **how)
    return measure_answers(logits, labels, split.classes, split.kind)


def evaluate_run(
    run: Run | str | Path, data: Data | str | None = None, *, device: str | None = None, data_root: str | None = None
) -> Evaluation:
    """Measure a run on its own test split (else validation), or on other data: its test split, else validation.

    Of a folder that is not divided into splits all pictures are measured.

    Labels are matched by class name. Raises `DataError` where the other data has classes that the run does not know.
    """
    run = run if isinstance(run, Run) else read_run(run)
    split = _in_the_words_of(run, _chosen(run, data, data_root))
    net = run.net.to(find_device(device))
    return evaluate(net, split, precision=run.recipe.precision or "fp32", channels_last=bool(run.recipe.channels_last))


def _chosen(run: Run, data: Data | str | None, data_root: str | None) -> Split:
    """Return what is measured: the test split, else validation; of a folder as the run's net reads pictures."""
    if isinstance(data, Data):
        return data.valid if data.test is None else data.test
    if data is not None and is_folder_of_pictures(data):
        return read_labelled(data, run.preprocessing)
    opened = run.data if data is None else open_data(data, image_size=run.recipe.image_size, data_root=data_root)
    return opened.valid if opened.test is None else opened.test


def _in_the_words_of(run: Run, split: Split) -> Split:
    """Return a split with the run's class numbers and preprocessing."""
    if split.classes == run.classes:
        return replace(split, preprocessing=run.preprocessing)
    strange = [name for name in split.classes if name not in run.classes]
    if split.labels is None:
        raise DataError("the labels of a loader are not known before it is read", split.kind,
                        "give a data set rather than a loader")  # fmt: skip
    if strange:
        raise DataError(f"the run does not know the class {list_some(strange)}", printable(run.folder),
                        f"it knows {list_some(run.classes)}")  # fmt: skip
    channels = split.preprocessing.image[0] if split.preprocessing else run.preprocessing.image[0]
    if channels != run.preprocessing.image[0]:
        raise DataError(f"the images have {channels} channels, the run's net reads {run.preprocessing.image[0]}",
                        printable(run.folder), "give images like those it was trained on")  # fmt: skip
    numbers = torch.tensor([run.classes.index(name) for name in split.classes])
    return replace(split, labels=numbers[split.labels], classes=run.classes, preprocessing=run.preprocessing)


def answer_split(
    net: nn.Module,
    split: Split,
    *,
    device: torch.device | str | None = None,
    precision: str = "fp32",
    channels_last: bool = False,
    workers: int = 0,
    most: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the logits [N, classes] (float32, CPU) of a split's images and their labels, in the split's order.

    With `most` only so many images are answered, spread evenly over the split.
    """
    if not isinstance(split, Split) or split.preprocessing is None:
        raise UsageError("this is no split of a data set", "", "take one from a Data, as in data.valid")
    device = torch.device(device) if device is not None else device_of(net)
    size = batch_size_for(split.preprocessing)
    visited = batches(split, size, seed=0, epoch=0, shuffled=False, device=device, workers=workers)
    if most is not None and most < len(split):
        visited = _spread(split, most, size, visited)
    logits, labels = [], []
    for batch in visited:
        images = split.preprocessing.apply(batch.pictures.to(device))
        logits.append(answer(net, images, precision, channels_last).cpu())
        labels.append(batch.labels.cpu())
    return torch.cat(logits), torch.cat(labels)


def _spread(split: Split, most: int, size: int, all_batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yield `most` images spread evenly over a split (folders are sorted by class); of a loader its first batches."""
    if getattr(split.source, "batches", None) is not None:
        return itertools.islice(all_batches, -(-most // size))
    return (fetch_batch(split, part) for part in torch.linspace(0, len(split) - 1, most).long().split(size))


def device_of(net: nn.Module) -> torch.device:
    """Return where a net lies; a net without parameters is taken to be on the CPU."""
    return next((parameter.device for parameter in net.parameters()), torch.device("cpu"))


def batch_size_for(preprocessing: Preprocessing) -> int:
    """Return how many images are answered at once, so that large images do not fill the memory."""
    _, height, width = preprocessing.image
    return max(1, min(BATCH_SIZE, _MOST_PIXELS // (height * width)))


def answer(net: nn.Module, images: Tensor, precision: str = "fp32", channels_last: bool = False) -> Tensor:
    """Return the logits (float32) of images [N, C, H, W] in eval mode; the net's mode is put back afterwards.

    Raises `TypeError` for a net that makes anything but a tensor in eval mode.
    """
    modes = {module: module.training for module in net.modules()}
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    net.eval()
    try:
        # Not in inference mode: what a net makes for itself here, it may need for training.
        with torch.no_grad(), autocasting(images.device, precision), small_maps_multiplied(net):
            logits = net(images)
            if not isinstance(logits, Tensor):
                raise TypeError(f"it makes {type(logits).__name__} objects, not logits")
            return logits.float()
    finally:
        for module, mode in modes.items():
            module.training = mode


def worst_mistakes(logits: Tensor, labels: Tensor, split: Split, most: int = 24) -> tuple[Mistake, ...]:
    """Return the wrong answers that were given most surely, the surest first."""
    probabilities = logits.softmax(1)
    sure, answers = probabilities.max(1)
    wrong = (answers != labels).nonzero().flatten()
    ranked = wrong[sure[wrong].argsort(descending=True, stable=True)][:most]
    return tuple(
        Mistake(index, split.name_of(index), split.classes[int(labels[index])], split.classes[int(answers[index])],
                float(sure[index]))
        for index in ranked.tolist()
    )  # fmt: skip


def rank_answers(logits: Tensor, classes: tuple[str, ...], most: int = 5) -> list[list[dict[str, Any]]]:
    """Return for each row of logits its likeliest classes with their probabilities."""
    best = logits.softmax(1).topk(min(most, len(classes)), dim=1)
    pairs: Iterable[tuple[list[float], list[int]]] = zip(best.values.tolist(), best.indices.tolist(), strict=True)
    return [
        [{"label": classes[index], "probability": value} for value, index in zip(values, indices, strict=True)]
        for values, indices in pairs
    ]
