"""Pictures held in memory as one tensor, and the data sets made from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from conviction.data.records import Data, Preprocessing, Scale, Size, Split
from conviction.errors import DataError, UsageError

_MEASURED_BYTES = 2**28  # statistics of more pixels than this are taken from evenly spaced pictures


@dataclass(frozen=True, eq=False)
class Held:
    """A source whose pictures lie in memory: uint8 (0 to 255) or float32 (the user's own scale), [N, C, h, w]."""

    pictures: Tensor
    streams: ClassVar[bool] = False

    def __len__(self) -> int:
        return len(self.pictures)

    def fetch(self, indices: Tensor) -> Tensor:
        """Return the pictures at `indices`, [n, C, h, w]."""
        return self.pictures.index_select(0, indices)


@dataclass(frozen=True, eq=False)
class Pixels:
    """Pictures [N, C, h, w] (uint8, or float32 in the user's own scale) with their labels (int64 [N])."""

    pictures: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> Pixels:
        """Return the pictures and labels at `indices`, copied."""
        return Pixels(self.pictures[indices], self.labels[indices])

    def split(self, kind: str) -> Split:
        """Return them as the split `kind`."""
        return Split(Held(self.pictures), self.labels, kind=kind)


def hold_out(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Choose `share` of each class at random: indices kept and indices held out, both int64 in rising order.

    At least one picture of each class is held out and at least one kept, so a class with one picture keeps it.
    Raises `UsageError` for a share that is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise UsageError(f"valid_share = {share} is not a share", "valid_share", "use a fraction such as 0.1")
    generator = torch.Generator().manual_seed(seed)
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        held_out[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return (~held_out).nonzero().flatten(), held_out.nonzero().flatten()


def channel_statistics(pictures: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation by channel: of 0..1 for uint8 pictures, of their own scale for floats.

    A channel that never varies gets the deviation 1, so that standardising it stays finite.
    """
    every = max(1, -(-pictures.nbytes // _MEASURED_BYTES))
    sample = pictures[::every]
    if sample.dtype == torch.uint8:
        return level_statistics(count_levels(sample))
    moments = [torch.std_mean(channel.double(), correction=0) for channel in sample.unbind(1)]
    return tuple(mean.item() for _, mean in moments), _divisors(std for std, _ in moments)


def count_levels(pictures: Tensor) -> Tensor:
    """Count the 256 levels by channel in uint8 [N, C, h, w]: int64 [C, 256], with no float copy of the pictures."""
    return torch.stack([torch.bincount(channel.reshape(-1), minlength=256) for channel in pictures.unbind(1)])


def level_statistics(counts: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return what `channel_statistics` does for uint8 pictures whose levels were counted: [C, 256]."""
    shares = counts.double() / counts.sum(1, keepdim=True)
    levels = torch.arange(256, dtype=torch.float64) / 255
    means = shares @ levels
    variances = (shares * (levels - means[:, None]).square()).sum(1)
    return tuple(means.tolist()), _divisors(variances.sqrt())


def _divisors(deviations: Iterable[Tensor]) -> tuple[float, ...]:
    return tuple(float(std) if std > 1e-8 else 1.0 for std in deviations)


def framed(preprocessing: Preprocessing, size: int) -> Preprocessing:
    """Return the preprocessing that makes square images of side `size`: shorter side to `size`, middle cut out."""
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise UsageError(f"image_size = {size!r} is not a size", "image_size", "use a whole number of pixels")
    height, width = preprocessing.stored
    shorter = min(height, width)
    resized: Size = (round(height * size / shorter), round(width * size / shorter))
    channels = preprocessing.image[0]
    return replace(preprocessing, image=(channels, size, size), resized=resized)


@dataclass(frozen=True)
class SameSize:
    """Splits whose pictures all have one size, resized on the device: makes their `Data` at any image size."""

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    preprocessing: Preprocessing
    mirrors: bool
    notes: tuple[str, ...] = ()

    def __call__(self, size: int | None = None) -> Data:
        """Return the data with square images of side `size`; with the size that they have for `None`."""
        return Data(
            name=self.name,
            classes=self.classes,
            train=self.splits["train"],
            valid=self.splits["valid"],
            test=self.splits.get("test"),
            preprocessing=self.preprocessing if size is None else framed(self.preprocessing, size),
            resizer=self,
            mirrors=self.mirrors,
            notes=self.notes,
        )


def held_data(
    name: str,
    classes: tuple[str, ...],
    train: Pixels,
    test: Pixels | None,
    *,
    mirrors: bool,
    valid_share: float,
    seed: int,
    notes: tuple[str, ...] = (),
) -> SameSize:
    """Split a validation share off `train`, measure the channels of what is left, and join the splits."""
    kept, held_out = hold_out(train.labels, valid_share, seed)
    if not len(held_out):
        raise DataError("every class has a single picture", name, "give two or more of each, one to validate on")
    kept_pixels = train.take(kept)
    splits = {"train": kept_pixels.split("train"), "valid": train.take(held_out).split("valid")}
    if test is not None:
        splits["test"] = test.split("test")
    preprocessing = as_stored(kept_pixels.pictures)
    return SameSize(name, classes, splits, preprocessing, mirrors, notes)


def as_stored(pictures: Tensor) -> Preprocessing:
    """Return the preprocessing that keeps the size of `pictures` [N, C, h, w] and standardises by their channels."""
    channels, height, width = pictures.shape[1:]
    mean, std = channel_statistics(pictures)
    scale: Scale = "uint8" if pictures.dtype == torch.uint8 else "own"
    return Preprocessing((channels, height, width), (height, width), (height, width), mean, std, scale)
