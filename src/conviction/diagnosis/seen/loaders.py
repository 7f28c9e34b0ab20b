"""The data that a program reads: DataLoaders and their batches, or the batches that a net was given without one."""

from __future__ import annotations

import math
import weakref
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import RandomSampler, SequentialSampler, SubsetRandomSampler, WeightedRandomSampler

from conviction.findings.observation import LoaderSeen, Place

# Images are told apart by a sum over so many of their pixels; so many images and labels are remembered.
_PIXELS, _MOST_IMAGES, _MOST_LABELS = 256, 100_000, 100_000


@dataclass(eq=False)
class LoaderRecord:
    """What is known of one loader so far; `loader` is None for batches that came without one."""

    number: int
    loader: Any = None
    made_at: Place | None = None
    trains: bool = False
    tests: bool = False
    batches: int = 0
    complete: bool = False  # a whole pass has been seen
    sizes: Counter[int] = field(default_factory=Counter)
    labels: list[Tensor] = field(default_factory=list)
    label_count: int = 0
    images: set[int] = field(default_factory=set)
    image_count: int = 0
    duplicates: int = 0
    latest: tuple[int, int] = (0, 0)  # address and length of its last batch of images
    latest_labels: Tensor | None = None
    settings: dict[str, Any] = field(default_factory=dict)


class LoadersSeen:
    """All loaders of a program, and the batches that came without one: `training` and `testing` by hand."""

    def __init__(self) -> None:
        self.records: list[LoaderRecord] = []
        self.made: weakref.WeakKeyDictionary[Any, Place | None] = weakref.WeakKeyDictionary()
        self.recent: list[LoaderRecord] = []
        self.trained: set[object] = set()  # the nets that were seen to train
        self._by_hand: dict[object, LoaderRecord] = {}  # training's batches (None), and those of testing by net
        self._latest_test: tuple[LoaderRecord, set[int]] | None = None
        self._latest_trained: set[int] = set()

    def begin_pass(self, loader: Any) -> LoaderRecord:
        """Note that a loader is iterated over."""
        record = next(
            (record for record in self.records if record.loader is not None and record.loader() is loader), None
        )
        if record is None:
            record = LoaderRecord(len(self.records), weakref.ref(loader), self.made.get(loader))
            record.settings = _settings_of(loader)
            self.records.append(record)
        if not record.complete:  # it was only peeked into: what is remembered is to be of one pass
            record.labels, record.images, record.label_count, record.image_count, record.duplicates = [], set(), 0, 0, 0
        return record

    def add_batch(self, record: LoaderRecord, batch: Any) -> None:
        """Note a batch that a loader gives."""
        images, labels = images_and_labels(batch)
        record.batches += 1
        if images is not None:
            record.sizes[len(images)] += 1
            record.latest = (images.data_ptr(), len(images))
        record.latest_labels = labels
        if not record.complete:
            self._remember(record, images, labels)
        if record in self.recent:
            self.recent.remove(record)
        self.recent.append(record)

    def end_pass(self, record: LoaderRecord) -> None:
        """Note that a loader has no more to give."""
        record.complete = True
        if record in self.recent:
            self.recent.remove(record)

    def source_of(self, images: Tensor | None) -> LoaderRecord | None:
        """Return the loader that gave a batch: the one with the same memory, else the last one to give any."""
        if images is not None:
            here = (images.data_ptr(), len(images) if images.ndim else 0)
            for record in reversed(self.recent):
                if record.latest == here:
                    return record
        return self.recent[-1] if self.recent else None

    def add_by_hand(self, images: Tensor | None, labels: Tensor | None, trains: bool, net: object) -> None:
        """Note a batch that came without a loader, for a net.

        One that another net, a teacher, has just answered, or that is answered again after its step, is no test.
        """
        key = None if trains else net
        record = self._by_hand.get(key)
        if record is None:
            record = self._by_hand[key] = LoaderRecord(-1, trains=trains, tests=not trains)
        record.batches += 1
        if images is not None and images.ndim:
            record.sizes[len(images)] += 1
        if images is not None and images.device.type != "cpu":
            images = None  # to look at it would make the program wait for its accelerator
        batch = self._remember(record, images, labels if labels is not None and labels.ndim == 1 else None, whole=False)
        self._set_teachers_apart(record, batch)

    def _set_teachers_apart(self, record: LoaderRecord, batch: set[int]) -> None:
        """Take a batch of testing back whose images are exactly those of the training batch after or before it."""
        if record.trains:
            if self._latest_test is not None and batch == self._latest_test[1]:
                self._latest_test[0].images -= batch
            self._latest_trained, self._latest_test = batch, None
        elif batch == self._latest_trained:
            record.images -= batch
        else:
            self._latest_test = record, batch

    def _remember(
        self, record: LoaderRecord, images: Tensor | None, labels: Tensor | None, whole: bool = True
    ) -> set[int]:
        """Put down a batch; returns what its images are known by, empty where they are not looked at."""
        if labels is not None and not labels.is_floating_point() and record.label_count < _MOST_LABELS:
            record.labels.append(labels.detach().to("cpu", torch.int64, copy=True))
            record.label_count += len(labels)
        fresh: set[int] = set()
        if images is not None and images.device.type == "cpu" and record.image_count < _MOST_IMAGES:
            seen = fingerprints(images)
            fresh = set(seen)
            if whole:  # without a loader nothing tells where a pass ends, nor that it draws without replacement
                record.duplicates += len(seen) - len(fresh - record.images)
            record.images |= fresh
            record.image_count += len(seen)
        return fresh

    def seen(self) -> tuple[LoaderSeen, ...]:
        """Return the records as plain values."""
        records = list(self.records)
        tests = [record for net, record in self._by_hand.items() if net in self.trained]
        if not any(record.trains for record in records):
            records += ([self._by_hand[None]] if None in self._by_hand else []) + tests
        elif not any(record.tests for record in records):
            records += tests
        trained = set().union(*(record.images for record in records if record.trains))
        return tuple(_seen(record, number, trained) for number, record in enumerate(records))


def _seen(record: LoaderRecord, number: int, trained: set[int]) -> LoaderSeen:
    size = record.settings.get("batch_size") or (record.sizes.most_common(1)[0][0] if record.sizes else None)
    replaces = record.settings.get("replaces", False)
    shared = None
    if not record.trains and record.images and trained:
        shared = len(record.images & trained) / len(record.images)
    return LoaderSeen(
        number=number, batch_size=size, shuffled=record.settings.get("shuffled"),
        drop_last=record.settings.get("drop_last"), workers=record.settings.get("workers", 0),
        samples=record.settings.get("samples"), trains=record.trains, made_at=record.made_at, batches=record.batches,
        smallest_batch=min(record.sizes, default=None), duplicates=0 if replaces else record.duplicates,
        shared_with_training=shared, **_label_figures(record.labels),
    )  # fmt: skip


def _label_figures(batches: list[Tensor]) -> dict[str, Any]:
    """Compute the figures of the labels, batch by batch and of all together."""
    batches = [batch[batch >= 0] for batch in batches]  # labels below zero are left out of the loss
    batches = [batch for batch in batches if len(batch)]
    if not batches:
        return {}
    largest = max(len(batch) for batch in batches)
    full = [_entropy(batch) for batch in batches if len(batch) == largest]
    every = torch.cat(batches)
    counts = every.unique(return_counts=True)[1]
    return {
        "entropy": sum(full) / len(full),
        "entropy_all": _entropy(every),
        "runs": len(every) / max(1, len(every.unique_consecutive())),
        "classes": len(counts),
        "largest_class_share": float(counts.max()) / len(every),
    }


def _entropy(labels: Tensor) -> float:
    shares = labels.unique(return_counts=True)[1].double() / max(1, len(labels))
    return -sum(share * math.log(share) for share in shares.tolist())


def fingerprints(images: Tensor) -> list[int]:
    """Return a number for each image [N, ...] that equal images share, and others next to never."""
    flat = images.detach().reshape(len(images), -1)
    flat = flat[:, :: max(1, flat.shape[1] // _PIXELS)]
    exact = flat.float().contiguous().view(torch.int32) if flat.is_floating_point() else flat
    weights = torch.arange(1, exact.shape[1] + 1) * 0x9E3779B97F4A7C1 + 0x5851F42D
    return (exact.to(torch.int64) * weights).sum(1).tolist()


def images_and_labels(batch: Any) -> tuple[Tensor | None, Tensor | None]:
    """Return what looks like a batch's images (the first tensor of two and more dimensions) and labels (the last)."""
    parts = (
        list(batch.values())
        if isinstance(batch, dict)
        else list(batch)
        if isinstance(batch, (tuple, list))
        else [batch]
    )
    tensors = [part for part in parts if isinstance(part, Tensor) and part.ndim]
    images = next((part for part in tensors if part.ndim > 1), None)
    labels = next((part for part in reversed(tensors) if part is not images), None)
    if images is not None and labels is not None and len(labels) != len(images):
        labels = None
    return images, labels


def _settings_of(loader: Any) -> dict[str, Any]:
    """Read a DataLoader's settings."""
    sampler = getattr(loader, "sampler", None)
    inner = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
    sampler = inner if inner is not None else sampler
    shuffled = None
    if isinstance(sampler, (RandomSampler, WeightedRandomSampler, SubsetRandomSampler)) or getattr(
        sampler, "shuffle", None
    ):
        shuffled = True
    elif isinstance(sampler, SequentialSampler):
        shuffled = False
    try:
        samples = len(loader.dataset)
    except (TypeError, AttributeError, NotImplementedError):
        samples = None
    size = loader.batch_size
    if size is None:
        size = getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    return {
        "batch_size": size,
        "shuffled": shuffled, "drop_last": getattr(loader, "drop_last", None), "workers": loader.num_workers,
        "samples": samples, "replaces": bool(getattr(sampler, "replacement", False)),
    }  # fmt: skip
