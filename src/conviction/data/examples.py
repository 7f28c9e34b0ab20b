"""What users' own datasets and loaders give, made into pictures and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from conviction.data.decoding import GREY_MODES
from conviction.errors import DataError
from conviction.text import format_shape, printable

_CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class Expected:
    """What every picture and label must be like, as learned from the first training pictures and the classes."""

    num_classes: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    def check(self, pictures: Tensor, labels: Tensor, where: str) -> None:
        """Raise `DataError` for pictures of another shape or type, or a label that is none of the classes."""
        if tuple(pictures.shape[1:]) != self.shape:
            found = f"images are {format_shape(pictures.shape[1:])}, those to train on {format_shape(self.shape)}"
            raise DataError(found, where, "resize all to one size")
        if pictures.dtype != self.dtype:
            found = f"images are {_short(pictures.dtype)}, those to train on {_short(self.dtype)}"
            raise DataError(found, where, "scale all alike: the same transforms for every split")
        strange = labels[(labels < 0) | (labels >= self.num_classes)]
        if len(strange):
            found = f"label {int(strange[0])} is none of the {self.num_classes} classes"
            raise DataError(found, where, f"number the classes from 0 to {self.num_classes - 1}")


def stack_examples(items: Sequence[tuple[str, Any]]) -> tuple[Tensor, Tensor]:
    """Stack (image, label) items, each with what a person calls it: pictures [n, C, h, w] and labels (int64 [n])."""
    pictures, labels = [], []
    for where, item in items:
        if not isinstance(item, (tuple, list)) or len(item) < 2:
            raise DataError(f"an item is a {type(item).__name__}", where, "give (image, label)")
        picture = as_picture(item[0], where)
        if pictures and (picture.shape != pictures[0].shape or picture.dtype != pictures[0].dtype):
            first, found = (f"{format_shape(p.shape)} {_short(p.dtype)}" for p in (pictures[0], picture))
            raise DataError(f"images differ: {found} here, {first} at {items[0][0]}", where, "resize all to one size")
        pictures.append(picture)
        labels.append(as_label(item[1], where))
    return torch.stack(pictures), torch.tensor(labels)


def as_picture(image: Any, where: str) -> Tensor:
    """Make a tensor [C, h, w] of a PIL image, an array (h, w), (h, w, C) or (C, h, w), a tensor (h, w) or (C, h, w)."""
    if isinstance(image, Image.Image):
        image = np.asarray(image.convert("L" if image.mode in GREY_MODES else "RGB"))
    if isinstance(image, np.ndarray):
        if image.ndim == 3 and image.shape[0] not in _CHANNELS and image.shape[2] in _CHANNELS:
            image = np.moveaxis(image, 2, 0)
        image = torch.from_numpy(np.array(image)) if image.dtype.kind in "biuf" else image
    if not isinstance(image, Tensor):
        raise DataError(f"an image is a {type(image).__name__}", where, "give a tensor, an array or a PIL image")
    return as_pictures(image[None], where)[0]


def as_pictures(images: Any, where: str) -> Tensor:
    """Check a batch of images: returns [n, C, h, w], uint8 (0 to 255) or float32 (any scale)."""
    if not isinstance(images, Tensor):
        raise DataError(f"the images are a {type(images).__name__}", where, "give one tensor [n, C, h, w]")
    if images.ndim == 3:
        images = images.unsqueeze(1)
    if images.ndim != 4 or 0 in images.shape:
        raise DataError(f"images of shape {format_shape(images.shape[1:])}", where, "give (channels, height, width)")
    if images.shape[1] > 4 and images.shape[3] in (1, 3, 4):  # else they would train, as many channels of thin pictures
        remedy = "give (channels, height, width): images.permute(0, 3, 1, 2)"
        raise DataError(f"images of shape {format_shape(images.shape[1:])} have their channels last", where, remedy)
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise DataError(f"pixels of type {_short(images.dtype)}", where, "give uint8 (0 to 255) or floats")
    return images.float()


def as_labels(labels: Any, where: str) -> Tensor:
    """Check the labels of a batch: returns int64 [n]."""
    if not isinstance(labels, Tensor):
        try:
            labels = torch.as_tensor(labels)
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"the labels are a {type(labels).__name__}", where, "give whole numbers") from error
    if labels.ndim != 1:
        found = format_shape(labels.shape) or "one number"
        raise DataError(f"labels of shape {found}", where, "give one whole number an image, not one-hot rows")
    if labels.is_floating_point() or labels.is_complex():
        raise DataError(f"labels of type {_short(labels.dtype)}", where, "give whole numbers: labels.long()")
    return labels.long()


def as_label(label: Any, where: str) -> int:
    """Check one label, a whole number of any type."""
    if isinstance(label, (int, np.integer)):
        return int(label)
    values = np.asarray(label) if isinstance(label, (Tensor, np.ndarray)) else None
    if values is not None and values.size == 1 and values.dtype.kind in "iub":
        return int(values.item())
    raise DataError(
        f"the label {printable(repr(label))[:60]} is no whole number", where, "give class numbers from 0 on"
    )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
