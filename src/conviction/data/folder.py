"""A folder of photographs made into `Data`: what is read, at which size, and what is said about it."""

from __future__ import annotations

import dataclasses
import statistics
import weakref
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from conviction.data.decoding import Header, check_picture, read_picture
from conviction.data.held import count_levels, framed, level_statistics
from conviction.data.listing import Listing, find_faults, list_folder
from conviction.data.photographs import Photographs, held_kinds, refuse_broken
from conviction.data.records import Data, Preprocessing, Size, Split
from conviction.data.splitting import Labelled, check_shares, split_listing
from conviction.data.threads import map_in_threads
from conviction.errors import DataError, UsageError
from conviction.text import list_some, printable

PHOTO_SIDE = 224  # what nets for photographs were published with
LARGEST_KEPT_SIDE = 512  # a camera's 4000x3000 is a common size too, but not one that a net is trained at
MEASURED_PICTURES = 2000  # pictures from which the channels' mean and deviation are measured
_ON_BAD = ("stop", "skip")


def read_folder(
    path: Path | str,
    *,
    image_size: int | None = None,
    valid_share: float = 0.1,
    test_share: float = 0.1,
    seed: int = 0,
    on_bad: str = "stop",
    name: str | None = None,
) -> Data:
    """Read a folder of photographs: sub-folders are classes, in `train/`, `valid|val|validation/`, `test/` or not.

    A folder without splits is split by class, `valid_share` and `test_share` of each; a missing validation is split off
    `train/`. Pictures of one size keep it (up to 512 pixels on the shorter side). Others are made square, `image_size`
    a side; without it 224, or less where half of the pictures are smaller. They are stored 8/7 larger and cut in the
    middle (256 for 224, Krizhevsky et al. 2012), which leaves room for random crops. Files are read, never written.

    Pictures that cannot be read stop it with `DataError`, or are left out with `on_bad="skip"`, and named either way.
    What shows without decoding (no picture, cut short, wrong checksums) is found here; `load` decodes, and finds the
    rest.

    Raises `DataError` for a folder that cannot be trained on, `UsageError` for a value out of range.
    """
    if on_bad not in _ON_BAD:
        raise UsageError(f"on_bad = {printable(on_bad)!r} is unknown", "recipe key on_bad", "use stop or skip")
    check_shares(valid_share, test_share)
    listing = list_folder(path)
    _refuse_faults(listing)
    headers, broken = inspect_files(listing.root, listing.files)
    notes = [*listing.notes(), *_settle(listing.root, broken, on_bad)]
    listing = listing.without(broken)
    _refuse_faults(listing)
    parts = split_listing(listing, valid_share, test_share, seed)
    photographs = Folder(
        name=name or listing.root.name,
        root=listing.root,
        classes=listing.classes,
        parts=parts,
        channels=1 if all(header.grey for header in headers.values()) else 3,
        sizes=_extent([header.size for header in headers.values()]),
        on_bad=on_bad,
        notes=tuple(notes),
    )
    return photographs.measured()(image_size)


def load(data: Data) -> Data:
    """Decode the pictures of a folder that are to be held in memory; other data is returned as it is.

    Pictures too many for memory are decoded once too and thrown away, so that none stops the training half-way.
    Pictures that turn out broken stop it with one `DataError` that names them, or are dropped and noted, as `on_bad`
    said when the folder was read.
    """
    if not isinstance(data.resizer, Folder):
        return data
    broken = {}
    for split in data.splits.values():
        if isinstance(split.source, Photographs):
            broken |= split.source.check() if split.source.streams else split.source.decode()
    if not broken:
        return data
    notes = _settle(data.resizer.root, broken, data.resizer.on_bad)
    splits = {kind: _without(split, broken) for kind, split in data.splits.items()}
    return load(dataclasses.replace(data, **splits, notes=(*data.notes, *notes)))


def inspect_files(root: Path, files: Sequence[str]) -> tuple[dict[str, Header], dict[str, DataError]]:
    """Return the headers of the files that look whole, and the errors of the others, by file."""

    def inspect(file: str) -> Header | DataError:
        try:
            return check_picture(root / file)
        except DataError as error:
            return error

    outcomes = dict(zip(files, map_in_threads(inspect, files), strict=True))
    headers = {file: outcome for file, outcome in outcomes.items() if isinstance(outcome, Header)}
    return headers, {file: outcome for file, outcome in outcomes.items() if isinstance(outcome, DataError)}


@dataclass(frozen=True)
class Extent:
    """The sizes (height, width) of a set of pictures: the smallest and largest by area, and the median shorter side."""

    smallest: Size
    largest: Size
    shorter_side: int

    @property
    def common(self) -> Size | None:
        """The size of all pictures, if they have one that is small enough to train at."""
        return self.largest if self.smallest == self.largest and min(self.largest) <= LARGEST_KEPT_SIDE else None

    @property
    def side(self) -> int:
        """The side of square images that suits these pictures: a multiple of 8, at most 224."""
        return min(PHOTO_SIDE, max(8, self.shorter_side // 8 * 8))


@dataclass(frozen=True)
class Folder:
    """The photographs of a folder, listed and split: makes their `Data` at any image size."""

    name: str
    root: Path
    classes: tuple[str, ...]
    parts: Mapping[str, Labelled]
    channels: int
    sizes: Extent
    on_bad: str
    notes: tuple[str, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    # What is decoded is shared by the image sizes that are stored alike, as long as some `Data` uses it.
    decoded: MutableMapping[tuple[str, Size], Photographs] = field(
        default_factory=weakref.WeakValueDictionary, repr=False, compare=False
    )

    def __call__(self, size: int | None = None) -> Data:
        """Return the data with square images of side `size`; at its own size for `None`."""
        preprocessing = self._preprocessing(size)
        splits = self._splits(preprocessing.stored)
        return Data(
            name=self.name,
            classes=self.classes,
            train=splits["train"],
            valid=splits["valid"],
            test=splits.get("test"),
            preprocessing=preprocessing,
            resizer=self,
            sizes_differ=self.sizes.common is None,
            notes=(*self.notes, *self._size_notes(preprocessing)),
        )

    def measured(self) -> Folder:
        """Return the folder with the mean and deviation of its channels, from evenly spaced training pictures.

        They are measured at the folder's own size, so that they are the same whatever size is asked for later.
        """
        stored = self._preprocessing(None).stored
        files = [file for file, _ in self.parts["train"]]
        sample = files[:: max(1, -(-len(files) // MEASURED_PICTURES))]

        def count(file: str) -> Tensor | DataError:
            try:
                return count_levels(read_picture(self.root / file, self.channels, stored)[None])
            except DataError as error:
                return error

        outcomes = map_in_threads(count, sample)
        counts = [outcome for outcome in outcomes if isinstance(outcome, Tensor)]
        if not counts:
            pairs = zip(sample, outcomes, strict=True)
            refuse_broken(self.root, {file: error for file, error in pairs if isinstance(error, DataError)})
        mean, std = level_statistics(torch.stack(counts).sum(0))
        return dataclasses.replace(self, mean=mean, std=std)

    def _preprocessing(self, size: int | None) -> Preprocessing:
        common, side = self.sizes.common, self.sizes.side if size is None else size
        own = common or (self.sizes.side, self.sizes.side)
        native = Preprocessing((self.channels, *own), own, own, self.mean, self.std)
        if common is not None and size is None:
            return native
        resized = framed(native, side)
        if common is not None and min(common) <= side:
            return resized  # on the device: a small picture is cheapest to keep small
        roomy = round(side * 8 / 7)
        stored = roomy if common is None else min(roomy, *common)
        return dataclasses.replace(resized, stored=(stored, stored), resized=(stored, stored))

    def _splits(self, stored: Size) -> dict[str, Split]:
        picture_bytes = self.channels * stored[0] * stored[1]
        held = held_kinds({kind: len(part) * picture_bytes for kind, part in self.parts.items()})
        splits = {}
        for kind, part in self.parts.items():
            files = tuple(file for file, _ in part)
            source = self.decoded.get((kind, stored))
            if source is None:
                source = Photographs(self.root, files, self.channels, stored, streams=kind not in held)
                self.decoded[kind, stored] = source
            labels = torch.tensor([label for _, label in part], dtype=torch.int64)
            splits[kind] = Split(source, labels, files, kind)
        return splits

    def _size_notes(self, preprocessing: Preprocessing) -> list[str]:
        if self.sizes.common is not None:
            return []
        small, large = (f"{height}x{width}" for height, width in (self.sizes.smallest, self.sizes.largest))
        sizes = f"are {small}" if small == large else f"differ in size, from {small} to {large}"
        height, width = preprocessing.image[1:]
        return [f"pictures {sizes} (height x width): resized and cut to {height}x{width}"]


def _extent(sizes: Sequence[Size]) -> Extent:
    by_area = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    return Extent(by_area[0], by_area[-1], int(statistics.median(min(size) for size in sizes)))


def _refuse_faults(listing: Listing) -> None:
    for fault in find_faults(listing):
        raise fault


def _settle(root: Path, broken: dict[str, DataError], on_bad: str) -> list[str]:
    """Raise for broken pictures or, where they are to be skipped, return what is noted about them."""
    if on_bad == "stop":
        refuse_broken(root, broken, "remove or replace them, or leave them out with --set on_bad=skip")
    named = [f"{file} ({error.what})" for file, error in sorted(broken.items())]
    return [f"left out {len(broken)} pictures that cannot be read: {list_some(named, len(named))}"] if broken else []


def _without(split: Split, dropped: Mapping[str, DataError]) -> Split:
    names, labels, source = split.names, split.labels, split.source
    if names is None or labels is None or not isinstance(source, Photographs):
        return split
    kept = [position for position, file in enumerate(names) if file not in dropped]
    return Split(source.without(dropped), labels[kept], tuple(names[position] for position in kept), split.kind)
