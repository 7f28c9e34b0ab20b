"""Batches: the order is a permutation settled by (seed, epoch), whoever fetches and wherever one starts."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from conviction.data.batches import batches, count_batches, order
from conviction.data.held import Held
from conviction.data.records import Batch, Split
from conviction.errors import DataError

COUNT = 53


@dataclass(frozen=True)
class Streaming:
    """Pictures that say their own index, as if they came from disk."""

    broken: int = -1
    streams: bool = True

    def __len__(self) -> int:
        return COUNT

    def fetch(self, indices: Tensor) -> Tensor:
        if (indices == self.broken).any():
            raise DataError("the picture cannot be read", f"photo{self.broken}.jpg", "remove it")
        return indices.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()


class Noisy(Streaming):
    """Pictures that differ each time they are fetched, as a user's random transforms make them."""

    def fetch(self, indices: Tensor) -> Tensor:
        return torch.rand(len(indices), 1, 4, 4)


def held() -> Split:
    return Split(Held(Streaming().fetch(torch.arange(COUNT))), torch.arange(COUNT) % 7)


def streaming(broken: int = -1) -> Split:
    return Split(Streaming(broken), torch.arange(COUNT) % 7)


def read(split: Split, **changes: object) -> list[Batch]:
    options = {"seed": 3, "epoch": 1, "shuffled": True} | changes
    return list(batches(split, 8, **options))


def indices(split: Split, **changes: object) -> list[int]:
    return torch.cat([batch.indices for batch in read(split, **changes)]).tolist()


def test_an_epoch_visits_every_picture_once() -> None:
    assert sorted(indices(held())) == list(range(COUNT))
    assert indices(held()) != list(range(COUNT))
    assert indices(held(), shuffled=False) == list(range(COUNT))


def test_pictures_and_labels_go_with_their_indices() -> None:
    for split in (held(), streaming()):
        for batch in read(split):
            assert batch.pictures[:, 0, 0, 0].tolist() == batch.indices.tolist()
            assert batch.labels.tolist() == [index % 7 for index in batch.indices.tolist()]


def test_order_is_settled_by_seed_and_epoch() -> None:
    assert indices(held()) == indices(held())
    orders = {tuple(order(COUNT, seed=s, epoch=e, shuffled=True).tolist()) for s in range(5) for e in range(5)}
    assert len(orders) == 25  # (0, 1) and (1, 0) differ too


def test_order_does_not_touch_the_users_generator() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    read(streaming(), workers=1)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("start", [0, 1, 4, 6, 7, 9])
def test_starting_later_equals_skipping(start: int) -> None:
    for left, right in zip(read(held(), start=start), read(held())[start:], strict=True):
        assert torch.equal(left.indices, right.indices)
        assert torch.equal(left.pictures, right.pictures)


def test_drop_last_leaves_out_the_rest_only() -> None:
    assert [len(batch) for batch in read(held())] == [8] * 6 + [5]
    assert [len(batch) for batch in read(held(), drop_last=True)] == [8] * 6
    assert [len(batch) for batch in read(held(), drop_last=True, start=5)] == [8]
    assert count_batches(held(), 8) == 7
    assert count_batches(held(), 8, drop_last=True) == 6


def test_workers_change_nothing() -> None:
    for left, right in zip(read(streaming(), workers=2, start=2), read(held(), start=2), strict=True):
        assert torch.equal(left.pictures, right.pictures)
        assert torch.equal(left.labels, right.labels)
        assert torch.equal(left.indices, right.indices)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_refusal_in_a_worker_arrives_as_it_was(workers: int) -> None:
    with pytest.raises(DataError) as caught:
        read(streaming(broken=20), workers=workers)
    assert str(caught.value) == "the picture cannot be read, photo20.jpg - remove it"


def test_a_users_own_randomness_differs_by_epoch_and_seed_in_workers_and_can_be_had_again() -> None:
    def pixels(**changes: object) -> Tensor:
        return torch.cat([batch.pictures for batch in read(Split(Noisy(), torch.zeros(COUNT)), workers=1, **changes)])

    first = pixels(epoch=1)
    assert torch.equal(first, pixels(epoch=1))
    assert not (first == pixels(epoch=2)).any()
    assert not (first == pixels(epoch=1, seed=4)).any()


def test_records_with_tensors_can_be_compared() -> None:
    assert held() != held()
    split, batch = held(), read(held())[0]
    assert split == split and split.source == split.source and batch == batch
    assert len({split, split, batch}) == 2
