"""Plain torch data made into `Data`: any Dataset or DataLoader of (image, label), left as it was."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler, TensorDataset

from conviction.data.batches import fetch_batch
from conviction.data.examples import Expected, as_labels, as_pictures, stack_examples
from conviction.data.held import Held, SameSize, as_stored
from conviction.data.records import Batch, Data, Preprocessing, Split
from conviction.errors import ConvictionError, DataError
from conviction.text import printable

_MEASURED_PICTURES = 1_000
_READ_AT_ONCE = 256


@dataclass(frozen=True)
class Examples:
    """A source over a map-style dataset: items are (image, label), read anew each time they are asked for."""

    dataset: Any
    kind: str
    expected: Expected | None = None
    streams: bool = True

    def __len__(self) -> int:
        return len(self.dataset)

    def fetch(self, indices: Tensor) -> Tensor:
        """Return the pictures at `indices`, [n, C, h, w]."""
        return self.fetch_labelled(indices)[0]

    def fetch_labelled(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pictures at `indices` and their labels; raises `DataError` for items that are no examples."""
        numbers = indices.tolist()
        pictures, labels = stack_examples([(f"{self.kind} #{number}", self._item(number)) for number in numbers])
        if self.expected is not None:
            self._check(self.expected, pictures, labels, numbers)
        return pictures, labels

    def _check(self, expected: Expected, pictures: Tensor, labels: Tensor, numbers: Sequence[int]) -> None:
        """Check all at once; only where that fails one by one, to name the item."""
        try:
            expected.check(pictures, labels, self.kind)
        except DataError:
            for row, number in enumerate(numbers):
                expected.check(pictures[row : row + 1], labels[row : row + 1], f"{self.kind} #{number}")
            raise

    def _item(self, index: int) -> Any:
        try:
            return self.dataset[index]
        except ConvictionError:
            raise
        except Exception as error:  # whatever a user's own code raises, also in a worker process, names its item
            what = f"the dataset raised {type(error).__name__}: {printable(error)}"
            raise DataError(what, f"{self.kind} #{index}", f"try dataset[{index}]") from error


@dataclass(frozen=True)
class LoaderBatches:
    """A source over a user's DataLoader: its batches, in its order. Indices count the pictures of one pass."""

    loader: Any
    kind: str
    expected: Expected | None = None
    streams: bool = True

    def __len__(self) -> int:
        if isinstance(self.loader, DataLoader) and self.loader.batch_size and not self._of_unknown_length:
            pictures = len(self.loader.sampler)
            return pictures - pictures % self.loader.batch_size if self.loader.drop_last else pictures
        return self._counts[0]

    @property
    def ordered(self) -> bool:
        """Whether every pass surely gives the same pictures in the same order, so that an index finds its picture."""
        if not isinstance(self.loader, DataLoader) or isinstance(self.loader.dataset, IterableDataset):
            return False
        batched = self.loader.batch_sampler  # a user's own leaves `loader.sampler` at its default, which says nothing
        sampler = self.loader.sampler if batched is None else getattr(batched, "sampler", None)
        return type(batched) in (BatchSampler, type(None)) and type(sampler) is SequentialSampler

    @functools.cached_property
    def batch_size(self) -> int:
        """The loader's batch size, or where it has none the number of pictures in its first batch."""
        size = getattr(self.loader, "batch_size", None)
        return size if isinstance(size, int) and size else len(next(self.batches(), ()))

    def count_batches(self) -> int:
        """Return how many batches a pass has, by counting them once where the loader does not say."""
        return self._counts[1] if self._of_unknown_length else len(self.loader)

    def batches(self) -> Iterator[Batch]:
        """Yield the loader's batches of one pass."""
        first = 0
        for number, pair in enumerate(self.loader):
            where = f"{self.kind} batch {number}"
            if not isinstance(pair, (tuple, list)) or len(pair) < 2:
                raise DataError(f"a batch is a {type(pair).__name__}", where, "give (images, labels)")
            pictures, labels = as_pictures(pair[0], where), as_labels(pair[1], where)
            if len(pictures) != len(labels):
                raise DataError(f"{len(pictures)} images and {len(labels)} labels", where, "give one label an image")
            if self.expected is not None:
                self.expected.check(pictures, labels, where)
            yield Batch(pictures, labels, torch.arange(first, first + len(labels)))
            first += len(labels)

    def fetch(self, indices: Tensor) -> Tensor:
        """Return the pictures at `indices` of a new pass, which has the same order only if the loader keeps one."""
        wanted, found = set(indices.tolist()), {}
        for batch in self.batches():
            found |= {index: batch.pictures[row] for row, index in enumerate(batch.indices.tolist()) if index in wanted}
            if len(found) == len(wanted):
                return torch.stack([found[index] for index in indices.tolist()])
        raise DataError(f"the loader gave {len(found)} of {len(wanted)} pictures", self.kind, "ask for fewer")

    @property
    def _of_unknown_length(self) -> bool:
        """Whether the loader does not say how long it is, as over an IterableDataset without a length."""
        try:
            len(self.loader)
        except TypeError:
            return True
        return isinstance(getattr(self.loader, "dataset", None), IterableDataset)

    @functools.cached_property
    def _counts(self) -> tuple[int, int]:
        sizes = [len(batch) for batch in self.batches()]
        return sum(sizes), len(sizes)


def from_loaders(
    train: Any, valid: Any, test: Any = None, *, classes: Sequence[str] | None = None, name: str = "loaders"
) -> Data:
    """Make `Data` of plain torch data: each of `train`, `valid` and `test` a Dataset or a DataLoader.

    * A Dataset with a length gives items (image, label); it is shuffled and batched here.
    * A DataLoader gives batches (images [n, C, h, w], labels [n]) and keeps its own order and size of batches; an
      IterableDataset is fine inside.

    Images are uint8 (0 to 255) or floats of any scale, all of one size; they are standardised by the channels of the
    first training pictures. Labels are whole numbers from 0 on. Without `classes` their names are the dataset's own
    `classes`, or else the numbers found by reading every label once, which is told in `notes`. No augmentation of the
    data's own is undone, and mirroring is left off, as nobody said that it keeps a label.

    Raises `DataError`, here or when a batch is read, for what is not such data: it names the item or batch.
    """
    given = {"train": train, "valid": valid} | ({} if test is None else {"test": test})
    splits = {kind: _split(part, kind) for kind, part in given.items()}
    sample = _first_pictures(splits["train"])
    notes: tuple[str, ...] = ()
    found = _as_names(classes) if classes is not None else _names_of(train)
    if found is None:
        splits = {kind: _with_labels(split) for kind, split in splits.items()}
        found = tuple(str(label) for label in range(1 + max(_largest_label(split) for split in splits.values())))
        notes = (f"{len(found)} classes were found by reading every label once; classes=[...] saves that",)
    if len(found) < 2:
        raise DataError("there is only one class", name, "give images of two classes or more")
    preprocessing = _measured(sample)
    expected = Expected(len(found), tuple(sample.shape[1:]), sample.dtype)
    checked = {kind: _expecting(split, expected) for kind, split in splits.items()}
    return SameSize(name, found, checked, preprocessing, mirrors=False, notes=notes)()


def _split(part: Any, kind: str) -> Split:
    remedy = "give a torch Dataset or DataLoader of (image, label)"
    if part is None:
        raise DataError(f"there is no {kind} data", f"argument {kind}", remedy)
    if type(part) is TensorDataset and len(part.tensors) == 2:
        images, labels = part.tensors
        return Split(Held(as_pictures(images, kind)), as_labels(labels, kind), kind=kind)
    if isinstance(part, IterableDataset):
        raise DataError("an IterableDataset has no order of its own", f"argument {kind}", "wrap it in a DataLoader")
    if isinstance(part, DataLoader) or (hasattr(part, "__iter__") and not hasattr(part, "__getitem__")):
        if _walks_once(part):
            raise DataError("a generator is empty after one pass", f"argument {kind}", remedy)
        return Split(LoaderBatches(part, kind), None, kind=kind)
    if not (hasattr(part, "__getitem__") and hasattr(part, "__len__")):
        raise DataError(f"an object of type {type(part).__name__} is no data", f"argument {kind}", remedy)
    if not len(part):
        raise DataError(f"the {kind} data is empty", f"argument {kind}", remedy)
    return Split(Examples(part, kind), None, kind=kind)


def _walks_once(part: Any) -> bool:
    """Whether something iterable can be walked only once."""
    return not isinstance(part, DataLoader) and hasattr(part, "__next__")


def _first_pictures(split: Split) -> Tensor:
    """Return pictures to measure: the loader's first, or evenly spaced ones, as files often lie sorted by class."""
    if isinstance(split.source, LoaderBatches):
        chosen: list[Tensor] = []
        for batch in split.source.batches():
            if chosen and batch.pictures.shape[1:] != chosen[0].shape[1:]:
                raise DataError("batches hold images of different sizes", split.kind, "resize all to one size")
            chosen.append(batch.pictures)
            if sum(map(len, chosen)) >= _MEASURED_PICTURES:
                break
        if not chosen:
            raise DataError("the loader gives no batch", f"argument {split.kind}", "check its length and drop_last")
        return torch.cat(chosen)
    count = min(len(split), _MEASURED_PICTURES)
    return split.source.fetch(torch.linspace(0, len(split) - 1, count).long())


def _measured(sample: Tensor) -> Preprocessing:
    _refuse_not_finite(sample, "the first training images")
    return as_stored(sample)


def _refuse_not_finite(pictures: Tensor, where: str) -> None:
    if pictures.is_floating_point() and not pictures.isfinite().all():
        raise DataError("some pixels are not finite numbers", where, "replace NaN and infinity")


def _expecting(split: Split, expected: Expected) -> Split:
    """Return the split with its source told what to expect, after looking at its first pictures."""
    if isinstance(split.source, Held):
        assert split.labels is not None
        expected.check(split.source.pictures, split.labels, split.kind)
        _refuse_not_finite(split.source.pictures, f"the {split.kind} images")
        return split
    assert isinstance(split.source, (Examples, LoaderBatches))
    source = replace(split.source, expected=expected)
    if isinstance(source, LoaderBatches):
        if next(source.batches(), None) is None:
            raise DataError("the loader gives no batch", f"argument {split.kind}", "check its length and drop_last")
    else:
        source.fetch(torch.tensor([0]))
    return replace(split, source=source)


def _as_names(classes: Sequence[str]) -> tuple[str, ...]:
    names = tuple(str(name) for name in classes)
    if len(set(names)) != len(names):
        raise DataError("two classes have the same name", "argument classes", "give each class a name of its own")
    return names


def _names_of(part: Any) -> tuple[str, ...] | None:
    """Return the `classes` of a dataset, or of the one inside a loader, a Subset or a ConcatDataset."""
    for _ in range(16):
        if isinstance(names := getattr(part, "classes", None), (list, tuple)) and names:
            return tuple(str(name) for name in names)
        parts = getattr(part, "datasets", None)
        part = parts[0] if isinstance(parts, (list, tuple)) and parts else getattr(part, "dataset", None)
    return None


def _with_labels(split: Split) -> Split:
    """Return the split with the labels of a dataset read; a loader may shuffle, so it keeps its labels to itself."""
    if split.labels is not None or isinstance(split.source, LoaderBatches):
        return split
    read = [fetch_batch(split, indices).labels for indices in torch.arange(len(split)).split(_READ_AT_ONCE)]
    return replace(split, labels=torch.cat(read))


def _largest_label(split: Split) -> int:
    if split.labels is not None:
        return int(split.labels.max())
    assert isinstance(split.source, LoaderBatches)
    largest = [int(batch.labels.max()) for batch in split.source.batches() if len(batch)]
    return max(itertools.chain(largest, [0]))
