"""Batches of a split in an order that is a pure function of (seed, epoch), whoever fetches the pictures."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from conviction.data.draws import mixed
from conviction.data.records import Batch, Split
from conviction.errors import ConvictionError


@runtime_checkable
class LabelledSource(Protocol):
    """A source that gives picture and label together, as a user's own Dataset does."""

    def fetch_labelled(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pictures [n, C, h, w] and labels (int64 [n]) at `indices`."""
        ...


@runtime_checkable
class BatchedSource(Protocol):
    """A source that settles its own batches, as a user's own DataLoader does."""

    def batches(self) -> Iterator[Batch]:
        """Yield the batches of one pass, on the CPU."""
        ...

    def count_batches(self) -> int:
        """Return how many batches a pass has."""
        ...


def order(count: int, *, seed: int, epoch: int, shuffled: bool) -> Tensor:
    """Return the order in which an epoch visits `count` pictures: int64 [count], a permutation if `shuffled`."""
    if not shuffled:
        return torch.arange(count)
    generator = torch.Generator().manual_seed(mixed(seed, epoch))
    return torch.randperm(count, generator=generator)


def count_batches(split: Split, batch_size: int, *, drop_last: bool = False) -> int:
    """Return how many batches an epoch has; a user's own DataLoader keeps its own batch size."""
    if isinstance(split.source, BatchedSource):
        return split.source.count_batches()
    return len(split) // batch_size if drop_last else -(-len(split) // batch_size)


def batches(
    split: Split,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    shuffled: bool,
    device: str | torch.device = "cpu",
    workers: int = 0,
    drop_last: bool = False,
    start: int = 0,
) -> Iterator[Batch]:
    """Yield an epoch's batches on `device`, from the one numbered `start` on.

    The order is the same for every number of `workers`, the processes that fetch pictures which stream from disk;
    pictures held in memory need none. So are the pictures of a source without randomness of its own. A source that
    draws at random, as a user's Dataset with transforms does, draws from the process's own generators without workers,
    and anew from (seed, epoch) in each worker: each epoch differs, and can be had again.

    `drop_last` leaves out a last batch that is not full. A split made from a user's own DataLoader yields that loader's
    batches, in its order and size, whatever is asked here.
    """
    device = torch.device(device)
    if isinstance(split.source, BatchedSource):
        own = itertools.islice(split.source.batches(), start, None)
    else:
        visited = order(len(split), seed=seed, epoch=epoch, shuffled=shuffled)
        chosen = visited.split(batch_size)[start : count_batches(split, batch_size, drop_last=drop_last)]
        streams = workers > 0 and getattr(split.source, "streams", False)
        own = (
            _fetched_by_workers(split, chosen, workers, device, mixed(seed, epoch))
            if streams
            else _fetched_here(split, chosen)
        )
    for batch in own:
        yield Batch(*(_moved(part, device) for part in (batch.pictures, batch.labels, batch.indices)))


def _moved(part: Tensor, device: torch.device) -> Tensor:
    return part.to(device, non_blocking=part.is_pinned() if device.type == "cuda" else False)


def fetch_batch(split: Split, indices: Tensor) -> Batch:
    """Fetch the pictures at `indices` (int64 [n]) with their labels."""
    if split.labels is not None:
        return Batch(split.source.fetch(indices), split.labels[indices], indices)
    assert isinstance(split.source, LabelledSource), "labels come with the split or with its pictures"
    pictures, labels = split.source.fetch_labelled(indices)
    return Batch(pictures, labels, indices)


def _fetched_here(split: Split, chosen: Sequence[Tensor]) -> Iterator[Batch]:
    return (fetch_batch(split, indices) for indices in chosen)


class _Fetching(Dataset[Any]):
    """Fetches a whole batch by its indices, in a worker process."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor] | ConvictionError:
        try:
            batch = fetch_batch(self.split, index)
        except ConvictionError as error:  # sent as a value: raised there, it would arrive as a traceback in its message
            return error
        return batch.pictures, batch.labels


def _fetched_by_workers(
    split: Split, chosen: Sequence[Tensor], workers: int, device: torch.device, seed: int
) -> Iterator[Batch]:
    loader = DataLoader(
        _Fetching(split),
        batch_size=None,
        sampler=chosen,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        generator=torch.Generator().manual_seed(seed),  # its own, or each epoch would draw from the user's
    )
    for indices, fetched in zip(chosen, loader, strict=True):
        if isinstance(fetched, ConvictionError):
            raise fetched
        yield Batch(*fetched, indices)
