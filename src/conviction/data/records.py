"""The records that flow out of the data room: Data, its Splits, the Batches cut from them, and Preprocessing."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from conviction.errors import DataError

Image = tuple[int, int, int]
Size = tuple[int, int]
Scale = Literal["uint8", "own"]


class Source(Protocol):
    """Where the pictures of a split come from, by index."""

    def __len__(self) -> int:
        """Return the number of pictures."""
        ...

    def fetch(self, indices: Tensor) -> Tensor:
        """Return the pictures at `indices`: [n, C, h, w], uint8 (0 to 255) or float32 (the user's own scale)."""
        ...


@dataclass(frozen=True, eq=False)  # identity: tensors cannot be compared to a truth value
class Split:
    """One of train, valid and test: pictures, labels (int64 [N]; None until read) and what a person calls them."""

    source: Source
    labels: Tensor | None
    names: tuple[str, ...] | None = None
    kind: str = "train"
    classes: tuple[str, ...] = ()  # these two are filled in by the Data that the split becomes part of
    preprocessing: Preprocessing | None = None

    def __len__(self) -> int:
        return len(self.source)

    def name_of(self, index: int) -> str:
        """Return the file name of a picture, or its split and number where it has none."""
        return self.names[index] if self.names else f"{self.kind} #{index}"


@dataclass(frozen=True, eq=False)
class Batch:
    """Some pictures as they are stored, with labels (int64 [n]) and their indices in the split (int64 [n])."""

    pictures: Tensor
    labels: Tensor
    indices: Tensor

    def __len__(self) -> int:
        return len(self.labels)


_NUMBERS = ("image", "stored", "resized", "mean", "std")


@dataclass(frozen=True)
class Preprocessing:
    """The way from a stored picture to what a net reads, the same in training, evaluation, prediction and export.

    Pictures are read at `stored` (height, width), resized to `resized`, cut in the middle to `image` (C, H, W), scaled
    to 0..1 where they are uint8, and standardised by channel with `mean` and `std`. `scale` is `uint8` for pictures of
    0 to 255, or `own` for floats of the user's own scale: `mean` and `std` mean nothing for pictures of the other kind.
    """

    image: Image
    stored: Size
    resized: Size
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: Scale = "uint8"

    def frame(self, pictures: Tensor) -> Tensor:
        """Resize and cut [N, C, h, w] to float32 [N, C, H, W] of 0..1 (uint8 in) or the user's own scale (float in).

        Raises `DataError` for pictures of another scale than those which `mean` and `std` were measured from.
        """
        self._check_scale(pictures)
        scaled = pictures.float() / 255 if pictures.dtype == torch.uint8 else pictures.float()
        if tuple(scaled.shape[-2:]) != self.resized:
            scaled = F.interpolate(scaled, self.resized, mode="bilinear", antialias=True)
        top, left = (self.resized[0] - self.image[1]) // 2, (self.resized[1] - self.image[2]) // 2
        return scaled[..., top : top + self.image[1], left : left + self.image[2]]

    def standardise(self, images: Tensor) -> Tensor:
        """Subtract the channel means and divide by the channel deviations."""
        mean, std = _by_channel(self.mean, images.device), _by_channel(self.std, images.device)
        return (images - mean) / std

    def apply(self, pictures: Tensor) -> Tensor:
        """[N, C, h, w] as stored to float32 [N, C, H, W] as the net reads it."""
        return self.standardise(self.frame(pictures))

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers for JSON."""
        return {name: list(getattr(self, name)) for name in _NUMBERS} | {"scale": self.scale}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Read what `to_dict` wrote; `scale` may be missing, as it was not always written."""
        return cls(**{name: tuple(values[name]) for name in _NUMBERS}, scale=values.get("scale", "uint8"))

    def _check_scale(self, pictures: Tensor) -> None:
        if (pictures.dtype == torch.uint8) == (self.scale == "uint8"):
            return
        if self.scale == "uint8":
            found = str(pictures.dtype).removeprefix("torch.")
            what = f"the net was trained on pictures of 0 to 255 (uint8), these are {found}"
            raise DataError(what, remedy="give uint8 pictures")
        what = "the net was trained on values of the user's own scale, not on pictures of 0 to 255 (uint8)"
        raise DataError(what, remedy="give float tensors of that scale")


@functools.lru_cache(maxsize=64)
def _by_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Put channel figures on a device, once: to copy them for every batch would make an accelerator wait."""
    return torch.tensor(values, device=device).view(1, -1, 1, 1)


class Resizer(Protocol):
    """Makes the same data at another image size."""

    def __call__(self, size: int) -> Data:
        """Return the data with square images of side `size`."""
        ...


@dataclass(frozen=True, eq=False)
class Data:
    """A data set ready to train on: its classes, its splits and the preprocessing that belongs to them.

    `mirrors` says whether a mirrored picture keeps its label (clothes do, digits do not). `notes` tell what was decided
    while it was read; `sizes_differ` is true for a folder whose pictures have no common size.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    valid: Split
    test: Split | None
    preprocessing: Preprocessing
    resizer: Resizer
    mirrors: bool = True
    sizes_differ: bool = False
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for kind in ("train", "valid", "test"):
            split = getattr(self, kind)
            if split is not None:
                owned = replace(split, kind=kind, classes=self.classes, preprocessing=self.preprocessing)
                object.__setattr__(self, kind, owned)

    @property
    def image(self) -> Image:
        """(channels, height, width) of what the net reads."""
        return self.preprocessing.image

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.classes)

    def resized(self, size: int) -> Data:
        """Return the same data with square images of side `size` pixels."""
        return self.resizer(size)

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by name: train, valid and, where there is one, test."""
        named = {"train": self.train, "valid": self.valid, "test": self.test}
        return {name: split for name, split in named.items() if split is not None}
